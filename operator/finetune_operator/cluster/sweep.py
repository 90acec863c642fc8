"""Compares, now and then, what the watches have told with what the API server lists: finds what they have missed."""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from finetune_operator.cluster.api import NOT_FOUND, Api, ApiError, ApiUnreachable
from finetune_operator.cluster.cache import Body, Cache, demo_group
from finetune_operator.cluster.health import Health
from finetune_operator.cluster.kinds import FINE_TUNE_JOBS, JOBS, KINDS, PODS, Kind
from finetune_operator.cluster.queue import Key, KeyQueue
from finetune_operator.cluster.settings import Settings
from finetune_operator.cluster.watermarks import forget
from finetune_operator.manifests.names import JOB_LABEL

log = logging.getLogger(__name__)

OTHERS = tuple(kind for kind in KINDS if kind.watched and kind is not FINE_TUNE_JOBS)
TURNS = tuple(kind for kind in OTHERS if kind is not PODS)
"""Of these each sweep compares one, in turn: the lists of a thousand jobs' children cost seconds of processor time.
Pods, the most of them, go with their Jobs; they are compared where a watch began anew and may have missed their end."""
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
            others = OTHERS if self.health.relisted else (TURNS[count % len(TURNS)],)
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
                log.info("a deletion was never told: %s %s", kind.kind, now[uid]["metadata"]["name"])
                for wanted in self.cache.drop(kind, now[uid]):
                    self.queue.add(wanted)
                if kind is FINE_TUNE_JOBS:
                    forget(now[uid]["metadata"]["namespace"], now[uid]["metadata"]["name"])
        if kind is FINE_TUNE_JOBS and listed <= before.keys() | now.keys():
            self.health.alive()

    def query(self, kind: Kind) -> dict[str, str]:
        return {"labelSelector": kind.selector} if kind.selector else {}

    def known(self, kind: Kind) -> dict[str, Body]:
        """What the cache holds of a kind, by uid: as much of each object as `Cache.drop` reads."""
        return {body["metadata"]["uid"]: body for body in self.tombstones(kind)}

    def tombstones(self, kind: Kind) -> Iterator[Body]:
        if kind is FINE_TUNE_JOBS:
            yield from (tombstone(record.uid, key, key[1]) for key, record in self.cache.records.items())
        elif kind is JOBS:
            for key, jobs in self.cache.jobs.items():
                yield from (tombstone(job.uid, key, name) for name, (_, job) in jobs.items())
        elif kind is PODS:
            yield from (tombstone(pod.uid, key, pod.name, group) for key, group, pod in self.cache.pods_by_key())
        else:
            for key, children in self.cache.children.items():
                own = ((name, child) for (kind_name, name), child in children.items() if kind_name == kind.kind)
                yield from (tombstone(child.uid, key, name) for name, child in own)


def tombstone(uid: str, key: Key, name: str, job: str = "") -> Body:
    """`job` is the uid of a pod's Job."""
    owner = [{"controller": True, "kind": JOBS.kind, "uid": job}] if job != demo_group(key) else []
    labels = {JOB_LABEL: key[1]}
    return {"metadata": {"uid": uid, "namespace": key[0], "name": name, "labels": labels, "ownerReferences": owner}}
