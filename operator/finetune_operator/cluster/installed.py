"""``python -m finetune_operator.cluster.installed [SECONDS]``: whether an operator works; `helm test` runs it.

It asks with the operator's own settings and rights, again until SECONDS are over, and ends with 1 and a cure where no
operator works.
"""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from time import monotonic

from finetune_operator.cluster.api import NOT_FOUND, Api, ApiError, ApiUnreachable, Body, connect
from finetune_operator.cluster.kinds import FINE_TUNE_JOBS, LEASES
from finetune_operator.cluster.settings import Settings, read_settings

PATIENCE = 60.0
"""Seconds that an operator which was only just started has for its first signs."""
PAUSE = 1.0
FORBIDDEN = 403


async def problem(api: Api, settings: Settings, now: datetime) -> str:
    """What is wrong and its cure in one sentence; empty where all is well."""
    try:
        lease = await api.get(LEASES, settings.own_namespace, settings.lease_name)
        for namespace in settings.namespaces or (None,):
            await api.list_uids(FINE_TUNE_JOBS, namespace, {})
    except ApiUnreachable as error:
        return f"the API server does not answer ({error}): let networkPolicy.apiServer name its address and ports"
    except ApiError as error:
        return refusal(error, settings)
    return "" if renewed(lease, now) else idle(settings)


def renewed(lease: Body, now: datetime) -> bool:
    spec = lease.get("spec") or {}
    if not spec.get("renewTime") or not spec.get("holderIdentity"):
        return False
    age = now - datetime.fromisoformat(spec["renewTime"])
    return age < timedelta(seconds=spec.get("leaseDurationSeconds") or 0)


def idle(settings: Settings) -> str:
    return (
        f"no operator holds the Lease {settings.own_namespace}/{settings.lease_name}: its log says why, {settings.logs}"
    )


def refusal(error: ApiError, settings: Settings) -> str:
    if error.status == FORBIDDEN:
        return f"the operator lacks a right ({error.message}): install with rbac.create=true, or grant it"
    if error.status == NOT_FOUND and LEASES.plural in error.message:
        return idle(settings)
    if error.status == NOT_FOUND:
        return "the API server knows no FineTuneJob: install with crds.install=true, or apply the definition"
    return f"the API server refuses: {error}"


async def check(settings: Settings, patience: float) -> str:
    """The last problem, once the patience is over; empty as soon as there is none."""
    deadline = monotonic() + patience
    async with await connect(settings) as api:
        while (found := await problem(api, settings, datetime.now(UTC))) and monotonic() < deadline:  # noqa: ASYNC110 - see below
            await asyncio.sleep(PAUSE)  # another process renews the Lease: there is nothing here to wait on
    return found


def main(patience: float = PATIENCE) -> None:
    settings = read_settings()
    found = asyncio.run(check(settings, patience))
    if found:
        sys.exit(found)
    sys.stdout.write(f"the operator serves {', '.join(settings.namespaces) or 'all namespaces'}\n")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
