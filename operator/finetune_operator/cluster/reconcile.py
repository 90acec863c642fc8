"""One pass over one job: observe -> decide -> apply -> write the status. It keeps nothing between passes."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from finetune_jobs.contract import Failure
from finetune_operator.cluster.api import CONFLICT, NOT_FOUND, Api, ApiError
from finetune_operator.cluster.apply import Hands, Refused
from finetune_operator.cluster.cache import Cache, Work
from finetune_operator.cluster.kinds import FINE_TUNE_JOBS
from finetune_operator.cluster.observe import Look, observe, read_status, work_of
from finetune_operator.cluster.outline import Outlines
from finetune_operator.cluster.queue import Key, KeyQueue
from finetune_operator.cluster.tell import Teller
from finetune_operator.cluster.watermarks import note_pass
from finetune_operator.lifecycle.decide import LOOK_AGAIN, decide
from finetune_operator.lifecycle.observed import Decision, Make, Observed, Told
from finetune_operator.lifecycle.unforeseen import with_unforeseen
from finetune_operator.lifecycle.unusable import unusable
from finetune_operator.manifests.pod import Surroundings

STALE = 1.0
"""Seconds after which a job is looked at again whose status could not be written, if no watch has asked before."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reconciler:
    api: Api
    cache: Cache
    queue: KeyQueue
    teller: Teller
    outlines: Outlines

    async def __call__(self, key: Key) -> None:
        if key not in self.cache.records or self.cache.records[key].deleting:
            return
        look = await observe(self.cache, self.api, self.outlines, key)
        decision = await self.act(look)
        await self.write(look, decision)
        again = decision.look_again_after
        if decision.verify_demo and look.given is not None and not await self.verify(look, look.given):
            again = again or LOOK_AGAIN
        if again is not None:
            self.queue.add_later(key, again)

    async def act(self, look: Look) -> Decision:
        """Decide and carry it out; where the API server refuses, what is decided in view of that."""
        now = datetime.now(UTC)
        if look.seen is None and look.problem is not None:
            return Decision(
                unusable(look.status, look.record.generation, look.problem, now), look_again_after=LOOK_AGAIN
            )
        if look.seen is None:
            raise AssertionError("a look sees, or says why not")
        decision = decide(look.seen, now)
        if look.given is None:
            return decision
        reserved, hands = self.reserve(look, decision), Hands(self.api, self.cache, look, look.given)
        try:
            await hands.carry_out(decision)
        except Refused as refused:
            return await self.go_on(hands, look.seen, refused.failure, now)
        finally:
            for work in reserved:
                self.cache.reserved.pop(work, None)
        return decision

    async def go_on(self, hands: Hands, seen: Observed, refusal: Failure, now: datetime) -> Decision:
        """What makes nothing is done all the same, as the status will say: suspend, mend, remove."""
        decision = decide(replace(seen, refusal=refusal), now)
        try:
            await hands.carry_out(replace(decision, apply=()))
        except Refused as refused:
            return decide(replace(seen, refusal=refused.failure), now)
        return decision

    async def verify(self, look: Look, given: Surroundings) -> bool:
        """Put right what was edited while no operator ran; False where the API server refuses that."""
        try:
            await Hands(self.api, self.cache, look, given).verify_demo()
        except Refused as refused:
            log.warning("%s", refused)
            return False
        return True

    def reserve(self, look: Look, decision: Decision) -> list[Work]:
        """Keep other jobs from starting the same until the Job is in the cache; no await lies since `observe`."""
        found = []
        for want in decision.apply:
            planned = look.given.plan.of(want.stage) if look.given and want.stage else None
            if want.make is Make.STAGE and planned is not None:
                work = work_of(look.key, look.record, planned.stage, planned.digest)
                self.cache.reserved[work] = look.key
                found.append(work)
        return found

    async def write(self, look: Look, decision: Decision) -> None:
        """One status write, if anything changed, and only over the very object that was looked at."""
        wanted = decision.status.model_dump(mode="json", by_alias=True, exclude_none=True)
        patch = merge_patch(look.raw_status, wanted)
        if not patch:
            return
        namespace, name = look.key
        body = {"metadata": {"uid": look.record.uid, "resourceVersion": str(look.record.version)}, "status": patch}
        try:
            written = await self.api.merge(FINE_TUNE_JOBS, namespace, name, body, sub="/status")
        except ApiError as error:
            if error.status not in {CONFLICT, NOT_FOUND}:
                raise
            self.queue.add_later(look.key, STALE)
            return  # it has changed or gone meanwhile: the watch brings it again
        note_pass(look, decision.status)
        for waiting in self.cache.put(FINE_TUNE_JOBS, written) - {look.key}:
            self.queue.add(waiting)
        for told in decision.events:
            log.log(logging.INFO if told.type == "Normal" else logging.WARNING, "%s", told.message)
        self.teller.add(look.key, look.record.uid, decision.events, datetime.now(UTC))

    async def tell_unforeseen(self, key: Key, error: Exception, logs: str) -> None:
        """A condition beside those that stand, in the words of the error; nothing else of the status is touched."""
        record, now = self.cache.records.get(key), datetime.now(UTC)
        if record is None or record.deleting:
            return
        status, raw_status = read_status(record.status), json.loads(record.status)
        told = with_unforeseen(status.conditions, record.generation, error, logs, now)
        conditions = [condition.model_dump(mode="json", by_alias=True) for condition in told]
        if conditions == raw_status.get("conditions"):
            return
        meta = {"uid": record.uid, "resourceVersion": str(record.version)}
        body = {"metadata": meta, "status": {"conditions": conditions}}
        self.cache.put(FINE_TUNE_JOBS, await self.api.merge(FINE_TUNE_JOBS, *key, body, sub="/status"))
        self.teller.add(key, record.uid, (Told("Warning", told[-1].reason, told[-1].message),), now)


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """RFC 7386: what changes `old` into `new`; empty where they are the same."""
    patch: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            inner = merge_patch(before, value)
            if inner:
                patch[name] = inner
        elif before != value:
            patch[name] = value
    return patch
