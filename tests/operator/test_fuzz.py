"""Specs drawn at random, given to a running operator: none crashes or stalls it.

FINETUNE_FUZZ says how many the operator gets (a thirtieth of what the API server alone is asked in tests/api).
"""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from tests.api.bent import documents
from tests.operator.conftest import FUZZ, wait_for
from tests.operator.player import GOOD

from finetune_operator.api import SpecError, parse_job

COUNT = max(12, int(os.environ.get("FINETUNE_FUZZ", "300")) // 25)


@pytest.mark.usefixtures("operator")
def test_the_operator_looks_at_whatever_the_api_server_takes(cluster, player, operator):
    player.script = lambda _job, _stage, _count: GOOD
    drawn = []

    @settings(max_examples=COUNT, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(document=documents())
    def draw(document):
        drawn.append(document)

    draw()
    taken, refused = {}, 0
    for number, document in enumerate(drawn):
        name = f"fuzz-{number}"
        body = document | {"metadata": {"name": name, "namespace": FUZZ}}
        done = cluster.plane.kubectl("create", "-f", "-", stdin=json.dumps(body))
        refused += done.returncode != 0
        if done.returncode == 0:
            taken[name] = body
    assert taken
    assert refused
    wait_for(lambda: all(seen(cluster, taken)), "each is looked at", 30 + 5 * len(taken))
    cluster.submit(FUZZ, "after-all")
    cluster.wait(FUZZ, "after-all")
    assert operator.process.poll() is None
    assert "Traceback" not in operator.log.read_text()


def seen(cluster, taken):
    """For each job, whether its status is of its spec and says how it stands."""
    found = {body["metadata"]["name"]: body.get("status", {}) for body in cluster.get("ftj", "-n", FUZZ)["items"]}
    for name in taken:
        status = found[name]
        yield status.get("observedGeneration") == 1 and bool(status.get("conditions"))


def test_what_is_drawn_is_good_and_bad():
    """Else the test above would prove nothing."""
    kinds = set()

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(document=documents())
    def draw(document):
        try:
            parse_job(document)
        except SpecError:
            kinds.add("bad")
        else:
            kinds.add("good")

    draw()
    assert kinds == {"good", "bad"}
