"""The operator's process: Lease, watches, workers, sweeps, /metrics."""

import asyncio
import logging
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

log = logging.getLogger(__name__)

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
"""Seconds until a job is looked at again whose pass ended in an error; doubled from the first to the longest."""


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
                tasks.create_task(Worker(reconcile, queue, errors).run())
    finally:
        health.end()


@dataclass(frozen=True)
class Worker:
    """Takes keys from the queue, one after the other."""

    reconcile: Reconciler
    queue: KeyQueue
    errors: dict[Key, int]
    """Passes in a row that ended in an error; one tally for all workers."""

    async def run(self) -> None:
        while True:
            key = await self.queue.take()
            began = monotonic()
            token = CURRENT.set(key)
            try:
                await self.reconcile(key)
                self.errors.pop(key, None)
            except (ApiError, ApiUnreachable) as error:
                log.warning("to be tried again: %s", error)
                self.again(key, type(error).__name__)
            except Exception:  # one job's trouble must not stop the others
                log.exception("to be tried again")
                self.again(key, "Unforeseen")
            finally:
                CURRENT.reset(token)
                self.queue.done(key)
                RECONCILE_SECONDS.observe(monotonic() - began)

    def again(self, key: Key, kind: str) -> None:
        RECONCILE_ERRORS.labels(kind).inc()
        count = self.errors.get(key, 0)
        self.errors[key] = count + 1
        self.queue.add_later(key, min(FIRST_PAUSE * 2**count, LONGEST_PAUSE))


def main(settings: Settings) -> None:
    with suppress(asyncio.CancelledError):
        asyncio.run(run(settings))
