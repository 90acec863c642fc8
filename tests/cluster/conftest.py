"""One real cluster for all tests of this folder; what it leaves on the machine is compared with what was before."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.kubernetes.control_plane import CONTEXT
from tests.kubernetes.programs import program

TUNABLES = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward")


class Cluster:
    """What a user of kubectl sees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"

    def kubectl(self, *arguments: str, stdin: str | None = None, ok: bool = True) -> str:
        done = subprocess.run(
            [str(program("kubectl")), f"--kubeconfig={self.kubeconfig}", f"--context={CONTEXT}", *arguments],
            input=stdin, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0 or not ok, done.stderr
        return done.stdout if ok else done.stdout + done.stderr

    def apply(self, *objects: dict[str, Any]) -> None:
        body = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def wait(self, condition: str, what: str, namespace: str, seconds: int = 60) -> None:
        self.kubectl("wait", f"--for={condition}", what, "-n", namespace, f"--timeout={seconds}s")


def cluster_command(folder: Path, action: str) -> None:
    command = [sys.executable, "-m", "tests.kubernetes.cluster", action, "--folder", str(folder)]
    subprocess.run(command, check=True)


def output(*command: str) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def packet_rules() -> list[str]:
    """The machine's iptables rules, without their counters."""
    return [line for line in output("iptables-save") if not line.startswith("#")]


def processes(folder: Path) -> list[str]:
    """Programs that were started with the folder in their arguments, or are a container's."""
    return [line for line in output("ps", "-eo", "args") if f"{folder}/" in line or "containerd-shim" in line]


def traces(folder: Path) -> dict[str, list[str]]:
    """What a cluster could leave on the machine."""
    looks: dict[str, Callable[[], list[str]]] = {
        "processes": lambda: processes(folder),
        "mounts": lambda: Path("/proc/self/mounts").read_text().splitlines(),
        "interfaces": lambda: sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "routes": lambda: output("ip", "route", "show", "table", "all"),
        "network namespaces": lambda: output("ip", "netns", "list"),
        "iptables": packet_rules,
        "cgroups": lambda: sorted(str(p) for p in Path("/sys/fs/cgroup").glob("*/*") if p.is_dir()),
        "tunables": lambda: [f"{name} {Path('/proc/sys', name).read_text()}" for name in TUNABLES],
        "folders": lambda: [
            str(path) for path in (folder, *map(Path, ("/var/lib/kubelet", "/var/lib/cni", "/run/containerd")))
            if path.exists()
        ],
    }  # fmt: skip
    return {name: look() for name, look in looks.items()}


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("a cluster needs root")
    folder = tmp_path_factory.mktemp("cluster") / "node"
    before = traces(folder)
    cluster_command(folder, "up")
    try:
        yield Cluster(folder)
    finally:
        cluster_command(folder, "down")
    left = {name: [line for line in found if line not in before[name]] for name, found in traces(folder).items()}
    assert not any(left.values()), left
