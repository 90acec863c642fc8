"""Container images without a registry: the small ones that a node itself needs, and loading of any archive."""

import io
import json
import subprocess
import tarfile
from hashlib import sha256
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
CONTENT = {
    "localhost/busybox:1": ["/bin/sh"],
    # What holds a pod's network: it only has to be there.
    "localhost/pause:1": ["/bin/sleep", "inf"],
}
"""Image -> the command that it runs."""


def busybox(folder: Path) -> Path:
    """An archive of the images in CONTENT, made of one static program."""
    layer, archive = io.BytesIO(), folder / "busybox.tar"
    with tarfile.open(fileobj=layer, mode="w") as content:
        content.add(BUSYBOX, "bin/busybox")
        applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
        for name in applets:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            if name != "busybox":
                content.addfile(link)
    with tarfile.open(archive, "w") as whole:
        add(whole, "layer.tar", layer.getvalue())
        manifest = []
        for number, (name, command) in enumerate(CONTENT.items()):
            config = {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": command, "Env": ["PATH=/bin"]},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer.getvalue()).hexdigest()}"]},
            }
            add(whole, f"{number}.json", json.dumps(config).encode())
            manifest.append({"Config": f"{number}.json", "RepoTags": [name], "Layers": ["layer.tar"]})
        add(whole, "manifest.json", json.dumps(manifest).encode())
    return archive


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def load(archive: Path, socket: Path) -> None:
    """Bring an image archive into containerd for kubelet."""
    subprocess.run(
        ["ctr", "--address", str(socket), "--namespace", "k8s.io", "images", "import", str(archive)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
