"""`kill -9` of the export stage: no half adapter is ever taken, and the next run ends as an unbroken one does."""

import json
import signal
from pathlib import Path

import pytest

from finetune_jobs.contract import ADAPTER_FOLDER, RESULT_FILE, Stage
from finetune_jobs.room import read_record, stage_folder

pytestmark = pytest.mark.stage

KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from finetune_jobs import export
from finetune_jobs.__main__ import main

moment = given.pop()

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

copy = shutil.copyfile

def half_a_copy(source, target):
    copy(source, target)
    if Path(target).name == export.WEIGHTS_FILE:
        os.truncate(target, 100)
        die()

if moment == "copying":
    shutil.copyfile = half_a_copy
if moment == "publishing":  # what was there is gone, and the draft has not its name yet
    Path.rename = die
if moment == "ending":  # the adapter has its name, and no result says that it is whole
    export.ExportResult = die
sys.exit(main(given))
"""


@pytest.fixture
def export(bench, adapter, fork):
    """Runs the stage until that moment; its exit code."""
    adapter()
    path = bench.workspace / "export.json"
    path.write_text(bench.request().to_json(), encoding="utf-8")
    arguments = ["export", "--request", str(path), "--workspace", str(bench.workspace)]

    def run(moment: str) -> int:
        return fork(KILLED, *arguments, "--volume", f"adapters={bench.ready}", moment)

    return run


def left(out: Path) -> dict[str, bytes]:
    """All files of the stage by name, but for those that hold times."""
    timed = {RESULT_FILE, "progress.json", ".fetched.fetched.json"}
    found = (path for path in out.rglob("*") if path.is_file() and path.name not in timed)
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def test_killed_at_every_step_it_ends_as_an_unbroken_run(export, bench):
    digest = bench.request().digest()
    out = stage_folder(bench.workspace, Stage.EXPORT, digest)
    for moment in ("copying", "publishing", "ending"):
        assert export(moment) == -signal.SIGKILL
        assert read_record(bench.workspace, Stage.EXPORT, digest) is None
    assert export("never") == 0
    broken, result = left(out), json.loads((out / RESULT_FILE).read_text())["result"]
    assert f"{ADAPTER_FOLDER}/adapter_model.safetensors" in broken
    for path in sorted(out.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert export("never") == 0
    assert (broken, result) == (left(out), json.loads((out / RESULT_FILE).read_text())["result"])
