"""The example's job, as small as its tests allow, for a node of two cores that other pods share."""

import copy
import os
import tomllib
from pathlib import Path
from typing import Any

import yaml
from tests.brief import ROWS
from tests.cluster.kube import Cluster, Object

from finetune_jobs.contract import Stage

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "smollm2-react.yaml"
REGISTRY = os.environ.get("REGISTRY", "localhost")
BUSYBOX = "localhost/busybox:1"
CLAIM = "react-data"
LEARNS, FEW, MANY = 24, 12, 40
"""Rows, each a step: enough to learn a call by, a short course, and a course that much can happen in."""
RESOURCES = {"requests": {"cpu": "100m", "memory": "512Mi"}}
"""The defaults reserve more than two cores have beside the operator."""


def image(name: str) -> str:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return f"{REGISTRY}/finetune-{name}:{version}"


def rows(count: int) -> str:
    return "".join(ROWS.read_text().splitlines(keepends=True)[:count])


def example(index: str | None = None, **changes: Any) -> Object:
    """The example's spec; a change's name is a path with __ for the dots, None takes the field out."""
    spec: Object = copy.deepcopy(yaml.safe_load(EXAMPLE.read_text())["spec"])
    spec["stages"] = {stage.value: {"resources": RESOURCES} for stage in Stage}
    if index is not None:
        host = index.removeprefix("http://").partition(":")[0]
        own = {"PIP_INDEX_URL": index, "PIP_TRUSTED_HOST": host}
        spec["stages"]["model"]["env"] = [{"name": name, "value": value} for name, value in own.items()]
    for path, value in changes.items():
        *outer, last = path.split("__")
        at = spec
        for key in outer:
            at = at.setdefault(key, {})
        at.pop(last, None) if value is None else at.update({last: value})
    return spec


def config_map(name: str, data: dict[str, str]) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def default_deny(namespace: str) -> Object:
    """Nothing gets to or from any pod of the namespace but by other policies."""
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    return network_policy("default-deny", namespace, spec)


def network_policy(name: str, namespace: str, spec: Object) -> Object:
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}


def fit(container: Object, **more: Any) -> Object:
    """A pod's spec with one container that runs once, as the `restricted` standard wants it."""
    own = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    user = {"runAsNonRoot": True, "runAsUser": 10001, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "securityContext": user,
        "containers": [{"imagePullPolicy": "IfNotPresent", "securityContext": own} | container],
        **more,
    }


def shelve(cluster: Cluster, namespace: str, files: dict[str, str]) -> None:
    """Write files, by their path, to a claim of the namespace; a pod of the trainer's image does it."""
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    copy_all = 'cd /files; for file in */*; do mkdir -p "/data/${file%/*}"; cp "$file" "/data/$file"; done'
    keys = {path.replace("/", "--"): text for path, text in files.items()}
    items = [{"key": path.replace("/", "--"), "path": path} for path in files]
    container = {
        "name": "shelve", "image": image("trainer"), "command": ["sh", "-ec", copy_all],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "files", "mountPath": "/files"}],
    }  # fmt: skip
    volumes = [
        {"name": "data", "persistentVolumeClaim": {"claimName": CLAIM}},
        {"name": "files", "configMap": {"name": "files", "items": items}},
    ]
    pod = fit(container, volumes=volumes)
    objects = (
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": claim},
        config_map("files", keys),
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shelve"}, "spec": pod},
    )
    for made in objects:
        made["metadata"]["namespace"] = namespace
    cluster.apply(*objects)
    cluster.wait("jsonpath={.status.phase}=Succeeded", "pod/shelve", namespace)
