"""What a change of the file means for what is made again; on a job small enough to train twice."""

import json
import subprocess

import pytest
import yaml
from tests.e2e.conftest import EXAMPLE, changed, finetune, open_demo, run_job

PROMPTS = [
    {"question": "Find papers about sparse attention.", "tool": "ArxivSearch.get_arxiv_article_information"},
    {"question": "Say hello."},
]


@pytest.fixture(scope="module")
def small_job(tmp_path_factory, pytestconfig):
    """The example with six rows of data and two prompts."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "react-data").mkdir()
    rows = min((pytestconfig.rootpath / "examples" / "react-data").glob("*.jsonl")).read_text().splitlines()[:6]
    (folder / "react-data" / "rows.jsonl").write_text("\n".join(rows) + "\n")
    prompts = {"configMapKeyRef": {"name": "prompts", "key": "list"}}
    job = changed(
        EXAMPLE,
        folder / "job.yaml",
        evaluation={"promptsFrom": prompts, "turns": 0, "maxNewTokens": 16},
        training__checkpoint={"everySteps": 3, "keep": 2},
    )
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "prompts"}}
    config_map["data"] = {"list": json.dumps(PROMPTS)}
    job.write_text(job.read_text() + "---\n" + yaml.safe_dump(config_map))
    return job


def edited(job, **spec):
    """The job file with some of its spec written otherwise, its ConfigMap kept."""
    first, rest = job.read_text().split("---\n")
    plain = job.with_name("plain.yaml")
    plain.write_text(first)
    other = changed(plain, job.with_name("edited.yaml"), **spec)
    other.write_text(other.read_text() + "---\n" + rest)
    return other


@pytest.fixture(scope="module")
def small_run(small_job, workspace, first_run):
    run = run_job(small_job, workspace, "--until", "evaluate")
    assert run.code == 0, run.lines[-1]
    return run


def test_another_dataset_takes_the_model_as_it_is(small_run):
    states = small_run.states
    assert states.pop("model") == "Reused"
    assert set(states.values()) == {"Succeeded"}


def test_a_new_learning_rate_trains_anew_from_the_same_model_and_data(small_run, small_job, workspace):
    states = run_job(edited(small_job, training__learningRate="5e-4"), workspace, "--until", "evaluate").states
    assert states == {
        "model": "Reused",
        "dataset": "Reused",
        "train": "Succeeded",
        "export": "Succeeded",
        "merge": "Succeeded",
        "evaluate": "Succeeded",
    }


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


def test_a_ready_adapter_skips_training(small_run, small_job, workspace):
    exports = sorted((workspace / "export").glob("*/adapter"), key=lambda folder: folder.stat().st_mtime)
    source = {"volume": {"claimName": "share", "path": exports[-1].parent.name + "/adapter"}, "template": "qwen_chat"}
    job = edited(small_job, dataset=None, training=None, adapter=source)
    run = run_job(job, workspace, "--until", "merge", "--volume", f"share={workspace / 'export'}")
    assert run.states == {"model": "Reused", "export": "Succeeded", "merge": "Succeeded"}
