"""The watches: every event goes into the cache and puts the parent's key on the queue. Nothing else happens here.

kopf logs in, lists, watches, reconnects and notices silence. Its handlers are left out on purpose: what they do for
each event (copies of the object for finding differences, loggers, patches) costs five times what is needed here, and
a job's children bring some seventy events. Hence the names of kopf's inside.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import kopf
from kopf._cogs.clients import errors, watching
from kopf._cogs.structs.references import NamespaceName, Resource
from kopf._core.engines.peering import Identity

from finetune_operator.cluster.api import by_service_account
from finetune_operator.cluster.cache import Cache
from finetune_operator.cluster.health import Health
from finetune_operator.cluster.kinds import FINE_TUNE_JOBS, KINDS, Kind
from finetune_operator.cluster.queue import Key, KeyQueue
from finetune_operator.cluster.settings import Settings
from finetune_operator.cluster.watermarks import forget

log = logging.getLogger(__name__)

UNKNOWN_KIND = 60.0
"""Seconds until a kind that the cluster does not know is asked for again."""
AGAIN = 5.0
"""Seconds until a watch that ended in an error is begun anew."""

Stream = tuple[str, str | None]
"""Plural of a kind, and namespace."""


@dataclass
class Watches:
    """All streams of one reign. No job is looked at before each of them has told what there is."""

    cache: Cache
    queue: KeyQueue
    health: Health
    kopf_settings: kopf.OperatorSettings
    unlisted: set[Stream] = field(default_factory=set)
    early: set[Key] = field(default_factory=set)
    """Keys that wait for the last first list."""

    async def follow_all(self, namespaces: tuple[str, ...]) -> None:
        """Until cancelled."""
        streams = [(kind, namespace) for kind in KINDS if kind.watched for namespace in namespaces or (None,)]
        self.unlisted = {(kind.plural, namespace) for kind, namespace in streams}
        async with asyncio.TaskGroup() as tasks:
            for kind, namespace in streams:
                tasks.create_task(self.follow(kind, namespace), name=f"watch {kind.plural} {namespace or ''}")

    async def follow(self, kind: Kind, namespace: str | None) -> None:
        where = NamespaceName(namespace) if namespace else None
        resource = Resource(kind.group, kind.version, kind.plural, kind=kind.kind, namespaced=True)
        while True:
            pause = AGAIN
            try:
                async for event in watching.infinite_watch(
                    settings=self.kopf_settings, resource=resource, namespace=where
                ):
                    if event is watching.Bookmark.LISTED:
                        self.listed(kind, namespace)
                    else:
                        self.take_soundly(kind, event)
            except errors.APINotFoundError:
                if kind.optional:
                    pause = UNKNOWN_KIND
                    self.begun(kind, namespace)
                else:
                    log.warning("the cluster knows no %s: install the CRD of the same release", kind.plural)
            except Exception:  # one kind's trouble must not stop the others
                log.exception("the watch of %s ended", kind.plural)
            await asyncio.sleep(pause)

    def listed(self, kind: Kind, namespace: str | None) -> None:
        """The stream has told all that there is; not for the first time where it began anew."""
        if (kind.plural, namespace) in self.unlisted:
            self.begun(kind, namespace)
        else:
            self.health.relisted = True  # what was deleted meanwhile is not told

    def begun(self, kind: Kind, namespace: str | None) -> None:
        """There is a first list, or none to wait for; after the last of them work begins."""
        self.unlisted.discard((kind.plural, namespace))
        if not self.unlisted:
            self.health.listed = True
            self.want(self.early)
            self.early = set()

    def take_soundly(self, kind: Kind, event: Any) -> None:
        """One object that can't be read must not end the watch of all."""
        try:
            self.take(kind, event)
        except Exception:
            log.exception("a %s could not be read", kind.kind)

    def take(self, kind: Kind, event: Any) -> None:
        """Take an event in; type None is an object of a list."""
        self.health.alive()
        body = event["object"]
        match event["type"]:
            case "BOOKMARK":
                return
            case "DELETED":
                wanted = self.cache.drop(kind, body)
                if kind is FINE_TUNE_JOBS:
                    forget(body["metadata"]["namespace"], body["metadata"]["name"])
            case told:
                wanted = self.cache.put(kind, body)
                if told is None and kind is FINE_TUNE_JOBS:
                    wanted.add((body["metadata"]["namespace"], body["metadata"]["name"]))
        self.want(wanted)

    def want(self, keys: set[Key]) -> None:
        if self.unlisted:
            self.early |= keys
            return
        for key in keys:
            self.queue.add(key)


async def log_in(**how: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_service_account(**how) if by_service_account() else kopf.login_with_kubeconfig(**how)


def kopf_settings(settings: Settings) -> kopf.OperatorSettings:
    made = kopf.OperatorSettings()
    made.process.ultimate_exiting_timeout = None  # else a process that has lost its Lease is killed 10 minutes later
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
    for kind in KINDS:
        if kind.watched and kind.selector:
            made.watching.label_selectors[kind.group, kind.version, kind.plural] = kind.selector
    return made


async def watch(
    settings: Settings, cache: Cache, queue: KeyQueue, health: Health, heed_signals: Callable[[], None]
) -> None:
    """Until cancelled."""
    others = asyncio.all_tasks()
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(log_in)
    how = kopf_settings(settings)
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=how,
        identity=Identity(settings.identity),  # kopf's own guess needs a user's name, which a pod may lack
        standalone=True,
        namespaces=settings.namespaces,
        clusterwide=not settings.namespaces,
        _command=Watches(cache, queue, health, how).follow_all(settings.namespaces),
    )
    heed_signals()  # kopf has taken SIGTERM and SIGINT for itself, and would end nothing but the watches
    await kopf.run_tasks(tasks, ignored=others)
