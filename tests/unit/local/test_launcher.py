"""The launcher that every stage is started through."""

import os
import subprocess
import sys

from finetune_operator.local import launcher


def launched(parent):
    return subprocess.run(
        [sys.executable, launcher.__file__, str(parent), sys.executable, "-c", "print('started')"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip


def test_it_becomes_the_command():
    assert launched(os.getpid()).stdout == "started\n"


def test_it_starts_nothing_when_the_runner_died_before():
    ended = launched(os.getppid())
    assert (ended.stdout, ended.returncode) == ("", 1)
    assert "is gone" in ended.stderr
