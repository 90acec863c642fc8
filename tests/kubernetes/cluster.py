"""A real single-node Kubernetes on this machine, in namespaces of its own. Needs root, and no container engine.

    python -m tests.kubernetes.cluster up      # or: make cluster
    python -m tests.kubernetes.cluster down    # or: make cluster-down

The machine itself reaches pods, Services and the Ingress controller (10.77.0.2, port 80) over one pair of virtual
network interfaces. Nothing in the cluster reaches farther than this machine.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from tests.kubernetes.node import ADDRESS, PODS, SERVICES, wait_for
from tests.kubernetes.programs import SOURCES, program
from tests.programs import cache

LINK = "finetune0"
"""The machine's end of the cable; there is one cluster a machine."""
HOST = "10.77.0.1"
CGROUPS = ("kubepods", "k8s.io")
PATIENCE = 180


def default_folder() -> Path:
    return cache() / "cluster"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def is_up() -> bool:
    return Path("/sys/class/net", LINK).exists()


def up(folder: Path, *, keep: bool) -> "subprocess.Popen[bytes]":
    """Start a cluster in an empty folder and wait until its node is Ready.

    Without `keep` it lives only as long as the program that called this.
    """
    if os.geteuid() != 0:
        sys.exit("a cluster needs root: it makes namespaces and runs containers")
    if is_up():
        sys.exit("a cluster is up on this machine; end it by: make cluster-down")
    for name in SOURCES:
        program(name)  # built while there still is a network
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (folder / "node.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
                "tini", "--", sys.executable, "-m", "tests.kubernetes.node", str(folder), *(["--keep"] if keep else []),
            ],
            stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=keep,
        )  # fmt: skip
    (folder / "pid").write_text(str(process.pid))
    try:
        connect(child_of(process.pid))
        assert process.stdin is not None
        process.stdin.write(b"the network is there\n")
        process.stdin.flush()
        wait_until_ready(process, folder)
    except BaseException:
        down(folder, process)
        raise
    return process


def child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    wait_for(lambda: bool(children.read_text().split()), "unshare has started its child")
    return int(children.read_text().split()[0])


def connect(pid: int) -> None:
    """A cable between this machine and the network namespace of a process. It is gone when either end is."""
    inside = ["nsenter", "--net", "--target", str(pid), "ip"]
    ip("link", "add", LINK, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    ip("address", "add", f"{HOST}/24", "dev", LINK)
    ip("link", "set", LINK, "up")
    for command in (
        ["link", "set", "lo", "up"],
        ["address", "add", f"{ADDRESS}/24", "dev", "eth0"],
        ["link", "set", "eth0", "up"],
        ["route", "add", "default", "via", HOST],
    ):
        subprocess.run([*inside, *command], check=True, capture_output=True)
    for network in (PODS, SERVICES):
        ip("route", "add", network, "via", ADDRESS)


def wait_until_ready(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    deadline, pause = time.monotonic() + PATIENCE, threading.Event()
    while not (folder / "ready").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the node is not Ready:\n{(folder / 'node.log').read_text()[-3000:]}")
        pause.wait(0.1)


def down(folder: Path, process: "subprocess.Popen[bytes] | None" = None) -> None:
    """End everything that runs in the cluster, and remove its folder with all images and volumes in it."""
    pid = process.pid if process else recorded(folder)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # the kernel ends every process in the namespaces with it
    if process is not None:
        process.wait()
    # A connection that was open lets the kernel keep the network for minutes; without its cable nobody sees it.
    wait_for(lambda: not is_up() or unplugged(), "the cluster's network is gone")
    for name in CGROUPS:
        remove_cgroups(name)
    if folder.exists():
        wait_for(lambda: removed(folder), f"{folder} is removed")


def unplugged() -> bool:
    """Whether this machine's end of the cable could be removed."""
    return subprocess.run(["ip", "link", "delete", LINK], check=False, capture_output=True).returncode == 0


def recorded(folder: Path) -> int | None:
    """The process that `up` started, if it still is that one."""
    with suppress(FileNotFoundError):
        pid = int((folder / "pid").read_text())
        if b"tests.kubernetes.node" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    return None


def remove_cgroups(name: str) -> None:
    """An empty cgroup of every hierarchy, version 1 or 2, with what is below it."""
    root = Path("/sys/fs/cgroup")
    for top in [root / name, *root.glob(f"*/{name}")]:
        below = [path for path in top.rglob("*") if path.is_dir()] if top.exists() else []
        for path in [*sorted(below, reverse=True), top]:
            if path.exists():
                wait_for(lambda path=path: rmdir(path), f"{path} is empty")


def rmdir(path: Path) -> bool:
    try:
        path.rmdir()
    except OSError:
        return not path.exists()
    return True


def removed(folder: Path) -> bool:
    """Whether the folder could be removed; mounts in it may last for a moment longer than their processes."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument("--folder", type=Path, default=default_folder())
    given = parser.parse_args()
    folder = given.folder.absolute()
    if given.action == "down":
        down(folder)
        return
    up(folder, keep=True)
    sys.stdout.write(f"export KUBECONFIG={folder / 'kubeconfig'}\n")


if __name__ == "__main__":
    main()
