"""The example's job, run once by the real command for all tests of this folder, in whichever process they are.

A run has much that only one core works at, above all each program's imports: two processes of pytest keep both busy.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import yaml
from tests.brief import LENGTH, brief_rows
from tests.ports import free_port

FINETUNE = Path(sys.executable).with_name("finetune")
EXAMPLE = Path("examples/smollm2-react.yaml")
Line = Mapping[str, object]


def finetune(*arguments: object) -> list[str]:
    return [str(FINETUNE), *map(str, arguments)]


def read_lines(stream: Iterator[str]) -> Iterator[Line]:
    for line in stream:
        sys.stderr.write(line)
        yield json.loads(line)


@dataclass(frozen=True)
class Run:
    """What one `finetune run --json` said, and how it ended."""

    lines: tuple[Line, ...]
    code: int

    @property
    def states(self) -> dict[str, str]:
        """Stage -> its last state, in order."""
        return {str(line["stage"]): str(line["state"]) for line in self.lines}

    def result(self, stage: str) -> Mapping:
        """What the stage told at its end."""
        return next(line["result"] for line in reversed(self.lines) if line["stage"] == stage and "result" in line)


def run_job(job: Path, workspace: Path, *arguments: object, **environ: str) -> Run:
    """`finetune run --json` to its end."""
    command = finetune("run", job, "--workspace", workspace, "--json", *arguments)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environ)
    assert process.stdout is not None
    lines = tuple(read_lines(process.stdout))
    return Run(lines, process.wait())


@dataclass(frozen=True)
class OpenDemo:
    run: Run
    url: str


@contextmanager
def open_demo(job: Path, workspace: Path, *arguments: object) -> Iterator[OpenDemo]:
    """`finetune run --json` as far as the open demo; Ctrl-C at the end."""
    command = finetune("run", job, "--workspace", workspace, "--json", "--port", free_port(), *arguments)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    lines: list[Line] = []
    try:
        for line in read_lines(process.stdout):
            lines.append(line)
            if line["stage"] == "demo" and line["state"] == "Succeeded":
                break
        assert lines, "the run said nothing"
        assert lines[-1]["state"] == "Succeeded", lines[-1]
        yield OpenDemo(Run(tuple(lines), 0), str(lines[-1]["result"]["url"]))
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGINT)
        process.wait(60)


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id) -> Path:
    """A folder of all processes of this pytest."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def once(shared) -> Callable[..., Run]:
    """The run of that name: the first process to ask for it makes it, and any other waits for what came of it."""

    def run(name: str, job: Path, workspace: Path, *arguments: object, **environ: str) -> Run:
        kept = shared / f"{name}.json"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                made = run_job(job, workspace, *arguments, **environ)
                kept.write_text(json.dumps(asdict(made)))
        found = json.loads(kept.read_text())
        assert found["code"] == 0, found["lines"][-1]
        return Run(tuple(found["lines"]), found["code"])

    return run


@pytest.fixture(scope="session")
def workspace(shared) -> Path:
    folder = shared / "workspace"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def model_run(once, workspace) -> Run:
    """The example as far as the model, which every other run takes as it is."""
    return once("model", EXAMPLE, workspace, "--until", "model")


@pytest.fixture(scope="session")
def first_run(once, model_run, workspace) -> Run:
    """The example from its model to the judged one; minutes."""
    return once("first", EXAMPLE, workspace, "--until", "evaluate")


def changed(job: Path, into: Path, **spec: object) -> Path:
    """A copy of the job with some of its spec written otherwise; claims lie where the example's do."""
    document = yaml.safe_load(job.read_text())
    for path, value in spec.items():
        at = document["spec"]
        *outer, last = path.split("__")
        for key in outer:
            at = at.setdefault(key, {})
        at.pop(last, None) if value is None else at.update({last: value})
    into.write_text(json.dumps(document) + "\n")  # JSON is YAML, and keeps "2e-3" a string
    return into


SMALL_STEPS, SMALL_INTERVAL = 20, 2
EXACT = {"FINETUNE_CPU_DTYPE": "float32"}
"""For losses that are compared: bfloat16 rounds what another order of sums makes larger."""
PROMPTS = [
    {"question": "Find papers about sparse attention.", "tool": "ArxivSearch.get_arxiv_article_information"},
    {"question": "Say hello."},
]


@pytest.fixture(scope="session")
def small_job(tmp_path_factory):
    """The example with a few short rows of data, each a step, under a claim of their own, and two prompts."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "small-data").mkdir()
    (folder / "small-data" / "rows.jsonl").write_text(brief_rows(SMALL_STEPS))
    prompts = {"configMapKeyRef": {"name": "prompts", "key": "list"}}
    job = changed(
        EXAMPLE,
        folder / "job.yaml",
        evaluation={"promptsFrom": prompts, "turns": 0, "maxNewTokens": 16},
        dataset__volume={"claimName": "small-data"},
        training__maxLength=LENGTH,
        training__lora={"rank": 8, "alpha": 16, "dropout": "0"},
        training__checkpoint={"everySteps": SMALL_INTERVAL, "keep": 2},
    )
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "prompts"}}
    config_map["data"] = {"list": json.dumps(PROMPTS)}
    job.write_text(job.read_text() + "---\n" + json.dumps(config_map) + "\n")
    return job


@pytest.fixture(scope="session")
def small_run(once, small_job, workspace, model_run) -> Run:
    return once("small", small_job, workspace, "--until", "evaluate", **EXACT)
