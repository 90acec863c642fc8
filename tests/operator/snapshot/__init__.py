"""Objects and CRD as the first release left them with jobs in flight: what an upgrade starts from.

    python -m tests.operator.snapshot     # takes it anew; only where there is no release to upgrade from

`objects.yaml` is what the API server held, less what it writes itself.
"""

import json
from pathlib import Path
from typing import Any

import yaml
from tests.operator.conftest import Cluster

FOLDER = Path(__file__).parent
OBJECTS, CRD = FOLDER / "objects.yaml", FOLDER / "crd.yaml"
NAMESPACE = "upgrade"
KINDS = (
    "finetunejobs", "persistentvolumeclaims", "serviceaccounts", "roles", "rolebindings", "configmaps", "services",
    "deployments", "jobs",
)  # fmt: skip
OURS = "app.kubernetes.io/managed-by=finetune-operator"
SERVERS = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "selfLink")
"""Metadata that the API server writes."""
OF_THE_JOB = ("batch.kubernetes.io/", "controller-uid", "job-name")
"""Labels that the API server gives the pods of a Job."""
Body = dict[str, Any]


def objects(cluster: Cluster) -> list[Body]:
    """All that is ours in the namespace, FineTuneJobs first."""
    found = []
    for kind in KINDS:
        selector = [] if kind == "finetunejobs" else ["-l", OURS]
        found += [bare(body) for body in cluster.get(kind, "-n", NAMESPACE, *selector)["items"]]
    return found


def bare(body: Body) -> Body:
    meta = {name: value for name, value in body["metadata"].items() if name not in SERVERS}
    meta.get("annotations", {}).pop("kubectl.kubernetes.io/last-applied-configuration", None)
    meta.get("annotations", {}).pop("deployment.kubernetes.io/revision", None)
    kept = {**body, "metadata": meta}
    if body["kind"] not in {"FineTuneJob", "Job"}:
        kept.pop("status", None)
    if body["kind"] == "Job":
        spec = {name: value for name, value in body["spec"].items() if name not in {"selector", "manualSelector"}}
        template = spec["template"]["metadata"]
        template["labels"] = {k: v for k, v in template["labels"].items() if not k.startswith(OF_THE_JOB)}
        labels = {k: v for k, v in meta["labels"].items() if not k.startswith(OF_THE_JOB)}
        kept |= {"spec": spec, "metadata": meta | {"labels": labels}}
    if body["kind"] == "Service":
        kept["spec"] = {k: v for k, v in body["spec"].items() if k not in {"clusterIP", "clusterIPs"}}
    if body["kind"] == "PersistentVolumeClaim":
        meta.pop("finalizers", None)
    return kept


def restore(cluster: Cluster) -> None:
    """Make the objects of the snapshot anew: their owners have other uids now, the rest is as it was.

    To be called where no controllers run yet: they would start the finished Jobs again.
    """
    uids: dict[str, str] = {}
    for body in yaml.safe_load(OBJECTS.read_text()):
        for owner in body["metadata"].get("ownerReferences", ()):
            owner["uid"] = uids[owner["name"]]
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(body))
        kind, name = body["kind"].lower(), body["metadata"]["name"]
        if "status" in body:
            patch = json.dumps({"status": body["status"]})
            told = ("patch", kind, name, "--subresource=status", "--type=merge", "-p", patch)
            cluster.kubectl("-n", NAMESPACE, *told)
        if kind == "finetunejob":
            uids[name] = cluster.get("ftj", name, "-n", NAMESPACE)["metadata"]["uid"]
