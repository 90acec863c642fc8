"""The rights that the operator has are those that it uses. Runs after the others, for it reads what they have done."""

import json

import pytest
from tests.operator.conftest import JOB, LIFE, wait_for
from tests.operator.player import GOOD, RUNS
from tests.operator.proxy import ACCOUNT

from finetune_jobs.contract import Stage
from finetune_operator.api import parse_job
from finetune_operator.cluster.rights import IMPLIED, OWN_RIGHTS, RIGHTS, rules
from finetune_operator.plan import make_plan

pytestmark = pytest.mark.usefixtures("operator")


def test_the_rules_are_narrow():
    flat = json.dumps(rules(RIGHTS | OWN_RIGHTS))
    for never in ("secrets", "*", "escalate", "bind", "impersonate"):
        assert f'"{never}"' not in flat


def used(plane):
    """Verbs by group and resource that the operator has called, as the API server's audit has them."""
    found = set()
    for line in (plane.folder / "audit.log").read_text().splitlines():
        event = json.loads(line)
        ref = event.get("objectRef")
        if event.get("impersonatedUser", {}).get("username") != ACCOUNT or ref is None:
            continue
        assert event["responseStatus"]["code"] != 403 or "exceeded quota" in event["responseStatus"]["message"], event
        resource = "/".join(part for part in (ref["resource"], ref.get("subresource")) if part)
        found.add((ref.get("apiGroup", ""), resource, event["verb"]))
    return found


def test_nothing_is_granted_that_is_not_used_and_nothing_refused(cluster, plane, player):
    player.script = lambda job, _stage, _count: RUNS if job == "rested" else GOOD
    exercise(cluster)
    granted = {(*key, verb) for key, verbs in (RIGHTS | OWN_RIGHTS).items() for verb in verbs}
    calls = used(plane)
    assert granted - calls - IMPLIED == set()
    assert {c for c in calls if c not in granted} == set()


def exercise(cluster):
    """The rare calls: an Ingress comes and goes, a demo is taken down, names are met that are taken."""
    for kind, name, body in TAKEN:
        job, spec = f"taken-{kind.lower()}", TWO_NODES if kind in {"Service", "Job"} else {}
        meta = {"name": name.format(job=job, stage=digest(job, spec, "train" if spec else "model")), "namespace": LIFE}
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps({"kind": kind, "metadata": meta, **body}))
        cluster.submit(LIFE, job, **spec)
        assert cluster.wait(LIFE, job, "Failed")["reason"] == "NameTaken"
    cluster.submit(LIFE, "rested")
    cluster.wait_state(LIFE, "rested", "model", "Running")
    cluster.edit(LIFE, "rested", suspend=True)
    wait_for(lambda: cluster.jobs(LIFE, "rested")[0]["spec"].get("suspend"))
    cluster.submit(LIFE, "rare", demo={"ingress": {"host": "rare.example.com"}})
    cluster.wait(LIFE, "rare")
    cluster.edit(LIFE, "rare", demo={"ingress": {"host": "other.example.com"}})
    wait_for(lambda: "other.example.com" in cluster.kubectl("-n", LIFE, "get", "ingress", "rare-demo", "-o", "yaml"))
    route = {"parentRefs": [{"name": "gateway"}], "hostnames": ["rare.example.com"]}
    cluster.edit(LIFE, "rare", demo={"ingress": None, "httpRoute": route})
    wait_for(lambda: "rare-demo" in cluster.kubectl("-n", LIFE, "get", "httproute", "-o", "name"))
    cluster.edit(LIFE, "rare", demo={"httpRoute": None})
    wait_for(lambda: "rare-demo" not in cluster.kubectl("-n", LIFE, "get", "httproute", "-o", "name"))
    wait_for(lambda: "rare-demo" not in cluster.kubectl("-n", LIFE, "get", "ingress", "-o", "name"))
    cluster.edit(LIFE, "rare", demo={"enabled": False})
    wait_for(lambda: "rare-demo" not in cluster.kubectl("-n", LIFE, "get", "deployments,services", "-o", "name"))
    cluster.submit(LIFE, "resized", storage={"size": "1Gi", "reclaimPolicy": "Delete"})
    cluster.wait(LIFE, "resized")
    cluster.edit(LIFE, "resized", storage={"reclaimPolicy": "Retain"})
    wait_for(lambda: "ownerReferences" not in cluster.get("pvc", "resized-workspace", "-n", LIFE)["metadata"])


RBAC = "rbac.authorization.k8s.io"
TWO_NODES = {"storage": {"claimName": "many"}, "training": {"nodes": 2}}
POD = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "foreign"}]}
TAKEN = (
    ("ServiceAccount", "{job}-progress", {"apiVersion": "v1"}),
    ("Role", "{job}-progress", {"apiVersion": f"{RBAC}/v1", "rules": []}),
    ("RoleBinding", "{job}-progress", {"apiVersion": f"{RBAC}/v1", "roleRef": {
        "apiGroup": RBAC, "kind": "Role", "name": "x"}}),
    ("ConfigMap", "{job}-progress", {"apiVersion": "v1"}),
    ("PersistentVolumeClaim", "{job}-workspace", {"apiVersion": "v1", "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
    ("Service", "{job}-train-{stage}", {"apiVersion": "v1", "spec": {"ports": [{"port": 1}]}}),
    ("Job", "{job}-train-{stage}", {"apiVersion": "batch/v1", "spec": {"suspend": True, "template": {"spec": POD}}}),
)  # fmt: skip
"""Kind, name and body of what stands where a child is to be."""


def digest(job, spec, stage):
    """Of a stage, as the plan of that job has it."""
    meta = {"name": job, "namespace": LIFE}
    document = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": meta, "spec": JOB | spec}
    planned = make_plan(parse_job(document), {}).of(Stage(stage))
    return planned.digest
