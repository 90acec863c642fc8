"""The operator's process: Lease, watches, workers, sweeps, /metrics."""

import asyncio
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from signal import SIGINT, SIGTERM, Signals
from time import monotonic

from finetune_operator.cluster import health as endpoints
from finetune_operator.cluster.api import Api, ApiError, ApiUnreachable, connect
from finetune_operator.cluster.cache import Cache
from finetune_operator.cluster.health import Health
from finetune_operator.cluster.lease import while_leading
from finetune_operator.cluster.logs import CURRENT
from finetune_operator.cluster.metrics import RECONCILE_ERRORS, RECONCILE_SECONDS
from finetune_operator.cluster.outline import Outlines
from finetune_operator.cluster.queue import Key, KeyQueue
from finetune_operator.cluster.reconcile import Reconciler
from finetune_operator.cluster.settings import Settings
from finetune_operator.cluster.sweep import Sweeper
from finetune_operator.cluster.tell import Teller
from finetune_operator.cluster.watch import watch
from finetune_operator.cluster.watermarks import forget_all

log = logging.getLogger(__name__)

NESTING = 12_000
"""The API server takes JSON that is nested 10,000 deep, Python reads 1,000: one status edited so would end the watch of
all jobs."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
"""Seconds until a job is looked at again whose pass ended in an error; doubled from the first to the longest."""
DOUBLINGS = 10
TOLD_AFTER = 3
"""Passes in a row that the API server has failed, after which the job's status tells of it."""


async def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT."""
    health = Health(settings.silent_after)
    heed_signals = partial(end_by_signals, asyncio.current_task())  # type: ignore[arg-type]
    heed_signals()
    async with await connect(settings) as api, asyncio.TaskGroup() as tasks:
        tasks.create_task(endpoints.serve(settings, health))
        tasks.create_task(while_leading(api, settings, lambda: lead(settings, api, health, heed_signals)))


def end_by_signals(task: asyncio.Task[None]) -> None:
    """Nothing has to be saved: all work is cancelled where it stands, then the Lease is released."""
    for signal in (SIGTERM, SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal, end_by, signal, task)


def end_by(signal: Signals, task: asyncio.Task[None]) -> None:
    log.info("%s: the operator ends", signal.name)
    task.cancel()


async def lead(settings: Settings, api: Api, health: Health, heed_signals: Callable[[], None]) -> None:
    """What the one operator that holds the Lease does, each time from nothing. Until cancelled."""
    cache, queue = Cache(), KeyQueue()
    health.begin(cache)
    teller = Teller(api)
    reconcile = Reconciler(api, cache, queue, teller, Outlines(settings.pods))
    errors: dict[Key, int] = {}
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch(settings, cache, queue, health, heed_signals))
            tasks.create_task(teller.run())
            tasks.create_task(Sweeper(api, cache, queue, settings, health).run())
            for _ in range(settings.workers):
                tasks.create_task(Worker(reconcile, queue, errors, settings.logs).run())
    finally:
        health.end()
        forget_all()


@dataclass(frozen=True)
class Worker:
    """Takes keys from the queue, one after the other."""

    reconcile: Reconciler
    queue: KeyQueue
    errors: dict[Key, int]
    """Passes in a row that ended in an error; one tally for all workers."""
    logs: str
    """The command that shows the operator's log."""

    async def run(self) -> None:
        while True:
            await self.look_at(await self.queue.take())

    async def look_at(self, key: Key) -> None:
        """One pass, and what becomes of it."""
        began = monotonic()
        token = CURRENT.set(key)
        try:
            await self.reconcile(key)
            self.errors.pop(key, None)
        except Exception as error:  # noqa: BLE001 - one job's trouble must not stop the others
            await self.failed(key, error)
        finally:
            CURRENT.reset(token)
            self.queue.done(key)
            RECONCILE_SECONDS.observe(monotonic() - began)

    async def failed(self, key: Key, error: Exception) -> None:
        """To be tried again, later each time; what does not pass by itself is told to the job's owner."""
        count = self.errors[key] = self.errors.get(key, 0) + 1
        if isinstance(error, ApiError | ApiUnreachable):
            log.warning("to be tried again: %s", error)
            kind, told = type(error).__name__, isinstance(error, ApiError) and count >= TOLD_AFTER
        else:
            log.error("to be tried again", exc_info=error)
            kind, told = "Unforeseen", True
        RECONCILE_ERRORS.labels(kind).inc()
        self.queue.add_later(key, pause_after(count))
        if told:
            await self.tell(key, error)

    async def tell(self, key: Key, error: Exception) -> None:
        try:
            await self.reconcile.tell_unforeseen(key, error, self.logs)
        except (ApiError, ApiUnreachable) as unwritten:
            log.warning("its status can't tell so: %s", unwritten)
        except Exception:
            log.exception("its status can't tell so")


def pause_after(failures: int) -> float:
    """Seconds; after a day of outage the power alone would be too large for a float."""
    return min(FIRST_PAUSE * 2.0 ** min(failures - 1, DOUBLINGS), LONGEST_PAUSE)


def main(settings: Settings) -> None:
    sys.setrecursionlimit(NESTING)
    with suppress(asyncio.CancelledError):
        asyncio.run(run(settings))
