"""Compares, now and then, what the watches have told with what the API server lists: finds what they have missed."""

import asyncio
import logging
from dataclasses import dataclass

from finetune_operator.cluster.api import NOT_FOUND, Api, ApiError, ApiUnreachable
from finetune_operator.cluster.cache import Body, Cache
from finetune_operator.cluster.health import Health
from finetune_operator.cluster.kinds import FINE_TUNE_JOBS, JOBS, KINDS, Kind
from finetune_operator.cluster.queue import KeyQueue
from finetune_operator.cluster.settings import Settings

log = logging.getLogger(__name__)

OTHERS = tuple(kind for kind in KINDS if kind.watched and kind is not FINE_TUNE_JOBS)
"""Of these each sweep compares one, in turn: the lists of a thousand jobs' children cost seconds of processor time."""
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
        listed: dict[str, Body] = {}
        for namespace in self.settings.namespaces or (None,):
            try:
                found = await self.api.list_metadata(kind, namespace, self.query(kind))
            except ApiError as error:
                if kind.optional and error.status == NOT_FOUND:
                    return
                raise
            listed |= {meta["uid"]: meta for meta in found}
        for uid in before.keys() - listed.keys():
            if uid in self.known(kind):
                log.info("a deletion was never told: %s %s", kind.kind, before[uid]["metadata"]["name"])
                for key in self.cache.drop(kind, before[uid]):
                    self.queue.add(key)
        if kind is FINE_TUNE_JOBS and listed.keys() <= before.keys() | self.known(kind).keys():
            self.health.alive()

    def query(self, kind: Kind) -> dict[str, str]:
        return {"labelSelector": kind.selector} if kind.selector else {}

    def known(self, kind: Kind) -> dict[str, Body]:
        """What the cache holds of a kind, by uid, as much of an object as `Cache.drop` reads."""
        if kind is FINE_TUNE_JOBS:
            return {r.uid: tombstone(r.uid, key[0], key[1]) for key, r in self.cache.records.items()}
        if kind is JOBS:
            rows = ((key, name, job.uid) for key, jobs in self.cache.jobs.items() for name, (_, job) in jobs.items())
        else:
            rows = (
                (key, name, child.uid)
                for key, children in self.cache.children.items()
                for (kind_name, name), child in children.items()
                if kind_name == kind.kind
            )
        return {uid: tombstone(uid, key[0], name, parent=key[1]) for key, name, uid in rows}


def tombstone(uid: str, namespace: str, name: str, parent: str = "") -> Body:
    from finetune_operator.manifests.names import JOB_LABEL

    labels = {JOB_LABEL: parent} if parent else {}
    return {"metadata": {"uid": uid, "namespace": namespace, "name": name, "labels": labels}}
