"""How a rank hears that it should save and end: a signal to itself, or a file that the stage process leaves for all."""

import signal
from pathlib import Path
from types import FrameType

STOP_FILE = "stop"
_asked: list[int] = []


def listen() -> None:
    """SIGTERM and SIGINT no longer end this process: they ask it to save at the end of its step."""
    signal.signal(signal.SIGTERM, _note)
    signal.signal(signal.SIGINT, _note)


def _note(signum: int, _frame: FrameType | None) -> None:
    _asked.append(signum)


def is_asked(ranks_folder: Path) -> bool:
    return bool(_asked) or (ranks_folder / STOP_FILE).exists()
