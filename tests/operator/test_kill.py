"""SIGKILL at any line loses nothing: no Job is made twice, no stage is run twice, all jobs end as they would have.

``make test-chaos`` runs the whole (FINETUNE_CHAOS=1); without it the same with smaller counts.
"""

import json
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable

import pytest
from tests.operator.conftest import Cluster, wait_for
from tests.operator.player import GOOD
from tests.operator.process import OperatorProcess
from tests.operator.proxy import Proxy

WHOLE = bool(os.environ.get("FINETUNE_CHAOS"))
STAGES = ["model", "dataset", "train", "export", "merge", "evaluate", "demo"]
EVERY = 1 if WHOLE else 4
"""Of a life's calls, how many lie between two kills."""
STEP = 1 if WHOLE else 9
"""Of the boundaries in an unbroken life, which are tried, one life each."""
CHILDREN = 14
"""Objects of a job that goes through all stages: an operator that is killed at each call makes one at a time."""
JOBS, KILLS = (20, 100) if WHOLE else (6, 8)
LASTS = (20.0, 80.0) if WHOLE else (2.0, 6.0)
"""Seconds of a stage while the operator is killed at random."""


@pytest.fixture
def good_player(player):
    player.script = lambda _job, _stage, _count: GOOD
    return player


@pytest.fixture
def slow_player(good_player):
    """Its stages last so long that all jobs are under way through all kills."""
    dice = random.Random(11)
    good_player.lasts = lambda: dice.uniform(*LASTS)
    yield good_player
    good_player.lasts = lambda: 0.0


def created_jobs(plane, namespace):
    """How often each batch Job's creation succeeded, as the audit has it."""
    found = Counter()
    for line in (plane.folder / "audit.log").read_text().splitlines():
        if '"jobs"' not in line or '"create"' not in line or f'"{namespace}"' not in line:
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
        wait_for(lambda name=name: cluster.condition(namespace, name, "Ready").get("status") == "True", name, 600)
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
    """Kills the operator at those of its changes of the cluster that `strikes` names by number."""

    def __init__(self, operator: OperatorProcess, strikes: Callable[[int], bool]) -> None:
        self.operator, self.strikes = operator, strikes
        self.calls = self.kills = 0
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        with self._lock:
            self.calls += 1
            struck = self.strikes(self.calls)
            if struck:
                self.kills += 1
                self.operator.kill()
            return struck


def lived(cluster, player, namespace: str, moment: str, strikes: Callable[[int], bool]) -> Killer:
    """One job from its beginning to its end, under an operator that is killed and started again."""
    cluster.namespace(namespace)
    plane = cluster.plane
    with Proxy(plane) as proxy, OperatorProcess(proxy.kubeconfig, plane.folder, namespace) as operator:
        killer = Killer(operator, strikes)
        setattr(proxy, moment, killer)
        cluster.submit(namespace, "victim")

        def over():
            operator.start_if_dead()
            return cluster.condition(namespace, "victim", "Ready").get("status") == "True"

        wait_for(over, "the job ends though its operator is killed", 600)
        proved(cluster, player, namespace, ["victim"])
    return killer


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_each_call_again_and_again(cluster, good_player, moment, capsys):
    """`before`: the call is never carried out. `after`: it is, and the operator never learns of it."""
    every = EVERY if moment == "after" else EVERY + 1
    killer = lived(cluster, good_player, f"kill-{moment}", moment, lambda call: call % every == 0)
    assert killer.kills >= (CHILDREN if WHOLE else 4)
    say(capsys, f"killed {moment} each call that it comes to", killer.kills, f"1 job, {killer.calls} calls")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_once_at_every_boundary_of_an_unbroken_life(cluster, good_player, moment, capsys):
    whole = lived(cluster, good_player, f"once-{moment}-0", moment, lambda _call: False)
    boundaries = range(1, whole.calls + 1, STEP)
    kills = 0
    for boundary in boundaries:
        namespace = f"once-{moment}-{boundary}"
        kills += lived(cluster, good_player, namespace, moment, lambda call, at=boundary: call == at).kills
    assert kills >= len(boundaries) - 1  # the last Event may be posted after the job was seen to be Ready
    say(capsys, f"killed once {moment} a call, at every one of a life", kills, f"{len(boundaries)} jobs")


def test_a_demo_that_is_taken_down_under_kills_leaves_nothing(plane, cluster, good_player):
    """Each second call of a life is never carried out."""
    namespace, names = "kill-demo", ("-n", "kill-demo", "get", "deployments,services,ingresses", "-o", "name")
    cluster.namespace(namespace)
    with Proxy(plane) as proxy, OperatorProcess(proxy.kubeconfig, plane.folder, namespace) as operator:
        cluster.submit(namespace, "victim", demo={"ingress": {"host": "a.example.com"}})
        cluster.wait(namespace, "victim")
        killer = proxy.before = Killer(operator, lambda call: call % 2 == 0)
        cluster.edit(namespace, "victim", demo={"enabled": False})

        def over():
            operator.start_if_dead()
            return not cluster.kubectl(*names) and cluster.status(namespace, "victim").get("observedGeneration") == 2

        wait_for(over, "all that served the demo is gone", 120)
    assert killer.kills


def test_killed_at_random_moments_over_many_jobs(plane, cluster, slow_player, capsys):
    namespace = "kill-random"
    cluster.namespace(namespace)
    names = [f"job-{n}" for n in range(JOBS)]
    pause, dice = threading.Event(), random.Random(7)
    with Proxy(plane) as proxy, OperatorProcess(proxy.kubeconfig, plane.folder, namespace) as operator:
        for name in names:
            cluster.submit(namespace, name)
        for _ in range(KILLS):
            pause.wait(dice.uniform(0.5, 5))
            operator.kill()
            operator.start_if_dead()
        done = sum(cluster.condition(namespace, name, "Ready").get("status") == "True" for name in names)
        proved(cluster, slow_player, namespace, names)
    assert done < JOBS, "all were over before the last kill"
    say(capsys, "killed at random moments", KILLS, f"{JOBS} jobs at once")
