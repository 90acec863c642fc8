"""An operator and CRD of the previous release are replaced with jobs in flight: no stage is run again, none is lost."""

from pathlib import Path

import pytest
from tests.kubernetes.control_plane import ControlPlane
from tests.operator.conftest import CRD as TODAYS_CRD
from tests.operator.conftest import Cluster, grant, wait_for
from tests.operator.player import GOOD, Player
from tests.operator.process import OperatorProcess
from tests.operator.proxy import Proxy
from tests.operator.snapshot import CRD, NAMESPACE, restore

AFTER_TRAIN = {"train": 1, "export": 1, "merge": 1, "evaluate": 1, "demo": 1}


@pytest.fixture
def upgraded(tmp_path):
    """The cluster of the snapshot with today's CRD and operator, and how often each stage of each job was played."""
    with ControlPlane(tmp_path, controllers=False) as plane:
        cluster = Cluster(plane)
        plane.install(CRD)
        for name in ("finetune-system", NAMESPACE):
            cluster.namespace(name)
        restore(cluster)
        plane.start("kube-controller-manager")
        before = {name: cluster.status(NAMESPACE, name) for name in ("done", "training", "paused", "failed", "queued")}
        plane.install(TODAYS_CRD)
        grant(cluster)
        with Player(plane) as player, Proxy(plane) as proxy:
            player.script = lambda _job, _stage, _count: GOOD
            with OperatorProcess(proxy.kubeconfig, Path(plane.folder), NAMESPACE):
                yield cluster, player, before


def played(player, job):
    return {stage: count for (_, name, stage, _), count in player.played.items() if name == job}


def test_nothing_is_run_again_and_nothing_is_lost(upgraded):
    cluster, player, before = upgraded
    cluster.wait(NAMESPACE, "training")
    assert played(player, "training") == AFTER_TRAIN
    cluster.edit(NAMESPACE, "paused", suspend=False)
    cluster.wait(NAMESPACE, "paused")
    assert played(player, "paused") == AFTER_TRAIN
    queued = cluster.jobs(NAMESPACE, "queued")
    assert [job["spec"]["suspend"] for job in queued] == [True]
    assert cluster.states(NAMESPACE, "queued")["model"] == "Queued"
    for name in ("done", "failed"):
        wait_for(lambda name=name: cluster.status(NAMESPACE, name)["observedGeneration"] == 1)
        assert set(played(player, name)) <= {"demo"}  # the Deployment's pod, which every start of a cluster makes
        kept, found = before[name]["stages"], cluster.status(NAMESPACE, name)["stages"]
        assert [(s["name"], s["state"], s["digest"]) for s in found] == [
            (s["name"], s["state"], s["digest"]) for s in kept
        ]
    cluster.wait(NAMESPACE, "done")
