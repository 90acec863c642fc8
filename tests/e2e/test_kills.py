"""`kill -9` in the midst of a real training: the same command goes on, and the loss is the unbroken run's."""

import json
import shutil
import signal
import subprocess

import psutil
import pytest
from tests.e2e.conftest import finetune, run_job

from finetune_jobs.contract import Stage

pytestmark = pytest.mark.timeout(3600)  # the first test waits for the whole example

VICTIMS = {
    "runner": "bin/finetune",
    "stage": "finetune_jobs train",
    "torchrun": "finetune_jobs.train.elastic",
    "rank": "finetune_jobs.train.rank",
}
"""Who is killed -> what its command line holds."""


@pytest.fixture
def unfinished(workspace, small_run, tmp_path):
    """A workspace with the small job's model and dataset, and nothing that was trained."""
    for stage in (Stage.MODEL, Stage.DATASET):
        shutil.copytree(workspace / stage, tmp_path / stage, copy_function=shutil.copy2)
    return tmp_path


def start(job, workspace) -> subprocess.Popen:
    command = finetune("run", job, "--workspace", workspace, "--until", "train", "--json")
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for_step(process, step: int) -> None:
    for line in process.stdout:
        said = json.loads(line)
        assert said["state"] != "Failed", said
        if said["stage"] == "train" and said.get("progress", {}).get("step", 0) >= step:
            return
    pytest.fail("the run ended before it was killed")


def kill(process, pattern: str) -> None:
    runner = psutil.Process(process.pid)
    family = [runner, *runner.children(recursive=True)]
    victim = next(member for member in reversed(family) if pattern in " ".join(member.cmdline()))
    victim.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("victim", VICTIMS)
def test_it_goes_on_to_the_same_loss(victim, unfinished, small_job, small_run):
    process = start(small_job, unfinished)
    wait_for_step(process, 4)  # the checkpoint of step 3 is whole by then
    kill(process, VICTIMS[victim])
    process.communicate()
    run = run_job(small_job, unfinished, "--until", "train")
    assert run.code == 0, run.lines[-1]
    result = run.result("train")
    assert result["resumed"] >= 1
    # Exactly equal where nothing but this process uses the cores; sums of threads may come in another order.
    assert result["finalLoss"] == pytest.approx(small_run.result("train")["finalLoss"], rel=1e-4)
