"""What stands in a progress ConfigMap: the pod that writes it may be anybody's."""

import json

import pytest
from tests.unit.cluster.bodies import config_map

from finetune_operator.cluster.report import report_of
from finetune_operator.cluster.seen import child_of

GOOD = {"step": 9, "totalSteps": 90, "loss": 0.75, "tokensPerSecond": 812.5, "updatedAt": "2026-01-01T00:00:00Z"}
SHOWN = ("step", "total_steps", "loss", "tokens_per_second")


def told(text: str, curve: str = "[]"):
    return report_of({"progress": text, "digest": "d", "curve": curve})


def shown(text: str):
    progress = told(text).progress
    return tuple(getattr(progress, name) for name in SHOWN)


def test_a_good_report_is_read():
    assert shown(json.dumps(GOOD)) == (9, 90, 0.75, 812.5)


RUBBISH = ["Infinity", "-Infinity", "NaN", "1e999", "9" * 400, '"fast"', "[]", "{}", "null", "true"]


@pytest.mark.parametrize("value", RUBBISH, ids=[r[:9] for r in RUBBISH])
def test_a_number_that_is_none_is_dropped_and_the_others_are_kept(value):
    text = json.dumps(GOOD).replace("0.75", value)
    assert shown(text) == (9, 90, None, 812.5)


@pytest.mark.parametrize("value", ["-1", "1e30", "1" + "0" * 30, "9.5", *RUBBISH], ids=lambda value: value[:9])
def test_a_count_that_is_none_is_dropped_and_the_others_are_kept(value):
    text = json.dumps(GOOD).replace("90", value)
    assert shown(text) == (9, 0, 0.75, 812.5)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "x" * 1_000_000, "[" * 16_000, "9" * 10_000], ids=lambda t: t[:2])
def test_what_says_nothing_is_no_report(text):
    assert told(text, text) is None


def test_of_a_curve_the_points_that_are_some_are_kept():
    curve = '[[1, 2.0], [2, NaN], [3, Infinity], [-4, 1.0], ["5", 1.0], [6], 7, [8, 1e999], [1e400, 1], [9, 1]]'
    assert told("{", curve).curve == ((1, 2.0), (9, 1.0))


@pytest.mark.parametrize("text", ["[" * 16_000, '{"step": 1e999}', "x" * 1_000_000], ids=lambda t: t[:2])
def test_a_config_map_of_rubbish_is_a_child_like_any_other(text):
    assert child_of(config_map(data={"progress": text, "curve": text})).report is None
