"""Wrong input to the command line: each gets a sentence and the exit code of a user's mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_operator.api.status import StageState
from finetune_operator.cli import main

JOB = """\
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: small}
spec:
  model: {volume: {claimName: models}}
  dataset: {volume: {claimName: data}, format: messages, template: qwen_chat}
  training: {learningRate: "1e-3"}
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A valid job's file in the current folder, with folders for its claims."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FINETUNE_WORKSPACE", raising=False)
    for claim in ("models", "data"):
        (tmp_path / claim).mkdir()
    file = tmp_path / "job.yaml"
    file.write_text(JOB)
    return file


def ended(*arguments):
    """The exit code, also where argparse ends the program."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(
    "wrong",
    [
        ('"1e-3"', '"2"', "spec.training.learningRate: 2 is no learning rate; write a string above 0"),
        ('"1e-3"', "fast", "spec.training.learningRate: 'fast' is not of the right form"),
        ("learningRate", "learningrate", "spec.training.learningrate: there is no such field; did you mean"),
        ("qwen_chat", "qwen_chatt", "spec.dataset.template: 'qwen_chatt' is not a template"),
        ("kind: FineTuneJob", "kind: [", "this is not YAML"),
        ("spec:", "---\nkind: FineTuneJob\nspec:", "2 FineTuneJobs; write exactly one"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["run", "plan", "validate", "status"])
def test_a_wrong_job_is_told_with_its_file_and_field(job, capsys, command, wrong):
    before, after, sentence = wrong
    job.write_text(JOB.replace(before, after))
    assert ended(command, job) == 64
    out, err = capsys.readouterr()
    assert f"{job}: {sentence}" in err
    assert not out


def test_every_problem_of_a_job_has_a_line(job, capsys):
    job.write_text(JOB.replace("qwen_chat", "nothing").replace('"1e-3"', "fast"))
    assert ended("validate", job) == 64
    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == [
        "spec.dataset.template", "spec.training.learningRate",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "none.yaml"], "none.yaml: there is no such file"),
        (["run", "models"], "models: Is a directory"),
        (["run", "job.yaml", "--until", "evalute"], "'evalute' is no stage; did you mean 'evaluate'?"),
        (["run", "job.yaml", "--until", "x"], "'x' is no stage; write one of dataset, demo, evaluate"),
        (["run", "job.yaml", "--volume", "models"], "'models' is not CLAIM=FOLDER; write a claim's name"),
        (["run", "job.yaml", "--volume", "models=none"], "--volume models: none is no folder."),
        (["run", "job.yaml", "--volume", "modles=data"], "the job names no such claim. It names data, models."),
        (["run", "job.yaml", "--port", "0"], "'0' is no port; write a number from 1 to 65535"),
        (["run", "job.yaml", "--port", "web"], "'web' is no port"),
        (["logs", "job.yaml", "train"], "has no log in"),
        (["logs", "job.yaml", "trian"], "'trian' is no stage; did you mean 'train'?"),
        (["fly", "job.yaml"], "invalid choice: 'fly'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_a_wrong_command_gets_a_sentence(job, capsys, arguments, sentence):
    assert ended(*arguments) == 64
    assert sentence in capsys.readouterr().err


def test_a_stages_log_is_printed(capsys, monkeypatch, tmp_path):
    example = Path(__file__).parents[3] / "examples" / "smollm2-react.yaml"
    monkeypatch.setenv("FINETUNE_WORKSPACE", str(tmp_path))
    assert ended("plan", example) == 0
    folder = tmp_path / "model" / capsys.readouterr().out.split()[1]
    folder.mkdir(parents=True)
    (folder / "stage.log").write_text("bringing the model\n")
    assert ended("logs", example, "model") == 0
    assert capsys.readouterr().out == "bringing the model\n"


def test_a_file_that_is_no_text_is_refused(job, capsys):
    job.write_bytes(b"\xff\xfe")
    assert ended("validate", job) == 64
    assert "this is not text in UTF-8" in capsys.readouterr().err


def test_a_claim_without_a_folder_is_refused_before_anything_runs(job, capsys):
    Path("data").rmdir()
    assert ended("run", job, "--no-demo") == 64
    assert "Add --volume data=FOLDER, or put the folder data beside the job's file." in capsys.readouterr().err
    assert not Path("workspace").exists()


def test_a_stage_that_the_job_has_not_is_refused(job, capsys):
    job.write_text(JOB + "  evaluation: {enabled: false}\n")
    assert ended("run", job, "--until", "evaluate") == 64
    assert "this job has no such stage; write one of model, dataset, train" in capsys.readouterr().err


def test_several_nodes_are_refused_on_one_machine(job, capsys):
    several = JOB.replace('"1e-3"', '"1e-3", nodes: 2') + "  storage: {claimName: shared}\n"
    job.write_text(several)
    assert ended("run", job, "--no-demo") == 64
    assert "spec.training.nodes is 2, and this command runs on one machine." in capsys.readouterr().err


def test_a_workspace_that_is_a_file_is_told(job, capsys):
    assert ended("run", job, "--no-demo", "--workspace", job) == 64
    assert "Name a folder with --workspace." in capsys.readouterr().err


def test_a_valid_job_says_its_stages(job, capsys):
    assert ended("validate", job) == 0
    assert capsys.readouterr().out == (
        f"{job}: valid; small has the stages model, dataset, train, export, merge, evaluate, demo\n"
    )


def test_a_plan_of_an_empty_workspace_runs_everything(job, capsys):
    assert ended("plan", job) == 0
    rows = [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()]
    assert [(row[0], row[2], row[3]) for row in rows[:3]] == [
        ("model", "run", "not made yet"), ("dataset", "run", "not made yet"), ("train", "run", "not made yet"),
    ]  # fmt: skip
    assert rows[-1][2] == "serve"
    assert not Path("workspace").exists(), "to plan writes nothing"


def test_a_stage_that_has_not_begun_is_pending_as_on_a_cluster(job, capsys):
    assert ended("status", job) == 0
    assert {line.split()[2] for line in capsys.readouterr().out.splitlines()} == {StageState.PENDING}


def test_the_workspace_comes_from_the_environment(job, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FINETUNE_WORKSPACE", str(tmp_path / "elsewhere"))
    assert ended("logs", job, "model") == 64
    assert f"no log in {tmp_path / 'elsewhere'}" in capsys.readouterr().err


def test_the_exit_codes_are_in_the_help(capsys):
    assert ended("run", "--help") == 0
    text = capsys.readouterr().out
    assert all(f"\n  {code}" in text for code in (0, 64, 75, 130))


def test_the_command_line_imports_nothing_heavy():
    heavy = {"torch", "transformers", "datasets", "numpy", "kubernetes", "kopf", "rich", "xtuner", "streamlit"}
    found = subprocess.run(
        [sys.executable, "-c", "import sys, finetune_operator.cli; print(*sys.modules)"],
        check=True, capture_output=True, text=True, env=os.environ,
    ).stdout.split()  # fmt: skip
    assert heavy.isdisjoint(found)
