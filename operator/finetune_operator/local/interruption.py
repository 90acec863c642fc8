"""Ctrl-C and its kin, counted instead of raised, so that a stage can save what it has."""

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, sleep
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TICK = 0.05
"""Seconds between two looks at the count."""


@dataclass
class Interruption:
    """How often the run was asked to stop, while this context is open."""

    count: int = 0
    _before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = field(default_factory=dict)

    def __enter__(self) -> Self:
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup
            self._before[number] = signal.signal(number, self._count)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _count(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1

    @property
    def requested(self) -> bool:
        return self.count > 0

    def pause(self, seconds: float) -> None:
        """Wait, but not past a request to stop."""
        until = monotonic() + seconds
        while not self.requested and (left := until - monotonic()) > 0:
            sleep(min(left, TICK))
