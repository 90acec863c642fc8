"""An operator that is told to stop ends at once, and its successor need not wait for the Lease to run out."""

import re
import signal

import pytest
from tests.operator.conftest import ROOT, wait_for
from tests.operator.player import GOOD, RUNS, Stays
from tests.operator.process import OperatorProcess
from tests.operator.proxy import Proxy

STOP = "stop"
DEPLOYMENT = ROOT / "charts" / "finetune-operator" / "templates" / "deployment.yaml"
GRACE = float(re.findall(r"terminationGracePeriodSeconds: (\d+)", DEPLOYMENT.read_text())[0])
LONG = {"FINETUNE_LEASE_SECONDS": "900"}
"""Longer than any test waits for a Lease to run out."""
IMAGE = "FINETUNE_POD_TRAINER_IMAGE"
UNPULLED = {"name": "stage", "image": "i", "imageID": "", "ready": False, "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}}}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def namespace(cluster):
    cluster.namespace(STOP)


@pytest.fixture
def leader(plane, proxy):
    with OperatorProcess(proxy.kubeconfig, plane.folder, STOP, **LONG) as started:
        wait_for(lambda: answer(started, "/readyz") == "ok\n", "it leads")
        yield started


def successor(leader, identity):
    """Another operator for the same Lease."""
    same = {"FINETUNE_LEASE_NAME": leader.environment["FINETUNE_LEASE_NAME"], "FINETUNE_IDENTITY": identity}
    return OperatorProcess(leader.environment["KUBECONFIG"], leader.log.parent, STOP, **LONG, **same)


def answer(operator, path):
    try:
        return operator.ask(path)
    except OSError:  # not up yet, or not ready
        return None


def stop(operator, how):
    """Its exit code; subprocess.TimeoutExpired where kubelet would have had to kill it."""
    operator.process.send_signal(how)
    return operator.process.wait(GRACE)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_the_successor_of_a_leader_leads_at_once_and_goes_on(cluster, player, leader, how):
    name = how.name.lower()
    player.script = lambda _job, stage, _count: RUNS if stage == "train" else GOOD
    cluster.submit(STOP, name)
    cluster.wait_state(STOP, name, "train", "Running")
    pod = wait_for(lambda: cluster.pods(STOP, name, "train"))[0]["metadata"]["name"]
    assert stop(leader, how) == 0
    player.end(STOP, pod, GOOD)
    with successor(leader, "successor"):
        cluster.wait(STOP, name)
    runs = {key[2]: count for key, count in player.played.items() if key[:2] == (STOP, name)}
    assert set(runs.values()) == {1}


def test_one_that_stands_by_leaves_the_lease_to_its_holder(cluster, leader):
    with successor(leader, "second") as second:
        wait_for(lambda: answer(second, "/healthz") == "ok, standing by\n")
        assert stop(second, signal.SIGTERM) == 0
    lease = cluster.get("lease", leader.environment["FINETUNE_LEASE_NAME"], "-n", "finetune-system")
    assert lease["spec"]["holderIdentity"] == "operator"


def test_it_ends_though_the_api_server_is_away(plane):
    with Proxy(plane) as lost, OperatorProcess(lost.kubeconfig, plane.folder, STOP, **LONG) as operator:
        wait_for(lambda: answer(operator, "/readyz") == "ok\n", "it leads")
        lost.__exit__()
        assert stop(operator, signal.SIGTERM) == 0


def test_a_successor_with_the_right_image_makes_the_job_again_that_cant_pull_the_wrong_one(plane, cluster, player):
    waits = Stays("Pending", {"containerStatuses": [UNPULLED]})
    player.script = lambda job, _stage, count: waits if (job, count) == ("pulled", 1) else GOOD
    with OperatorProcess(plane.kubeconfig, plane.folder, STOP, **{IMAGE: "wrong:1"}):
        cluster.submit(STOP, "pulled", demo={"enabled": False})
        wait_for(lambda: cluster.condition(STOP, "pulled", "Ready").get("reason") == "ImagePullFailed")
    player.script = lambda _job, _stage, _count: GOOD
    with OperatorProcess(plane.kubeconfig, plane.folder, STOP, **{IMAGE: "right:1"}):
        cluster.wait(STOP, "pulled")
    pods = (job["spec"]["template"]["spec"] for job in cluster.jobs(STOP, "pulled"))
    assert {pod["containers"][0]["image"] for pod in pods} == {"right:1"}
