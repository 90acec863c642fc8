"""What a change of the file means for what is made again; on a job small enough to train twice."""

import subprocess

import pytest
from tests import browser
from tests.e2e.conftest import changed, finetune, open_demo, run_job

pytestmark = pytest.mark.timeout(3600)  # the example trains beside it


def edited(job, **spec):
    """The job file with some of its spec written otherwise, its ConfigMap kept."""
    first, rest = job.read_text().split("---\n")
    plain = job.with_name("plain.yaml")
    plain.write_text(first)
    other = changed(plain, job.with_name("edited.yaml"), **spec)
    other.write_text(other.read_text() + "---\n" + rest)
    return other


def test_another_dataset_takes_the_model_as_it_is(small_run):
    states = small_run.states
    assert states.pop("model") == "Reused"
    assert set(states.values()) == {"Succeeded"}


def test_a_new_learning_rate_trains_anew_from_the_same_model_and_data(small_run, small_job, workspace):
    states = run_job(edited(small_job, training__learningRate="5e-4"), workspace, "--until", "train").states
    assert states == {"model": "Reused", "dataset": "Reused", "train": "Succeeded"}


def test_a_new_title_restarts_the_demo_alone(small_run, small_job, workspace):
    with open_demo(edited(small_job, demo__title="Another"), workspace) as opened:
        states = opened.run.states
    assert states.pop("demo") == "Succeeded"
    assert set(states.values()) == {"Reused"}


def test_the_gate_holds_the_demo_back(small_run, small_job, workspace):
    strict = edited(small_job, evaluation__minimumValidCalls="1.0")
    run = run_job(strict, workspace)
    assert run.states["demo"] == "Failed"
    assert run.lines[-1]["failure"]["reason"] == "EvaluationBelowGate"
    assert run.code == 64


def test_the_plan_says_why_training_would_run(small_run, small_job, workspace):
    job = edited(small_job, training__learningRate="1e-4")
    told = subprocess.run(finetune("plan", job, "--workspace", workspace), capture_output=True, text=True, check=True)
    assert "learningRate" in told.stdout


def test_a_ready_adapter_skips_training_and_its_demo_opens(small_run, small_job, workspace):
    exports = sorted((workspace / "export").glob("*/adapter"), key=lambda folder: folder.stat().st_mtime)
    source = {"volume": {"claimName": "share", "path": exports[-1].parent.name + "/adapter"}, "template": "qwen_chat"}
    title, unjudged = "A ready adapter", {"enabled": False}
    job = edited(small_job, dataset=None, training=None, adapter=source, evaluation=unjudged, demo__title=title)
    shared = ("--volume", f"share={workspace / 'export'}")
    with open_demo(job, workspace, *shared) as opened, browser.browser() as page:
        browser.open_demo(page, opened.url, title)
    assert opened.run.states == {
        "model": "Reused", "export": "Succeeded", "merge": "Succeeded", "demo": "Succeeded",
    }  # fmt: skip
