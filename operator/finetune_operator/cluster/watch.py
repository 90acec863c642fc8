"""The watches: every event goes into the cache and puts the parent's key on the queue. Nothing else happens here.

kopf calls an index function for every object of its first lists before it calls any event handler: so the first look
at a job sees everything.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import kopf
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory

from finetune_operator.cluster.cache import Cache
from finetune_operator.cluster.health import Health
from finetune_operator.cluster.kinds import FINE_TUNE_JOBS, KINDS, Kind
from finetune_operator.cluster.queue import Key, KeyQueue
from finetune_operator.cluster.settings import Settings
from finetune_operator.cluster.watermarks import forget

log = logging.getLogger(__name__)

Handler = Callable[..., Awaitable[None]]


class NoMemories(ResourceMemories):
    """kopf's own notes on each object, which event handlers have no use for: 2 kB times all objects."""

    async def recall(self, raw_body: Any, **how: Any) -> ResourceMemory:
        return await super().recall(raw_body, **{**how, "ephemeral": True})


def watches(cache: Cache, queue: KeyQueue, health: Health) -> kopf.OperatorRegistry:
    """Handlers for every watched kind."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(log_in)
    for kind in KINDS:
        if kind.watched:
            names = {"group": kind.group, "version": kind.version, "plural": kind.plural}
            listed, changed = handlers(kind, cache, queue, health)
            kopf.index(id=f"list-{kind.plural}", registry=registry, **names)(listed)  # type: ignore[arg-type]
            kopf.on.event(id=f"watch-{kind.plural}", registry=registry, **names)(changed)  # type: ignore[arg-type]
    return registry


def handlers(kind: Kind, cache: Cache, queue: KeyQueue, health: Health) -> tuple[Handler, Handler]:
    unannounced: dict[str, set[Key]] = {}

    async def listed(body: kopf.Body, **_: Any) -> None:
        """Called before `changed` with the same object."""
        unannounced[body["metadata"]["uid"]] = cache.put(kind, dict(body))

    async def changed(event: Mapping[str, Any], **_: Any) -> None:
        health.alive()
        body = event["object"]
        wanted = unannounced.pop(body["metadata"]["uid"], set())
        if event["type"] == "DELETED":
            wanted |= cache.drop(kind, body)
            if kind is FINE_TUNE_JOBS:
                forget(body["metadata"]["namespace"], body["metadata"]["name"])
        else:
            wanted |= cache.put(kind, body)
            if event["type"] is None and kind is FINE_TUNE_JOBS:  # a list: everything wants a first look
                wanted.add((body["metadata"]["namespace"], body["metadata"]["name"]))
            if event["type"] is None:
                health.relisted = True
        for key in wanted:
            queue.add(key)

    return listed, changed


async def log_in(**how: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_service_account(**how) or kopf.login_with_kubeconfig(**how)


def kopf_settings(settings: Settings) -> kopf.OperatorSettings:
    made = kopf.OperatorSettings()
    made.scanning.disabled = True  # neither namespaces nor CRDs are read
    made.posting.enabled = False  # Events are our own, one a transition
    made.peering.standalone = True  # the Lease sees to it
    made.networking.request_timeout = settings.request_timeout
    made.networking.connect_timeout = settings.connect_timeout
    made.watching.server_timeout = settings.watch_timeout
    made.watching.client_timeout = settings.watch_client_timeout
    made.watching.connect_timeout = settings.connect_timeout
    made.watching.inactivity_timeout = settings.watch_silence
    made.watching.chunk_size = 250
    made.queueing.idle_timeout = 0.5  # seconds; each idle worker holds its object
    for kind in KINDS:
        if kind.watched and kind.selector:
            made.watching.label_selectors[kind.group, kind.version, kind.plural] = kind.selector
    return made


async def watch(settings: Settings, cache: Cache, queue: KeyQueue, health: Health) -> None:
    """Until cancelled."""
    await kopf.operator(
        registry=watches(cache, queue, health),
        settings=kopf_settings(settings),
        memories=NoMemories(),
        standalone=True,
        namespaces=settings.namespaces,
        clusterwide=not settings.namespaces,
    )
