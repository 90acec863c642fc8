"""`kill -9` in the midst of a real training: the same command goes on, and the loss is the unbroken run's."""

import itertools
import json
import os
import shutil
import signal
import subprocess

import psutil
import pytest
from tests.e2e.conftest import EXACT, SMALL_INTERVAL, SMALL_STEPS, finetune
from tests.lives import done_twice, lives_of

from finetune_jobs.contract import Stage
from finetune_jobs.train import checkpoints

pytestmark = pytest.mark.timeout(3600)  # the example trains beside it

RUNNER, STAGE = "bin/finetune", "finetune_jobs train"
TORCHRUN, RANK = "finetune_jobs.train.elastic", "finetune_jobs.train.rank"
"""Who is killed, by what its command line holds."""


@pytest.fixture
def unfinished(workspace, small_run, tmp_path):
    """A workspace with the small job's model and dataset, and nothing that was trained."""
    for stage in (Stage.MODEL, Stage.DATASET):
        shutil.copytree(workspace / stage, tmp_path / stage, copy_function=shutil.copy2)
    return tmp_path


def start(job, workspace) -> subprocess.Popen:
    command = finetune("run", job, "--workspace", workspace, "--until", "train", "--json")
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | EXACT)


def wait_for_checkpoint(process, workspace, lives: int) -> None:
    """Until the training has saved in its present life, of which it has had some before."""
    for line in process.stdout:
        said = json.loads(line)
        assert said["state"] != "Failed", said
        newest = [checkpoints.newest(out) for out in (workspace / Stage.TRAIN).glob("*/")]
        if any(saved and checkpoints.read_marker(saved).tally.resumed == lives for saved in newest):
            return
    pytest.fail("the run ended before it was killed")


def kill(process, pattern: str) -> None:
    runner = psutil.Process(process.pid)
    family = [runner, *runner.children(recursive=True)]
    victim = next(member for member in reversed(family) if pattern in " ".join(member.cmdline()))
    victim.send_signal(signal.SIGKILL)


def test_killed_again_and_again_it_goes_on_to_the_same_loss(unfinished, small_job, small_run):
    """One training whose every program is killed in turn, each time just after one more checkpoint was whole.

    What the machine has broken is tried again by the runner itself; when that is killed, by whoever starts it again.
    """
    lives = itertools.count()
    for victims in (STAGE, RUNNER), (TORCHRUN, RANK):
        process = start(small_job, unfinished)
        for victim in victims:
            wait_for_checkpoint(process, unfinished, next(lives))
            kill(process, victim)
        said = [json.loads(line) for line in process.communicate()[0].splitlines()]
    assert process.returncode == 0, said[-1]
    ours, theirs = said[-1]["result"], small_run.result("train")
    assert ours["resumed"] == 4
    (folder,) = (unfinished / Stage.TRAIN).glob("*/")
    lost = done_twice(lives_of(folder))
    assert len(lost) == 4
    assert all(0 <= steps <= SMALL_INTERVAL for steps in lost), lost
    # Exactly equal where nothing but this process uses the cores. Else sums of threads may come in another order:
    # float32 rounds each by 6e-8, which twenty steps leave far below 1e-4.
    losses, unbroken = ([point["loss"] for point in told["curve"]] for told in (ours, theirs))
    assert len(losses) == SMALL_STEPS
    assert losses == pytest.approx(unbroken, rel=1e-4)
    assert ours["finalLoss"] == pytest.approx(theirs["finalLoss"], rel=1e-4)
