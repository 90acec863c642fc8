"""Results and durations in a line."""

import pytest

from finetune_jobs.contract import Stage
from finetune_operator.local.summary import duration, result_line, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3599.9, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_a_duration_reads_as_a_person_says_it(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(9, "9 bytes"), (98_700_000, "98.7 MB"), (4e9, "4 GB")])
def test_a_size_is_in_powers_of_ten(count, text):
    assert size(count) == text


def test_an_evaluation_shows_before_and_after():
    base, tuned = {"validCalls": 0.02, "finishedTurns": 0}, {"validCalls": 0.98, "finishedTurns": 0.85}
    result = {"base": base, "tuned": tuned, "prompts": 50}
    assert result_line(Stage.EVALUATE, result) == (
        "valid tool calls 2 % before, 98 % after; finished turns 0 % before, 85 % after; 50 prompts"
    )


def test_a_dataset_counts_what_was_dropped():
    result = {"rowsRead": 10, "rowsKept": 7, "rowsDropped": {"empty": 1, "tooLong": 2}, "tokens": 99, "packs": 3}
    assert result_line(Stage.DATASET, result) == "7 of 10 rows kept, 3 dropped, 99 tokens in 3 packs"
