"""One operator works at a time: the others stand by until its Lease runs out."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.baselock import BaseLock

from finetune_operator.cluster.api import Api, ApiError, ApiUnreachable, Body
from finetune_operator.cluster.kinds import LEASES
from finetune_operator.cluster.metrics import LEADING
from finetune_operator.cluster.settings import Settings

log = logging.getLogger(__name__)

FAILURES = (ApiError, ApiUnreachable, TimeoutError)
FREE = {"holderIdentity": None, "renewTime": None, "acquireTime": None}
"""Spec of a Lease that nobody holds."""


class PatientLock(BaseLock):
    """A Lease by our own calls, that end in time and fail softly: the API server may be gone or silent.

    (kubernetes 37.0.2's LeaseLock can't create a Lease, waits five minutes for an answer and lets lost ones through.)
    """

    def __init__(self, settings: Settings, api: Api) -> None:
        super().__init__(settings.lease_name, settings.own_namespace, settings.identity)
        self.api, self.patience = api, settings.lease_retry
        self.version = ""
        self.written: LeaderElectionRecord | None = None
        """What we wrote last: while it stands, the Lease is renewed without reading it first."""

    async def get(self, name: str, namespace: str) -> tuple[bool, Any]:
        if self.written is not None:
            return True, self.written
        try:
            lease = await asyncio.wait_for(self.api.get(LEASES, namespace, name), self.patience)
        except FAILURES as error:
            return False, unanswered(error)
        self.version = lease["metadata"]["resourceVersion"]
        return True, record_in(lease.get("spec") or {})

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        lease = {"metadata": {"name": name}, "spec": spec_of(election_record)}
        return await self._within(self.api.create(LEASES, namespace, lease))

    async def update(self, name: str, namespace: str, updated_record: LeaderElectionRecord) -> bool:
        lease = {"metadata": {"resourceVersion": self.version}, "spec": spec_of(updated_record)}
        return await self._within(self.api.merge(LEASES, namespace, name, lease))

    async def release(self) -> None:
        """So that a successor leads at once. The Lease may be another's by now, or the API server away: as good."""
        try:
            async with asyncio.timeout(self.patience):
                lease = await self.api.get(LEASES, self.namespace, self.name)
                if (lease.get("spec") or {}).get("holderIdentity") == self.identity:
                    free = {"metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]}, "spec": FREE}
                    await self.api.merge(LEASES, self.namespace, self.name, free)
        except FAILURES as error:
            log.warning("the Lease was not released and runs out by itself: %s", error)

    async def _within(self, call: Awaitable[Body]) -> bool:
        self.written = None
        try:
            lease = await asyncio.wait_for(call, self.patience)
        except FAILURES as error:
            log.debug("the Lease: %s", error)
            return False
        self.version = lease["metadata"]["resourceVersion"]
        self.written = record_in(lease["spec"])
        return True


def unanswered(error: Exception) -> ApiException:
    """In the shape that the library reads: it makes the Lease where the answer was 404."""
    status = error.status if isinstance(error, ApiError) else 0
    found = ApiException(status=status, reason=f"{type(error).__name__}: {error}")
    found.body = json.dumps({"code": status})
    return found


def spec_of(record: LeaderElectionRecord) -> Body:
    return {
        "holderIdentity": record.holder_identity,
        "leaseDurationSeconds": int(record.lease_duration or 0),
        "acquireTime": micro_time(record.acquire_time),
        "renewTime": micro_time(record.renew_time),
    }


def micro_time(text: str | None) -> str | None:
    """The library's local time as Kubernetes writes it."""
    if text is None:
        return None
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def record_in(spec: Body) -> LeaderElectionRecord:
    duration = spec.get("leaseDurationSeconds")
    return LeaderElectionRecord(
        spec.get("holderIdentity"),
        str(duration) if duration else None,
        spec.get("acquireTime"),
        spec.get("renewTime"),
    )


async def while_leading(api: Api, settings: Settings, work: Callable[[], Awaitable[None]]) -> None:
    """Stand by until the Lease is ours, work until it is lost, and so on. Until cancelled, or an error of `work`."""
    lock = PatientLock(settings, api)
    try:
        while True:
            await one_reign(lock, settings, work)
            log.warning("the Lease could not be renewed in time; standing by")
    finally:
        await lock.release()


async def one_reign(lock: PatientLock, settings: Settings, work: Callable[[], Awaitable[None]]) -> None:
    async def lead() -> None:
        log.info("%s holds the Lease %s/%s", settings.identity, settings.own_namespace, settings.lease_name)
        LEADING.set(1)
        try:
            await work()
        finally:
            LEADING.set(0)

    working: list[asyncio.Task[None]] = []

    async def started() -> None:
        working.append(asyncio.current_task())  # type: ignore[arg-type]
        await lead()

    async def stopped() -> None:
        """The library cancels `started`; another may lead only when it has ended."""
        await asyncio.wait(working)

    config = Config(
        lock,
        settings.lease_seconds,
        settings.lease_renew,
        settings.lease_retry,
        started,
        stopped,
    )
    election = asyncio.create_task(LeaderElection(config).run(), name="lease")
    try:
        while not election.done():
            await asyncio.wait({election, *working}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            for task in working:
                if task.done() and not election.done() and not task.cancelled():
                    task.result()  # work never ends by itself but with an error
        election.result()
    finally:
        for task in (election, *working):
            task.cancel()
        await asyncio.wait({election, *working})  # nothing is done any more once another may lead
