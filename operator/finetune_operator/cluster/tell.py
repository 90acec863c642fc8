"""Posts Events, after the status that says the same and apart from the passes: none of them waits for it."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import uuid4

from finetune_operator.api import API_VERSION, KIND
from finetune_operator.cluster.api import Api, ApiError, ApiUnreachable, Body
from finetune_operator.cluster.kinds import EVENTS
from finetune_operator.cluster.queue import Key
from finetune_operator.lifecycle.observed import Told
from finetune_operator.manifests.names import MANAGER

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Events that are posted at the same time."""


@dataclass
class Teller:
    api: Api
    _waiting: asyncio.Queue[tuple[str, Body]] = field(default_factory=asyncio.Queue)

    def add(self, key: Key, uid: str, told: Iterable[Told], now: datetime) -> None:
        for one in told:
            self._waiting.put_nowait((key[0], event(key, uid, one, now)))

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(self._post())

    async def _post(self) -> None:
        while True:
            namespace, body = await self._waiting.get()
            try:
                await self.api.create(EVENTS, namespace, body)
            except (ApiError, ApiUnreachable) as error:  # the status says the same
                log.warning("the Event %s of %s was not taken: %s", body["reason"], body["regarding"]["name"], error)


def event(key: Key, uid: str, told: Told, now: datetime) -> Body:
    namespace, name = key
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{uuid4().hex[:16]}", "namespace": namespace},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": MANAGER,
        "reportingInstance": MANAGER,
        "action": "Reconcile",
        "type": told.type,
        "reason": told.reason[:128],
        "note": told.message,
        "regarding": {"apiVersion": API_VERSION, "kind": KIND, "namespace": namespace, "name": name, "uid": uid},
    }
