"""The API server or etcd goes away in mid-flight and comes back: everything goes on. `make test-chaos` waits longer."""

import json
import math
import os
import signal
import threading
import time
from pathlib import Path
from urllib.error import HTTPError

import pytest
from tests.operator.conftest import Cluster, prepared, wait_for
from tests.operator.player import GOOD, RUNS, Player
from tests.operator.process import OperatorProcess
from tests.operator.proxy import Proxy

AWAY = 300.0 if os.environ.get("FINETUNE_CHAOS") else 12.0
"""Seconds: longer than the operator holds on to a Lease that it can't renew."""
BACK = 60.0
"""Seconds within which everything has to go on."""


@pytest.fixture(scope="module")
def own_plane(tmp_path_factory):
    """A control plane that these tests may break."""
    with prepared(tmp_path_factory.mktemp("outage"), "outage") as plane:
        yield plane


@pytest.fixture(scope="module")
def own_player(own_plane):
    with Player(own_plane) as player:
        yield player


@pytest.fixture(scope="module")
def own_proxy(own_plane):
    with Proxy(own_plane) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def own_operator(own_plane, own_proxy):
    quick = {"FINETUNE_WATCH_SILENCE": "10", "FINETUNE_SWEEP_EVERY": "10", "FINETUNE_REQUEST_TIMEOUT": "10"}
    with OperatorProcess(
        own_proxy.kubeconfig, Path(own_plane.folder), "outage", FINETUNE_LOG_FORMAT="json", **quick
    ) as operator:
        yield operator


def stopped(plane):
    plane.processes["kube-apiserver"].send_signal(signal.SIGSTOP)
    threading.Event().wait(AWAY)
    plane.processes["kube-apiserver"].send_signal(signal.SIGCONT)


def killed(plane):
    plane.stop("kube-apiserver", signal.SIGKILL)
    threading.Event().wait(AWAY)
    plane.start("kube-apiserver")
    plane.wait_until_ready()
    # Its informers would wait up to a minute before they ask again; in a cluster it loses its lease and is restarted.
    plane.stop("kube-controller-manager", signal.SIGKILL)
    plane.start("kube-controller-manager")


def etcd_restarted(plane):
    plane.stop("etcd")
    plane.start("etcd")


@pytest.mark.parametrize("outage", [stopped, killed, etcd_restarted], ids=lambda o: o.__name__)
def test_everything_goes_on_after(own_plane, own_player, own_operator, outage):
    cluster, name = Cluster(own_plane), outage.__name__.replace("_", "-")
    own_player.script = lambda _job, stage, _count: RUNS if stage == "train" else GOOD
    cluster.submit("outage", name)
    cluster.wait_state("outage", name, "train", "Running")
    pod = wait_for(lambda: cluster.pods("outage", name, "train"))[0]["metadata"]["name"]
    outage(own_plane)
    own_plane.wait_until_ready()
    own_player.end("outage", pod, GOOD)
    wait_for(lambda: cluster.states("outage", name).get("demo") == "Succeeded", f"{name} goes on", BACK)
    runs = {key[2]: count for key, count in own_player.played.items() if key[1] == name}
    assert set(runs.values()) == {1}
    assert own_operator.process.poll() is None


def test_a_watch_that_goes_silent_is_noticed(own_plane, own_player, own_proxy, own_operator):
    """Nothing is closed and nothing comes: dropped packets, no RST."""
    cluster = Cluster(own_plane)
    own_player.script = lambda _job, _stage, _count: GOOD
    own_proxy.silent_before = time.monotonic()
    cluster.submit("outage", "silent")
    cluster.wait("outage", "silent")  # by watches that began later: those of before stay silent
    own_proxy.silent_before = 0.0


def test_watches_that_stay_silent_fail_the_health_check(own_plane):
    """What is new is listed and was never told: kubelet is to start it again."""
    hasty = {"FINETUNE_SILENT_AFTER": "3", "FINETUNE_SWEEP_EVERY": "1"}
    Cluster(own_plane).namespace("mute")
    with Proxy(own_plane) as proxy, OperatorProcess(proxy.kubeconfig, own_plane.folder, "mute", **hasty) as operator:
        wait_for(lambda: answers(operator) == "ok\n")
        proxy.silent_before = math.inf
        Cluster(own_plane).submit("mute", "untold")
        assert "silent for" in wait_for(lambda: failure(operator), "/healthz fails")
        proxy.silent_before = 0.0
        wait_for(lambda: answers(operator) == "ok\n", "it is well again")


def failure(operator):
    """What /healthz says when it fails."""
    try:
        operator.ask("/healthz")
    except HTTPError as error:
        return error.read().decode()
    return None


def test_the_endpoints_tell_how_it_goes(own_operator):
    assert own_operator.ask("/healthz") == "ok\n"
    metrics = own_operator.ask("/metrics")
    for name in ("finetune_jobs", "finetune_stage_seconds", "finetune_training_loss", "finetune_reconcile_seconds",
                 "finetune_reconcile_errors", "finetune_queue_depth"):  # fmt: skip
        assert f"# TYPE {name}" in metrics


def test_a_route_where_there_is_no_gateway_api_is_told_with_its_cure(own_plane, own_player, own_operator):
    cluster = Cluster(own_plane)
    own_player.script = lambda _job, _stage, _count: GOOD
    cluster.submit("outage", "routeless", demo={"httpRoute": {"parentRefs": [{"name": "gateway"}]}})
    failed = cluster.wait("outage", "routeless", "Failed")
    assert failed["message"].endswith(
        "Install the Gateway API or leave out spec.demo.httpRoute; it is tried again by itself."
    )
    cluster.edit("outage", "routeless", demo={"httpRoute": None})
    cluster.wait("outage", "routeless")


def test_each_line_of_the_log_is_an_object_that_names_the_job(own_operator):
    lines = [json.loads(line) for line in own_operator.log.read_text().splitlines()]
    assert all(line.keys() >= {"time", "level", "logger", "message"} for line in lines)
    named = [line for line in lines if (line.get("namespace"), line.get("name")) == ("outage", "routeless")]
    assert any("model started" in line["message"] for line in named)


def test_a_second_operator_stands_by_and_takes_over(own_plane, own_player, own_proxy, own_operator):
    cluster = Cluster(own_plane)
    own_player.script = lambda _job, _stage, _count: GOOD
    lease = {"FINETUNE_LEASE_NAME": own_operator.environment["FINETUNE_LEASE_NAME"]}
    second = OperatorProcess(
        own_proxy.kubeconfig, Path(own_plane.folder), "outage", FINETUNE_IDENTITY="second", **lease
    )
    with second:
        wait_for(lambda: answers(second) == "ok, standing by\n")
        assert own_operator.ask("/readyz") == "ok\n"
        with pytest.raises(HTTPError, match="503"):
            second.ask("/readyz")
        own_operator.kill()
        image = '[{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "evil"}]'
        cluster.kubectl("-n", "outage", "patch", "deployment", "silent-demo", "--type=json", "-p", image)
        cluster.submit("outage", "handed")
        cluster.wait("outage", "handed")
        assert answers(second) == "ok\n"
        edited = ("-n", "outage", "get", "deployment", "silent-demo", "-o", "yaml")
        wait_for(lambda: "image: evil" not in cluster.kubectl(*edited), "what was edited meanwhile is put right")


def answers(operator):
    try:
        return operator.ask("/healthz")
    except OSError:  # not up yet
        return None
