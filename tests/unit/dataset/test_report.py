"""The report counts rows by reason, names the first of them, and ends the stage when too many are lost."""

import json

import numpy as np
import pytest

from finetune_jobs.dataset.conversation import NotUnderstood
from finetune_jobs.dataset.report import Tally, write_report
from finetune_jobs.dataset.rows import Row
from finetune_jobs.errors import UserMistake


def tally_of(kept: int, dropped: int, reason: str = "broken_json", max_length: int = 100) -> Tally:
    tally = Tally(max_length)
    for line in range(1, kept + dropped + 1):
        row = Row("x.jsonl", line, None)
        tally.read[row.file] += 1
        if line <= dropped:
            tally.drop(row, NotUnderstood(reason, f"problem {line}"))
        else:
            tally.keep(row, np.array([-1, 5], np.int32), 2)
    return tally


def test_as_many_as_allowed_may_be_dropped():
    tally_of(95, 5).require_enough_kept("0.05")


def test_one_more_ends_the_stage_with_five_examples():
    with pytest.raises(UserMistake) as caught:
        tally_of(94, 6).require_enough_kept("0.05")
    failure = caught.value.failure
    assert failure.reason == "BrokenJson"
    assert "6 of 100 rows" in failure.message
    assert [n for n in range(1, 8) if f"x.jsonl:{n}: problem {n}" in failure.message] == [1, 2, 3, 4, 5]


def test_no_rows_are_a_mistake_of_their_own():
    with pytest.raises(UserMistake, match="no rows"):
        Tally(100).require_enough_kept("0.05")


def test_nothing_kept_is_never_enough():
    with pytest.raises(UserMistake, match="3 of 3 rows"):
        tally_of(0, 3).require_enough_kept("1")


def test_a_hopeless_dataset_is_not_read_to_its_end():
    with pytest.raises(UserMistake, match="1000 of the first 1000 rows"):
        tally_of(0, 5000)


def test_the_report_names_the_first_rows_of_each_reason(tmp_path):
    tally = tally_of(10, 30)
    tally.mark(Row("x.jsonl", 40, None), {"missing_loss"}, {"loss_false"})
    write_report(tmp_path, tally, {"packs": 1})
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["rowsRead"] == 40
    assert report["rowsDropped"]["broken_json"]["rows"] == 30
    assert len(report["rowsDropped"]["broken_json"]["first"]) == 20
    assert report["rowsRepaired"]["missing_loss"]["first"] == [{"file": "x.jsonl", "line": 40}]
    assert (report["tokens"], report["supervisedTokens"], report["packs"]) == (20, 10, 1)


@pytest.mark.parametrize("max_length", [16, 100, 4096])
def test_the_histogram_counts_every_conversation_once(max_length):
    tally = Tally(max_length)
    lengths = [1, 2, max_length // 2, max_length, max_length + 1, 10 * max_length]
    for length in lengths:
        tally.keep(Row("x", 1, None), np.array([1], np.int32), length)
    histogram = tally.histogram()
    assert sum(histogram["counts"]) == 4
    assert histogram["longer"] == 2
    assert tally.percentiles()["longest"] == 10 * max_length
