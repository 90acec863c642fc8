"""The images that clusters keep, while none is up: what is loaded into this containerd, the next cluster has."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kubernetes.control_plane import HERE
from tests.kubernetes.node import Node, answers, wait_for

ALONE = 'mount -t tmpfs own /run && exec containerd --config "$0"'
"""In a mount namespace of its own, so that nothing of it is seen on the machine."""


@contextmanager
def store(folder: Path) -> Iterator[None]:
    """Its socket lies in the folder as a cluster's does. It ends with this process, however that ends."""
    node, config = Node(folder), folder / "containerd.toml"
    config.write_text(node.filled((HERE / "files" / config.name).read_text()))
    bound = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with (folder / "containerd.log").open("wb") as log:
        process = subprocess.Popen([*bound, "sh", "-c", ALONE, config], stdout=log, stderr=log)
    try:
        wait_for(lambda: answers(*node.ctr("version")), "containerd answers")
        yield
    finally:
        process.kill()
        process.wait()
