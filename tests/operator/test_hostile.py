"""What nobody should do, and somebody will."""

import json

import pytest
from tests.operator.conftest import LIFE, QUOTA, wait_for
from tests.operator.player import RUNS, Ending, Stays, mistake

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def stays(player):
    """Stages whose pods don't end, by job."""
    held = {}
    player.script = lambda job, stage, _count: RUNS if stage in held.get(job, ()) else Ending()
    return held


def job_named(cluster, name, stage):
    found = (j for j in cluster.jobs(LIFE, name) if j["metadata"]["labels"]["finetune.dev/stage"] == stage)
    return next(found, None)


def test_a_running_job_deleted_by_hand_is_made_again(cluster, player, stays):
    stays["cut"] = {"train"}
    cluster.submit(LIFE, "cut")
    job = wait_for(lambda: job_named(cluster, "cut", "train"))
    stays["cut"] = set()
    cluster.kubectl("-n", LIFE, "delete", "job", job["metadata"]["name"])
    cluster.wait(LIFE, "cut")


def test_a_finished_job_deleted_by_hand_stays_deleted(cluster, player, stays):
    stays["clean"] = {"evaluate"}
    cluster.submit(LIFE, "clean")
    cluster.wait_state(LIFE, "clean", "evaluate", "Running")
    cluster.kubectl("-n", LIFE, "delete", "job", job_named(cluster, "clean", "model")["metadata"]["name"])
    pod = wait_for(lambda: cluster.pods(LIFE, "clean", "evaluate"))[0]["metadata"]["name"]
    player.end(LIFE, pod, Ending())
    cluster.wait(LIFE, "clean")
    assert job_named(cluster, "clean", "model") is None


def test_a_demo_edited_by_hand_is_put_right(cluster, stays):
    cluster.submit(LIFE, "edited")
    cluster.wait(LIFE, "edited")
    image = '[{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "evil"}]'
    cluster.kubectl("-n", LIFE, "patch", "deployment", "edited-demo", "--type=json", "-p", image)

    def images():
        pod = cluster.get("deployment", "edited-demo", "-n", LIFE)["spec"]["template"]["spec"]
        return pod["containers"][0]["image"]

    wait_for(lambda: images() != "evil")
    cluster.kubectl("-n", LIFE, "delete", "service", "edited-demo")
    wait_for(lambda: "edited-demo" in cluster.kubectl("-n", LIFE, "get", "services"))


def test_a_config_with_a_mistake_starts_nothing_until_it_is_corrected(cluster, stays):
    def write(text):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "own"}, "data": {"config.py": text}}
        cluster.kubectl("-n", LIFE, "apply", "-f", "-", stdin=json.dumps(body))

    write("model = dict(\n")
    cluster.submit(LIFE, "own", training={"config": {"configMapKeyRef": {"name": "own", "key": "config.py"}}})
    failed = cluster.wait(LIFE, "own", "Failed")
    assert failed["reason"] == "SpecUnusable"
    assert "spec.training.config: '(' was never closed in line 1; correct that line" in failed["message"]
    assert cluster.jobs(LIFE, "own") == []
    write("model = dict()\n")
    cluster.wait(LIFE, "own")


@pytest.mark.parametrize("rubbish", ["{", "x" * 500_000, '{"step": -1, "totalSteps": "many"}', "[]", "[[1e999, NaN]]"],
                         ids=["cut", "huge", "wrong", "other", "endless"])  # fmt: skip
def test_rubbish_for_progress_is_ignored(cluster, player, stays, rubbish):
    name = f"rubbish-{len(rubbish)}"
    stays[name] = {"train"}
    cluster.submit(LIFE, name)
    train = cluster.wait_state(LIFE, name, "train", "Running")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-progress", "namespace": LIFE},
            "data": {"progress": rubbish, "digest": train["digest"], "curve": rubbish}}  # fmt: skip
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(body))
    pod = wait_for(lambda: cluster.pods(LIFE, name, "train"))[0]["metadata"]["name"]
    player.end(LIFE, pod, Ending())
    cluster.wait(LIFE, name)


def test_a_forged_termination_message_is_not_believed(cluster, player, stays):
    said = json.dumps({"stage": "train", "digest": "0" * 12, "state": "Succeeded", "result": {"finalLoss": -1}})
    player.script = lambda _job, stage, _count: Ending(said=said if stage == "model" else None)
    cluster.submit(LIFE, "forged")
    cluster.wait(LIFE, "forged")
    assert "result" not in cluster.status(LIFE, "forged")["stages"][0]


@pytest.mark.parametrize("kind", ["Job", "ConfigMap"])
def test_a_foreign_object_of_the_same_name_is_never_adopted(cluster, stays, kind):
    name = f"clash-{kind.lower()}"
    stays[name] = {"model"}
    cluster.submit(LIFE, name)
    cluster.wait_state(LIFE, name, "model", "Running")
    found = cluster.jobs(LIFE, name)[0]["metadata"]["name"] if kind == "Job" else f"{name}-requests-"
    if kind == "ConfigMap":
        maps = cluster.get("configmaps", "-n", LIFE)["items"]
        found = next(m["metadata"]["name"] for m in maps if m["metadata"]["name"].startswith(found))
    cluster.kubectl("-n", LIFE, "delete", "ftj", name)
    wait_for(lambda: found not in cluster.kubectl("-n", LIFE, "get", kind, "-o", "name"))
    body = {
        "apiVersion": "batch/v1" if kind == "Job" else "v1",
        "kind": kind,
        "metadata": {"name": found, "namespace": LIFE},
    }
    if kind == "Job":
        pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "foreign"}]}
        body["spec"] = {"suspend": True, "template": {"spec": pod}}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    cluster.submit(LIFE, name)
    failed = cluster.wait(LIFE, name, "Failed")
    assert failed["reason"] == "NameTaken"
    assert f"There is a {kind} {found}" in failed["message"]
    assert "ownerReferences" not in cluster.get(kind, found, "-n", LIFE)["metadata"]


def test_a_foreign_deployment_is_never_adopted(cluster, stays):
    pod = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "foreign"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": pod}
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "front-demo", "namespace": LIFE},
        "spec": spec,
    }
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    cluster.submit(LIFE, "front")
    failed = cluster.wait(LIFE, "front", "Failed")
    assert failed["reason"] == "NameTaken"
    kept = cluster.get("deployment", "front-demo", "-n", LIFE)
    assert kept["spec"]["template"]["spec"]["containers"][0]["image"] == "foreign"
    assert "ownerReferences" not in kept["metadata"]


def test_a_quota_of_no_jobs_is_told_and_waited_out(cluster, stays):
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": QUOTA},
             "spec": {"hard": {"count/jobs.batch": "0"}}}  # fmt: skip
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(quota))
    wait_for(lambda: cluster.get("resourcequota", "none", "-n", QUOTA).get("status", {}).get("hard"))
    cluster.submit(QUOTA, "poor")
    failed = cluster.wait(QUOTA, "poor", "Failed")
    assert failed["reason"] == "QuotaExceeded"
    cluster.kubectl("-n", QUOTA, "delete", "resourcequota", "none")
    cluster.wait(QUOTA, "poor")


def test_a_quota_of_no_deployments_leaves_the_demo_pending_until_it_is_raised(cluster, stays):
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "shut", "namespace": QUOTA},
             "spec": {"hard": {"count/deployments.apps": "0"}}}  # fmt: skip
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(quota))
    wait_for(lambda: cluster.get("resourcequota", "shut", "-n", QUOTA).get("status", {}).get("hard"))
    cluster.submit(QUOTA, "unseen")
    demo = wait_for(lambda: refused_demo(cluster, QUOTA, "unseen"))
    assert demo["reason"] == "QuotaExceeded"
    assert "Raise the ResourceQuota" in demo["message"]
    cluster.kubectl("-n", QUOTA, "delete", "resourcequota", "shut")
    cluster.wait(QUOTA, "unseen")


def test_an_ingress_that_the_api_server_refuses_leaves_the_demo_pending_until_it_is_corrected(cluster, stays):
    twice = {"className": "nginx", "annotations": {"kubernetes.io/ingress.class": "traefik"}}
    cluster.submit(LIFE, "barred", demo={"ingress": {"host": "a.example.com", **twice}})
    demo = wait_for(lambda: refused_demo(cluster, LIFE, "barred"))
    assert demo["reason"] == "Refused"
    assert "kubernetes.io/ingress.class" in demo["message"]
    cluster.edit(LIFE, "barred", demo={"ingress": {"annotations": None}})
    cluster.wait(LIFE, "barred")


def refused_demo(cluster, namespace, name):
    """The demo's stage, once it waits and says why."""
    stages = cluster.status(namespace, name).get("stages", ())
    return next((s for s in stages if s["name"] == "demo" and s["state"] == "Pending" and s.get("message")), None)


@pytest.mark.parametrize("forged", [
    {"stages": [{"name": "train", "state": "Running", "digest": "zzz", "attempts": 7}], "observedGeneration": 99},
    {"stages": None, "conditions": None},
])  # fmt: skip
def test_a_status_edited_by_a_user_is_written_anew(cluster, player, stays, forged):
    name = f"meddled-{len(str(forged))}"
    stays[name] = {"model"}
    cluster.submit(LIFE, name)
    cluster.wait_state(LIFE, name, "model", "Running")
    patch = json.dumps({"status": forged})
    cluster.kubectl("-n", LIFE, "patch", "ftj", name, "--subresource=status", "--type=merge", "-p", patch)
    pod = wait_for(lambda: cluster.pods(LIFE, name, "model"))[0]["metadata"]["name"]
    player.end(LIFE, pod, Ending())
    cluster.wait(LIFE, name)
    assert cluster.status(LIFE, name)["observedGeneration"] == 1


def test_a_status_nested_without_end_stalls_nobody(cluster, player, stays):
    stays["deep"] = {"model"}
    cluster.submit(LIFE, "deep")
    cluster.wait_state(LIFE, "deep", "model", "Running")
    deep = f'{{"a": {"[" * 9000}{"]" * 9000}}}'
    stage = f'{{"name": "model", "state": "Running", "digest": "zzz", "result": {deep}}}'
    patch = f'{{"status": {{"stages": [{stage}]}}}}'
    cluster.kubectl("-n", LIFE, "patch", "ftj", "deep", "--subresource=status", "--type=merge", "-p", patch)
    digests = ("get", "ftj", "deep", "-n", LIFE, "-o", "jsonpath={.status.stages[*].digest}")
    wait_for(lambda: "zzz" not in cluster.kubectl(*digests), "the status is written anew")
    player.end(LIFE, cluster.pods(LIFE, "deep", "model")[0]["metadata"]["name"], Ending())
    cluster.wait(LIFE, "deep")


def test_a_running_jobs_numbers_edited_by_hand_are_put_right(cluster, player, stays):
    """Without pods, or with a time to live, it would stall or lose its result."""
    stays["bent"] = {"model"}
    cluster.submit(LIFE, "bent")
    made = wait_for(lambda: job_named(cluster, "bent", "model"))
    pod = wait_for(lambda: cluster.pods(LIFE, "bent", "model"))[0]["metadata"]["name"]
    bent = {"parallelism": 0, "backoffLimit": 9, "activeDeadlineSeconds": 86400, "ttlSecondsAfterFinished": 0}
    name = made["metadata"]["name"]
    stays["bent"] = set()
    cluster.kubectl("-n", LIFE, "patch", "job", name, "--type=merge", "-p", json.dumps({"spec": bent}))

    def numbers():
        spec = job_named(cluster, "bent", "model")["spec"]
        return {key: spec.get(key) for key in bent}

    wait_for(lambda: numbers() == {key: made["spec"].get(key) for key in bent})
    cluster.wait(LIFE, "bent")
    assert pod not in [p["metadata"]["name"] for p in cluster.pods(LIFE, "bent", "model")]  # ended by parallelism 0


def test_a_job_that_is_robbed_of_its_labels_gets_them_back(cluster, player, stays):
    stays["robbed"] = {"model"}
    cluster.submit(LIFE, "robbed")
    name = wait_for(lambda: job_named(cluster, "robbed", "model"))["metadata"]["name"]
    cluster.kubectl("-n", LIFE, "label", "job", name, "finetune.dev/job-", "app.kubernetes.io/managed-by-")
    wait_for(lambda: job_named(cluster, "robbed", "model"))
    pod = wait_for(lambda: cluster.pods(LIFE, "robbed", "model"))[0]["metadata"]["name"]
    player.end(LIFE, pod, Ending())
    cluster.wait(LIFE, "robbed")


def test_what_lets_a_training_tell_its_progress_is_put_right(cluster, player, stays):
    stays["mute"] = {"train"}
    cluster.submit(LIFE, "mute")
    cluster.wait_state(LIFE, "mute", "train", "Running")
    kinds = ("role", "rolebinding", "serviceaccount", "configmap")

    def made():
        bodies = [cluster.kubectl("-n", LIFE, "get", kind, "mute-progress", "-o", "json", ok=False) for kind in kinds]
        if any("NotFound" in body for body in bodies):
            return None
        found = [json.loads(body) for body in bodies]
        return [{key: body.get(key) for key in ("rules", "subjects", "roleRef")} for body in found]

    def labels(kind):
        return cluster.kubectl("-n", LIFE, "get", kind, "mute-progress", "-o", "jsonpath={.metadata.labels}")

    before = made()
    for kind in kinds:
        cluster.kubectl("-n", LIFE, "delete", kind, "mute-progress")
        wait_for(lambda: made() == before, f"{kind} is there again")
        cluster.kubectl("-n", LIFE, "label", kind, "mute-progress", "finetune.dev/job-")
        wait_for(lambda kind=kind: "finetune.dev/job" in labels(kind), f"the {kind}'s labels")
    for kind, edit in (("role", {"rules": []}), ("rolebinding", {"subjects": []})):
        cluster.kubectl("-n", LIFE, "patch", kind, "mute-progress", "--type=merge", "-p", json.dumps(edit))
        wait_for(lambda: made() == before, f"{kind} grants again what it did")
    pod = cluster.pods(LIFE, "mute", "train")[0]["metadata"]["name"]
    player.end(LIFE, pod, Ending())
    cluster.wait(LIFE, "mute")


def test_requests_deleted_by_hand_are_made_again_while_they_are_read(cluster, stays):
    stays["unread"] = {"merge"}
    cluster.submit(LIFE, "unread")
    cluster.wait_state(LIFE, "unread", "merge", "Running")

    def requests():
        names = cluster.kubectl("-n", LIFE, "get", "configmaps", "-o", "name").split()
        return [name for name in names if name.startswith("configmap/unread-requests-")]

    found = requests()
    cluster.kubectl("-n", LIFE, "delete", found[0])
    wait_for(lambda: requests() == found)


def test_a_size_that_the_claim_refuses_keeps_nobody_from_suspending(cluster, stays):
    """The claim has no volume yet, and such a claim keeps its size."""
    stays["grown"] = {"model"}
    cluster.submit(LIFE, "grown", storage={"size": "1Gi"})
    cluster.wait_state(LIFE, "grown", "model", "Running")
    cluster.edit(LIFE, "grown", storage={"size": "2Gi"}, suspend=True)
    cluster.wait_state(LIFE, "grown", "model", "Suspended")
    assert job_named(cluster, "grown", "model")["spec"]["suspend"] is True
    assert cluster.condition(LIFE, "grown", "Failed")["reason"] == "Refused"
    cluster.edit(LIFE, "grown", storage={"size": "1Gi"}, suspend=False)
    stays["grown"] = set()
    cluster.wait(LIFE, "grown")


def test_a_failed_stage_loses_its_job_though_the_same_edit_asks_for_a_size_that_is_refused(cluster, player, stays):
    full = mistake("DiskFull")
    player.script = lambda job, stage, count: full if (job, stage, count) == ("full", "model", 1) else Ending()
    cluster.submit(LIFE, "full", storage={"size": "1Gi"})
    cluster.wait(LIFE, "full", "Failed")
    cluster.edit(LIFE, "full", storage={"size": "2Gi"})
    wait_for(lambda: job_named(cluster, "full", "model") is None)
    cluster.wait_state(LIFE, "full", "model", "Pending")
    cluster.edit(LIFE, "full", storage={"size": "1Gi"})
    cluster.wait(LIFE, "full")


MISSING = '0/1 nodes are available: persistentvolumeclaim "rakt" not found.'
UNBOUND = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."


def waits_for_a_claim(message):
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return Stays("Pending", {"conditions": [scheduled]})


def claims_of(job):
    return [v["persistentVolumeClaim"]["claimName"] for v in job["spec"]["template"]["spec"]["volumes"]
            if v["name"] == "workspace"]  # fmt: skip


def test_a_claims_name_is_corrected_while_the_pod_waits_for_it(cluster, player):
    player.script = lambda job, _stage, count: waits_for_a_claim(MISSING) if (job, count) == ("typed", 1) else Ending()
    cluster.submit(LIFE, "typed", storage={"claimName": "rakt"})
    wait_for(lambda: cluster.condition(LIFE, "typed", "Ready").get("reason") == "ClaimMissing")
    player.script = lambda _job, _stage, _count: Ending()
    cluster.edit(LIFE, "typed", storage={"claimName": "react"})
    cluster.wait(LIFE, "typed")
    assert claims_of(job_named(cluster, "typed", "model")) == ["react"]


def test_a_class_is_corrected_by_deleting_the_claim_that_has_the_wrong_one(cluster, player):
    player.script = lambda job, _stage, _count: waits_for_a_claim(UNBOUND) if job == "classed" else Ending()
    cluster.submit(LIFE, "classed", storage={"storageClassName": "fsat"})
    wait_for(lambda: cluster.condition(LIFE, "classed", "Ready").get("reason") == "WorkspaceUnbound")
    cluster.edit(LIFE, "classed", storage={"storageClassName": "fast"})
    told = wait_for(lambda: (found := cluster.condition(LIFE, "classed", "Failed"))["status"] == "True" and found)
    assert told["reason"] == "ClaimDiffers"
    assert "with another spec.storage.storageClassName" in told["message"]
    cluster.kubectl("-n", LIFE, "delete", "pvc", "classed-workspace")
    kept = ("get", "pvc", "classed-workspace", "-n", LIFE, "-o", "jsonpath={.spec.storageClassName}")
    wait_for(lambda: cluster.kubectl(*kept, ok=False) == "fast")
    cluster.wait(LIFE, "classed", "Failed", "False")


def test_a_kept_claim_of_other_access_modes_is_not_taken_unseen(cluster, stays):
    cluster.submit(LIFE, "kept", storage={"size": "1Gi"})
    cluster.wait(LIFE, "kept")
    cluster.kubectl("-n", LIFE, "delete", "ftj", "kept")
    wait_for(lambda: not cluster.jobs(LIFE, "kept"))
    cluster.submit(LIFE, "kept", storage={"size": "1Gi", "accessModes": ["ReadWriteMany"]})
    assert cluster.wait(LIFE, "kept", "Failed")["reason"] == "ClaimDiffers"
    assert cluster.jobs(LIFE, "kept") == []
    cluster.edit(LIFE, "kept", storage={"accessModes": None})
    cluster.wait(LIFE, "kept")
