"""Runs the programs that bring files: git and pip.

They inherit the stage's lock, so that no later run works beside one that still writes. Told to stop, or with the stage
killed, they get SIGTERM and clean up after themselves: git removes its own lock files.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune_jobs import lifeline

PATIENCE = 10
"""Seconds that a program has to end when it is asked to."""


def run(
    command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None, *, tethered: bool = True
) -> "subprocess.CompletedProcess[bytes]":
    """Run to the end and return what was said. Raises FileNotFoundError where there is no such program.

    A `tethered` program ends with this process; what ends within milliseconds can do without, and starts sooner.
    """
    program = shutil.which(command[0])
    if program is None:
        raise FileNotFoundError(command[0])
    whole = [program, *command[1:]]
    process = subprocess.Popen(
        tether(whole) if tethered else whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
        cwd=folder, close_fds=False,
    )  # fmt: skip
    try:
        said, complained = process.communicate()
    except BaseException:
        end(process)
        raise
    return subprocess.CompletedProcess(command, process.returncode, said, complained)


def tether(command: Sequence[str]) -> list[str]:
    """The command by way of `lifeline`; a function run between fork and exec is not safe in a program with threads."""
    return [sys.executable, "-I", "-S", str(Path(lifeline.__file__).resolve()), str(os.getpid()), *command]


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ask it to end; kill it when it takes too long, or when this process is asked again to stop."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()
