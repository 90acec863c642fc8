"""What is kept of pods, and in which order."""

import pytest
from tests.unit.cluster.bodies import NAME, NAMESPACE, pod, stage_job

from finetune_operator.api import KIND
from finetune_operator.cluster.cache import Cache
from finetune_operator.cluster.kinds import JOBS, PODS
from finetune_operator.cluster.seen import owner_uid, pod_of

OWN = {"name": "stage", "state": {"terminated": {"exitCode": 64, "message": "said"}}}
MESH = {"name": "istio-proxy", "state": {"running": {}}}


@pytest.mark.parametrize("statuses", [[OWN], [MESH, OWN], [OWN, MESH]])
def test_a_pods_end_is_its_stages_whatever_else_runs_beside_it(statuses):
    body = pod("train-a", "train")
    body["status"]["containerStatuses"] = statuses
    assert (pod_of(body).exit_code, pod_of(body).said) == (64, "said")


def test_pods_are_seen_oldest_first_in_whatever_order_they_came():
    """A list is sorted by name, which is random."""
    cache, job = Cache(), stage_job("train")
    cache.put(JOBS, job)
    for name, hour in (("train-a", 3), ("train-b", 1), ("train-c", 2)):
        body = pod(name, "train")
        body["metadata"]["creationTimestamp"] = f"2026-01-01T0{hour}:00:00Z"
        cache.put(PODS, body)
    (seen,) = cache.jobs_of((NAMESPACE, NAME), owner_uid(job, KIND))
    assert [found.name for found in seen.pods] == ["train-b", "train-c", "train-a"]
