"""What the ranks count and guard, without a training."""

from types import SimpleNamespace

import pytest

from finetune_jobs.train.batches import collate
from finetune_jobs.train.checkpoints import Tally

pytest.importorskip("mmengine")

from finetune_jobs.train.hooks import Monitor, count_tokens, refuse_stuck_warmup


def row(*documents: int) -> dict[str, list[int]]:
    """A packed row of documents of these lengths."""
    ids = list(range(3, 3 + sum(documents)))
    return {"input_ids": ids, "labels": ids, "position_ids": [place for length in documents for place in range(length)]}


@pytest.mark.parametrize("rows", [[row(5)], [row(5, 3), row(2)], [row(2, 2, 2), row(6), row(3)]])
def test_padding_is_no_token_that_was_trained_on(rows):
    assert count_tokens(collate(rows)["data"]) == sum(len(row["input_ids"]) for row in rows)


def test_padding_under_a_mask_is_none_either():
    rows = [{name: row(length)[name] for name in ("input_ids", "labels")} for length in (4, 1)]
    assert count_tokens(collate(rows)["data"]) == 5


def test_a_training_that_is_over_within_its_warmup_is_no_mistake():
    monitor = Monitor()
    monitor.tally = Tally(peak_learning_rate=1e-5)
    groups = [{"lr": 1e-5, "initial_lr": 1e-3}]
    optimizer = SimpleNamespace(optimizer=SimpleNamespace(param_groups=groups))
    said = []
    logger = SimpleNamespace(info=lambda *line: said.append(line))
    monitor.after_train(SimpleNamespace(finetune_stop=False, optim_wrapper=optimizer, logger=logger))
    assert all("GiB" in line[0] for line in said)


class LinearLR:
    """As much of mmengine's as is looked at."""

    start_factor = 1e-5

    def __init__(self, total_iters: int) -> None:
        self.total_iters = total_iters


def test_a_warmup_in_which_the_rate_never_rises_is_refused_before_the_first_step():
    refuse_stuck_warmup(SimpleNamespace(param_schedulers=[LinearLR(1)]))
    with pytest.raises(Exception, match="stay at 1e-05 of its value") as caught:
        refuse_stuck_warmup(SimpleNamespace(param_schedulers=[LinearLR(0)]))
    assert caught.value.failure.reason == "LearningRateStuck"
