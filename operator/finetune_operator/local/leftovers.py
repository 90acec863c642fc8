"""Processes that outlive their stage, found by a mark in their environment and ended.

A stage killed by SIGKILL leaves its ranks and data workers behind, in sessions of their own; they would
train on, and hold the folder's lock against the next attempt.
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

MARK = "FINETUNE_ATTEMPT"
GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL."""
TICK = 0.05


def marked(value: str) -> list[int]:
    """Processes of this user whose environment has MARK=value; none where there is no /proc."""
    wanted = f"{MARK}={value}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def end_all(value: str, grace: float = GRACE, clock: Callable[[], float] = monotonic) -> int:
    """End every marked process, SIGTERM first; how many there were."""
    first = marked(value)
    send(first, signal.SIGTERM)
    deadline = clock() + grace
    while left := marked(value):
        if clock() >= deadline:
            send(left, signal.SIGKILL)
        sleep(TICK)
    return len(first)
