"""What is left of a reign when another operator leads."""

import asyncio

import pytest
from prometheus_client import generate_latest
from tests.unit.cluster.bodies import NAME, NAMESPACE

from finetune_operator.cluster import run
from finetune_operator.cluster.health import Health
from finetune_operator.cluster.metrics import JOBS_BY_STAGE, LOSS, REGISTRY, TOKENS
from finetune_operator.cluster.settings import Settings

OF_JOBS = (LOSS, TOKENS, JOBS_BY_STAGE)


def told_of_the_job():
    return [line for line in generate_latest(REGISTRY).decode().splitlines() if f'"{NAME}"' in line]


class Lost(Exception):
    """The Lease."""


def test_an_operator_that_stands_by_tells_of_no_job(monkeypatch):
    told = []

    async def watch(*_):
        for gauge in OF_JOBS:
            gauge.labels(NAMESPACE, NAME).set(1)
        told.extend(told_of_the_job())
        raise Lost

    monkeypatch.setattr(run, "watch", watch)
    with pytest.raises(ExceptionGroup) as ended:
        asyncio.run(run.lead(Settings(), None, Health(180), lambda: None))
    assert ended.group_contains(Lost)
    assert len(told) == len(OF_JOBS)
    assert told_of_the_job() == []
