"""When a training is stopped early."""

import pytest

from finetune_jobs.errors import UserMistake
from finetune_jobs.train.divergence import Watch


def feed(losses, total=None, first=()):
    watch = Watch(total or len(losses), first)
    for step, loss in enumerate(losses, start=1):
        watch.feed(step, loss)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_told_with_its_step(broken):
    with pytest.raises(UserMistake, match="step 3") as caught:
        feed([2.0, 1.0, broken])
    assert caught.value.failure.reason == "LossIsNaN"
    assert "learningRate" in caught.value.failure.cure


def test_a_loss_that_rises_far_above_its_beginning_diverges():
    with pytest.raises(UserMistake) as caught:
        feed([1.8] * 50 + [9.0] * 50)
    assert caught.value.failure.reason == "LossDiverged"


@pytest.mark.parametrize(
    "losses",
    [
        [1.79, 1.18, 0.43, 0.22, 0.095, 0.054, 0.061, 0.074] * 9,
        [0.05] * 50 + [0.5] * 50,
        [2.0] * 50 + [30.0] + [1.0] * 49,
        [10.8] * 3,
    ],
    ids=["a good run, over and over", "from almost nothing to little", "one spike", "a short run"],
)
def test_a_loss_that_only_wavers_goes_on(losses):
    feed(losses)


def test_a_resumed_training_is_compared_with_its_own_beginning():
    with pytest.raises(UserMistake, match="from 1.80"):
        feed([9.0] * 20, total=100, first=[1.8] * 10)
