"""`kill -9` of the evaluate stage: the next run goes on, and judges as an unbroken one does."""

import json
import signal
from pathlib import Path

import pytest

from finetune_jobs.contract import RESULT_FILE, TRANSCRIPTS_FILE, Stage
from finetune_jobs.room import stage_folder

from .conftest import request

pytestmark = pytest.mark.stage

KILLED = """
import os, signal, sys
from finetune_jobs.__main__ import main
from finetune_jobs.evaluate import report, turns

moment, calls = given.pop(), []

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

answer = turns.Remembered.__call__

def answer_until_killed(self, conversations):
    texts = answer(self, conversations)
    calls.append(len(conversations))
    if moment == f"answers {len(calls)}":
        os.truncate(self._path, self._path.stat().st_size - 9)  # in the midst of writing them down
        die()
    return texts

turns.Remembered.__call__ = answer_until_killed
if moment == "table":  # the transcripts are written, the result is not
    report.table = die
sys.exit(main(given))
"""
ASKED = request(turns=2)


@pytest.fixture
def judge(tiny, workspace, tmp_path, fork):
    """Runs the stage until that moment; its exit code."""
    place = workspace(tiny, tiny)
    (tmp_path / "request.json").write_text(ASKED.to_json(), encoding="utf-8")
    arguments = ["evaluate", "--request", str(tmp_path / "request.json"), "--workspace", str(place)]

    def run(moment: str) -> int:
        return fork(KILLED, *arguments, moment)

    return run


def outcome(folder: Path) -> tuple[object, str]:
    result = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))["result"]
    return result, (folder / TRANSCRIPTS_FILE).read_text(encoding="utf-8")


def test_killed_again_and_again_it_ends_as_an_unbroken_run(judge, tmp_path):
    """With an answer of the second model half written down, and before the result."""
    out = stage_folder(tmp_path / "workspace", Stage.EVALUATE, ASKED.digest())
    for moment in ("answers 5", "table"):
        assert judge(moment) == -signal.SIGKILL
        assert not (out / RESULT_FILE).exists()
    assert judge("never") == 0
    broken = outcome(out)
    for path in out.iterdir():
        path.unlink()
    assert judge("never") == 0
    assert broken == outcome(out)
