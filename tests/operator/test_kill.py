"""SIGKILL at any line loses nothing: no Job is made twice, no stage is run twice, all jobs end as they would have.

``make test-chaos`` runs the whole (FINETUNE_CHAOS=1); without it the same with smaller counts.
"""

import json
import os
import random
import sys
import threading
from collections import Counter

import pytest
from tests.operator.conftest import Cluster, wait_for
from tests.operator.player import GOOD
from tests.operator.process import OperatorProcess
from tests.operator.proxy import Proxy

WHOLE = bool(os.environ.get("FINETUNE_CHAOS"))
STAGES = ["model", "dataset", "train", "export", "merge", "evaluate", "demo"]
EVERY = 1 if WHOLE else 4
"""Of a whole life's calls, how many lie between two kills."""
JOBS, KILLS = (20, 100) if WHOLE else (6, 8)


@pytest.fixture
def good_player(player):
    player.script = lambda _job, _stage, _count: GOOD
    return player


def created_jobs(plane, namespace):
    """How often each batch Job's creation succeeded, as the audit has it."""
    found = Counter()
    for line in (plane.folder / "audit.log").read_text().splitlines():
        if '"jobs"' not in line or '"create"' not in line:
            continue
        event = json.loads(line)
        ref = event["objectRef"]
        created = event["verb"] == "create" and event["responseStatus"]["code"] == 201
        if ref["resource"] == "jobs" and created and ref["namespace"] == namespace:
            found[ref["name"] if "name" in ref else event["requestURI"]] += 1
    return found


def proved(cluster: Cluster, player, namespace: str, names: list[str]) -> None:
    """Every job is Ready, and each stage of each was started once."""
    for name in names:
        cluster.wait(namespace, name)
        assert cluster.states(namespace, name) == dict.fromkeys(STAGES, "Succeeded")
    runs = {key: count for key, count in player.played.items() if key[0] == namespace}
    assert sorted((key[1], key[2]) for key in runs) == sorted((n, s) for n in names for s in STAGES)
    assert set(runs.values()) == {1}, {key: count for key, count in runs.items() if count > 1}
    jobs = cluster.get("jobs", "-n", namespace)["items"]
    assert len(jobs) == len(names) * (len(STAGES) - 1)
    assert sum(created_jobs(cluster.plane, namespace).values()) == len(jobs)


def say(capsys, *cells: object) -> None:
    """A row of the table that `make test-chaos` prints."""
    with capsys.disabled():
        sys.stdout.write(f"\n| {' | '.join(map(str, cells))} | nothing twice, nothing lost |\n")


class Killer:
    """Kills the operator at its n-th change of the cluster since it started, and counts what it has done."""

    def __init__(self, operator: OperatorProcess, every: int) -> None:
        self.operator, self.every = operator, every
        self.calls = self.kills = 0
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        with self._lock:
            self.calls += 1
            struck = self.calls % self.every == 0
            if struck:
                self.kills += 1
                self.operator.kill()
            return struck


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_every_boundary_between_two_calls(plane, cluster, good_player, moment, capsys):
    """`before`: the call is never carried out. `after`: it is, and the operator never learns of it."""
    namespace = f"kill-{moment}"
    cluster.namespace(namespace)
    with Proxy(plane) as proxy, OperatorProcess(proxy.kubeconfig, plane.folder, namespace) as operator:
        cluster.submit(namespace, "victim")
        killer = Killer(operator, EVERY if moment == "after" else EVERY + 1)
        setattr(proxy, moment, killer)

        def over():
            operator.start_if_dead()
            return cluster.condition(namespace, "victim", "Ready").get("status") == "True"

        wait_for(over, "the job ends though its operator is killed", 900)
        proved(cluster, good_player, namespace, ["victim"])
    assert killer.kills >= (20 if WHOLE else 4)
    say(capsys, f"killed {moment} a call", killer.kills, f"{killer.calls} calls")


def test_killed_at_random_moments_over_many_jobs(plane, cluster, good_player, capsys):
    namespace = "kill-random"
    cluster.namespace(namespace)
    names = [f"job-{n}" for n in range(JOBS)]
    pause, dice = threading.Event(), random.Random(7)
    with Proxy(plane) as proxy, OperatorProcess(proxy.kubeconfig, plane.folder, namespace) as operator:
        kills, submitted = 0, iter(names)
        while kills < KILLS:
            operator.start_if_dead()
            if kills % max(1, KILLS // JOBS) == 0 and (name := next(submitted, None)):
                cluster.submit(namespace, name)
            pause.wait(dice.uniform(0.5, 5))
            operator.kill()
            kills += 1
        for name in submitted:
            cluster.submit(namespace, name)
        operator.start_if_dead()
        proved(cluster, good_player, namespace, names)
    say(capsys, "killed at random", kills, f"{JOBS} jobs")
