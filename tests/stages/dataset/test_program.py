"""The stage as the program that pods and the runner start: it can be killed, stopped and run again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_jobs.contract import ExitCode, Stage
from finetune_jobs.room import read_record, stage_folder

pytestmark = pytest.mark.stage

REPOSITORY = Path(__file__).parents[3]


class Program:
    """``python -m finetune_jobs dataset`` in a workspace of its own that has the base model."""

    def __init__(self, stage, tmp_path: Path) -> None:
        self.request = stage.request()
        self.workspace = tmp_path / "workspace"
        model = stage_folder(self.workspace, Stage.MODEL, stage.base.digest)
        model.parent.mkdir(parents=True)
        model.symlink_to(stage_folder(stage.base.workspace, Stage.MODEL, stage.base.digest))
        file = tmp_path / "request.json"
        file.write_text(self.request.to_json(), encoding="utf-8")
        self.command = [sys.executable, "-m", "finetune_jobs", "dataset", "--request", str(file)]
        self.command += ["--workspace", str(self.workspace), "--volume", f"data={stage.data}"]

    @property
    def out(self) -> Path:
        return stage_folder(self.workspace, Stage.DATASET, self.request.digest())

    def run(self) -> int:
        return subprocess.run(self.command, check=False).returncode

    def signalled_while_reading(self, number: signal.Signals, pipe: Path) -> int:
        """Feeds rows through a named pipe, so that the program surely reads, and sends the signal.

        Then the pipe ends: a signal that comes just before a read is answered when that read returns.
        """
        process = subprocess.Popen(self.command)
        end = os.open(pipe, os.O_WRONLY)  # returns when the program opens the other end
        try:
            os.write(end, b"\n")
            process.send_signal(number)
        finally:
            os.close(end)
        return process.wait(60)


@pytest.fixture
def program(stage, write_rows, tmp_path) -> Program:
    said = [{"role": "user", "content": "x", "loss": False}, {"role": "assistant", "content": "y", "loss": True}]
    write_rows("a.jsonl", *({"conversation": said} for _ in range(50)))
    return Program(stage, tmp_path)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, ExitCode.INTERRUPTED)]
)
def test_a_run_that_was_ended_is_done_anew(program, stage, number, code):
    pipe = stage.data / "b.jsonl"
    os.mkfifo(pipe)
    assert program.signalled_while_reading(number, pipe) == code
    assert read_record(program.workspace, Stage.DATASET, program.request.digest()) is None
    pipe.unlink()
    pipe.touch()
    assert program.run() == ExitCode.DONE
    assert json.loads((program.out / "result.json").read_text(encoding="utf-8"))["result"]["rowsKept"] == 50
    assert {path.name for path in program.out.iterdir() if not path.name.startswith(".source")} == {
        "packed", "source", "report.json", "histogram.png", "result.json", "progress.json",
    }  # fmt: skip


def test_a_finished_run_is_not_done_again(program):
    assert program.run() == ExitCode.DONE
    written = (program.out / "packed" / "state.json").stat().st_mtime_ns
    assert program.run() == ExitCode.DONE
    assert (program.out / "packed" / "state.json").stat().st_mtime_ns == written


def test_the_program_does_not_load_torch(program):
    program.command[1:1] = ["-X", "importtime"]
    done = subprocess.run(program.command, check=True, capture_output=True, text=True)
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "transformers" in imported
    assert "torch" not in imported


def test_the_benchmark_runs(stage, tmp_path):
    """Few rows, so that it does not rot; what it finds is for `make bench-data`."""
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "bench_data.py"), "--rows", "30"]
    model = stage_folder(stage.base.workspace, Stage.MODEL, stage.base.digest) / "model"
    done = subprocess.run(
        [*command, "--model", str(model), "--folder", str(tmp_path)], check=True, stdout=subprocess.PIPE, text=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ours"]["rowsKept"] == 30
    assert found["oursTenfold"]["rowsKept"] == 300
    assert found["xtuner"]["packs"] > 0
