"""What `helm test` says where something is missing: a sentence with a cure."""

from datetime import UTC, datetime, timedelta

import pytest

from finetune_operator.cluster.api import ApiError
from finetune_operator.cluster.installed import refusal, renewed
from finetune_operator.cluster.settings import Settings

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
HELD = {"holderIdentity": "pod", "leaseDurationSeconds": 15}


def at(seconds_ago: float) -> str:
    return (NOW - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.mark.parametrize(
    ("spec", "works"),
    [
        ({**HELD, "renewTime": at(2)}, True),
        ({**HELD, "renewTime": at(16)}, False),
        ({**HELD, "renewTime": at(2), "holderIdentity": ""}, False),
        (HELD, False),
        (None, False),
    ],
)
def test_an_operator_works_that_renewed_its_lease_in_time(spec, works):
    assert renewed({"spec": spec}, NOW) is works


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (ApiError(403, "Forbidden", "cannot list finetunejobs"), "install with rbac.create=true"),
        (ApiError(404, "NotFound", 'leases "finetune-operator" not found'), "kubectl -n finetune-system logs"),
        (ApiError(404, "NotFound", "the server could not find it"), "install with crds.install=true"),
        (ApiError(500, "InternalError", "etcd"), "the API server refuses: 500 InternalError"),
    ],
)
def test_a_refusal_says_what_to_do(error, cure):
    assert cure in refusal(error, Settings())
