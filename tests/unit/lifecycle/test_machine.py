"""`decide` does what the rows of the state machine say: one case a row, and every row has one."""

from dataclasses import replace

import pytest
from tests.unit.lifecycle.looks import NOW, UP_TO_TRAIN, look, outcome, with_reason

from finetune_jobs.contract import Failure, Stage, State
from finetune_operator.api.status import StageState, StageStatus
from finetune_operator.lifecycle.decide import decide
from finetune_operator.lifecycle.machine import ROWS
from finetune_operator.lifecycle.observed import Make, Observed, Peer, Pod, Want

SUSPENDED = "  suspend: true\n"
QUEUE = "  queueName: gpus\n"


def with_train(seen: Observed, **values: object) -> Observed:
    name = seen.names[Stage.TRAIN]
    return replace(seen, jobs={**seen.jobs, name: replace(seen.jobs[name], **values)})


def trains(word: str = "running", extra: str = "", **pod: object) -> Observed:
    seen = look(extra, **UP_TO_TRAIN, train=word)
    return with_train(seen, pods=(Pod("p", **pod),)) if pod else seen


def ended(state: State) -> Observed:
    return trains(phase="Succeeded", said=outcome("train", look().plan.of(Stage.TRAIN).digest, state))


def beside(peer: Peer) -> Observed:
    return replace(look(**UP_TO_TRAIN), peers={Stage.TRAIN: (peer,)})


def starved() -> Observed:
    """The export has found no training, and the user has edited the job since."""
    return with_reason(look(generation=2, **UP_TO_TRAIN, train="done", export="lost"), Stage.EXPORT, "InputMissing")


def recorded(seen: Observed, state: str) -> Observed:
    """The look with the training's state in status, as the pass before has left it."""
    if any(stage.name is Stage.TRAIN for stage in seen.status.stages):
        return seen
    train = StageStatus(name=Stage.TRAIN, state=StageState(state), digest=seen.plan.of(Stage.TRAIN).digest, attempts=1)
    return replace(seen, status=seen.status.model_copy(update={"stages": (*seen.status.stages, train)}))


REFUSAL = Failure(reason="QuotaExceeded", message="No.", cure="Raise it.")
MAKE, NEXT = (Want(Make.STAGE, Stage.TRAIN),), (Want(Make.STAGE, Stage.EXPORT),)
# Before, seen -> the look, the Job's part in the decision: made, switched (suspend or not), removed.
CASES = {
    ("Pending", ROWS[0].seen): (look(**UP_TO_TRAIN), MAKE, None, False),
    ("Pending", ROWS[1].seen): (look(QUEUE, **UP_TO_TRAIN), MAKE, None, False),
    ("Pending", ROWS[2].seen): (look(SUSPENDED, **UP_TO_TRAIN), (), None, False),
    ("Pending", ROWS[3].seen): (beside(Peer("other", runs=True)), (), None, False),
    ("Pending", ROWS[4].seen): (beside(Peer("other", result={"steps": 72})), NEXT, None, False),
    ("Pending", ROWS[5].seen): (replace(look(**UP_TO_TRAIN), refusal=REFUSAL), (), None, False),
    ("Waiting", ROWS[6].seen): (look(**UP_TO_TRAIN), MAKE, None, False),
    ("Queued", ROWS[7].seen): (trains("running", QUEUE), (), None, False),
    ("Running", ROWS[8].seen): (ended(State.SUCCEEDED), NEXT, None, False),
    ("Running", ROWS[9].seen): (ended(State.REUSED), NEXT, None, False),
    ("Running", ROWS[10].seen): (trains(phase="Failed", exit_code=75), (), None, False),
    ("Running", ROWS[11].seen): (trains("failed"), (), None, False),
    ("Running", ROWS[12].seen): (look(**UP_TO_TRAIN), MAKE, None, False),
    ("Running", ROWS[13].seen): (trains("running", SUSPENDED), (), True, False),
    ("Running", ROWS[14].seen): (with_train(trains("new"), placement="there"), (), None, True),
    ("Suspended", ROWS[15].seen): (trains("suspended"), (), False, False),
    ("Failed", ROWS[16].seen): (look(generation=2, **UP_TO_TRAIN, train="lost"), MAKE, None, False),
    ("Succeeded", ROWS[17].seen): (look(**UP_TO_TRAIN, train="done"), NEXT, None, False),
    ("Failed", ROWS[18].seen): (look(**UP_TO_TRAIN, train="lost"), (), None, False),
    ("Running", ROWS[19].seen): (replace(trains(), progress_ready=False), (Want(Make.PROGRESS),), None, False),
    ("Running", ROWS[20].seen): (replace(trains(), limits={Stage.TRAIN: {"parallelism": 1}}), (), None, False),
    ("Running", ROWS[21].seen): (trains("complete"), (), None, False),
    ("Running", ROWS[22].seen): (replace(trains(waits="ImagePullBackOff"), image="right"), (), None, True),
    ("Succeeded", ROWS[23].seen): (starved(), (Want(Make.STAGE, Stage.MODEL),), None, False),
}  # fmt: skip


def test_every_row_has_its_case():
    assert set(CASES) == {(row.before, row.seen) for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.before}: {row.seen}")
def test_a_row(row):
    seen, made, suspend, removed = CASES[row.before, row.seen]
    decision = decide(recorded(seen, row.before), NOW)
    assert next(s.state for s in recorded(seen, row.before).status.stages if s.name is Stage.TRAIN) == row.before
    state = next(s.state for s in decision.status.stages if s.name is Stage.TRAIN)
    # A failed stage whose Job is gone already is started in the same pass in which the edit is seen.
    assert state == ("Running" if row.before == "Failed" and made else row.after)
    assert decision.apply == made
    assert [s.suspend for s in decision.switch] == ([] if suspend is None else [suspend])
    assert bool(decision.remove) is removed


def test_a_failed_stage_of_an_edited_spec_loses_its_old_job_first():
    seen = look(generation=2, **UP_TO_TRAIN, train="lost")
    failed = trains("failed").jobs
    decision = decide(replace(seen, jobs=failed), NOW)
    assert [r.name for r in decision.remove] == [seen.names[Stage.TRAIN]]
    assert decision.apply == ()
    assert next(s.state for s in decision.status.stages if s.name is Stage.TRAIN) == "Pending"
