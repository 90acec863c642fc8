"""What was deleted while no watch told of it is forgotten."""

import asyncio

import pytest
from tests.unit.cluster.bodies import NAME, NAMESPACE, config_map, fine_tune_job, pod, stage_job

from finetune_operator.cluster.cache import Cache
from finetune_operator.cluster.health import Health
from finetune_operator.cluster.kinds import CONFIG_MAPS, FINE_TUNE_JOBS, JOBS, PODS
from finetune_operator.cluster.metrics import LOSS
from finetune_operator.cluster.queue import KeyQueue
from finetune_operator.cluster.settings import Settings
from finetune_operator.cluster.sweep import OTHERS, Sweeper

KEY = (NAMESPACE, NAME)
THERE = [
    (FINE_TUNE_JOBS, fine_tune_job({})),
    (JOBS, stage_job("train")),
    (PODS, pod("train-a", "train")),
    (PODS, pod("train-b", "train")),
    (PODS, pod("demo-a")),
    (CONFIG_MAPS, config_map()),
]


class Lists:
    """An API server's lists, less what was deleted."""

    def __init__(self, *deleted):
        self.deleted = {f"uid-{name}" for name in deleted}

    async def list_uids(self, kind, _namespace, _query):
        return {body["metadata"]["uid"] for of, body in THERE if of is kind} - self.deleted


def after_a_relist(*deleted):
    """The cache and the keys that want a look."""

    async def sweep():
        cache, queue = Cache(), KeyQueue()
        for kind, body in THERE:
            cache.put(kind, body)
        sweeper = Sweeper(Lists(*deleted), cache, queue, Settings(), Health(180))
        for kind in (FINE_TUNE_JOBS, *OTHERS):
            await sweeper.sweep(kind)
        return cache, queue._dirty

    return asyncio.run(sweep())


def names(cache):
    (job,) = cache.jobs_of(KEY, f"uid-{NAME}")
    return {p.name for p in (*job.pods, *cache.demo_pods(KEY))}


def test_what_is_still_there_is_kept():
    cache, wanted = after_a_relist()
    assert names(cache) == {"train-a", "train-b", "demo-a"}
    assert wanted == set()


@pytest.mark.parametrize("gone", ["train-a", "demo-a"])
def test_a_pod_whose_deletion_was_missed_is_forgotten(gone):
    cache, wanted = after_a_relist(gone)
    assert names(cache) == {"train-a", "train-b", "demo-a"} - {gone}
    assert wanted == {KEY}


@pytest.mark.parametrize(("gone", "left"), [("train", "jobs"), (f"{NAME}-progress", "children")])
def test_a_child_whose_deletion_was_missed_is_forgotten(gone, left):
    cache, wanted = after_a_relist(gone)
    assert not getattr(cache, left).get(KEY)
    assert wanted == {KEY}


def test_a_job_whose_deletion_was_missed_is_told_of_no_more():
    LOSS.labels(*KEY).set(0.5)
    after_a_relist(NAME)
    assert KEY not in LOSS._metrics


def test_a_pod_of_the_same_name_that_came_since_is_kept():
    cache = Cache()
    cache.put(PODS, pod("demo-a"))
    newer = pod("demo-a")
    newer["metadata"] |= {"uid": "uid-new", "resourceVersion": "2"}
    cache.put(PODS, newer)
    cache.drop(PODS, pod("demo-a"))
    assert [p.uid for p in cache.demo_pods(KEY)] == ["uid-new"]
