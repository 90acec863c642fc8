"""Build the images with the engine that this machine has: docker, podman or buildah.

    python images/build.py operator trainer demo      # or: make images
    python images/build.py operator --cluster FOLDER  # and bring it into a test cluster: make cluster says its folder

It says last how large each is. BASE_IMAGE is the Debian that they stand on, docker.io/library/debian:bookworm-slim when
it is not set; BASE_IMAGE=mmdebstrap makes one from Debian packages, where no image registry can be reached. REGISTRY
stands before the names, localhost when it is not set; the tag is the version in pyproject.toml, as the chart has it.
HOPPER=1 puts flash-attn-4 into the trainer, for GPUs of the Hopper kind.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMES = ("operator", "trainer", "demo")
ENVIRONMENT = "environment"
"""What trainer and demo stand on."""
ENVIRONMENT_SOURCES = ("images/environment/Dockerfile", "requirements/local.txt")
SOURCES = {
    "operator": ("operator", "jobs/finetune_jobs/contract", "requirements/operator.txt"),
    "trainer": ("jobs", "requirements/hopper.txt", *ENVIRONMENT_SOURCES),
    "demo": ("jobs", *ENVIRONMENT_SOURCES),
}
"""What an image is made of beside its own Dockerfile."""
ENGINES = ("docker", "podman", "buildah")
NO_REGISTRY = "Where no image registry can be reached, BASE_IMAGE=mmdebstrap makes the base from Debian packages."
OWN_BASE = "localhost/debian:bookworm"
RELEASE = "bookworm"
MARK = "finetune.dev/image"
"""Label in containerd that says which image a name stands for."""
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")
"""Nobody reads them in a container."""


def version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def tag(name: str) -> str:
    return f"{os.environ.get('REGISTRY', 'localhost')}/finetune-{name}:{version()}"


def environment_tag(on: str) -> str:
    """Named by what it is made of: the copy of its 7 GB, from which an engine learns that nothing is new, is saved."""
    made_of = hashlib.sha256(on.encode())
    for source in ENVIRONMENT_SOURCES:
        made_of.update((ROOT / source).read_bytes())
    return f"{tag(ENVIRONMENT)}-{made_of.hexdigest()[:12]}"


def engine() -> str:
    """The first that is installed and whose engine answers."""
    for name in ENGINES:
        if shutil.which(name) and subprocess.run([name, "info"], check=False, capture_output=True).returncode == 0:
            return name
    sys.exit(f"no container engine answers here; install one of {', '.join(ENGINES)}")


def run(*command: str | Path) -> None:
    # Docker before 23 has BuildKit, which knows secrets, and builds without it unless told.
    done = subprocess.run(command, check=False, cwd=ROOT, env={**os.environ, "DOCKER_BUILDKIT": "1"})
    if done.returncode != 0:
        sys.exit(f"{command[0]} ended with {done.returncode}, as it says above. {NO_REGISTRY}")


def output(*command: str) -> str:
    return subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def has(program: str, image: str) -> bool:
    command = [program, "inspect", "--type", "image", image]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def base(program: str) -> str:
    """Name of the base image, made when it is to be made here."""
    said = os.environ.get("BASE_IMAGE", "docker.io/library/debian:bookworm-slim")
    if said != "mmdebstrap":
        return said
    if not has(program, OWN_BASE):
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "base.tar"
            run("mmdebstrap", "--quiet", "--variant=minbase", *[f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT],
                "--customize-hook=rm -rf $1/var/lib/apt/lists/* $1/var/cache/apt/*", RELEASE, archive)  # fmt: skip
            import_base(program, archive)
    return OWN_BASE


def import_base(program: str, archive: Path) -> None:
    if program != "buildah":
        run(program, "import", archive, OWN_BASE)
        return
    container = output("buildah", "from", "scratch")
    run("buildah", "add", "--quiet", container, archive, "/")
    run("buildah", "commit", "--quiet", "--rm", container, OWN_BASE)


def certificates() -> list[str]:
    """What hands the network's own certificate authority to a build, where there is one."""
    file = os.environ.get("SSL_CERT_FILE")
    return ["--secret", f"id=certificates,src={file}"] if file else []


def revision(name: str) -> str:
    """The last commit that changed what the image is made of."""
    return output("git", "log", "-1", "--format=%H", "--", f"images/{name}", *SOURCES[name])


def build(program: str, name: str, on: str) -> None:
    tagged, arguments = environment_tag(on), {"BASE_IMAGE": on}
    if name != ENVIRONMENT:
        said = {"VERSION": version(), "REVISION": revision(name)}
        tagged, arguments = tag(name), arguments | {"ENVIRONMENT_IMAGE": tagged} | said
    if name == "trainer":
        arguments["HOPPER"] = os.environ.get("HOPPER", "0")
    # Steps run as this build's own processes: it works inside containers and without cgroups.
    own = [] if program == "docker" else ["--isolation", "chroot", "--layers"]
    options = [*own, "--network", "host", *certificates(), *[f"--build-arg={k}={v}" for k, v in arguments.items()]]
    run(program, "build", *options, "--file", f"images/{name}/Dockerfile", "--tag", tagged, ".")


def save(program: str, name: str, archive: Path) -> None:
    """The image as one file."""
    if program == "docker":
        run("docker", "save", "--output", archive, tag(name))
    elif program == "podman":
        run("podman", "save", "--quiet", "--format", "oci-archive", "--output", archive, tag(name))
    else:
        run("buildah", "push", "--quiet", "--compression-format", "zstd", "--compression-level", "1", tag(name),
            f"oci-archive:{archive}:{tag(name)}")  # fmt: skip


def identity(program: str, name: str) -> str:
    """Digest of the image's configuration."""
    field = ".FromImageID" if program == "buildah" else ".Id"
    return output(program, "inspect", "--type", "image", "--format", f"{{{{{field}}}}}", tag(name)).rpartition(":")[2]


def load(program: str, name: str, cluster: Path) -> None:
    """Into the containerd of the cluster that `make cluster` made, where it is not there yet."""
    images = ["ctr", "--address", str(cluster / "containerd.sock"), "--namespace", "k8s.io", "images"]
    mark = f"{MARK}={identity(program, name)}"
    if mark in output(*images, "list", f"name=={tag(name)}"):
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "image.tar"
        save(program, name, archive)
        run(*images, "import", archive)
    run(*images, "label", tag(name), mark)


def size(program: str, image: str) -> str:
    """Unpacked, with the layers that it shares with others."""
    return output(program, "images", "--format", "{{.Size}}", image).partition("\n")[0]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; all of them when none is named")
    parser.add_argument("--cluster", type=Path, help="folder of a test cluster to load them into")
    given = parser.parse_args(arguments)
    names = given.names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"there is no image {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    program = engine()
    on = base(program)
    shared = [environment_tag(on)] if {"trainer", "demo"} & set(names) else []
    if not all(has(program, image) for image in shared):
        build(program, ENVIRONMENT, on)
    for name in names:
        build(program, name, on)
        if given.cluster:
            load(program, name, given.cluster)
    for image in (*shared, *map(tag, names)):
        sys.stdout.write(f"{size(program, image):>8}  {image}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
