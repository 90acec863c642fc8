"""Keys of jobs that want a look: each at most once, and never looked at by two workers at a time."""

import asyncio

from finetune_operator.cluster.metrics import QUEUE_DEPTH

Key = tuple[str, str]
"""Namespace and name."""


class KeyQueue:
    """A key that is added while it is worked on comes again afterwards."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Key] = asyncio.Queue()
        self._dirty: set[Key] = set()
        self._busy: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}

    def add(self, key: Key) -> None:
        """Want a look now."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        QUEUE_DEPTH.set(len(self._dirty))
        if key not in self._busy:
            self._waiting.put_nowait(key)

    def add_later(self, key: Key, seconds: float) -> None:
        """Want a look in so many seconds; the last such wish counts."""
        self.forget_later(key)
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self._due, key)

    def forget_later(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def take(self) -> Key:
        """The next key; `done` must follow."""
        key = await self._waiting.get()
        self._dirty.discard(key)
        self._busy.add(key)
        QUEUE_DEPTH.set(len(self._dirty))
        return key

    def done(self, key: Key) -> None:
        self._busy.discard(key)
        if key in self._dirty:
            self._waiting.put_nowait(key)
