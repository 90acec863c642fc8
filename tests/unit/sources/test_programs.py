"""What becomes of git and pip when the stage that started them is told to stop, or killed."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from finetune_jobs.__main__ import locked
from finetune_jobs.sources import programs

PATIENCE = 60
"""Seconds until something must have happened."""
STAGE = """
import os, signal, sys
from pathlib import Path
from finetune_jobs.__main__ import locked, raise_keyboard_interrupt
from finetune_jobs.sources import programs

signal.signal(signal.SIGTERM, raise_keyboard_interrupt)
signal.signal(signal.SIGINT, raise_keyboard_interrupt)
with locked(Path(sys.argv[1])):
    programs.run(["sh", "-c", sys.argv[2]], os.environ, Path(sys.argv[1]))
"""
TIDY = "trap 'rm held; exit 3' TERM; touch held; while :; do read -r line < pipe; done"
"""Holds something like git's lock file, and gives it back when it is asked to end."""
STUBBORN = "trap : TERM; touch held; while :; do read -r line < pipe; done"


def wait_until(condition) -> None:
    deadline, pause = time.monotonic() + PATIENCE, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.02)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Where a stage works; nothing ever comes out of its pipe."""
    made = tmp_path / "0123456789ab"
    made.mkdir()
    os.mkfifo(made / "pipe")
    return made


def started(folder: Path, program: str) -> "subprocess.Popen[bytes]":
    """A stage whose program holds what it holds."""
    stage = subprocess.Popen([sys.executable, "-c", STAGE, str(folder), program], stderr=subprocess.DEVNULL)
    wait_until((folder / "held").exists)
    return stage


def is_free(folder: Path) -> bool:
    with folder.with_name(f"{folder.name}.lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_program_cleans_up_when_its_stage_is_stopped_or_killed(folder, number):
    stage = started(folder, TIDY)
    stage.send_signal(number)
    stage.wait()
    wait_until(lambda: is_free(folder))
    assert not (folder / "held").exists()


def test_the_lock_of_a_killed_stage_is_held_as_long_as_its_program_runs(folder):
    stage = started(folder, f"echo $$ > id; {STUBBORN}")
    stage.kill()
    stage.wait()
    assert not is_free(folder)
    os.kill(int((folder / "id").read_text()), signal.SIGKILL)
    wait_until(lambda: is_free(folder))


@pytest.mark.usefixtures("interruptible")
def test_a_program_that_does_not_end_when_asked_is_killed(folder, monkeypatch):
    monkeypatch.setattr(programs, "PATIENCE", 0.1)
    seen = threading.Thread(target=lambda: (wait_until((folder / "held").exists), os.kill(os.getpid(), signal.SIGINT)))
    seen.start()
    with locked(folder), pytest.raises(KeyboardInterrupt):
        programs.run(["sh", "-c", STUBBORN], os.environ, folder)
    seen.join()
    assert is_free(folder)


def test_what_a_program_says_and_its_code_come_back(tmp_path):
    for tethered in (True, False):
        done = programs.run(["sh", "-c", "pwd; echo no >&2; exit 5"], os.environ, tmp_path, tethered=tethered)
        assert (done.returncode, done.stdout, done.stderr) == (5, f"{tmp_path}\n".encode(), b"no\n")


@pytest.mark.parametrize("tethered", [True, False])
def test_a_program_that_is_not_there_is_said_to_be_so(tethered):
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        programs.run(["no-such-program"], os.environ, tethered=tethered)
