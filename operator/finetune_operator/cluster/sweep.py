"""Compares, now and then, what the watches have told with what the API server lists: finds what they have missed."""

import asyncio
import logging
from dataclasses import dataclass

from finetune_operator.cluster.api import NOT_FOUND, Api, ApiError, ApiUnreachable
from finetune_operator.cluster.cache import Body, Cache
from finetune_operator.cluster.health import Health
from finetune_operator.cluster.kinds import FINE_TUNE_JOBS, JOBS, KINDS, PODS, Kind
from finetune_operator.cluster.queue import Key, KeyQueue
from finetune_operator.cluster.settings import Settings
from finetune_operator.manifests.names import JOB_LABEL

log = logging.getLogger(__name__)

OTHERS = tuple(kind for kind in KINDS if kind.watched and kind not in (FINE_TUNE_JOBS, PODS))
"""Pods are forgotten with their Jobs. Of these each sweep compares one, in turn: the lists of a thousand jobs' children
cost seconds of processor time."""
AFTER_RELIST = 5.0
"""Seconds after a watch began anew."""


@dataclass
class Sweeper:
    api: Api
    cache: Cache
    queue: KeyQueue
    settings: Settings
    health: Health

    async def run(self) -> None:
        """Until cancelled."""
        count = 0
        while True:
            await self.pause()
            others = OTHERS if self.health.relisted else (OTHERS[count % len(OTHERS)],)
            count += 1
            self.health.relisted = False
            try:
                for kind in (FINE_TUNE_JOBS, *others):
                    await self.sweep(kind)
            except (ApiError, ApiUnreachable) as error:
                log.warning("the API server can't be asked: %s", error)

    async def pause(self) -> None:
        left = self.settings.sweep_every
        while left > 0:
            step = min(left, AFTER_RELIST)
            await asyncio.sleep(step)
            left = 0 if self.health.relisted else left - step

    async def sweep(self, kind: Kind) -> None:
        """Drop what is no more; where something new was never told, the watch is not alive."""
        before = self.known(kind)
        listed: set[str] = set()
        for namespace in self.settings.namespaces or (None,):
            try:
                listed |= await self.api.list_uids(kind, namespace, self.query(kind))
            except ApiError as error:
                if kind.optional and error.status == NOT_FOUND:
                    return
                raise
        now = self.known(kind)
        for uid in before.keys() - listed:
            if uid in now:
                key, name = now[uid]
                log.info("a deletion was never told: %s %s", kind.kind, name)
                for wanted in self.cache.drop(kind, tombstone(uid, key, name)):
                    self.queue.add(wanted)
        if kind is FINE_TUNE_JOBS and listed <= before.keys() | now.keys():
            self.health.alive()

    def query(self, kind: Kind) -> dict[str, str]:
        return {"labelSelector": kind.selector} if kind.selector else {}

    def known(self, kind: Kind) -> dict[str, tuple[Key, str]]:
        """What the cache holds of a kind: uid -> the FineTuneJob's key and the object's name."""
        if kind is FINE_TUNE_JOBS:
            return {record.uid: (key, key[1]) for key, record in self.cache.records.items()}
        if kind is JOBS:
            return {job.uid: (key, name) for key, jobs in self.cache.jobs.items() for name, (_, job) in jobs.items()}
        return {
            child.uid: (key, name)
            for key, children in self.cache.children.items()
            for (kind_name, name), child in children.items()
            if kind_name == kind.kind
        }


def tombstone(uid: str, key: Key, name: str) -> Body:
    """As much of an object as `Cache.drop` reads."""
    return {"metadata": {"uid": uid, "namespace": key[0], "name": name, "labels": {JOB_LABEL: key[1]}}}
