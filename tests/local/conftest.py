"""A job of fake stages, and runs of it as processes of their own."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from tests.ports import free_port

from finetune_jobs.contract import RESULT_FILE, Record, Stage
from finetune_operator.api import read_job
from finetune_operator.plan import PlannedStage, make_plan

FINETUNE = Path(__file__).with_name("fake_finetune.py")
PATIENCE = 60.0
"""Seconds until a condition that does not come true fails its test; nothing waits that long when all is well."""
LAP = threading.Event()

JOB = """\
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata:
  name: small
spec:
  model: {volume: {claimName: models, path: small}}
  dataset:
    volume: {claimName: data}
    format: messages
    template: qwen_chat
  training: {recipe: qlora-small, learningRate: "1e-3"}
  evaluation: {minimumValidCalls: "0.8"}
  demo: {title: Before and after}
"""


RESULTS = {
    Stage.MODEL: '{"parameters": 134500000, "architecture": "LlamaForCausalLM", "dtype": "bfloat16", "source": "x"}',
    Stage.DATASET: '{"rowsRead": 9, "rowsKept": 8, "rowsDropped": {"empty": 1}, "tokens": 99, "packs": 2}',
    Stage.TRAIN: '{"steps": 5, "finalLoss": 0.2, "tokensPerSecond": 130.0}',
    Stage.EXPORT: '{"rank": 16, "tensors": 420, "bytes": 9}',
    Stage.MERGE: '{"dtype": "bfloat16", "bytes": 9, "mergedTensors": 210}',
    Stage.EVALUATE: '{"base": {"validCalls": 0.0}, "tuned": {"validCalls": 0.94}, "prompts": 50, "turns": 20}',
}
"""Of earlier runs."""


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for the condition and return what it gave."""
    deadline = monotonic() + PATIENCE
    while not (found := condition()):
        assert monotonic() < deadline, f"never came true: {what}"
        LAP.wait(0.01)
    return found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def write_result(folder: Path, planned: PlannedStage) -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    record = Record(
        stage=planned.stage, digest=planned.digest, request=planned.request, started_at=moment, finished_at=moment,
        result=json.loads(RESULTS[planned.stage]),
    )  # fmt: skip
    folder.mkdir(parents=True)
    (folder / RESULT_FILE).write_text(record.to_json())


@dataclass
class Run:
    """One `finetune` process and what it said."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.readers = [
            threading.Thread(target=lines.extend, args=[pipe])
            for pipe, lines in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        ]
        for reader in self.readers:
            reader.start()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in list(self.lines)]

    def states(self) -> list[str]:
        """Each stage and its state, repetitions left out."""
        return list(dict.fromkeys(f"{event['stage']} {event['state']}" for event in self.events))

    def event(self, stage: str, state: str, **more: Any) -> dict[str, Any] | None:
        wanted = {"stage": stage, "state": state, **more}
        return next((event for event in self.events if wanted.items() <= event.items()), None)

    def wait_for(self, stage: str, state: str) -> dict[str, Any]:
        return until(lambda: self.event(stage, state), f"{stage} {state} in {self.lines} {self.errors}")

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def ends(self) -> int:
        code = self.process.wait(PATIENCE)
        for reader in self.readers:
            reader.join()
        return code


@dataclass
class Bench:
    """A job's file, its workspace, and the fake stages' controls."""

    folder: Path
    port: int
    runs: list[Run] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / "job.yaml"

    @property
    def workspace(self) -> Path:
        return self.folder / "results"

    def write(self, text: str) -> None:
        self.file.write_text(text)

    def control(self, name: str) -> Path:
        return self.folder / "control" / name

    def said(self, name: str) -> list[str]:
        path = self.control(name)
        return path.read_text().split() if path.exists() else []

    def start(self, command: str = "run", *more: str, under: Sequence[str] = ()) -> Run:
        """Start `finetune`; `under` is a command that starts it in other surroundings."""
        arguments = [command, str(self.file), "--workspace", str(self.workspace), *more]
        if command == "run" and "--port" not in more:
            arguments += ["--port", str(self.port)]
        process = subprocess.Popen(
            [*under, sys.executable, str(FINETUNE), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "FAKE_CONTROL": str(self.folder / "control")},
        )  # fmt: skip
        self.runs.append(Run(process))
        return self.runs[-1]

    def run_to_the_end(self, *more: str) -> Run:
        """A run up to before the demo, ended well."""
        run = self.start("run", "--json", "--no-demo", *more)
        assert run.ends() == 0, run.lines + run.errors
        return run

    def done_before(self, stage: str) -> None:
        """Put the results of all stages before this one in the workspace, as earlier runs would have left them."""
        job = read_job(self.file.read_text())
        for planned in make_plan(job.job, job.config_maps).stages:
            if planned.stage == stage:
                return
            write_result(self.workspace / planned.stage / planned.digest, planned)

    until = staticmethod(until)
    lives = staticmethod(lives)

    def held(self, stage: str) -> Run:
        """A run whose `stage` has made two of its five steps and works on until its hold is removed."""
        self.done_before(stage)
        self.control(f"{stage}.hold").touch()
        run = self.start("run", "--json", "--until", stage)
        until(lambda: self.said(f"{stage}.steps")[-1:] == ["2"], f"{stage} is held; {run.lines}")
        return run

    def clean_up(self) -> None:
        for run in self.runs:
            if run.process.poll() is None:
                run.process.kill()
            run.ends()
        for hold in (self.folder / "control").glob("*.*-save"):
            hold.unlink()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    for name in ("control", "models", "data"):
        (tmp_path / name).mkdir()
    made = Bench(tmp_path, free_port())
    made.write(JOB)
    yield made
    made.clean_up()
