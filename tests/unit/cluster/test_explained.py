"""What the API server's refusals become in a job's status."""

import pytest

from finetune_operator.cluster.api import ApiError
from finetune_operator.cluster.apply import Refused, explained
from finetune_operator.cluster.kinds import JOBS, SERVICES

FULL = "Internal error occurred: failed to allocate a serviceIP: range is full"


@pytest.mark.parametrize(
    ("error", "kind", "reason", "cure"),
    [
        (
            ApiError(403, "Forbidden", "exceeded quota: none, requested: count/jobs.batch=1"),
            JOBS,
            "QuotaExceeded",
            "Quota",
        ),
        (ApiError(422, "Invalid", "spec.template: Required value"), JOBS, "Refused", "Change"),
        (ApiError(500, "InternalError", FULL), SERVICES, "Refused", "ServiceCIDR"),
    ],
)
def test_what_somebody_has_to_mend_is_told_with_a_cure(error, kind, reason, cure):
    told = explained(error, kind, {"metadata": {"name": "agent-demo"}})
    assert isinstance(told, Refused)
    assert told.failure.reason == reason
    assert cure in told.failure.cure
    assert "agent-demo" in told.failure.message


def test_what_passes_by_itself_is_not_told():
    outage = ApiError(500, "InternalError", "etcdserver: request timed out")
    assert explained(outage, JOBS, {"metadata": {"name": "agent-train"}}) is outage
