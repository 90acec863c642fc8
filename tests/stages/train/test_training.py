"""The train stage from request to checkpoint, on a tiny model."""

import json
import os
import subprocess
import sys

import pytest
from tests.ports import free_port

from finetune_jobs.contract import CONFIG_FILE, CURVE_FILE, Lora
from finetune_jobs.train import curve

pytestmark = pytest.mark.stage

LEARNING = {"epochs": 3, "learning_rate": "2e-2", "lora": Lora(rank=4, alpha=8, dropout="0")}


@pytest.fixture(scope="module")
def alone(make_training):
    """One process, two micro-iterations a step."""
    training = make_training("alone", rows=24, gradient_accumulation=2, **LEARNING)
    return training, training.run()


def test_a_training_learns_and_reports_every_step(alone):
    training, outcome = alone
    assert outcome["state"] == "Succeeded"
    points = curve.read(training.out / CURVE_FILE)
    assert [point.step for point in points] == list(range(1, 37))
    assert outcome["result"]["finalLoss"] < points[0].loss - 0.3
    assert outcome["result"]["steps"] == 36
    assert outcome["result"]["checkpoint"] == "checkpoints/step-36"


def test_the_learning_rate_reaches_its_value_and_ends_near_zero(alone):
    training, outcome = alone
    rates = [point.learning_rate for point in curve.read(training.out / CURVE_FILE)]
    assert outcome["result"]["peakLearningRate"] == pytest.approx(2e-2, rel=1e-3)
    assert rates[0] < 4e-3
    assert rates[-1] < 1e-3


def test_progress_names_the_last_step(alone):
    progress = json.loads((alone[0].out / "progress.json").read_text())
    assert (progress["step"], progress["totalSteps"], progress["message"]) == (36, 36, "training")
    assert progress["tokensPerSecond"] > 0


def test_two_processes_train_to_the_loss_of_one_with_the_same_global_batch(alone, make_training):
    """The same rows in each step; sums of two float32 gradients in another order differ in their last digits, which
    AdamW carries on: 1e-3 of the loss after 36 steps."""
    together = make_training("together", rows=24, gpus=2, **LEARNING)
    outcome = together.run()
    assert outcome["result"]["worldSize"] == 2
    one, two = (curve.read(training.out / CURVE_FILE) for training in (alone[0], together))
    assert [point.loss for point in two] == pytest.approx([point.loss for point in one], rel=1e-3)
    assert one[0].loss == pytest.approx(two[0].loss, rel=1e-6)


def test_two_nodes_find_each_other_by_the_environment(alone, make_training):
    """Two stage programs on one workspace, as two pods of an Indexed Job are; the first one records the result."""
    cluster = make_training("cluster", rows=24, nodes=2, **LEARNING)
    environ = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    nodes = [cluster.start(**environ, JOB_COMPLETION_INDEX=str(index)) for index in range(2)]
    assert [node.wait() for node in nodes] == [0, 0]
    one, two = (curve.read(training.out / CURVE_FILE) for training in (alone[0], cluster))
    assert [point.loss for point in two] == pytest.approx([point.loss for point in one], rel=1e-3)
    assert cluster.run()["state"] == "Reused"


def test_a_result_that_is_there_is_taken(alone):
    training, outcome = alone
    again = training.run()
    assert (again["state"], again["result"]["finalLoss"]) == ("Reused", outcome["result"]["finalLoss"])


def test_the_config_beside_the_result_runs_by_hand(alone, tmp_path):
    """As its first lines say, and without touching what the stage made."""
    training, _ = alone
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "-m", "finetune_jobs.train.rank"),
        *(CONFIG_FILE, "--work-dir", str(tmp_path), "--deepspeed", "deepspeed.json", "--launcher", "pytorch"),
    ]
    before = (training.out / CURVE_FILE).read_bytes()
    subprocess.run(command, cwd=training.out, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    assert (tmp_path / CURVE_FILE).read_text().count("\n") == 36
    assert (training.out / CURVE_FILE).read_bytes() == before
