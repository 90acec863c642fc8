"""Objects as the API server sends them, for tables: as much of each as the operator reads."""

from typing import Any

from finetune_operator.api import API_VERSION, KIND
from finetune_operator.manifests.names import labels

Body = dict[str, Any]
NAMESPACE, NAME = "team", "react"


def metadata(name: str, version: int = 1, owner: Body | None = None) -> Body:
    return {
        "name": name,
        "namespace": NAMESPACE,
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": labels(NAME),
        "ownerReferences": [owner or {"controller": True, "kind": KIND, "uid": f"uid-{NAME}"}],
    }


def fine_tune_job(spec: Body, **more: Any) -> Body:
    meta = metadata(NAME)
    del meta["ownerReferences"]
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": meta, "spec": spec, **more}


def config_map(name: str = f"{NAME}-progress", **more: Any) -> Body:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(name), **more}


def stage_job(name: str) -> Body:
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata(name), "spec": {}}


def pod(name: str, job: str | None = None) -> Body:
    """One of the stage's Job `job`; without, one of the demo."""
    replicas = {"controller": True, "kind": "ReplicaSet", "uid": "uid-replicas"}
    owner = {"controller": True, "kind": "Job", "uid": f"uid-{job}"} if job else replicas
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata(name, owner=owner), "status": {"phase": "Running"}}
