"""The promise of `make quickstart`: a real chat model that calls no tool becomes an agent, seen in a browser."""

from pathlib import Path

import pytest
from tests import browser
from tests.e2e.conftest import EXAMPLE, open_demo

pytestmark = pytest.mark.timeout(3600)  # the first test waits for the whole example

QUESTION = "Please help me search the InternLM2 Technical Report."
"""The tutorial's own; neither its topic nor its wording is in the training data."""
TITLE = "SmolLM2 learns to use tools"


def test_every_stage_runs_once_and_says_what_came_out(model_run, first_run):
    assert model_run.states == {"model": "Succeeded"}
    made = dict.fromkeys(("dataset", "train", "export", "merge", "evaluate"), "Succeeded")
    assert first_run.states == {"model": "Reused", **made}
    dataset = first_run.result("dataset")
    assert dataset["rowsRead"] == dataset["rowsKept"] + sum(dataset["rowsDropped"].values())
    assert dataset["tokens"] > 0
    assert dataset["packs"] > 0


def test_training_shows_how_far_it_is(first_run):
    steps = [line["progress"]["step"] for line in first_run.lines if line["stage"] == "train" and "progress" in line]
    assert steps == sorted(steps)
    assert len(set(steps)) > 3


def test_the_base_model_calls_no_tool_and_the_tuned_one_does(first_run):
    rates = first_run.result("evaluate")
    assert rates["prompts"] >= 50
    assert rates["turns"] >= 20
    assert rates["base"]["validCalls"] <= 0.1
    assert rates["tuned"]["validCalls"] >= 0.9
    assert rates["tuned"]["finishedTurns"] >= 0.8


@pytest.fixture(scope="module")
def demo(first_run, workspace):
    with open_demo(EXAMPLE, workspace) as opened:
        yield opened


def test_a_second_run_does_nothing_twice(demo):
    states = demo.run.states
    assert states.pop("demo") == "Succeeded"
    assert set(states.values()) == {"Reused"}


def test_a_visitor_sees_both_answers(demo):
    with browser.browser() as page:
        picture = Path("test-output/demo.png")
        browser.both_answers(page, demo.url, TITLE, question=QUESTION, topic="InternLM2", picture=picture)
