"""A training that is killed in every way ends like one that nobody touched.

One history of a single training: the stage is killed, then torchrun, then a rank half-way through the write of a
checkpoint, then a rank between two; then it is asked to stop; and at last left alone. The unbroken training beside it
has the same data, seed and dropout.
"""

from dataclasses import dataclass

import psutil
import pytest

from finetune_jobs.contract import CURVE_FILE, ExitCode, Lora
from finetune_jobs.train import checkpoints, curve

pytestmark = pytest.mark.stage

SETTINGS = {"epochs": 4, "gradient_accumulation": 2, "lora": Lora(rank=4, alpha=8, dropout="0.1"),
            "checkpoint_every": 4}  # fmt: skip
STEPS = 24
BROKEN = {
    "stage": "KILL:stage:6",
    "torchrun": "KILL:torchrun:10",
    "write": "write::12",
    "rank": "KILL:rank:14",
    "stop": "TERM:stage:18",
}
SAVED = {"stage": 4, "torchrun": 8, "write": 8, "rank": 12, "stop": 19}
"""The checkpoint that the next run goes on from."""


@dataclass
class Leg:
    exit_code: int
    outcome: dict
    newest: str
    pids: dict


@pytest.fixture(scope="module")
def unbroken(make_training):
    training = make_training("unbroken", rows=12, **SETTINGS)
    return training.run()["result"], curve.read(training.out / CURVE_FILE)


@pytest.fixture(scope="module")
def broken(make_training):
    return make_training("broken", rows=12, **SETTINGS)


@pytest.fixture(scope="module")
def legs(broken):
    return {name: run_leg(broken, sabotage) for name, sabotage in BROKEN.items()}


def run_leg(training, sabotage):
    process = training.start(**training.sabotage(sabotage))
    code = process.wait()
    pids = training.pids()
    for pid in pids.values():
        wait_for_end(pid)
    outcome = training.outcome() if training.outcome_file.exists() else {}
    return Leg(code, outcome, checkpoints.newest(training.out).name, pids)


def wait_for_end(pid):
    """Raises psutil.TimeoutExpired where the process lives on."""
    try:
        psutil.Process(pid).wait(timeout=60)
    except psutil.NoSuchProcess:
        return


@pytest.fixture(scope="module")
def final(broken, legs):
    return broken.run()["result"], curve.read(broken.out / CURVE_FILE)


@pytest.mark.parametrize("leg", BROKEN)
def test_no_more_than_one_checkpoint_interval_is_lost(legs, leg):
    assert legs[leg].newest == f"step-{SAVED[leg]}"


def test_kill_of_the_stage_leaves_no_process_behind(legs):
    assert legs["stage"].exit_code == -9
    assert len(legs["stage"].pids) == 3  # each of them was waited for


@pytest.mark.parametrize("leg", ["torchrun", "write", "rank"])
def test_kill_of_a_child_is_the_machines_trouble_and_says_what_to_do(legs, leg):
    assert legs[leg].exit_code == ExitCode.MACHINE_TROUBLE
    failure = legs[leg].outcome["failure"]
    assert failure["reason"] == "RankKilled"
    assert "goes on from the last checkpoint" in failure["cure"]


def test_asked_to_stop_it_saves_at_the_end_of_its_step(legs):
    assert legs["stop"].exit_code == ExitCode.INTERRUPTED
    assert legs["stop"].outcome["state"] == "Interrupted"
    assert "saved at step 19 of 24" in legs["stop"].outcome["failure"]["message"]


def test_it_ends_like_the_unbroken_training(unbroken, final):
    """Equal, not near: the same sums in the same order; dropout is drawn from the iteration's number, the shuffle from
    the seed, and a checkpoint holds AdamW's float32 moments whole. The tolerance is a float32's last digit in a loss
    of about 3, should a library choose another kernel for a resumed process."""
    assert final[0]["finalLoss"] == pytest.approx(unbroken[0]["finalLoss"], rel=1e-6)
    assert [p.loss for p in final[1]] == pytest.approx([p.loss for p in unbroken[1]], rel=1e-6)
    assert [p.learning_rate for p in final[1]] == pytest.approx([p.learning_rate for p in unbroken[1]])


def test_every_step_is_in_the_curve_once(final):
    assert [point.step for point in final[1]] == list(range(1, STEPS + 1))


def test_the_result_counts_how_often_it_went_on(unbroken, final):
    """From four checkpoints that led to it; the run that died in its first write left nothing to count."""
    assert (unbroken[0].get("resumed"), final[0]["resumed"]) == (0, 4)


def test_only_the_last_checkpoints_are_kept(broken, final):
    assert broken.checkpoints() == ["step-20", "step-24"]
