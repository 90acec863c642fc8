"""`kill -9` of the model stage in each of its longest steps: the next run goes on, to the very same model."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from tests.conftest import SMOLLM2

from finetune_jobs.contract import PROGRESS_FILE, Stage
from finetune_jobs.room import read_record, stage_folder

PATIENCE = 300
"""Seconds until the step is reached."""


def program(workspace) -> list[str]:
    request = workspace / "request.json"
    request.write_text(SMOLLM2.to_json())
    return [sys.executable, "-m", "finetune_jobs", "model", "--request", str(request), "--workspace", str(workspace)]


def wait_for(process, progress, message: str) -> None:
    deadline, pause = time.monotonic() + PATIENCE, threading.Event()
    while time.monotonic() < deadline:
        if progress.exists() and json.loads(progress.read_text()).get("message") == message:
            return
        assert process.poll() is None, f"it ended before {message}"
        pause.wait(0.02)
    pytest.fail(f"never came to {message}")


@pytest.mark.stage
def test_killed_again_and_again_it_ends_with_the_very_same_model(tmp_path, smollm2_workspace):
    folder = stage_folder(tmp_path, Stage.MODEL, SMOLLM2.digest())
    for step in ("unpacking", "converting"):
        process = subprocess.Popen(program(tmp_path), stderr=subprocess.DEVNULL)
        wait_for(process, folder / PROGRESS_FILE, step)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert read_record(tmp_path, Stage.MODEL, SMOLLM2.digest()) is None
    subprocess.run(program(tmp_path), check=True, stderr=subprocess.DEVNULL)
    expected = read_record(smollm2_workspace.workspace, Stage.MODEL, SMOLLM2.digest())
    assert read_record(tmp_path, Stage.MODEL, SMOLLM2.digest()).result["sha256"] == expected.result["sha256"]
