"""The chart on a real API server: installed, upgraded, rolled back and uninstalled under a job that runs.

No kubelet is here: the operator is a process with the chart's service account, pods are played. `helm test` and its
pod run on a whole cluster in the end-to-end tests; what that pod asks is asked here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.chart.conftest import arguments_of
from tests.chart.helm import CHART, NAMESPACE, RELEASE, helm, said
from tests.chart.installation import account_kubeconfig, operator_of, told
from tests.operator.conftest import Cluster, wait_for
from tests.operator.player import GOOD, RUNS

TEAM = "team-a"
DEFINITION = "crd/finetunejobs.finetune.dev"


class Release:
    """A release of the chart on the control plane."""

    def __init__(self, cluster: Cluster, name: str = RELEASE) -> None:
        self.cluster, self.name = cluster, name

    def helm(self, verb: str, *arguments: str, ok: bool = True) -> str:
        config = self.cluster.plane.kubeconfig
        done = helm(verb, self.name, *arguments, "--namespace", NAMESPACE, kubeconfig=config)
        assert (done.returncode == 0) is ok, done.stderr
        return done.stdout + done.stderr

    def is_there(self, what: str) -> bool:
        return self.cluster.plane.kubectl("-n", NAMESPACE, "get", what).returncode == 0


@pytest.fixture(scope="module")
def namespaces(cluster):
    for name in (NAMESPACE, TEAM, "team-b"):
        cluster.namespace(name)


@pytest.fixture
def release(cluster, namespaces):
    made = Release(cluster)
    yield made
    helm("uninstall", made.name, "-n", NAMESPACE, "--ignore-not-found", kubeconfig=cluster.plane.kubeconfig)


def training(cluster: Cluster) -> dict:
    """The training's Job, without what the Job controller counts."""
    (job,) = [job for job in cluster.jobs(TEAM, "react") if job["metadata"]["labels"]["finetune.dev/stage"] == "train"]
    return {"uid": job["metadata"]["uid"], "spec": job["spec"]}


def installed(cluster: Cluster, release: str, folder: Path) -> str:
    """What the pod of `helm test` would say, without waiting for better news."""
    kubeconfig = account_kubeconfig(cluster, release, folder / "test-kubeconfig")
    done = subprocess.run(
        [sys.executable, "-m", "finetune_operator.cluster.installed", "0"],
        env={**os.environ, **told(cluster, release), "KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) is (done.stderr == "")
    return done.stdout + done.stderr


def test_a_running_job_stays_through_upgrade_rollback_and_uninstall(release, cluster, player, tmp_path):
    player.script = lambda _job, stage, _count: RUNS if stage == "train" else GOOD
    notes = release.helm("install", str(CHART))
    assert f"helm test {RELEASE} -n {NAMESPACE}" in notes
    assert "no operator holds the Lease" in installed(cluster, RELEASE, tmp_path)

    with operator_of(cluster, RELEASE, tmp_path / "first"):
        cluster.submit(TEAM, "react")
        cluster.wait_state(TEAM, "react", "train", "Running")
        before = training(cluster)
        assert installed(cluster, RELEASE, tmp_path) == "the operator serves all namespaces\n"

    # How often it is tried is the one of these that a Job which is there takes on: by it the new settings were read.
    release.helm("upgrade", str(CHART), *said('jobs.trainerImage.tag="next"', "jobs.attempts=4"))
    with operator_of(cluster, RELEASE, tmp_path / "upgraded"):
        wait_for(lambda: training(cluster)["spec"]["backoffLimit"] == 3, "the training by the new settings")
        assert training(cluster) == {**before, "spec": before["spec"] | {"backoffLimit": 3}}

    release.helm("rollback", "1")
    with operator_of(cluster, RELEASE, tmp_path / "rolled-back"):
        wait_for(lambda: training(cluster)["spec"]["backoffLimit"] == 2, "the training by the old settings")
        assert training(cluster) == before

    release.helm("uninstall")
    assert not release.is_there(f"deployment/{RELEASE}")
    assert not release.is_there(f"clusterrole/{RELEASE}")
    assert release.is_there(DEFINITION)
    assert training(cluster) == before
    assert cluster.states(TEAM, "react")["train"] == "Running"

    release.helm("install", str(CHART))
    with operator_of(cluster, RELEASE, tmp_path / "second"):
        (pod,) = cluster.pods(TEAM, "react", "train")
        player.end(TEAM, pod["metadata"]["name"], GOOD)
        cluster.wait(TEAM, "react")
        assert training(cluster)["uid"] == before["uid"]
    assert {count for (namespace, *_), count in player.played.items() if namespace == TEAM} == {1}


def test_without_rights_the_test_says_which_is_missing(release, cluster, tmp_path):
    notes = release.helm("install", str(CHART), *said("rbac.create=false"))
    assert f"bind the service account {NAMESPACE}/{RELEASE} to roles of your own" in notes
    assert "the operator lacks a right (leases" in installed(cluster, RELEASE, tmp_path)


def test_a_second_operator_for_the_whole_cluster_is_refused_whatever_its_name(release, cluster):
    release.helm("install", str(CHART))
    second = Release(cluster, "second")
    refused = second.helm("install", str(CHART), *said("crds.install=false"), ok=False)
    assert 'ClusterRole "finetune-operator"' in refused
    assert "invalid ownership metadata" in refused
    second.helm("install", str(CHART), *said("crds.install=false", 'namespaces=["team-b"]'))
    second.helm("uninstall")


def test_the_operators_pod_is_let_into_a_restricted_namespace(release, cluster):
    release.helm("install", str(CHART))
    selector = "app.kubernetes.io/component=operator"
    (pod,) = wait_for(lambda: cluster.get("pods", "-n", NAMESPACE, "-l", selector)["items"], "the operator's pod")
    assert pod["spec"]["serviceAccountName"] == RELEASE
    mounted = [v for v in pod["spec"]["volumes"] if "projected" in v]
    assert [volume["name"] for volume in mounted] == ["token"], "the one token is the chart's own"


def test_the_hooks_job_is_let_into_a_restricted_namespace(release, cluster):
    release.helm("install", str(CHART))
    hooks = helm("get", "hooks", RELEASE, "-n", NAMESPACE, kubeconfig=cluster.plane.kubeconfig).stdout
    pod = yaml.safe_load(hooks)["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {**pod["metadata"], "name": "hook"}}
    cluster.kubectl("-n", NAMESPACE, "apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(pod))


def test_named_namespaces_are_served_and_no_others(release, cluster, player, tmp_path):
    player.script = lambda _job, _stage, _count: GOOD
    release.helm("install", str(CHART), *said('namespaces=["team-b"]'))
    account = f"--as=system:serviceaccount:{NAMESPACE}:{RELEASE}"
    may = {
        namespace: cluster.plane.kubectl("auth", "can-i", "list", "ftj", account, "-n", namespace).stdout.strip()
        for namespace in ("team-b", TEAM, "default")
    }
    assert may == {"team-b": "yes", TEAM: "no", "default": "no"}
    with operator_of(cluster, RELEASE, tmp_path):
        cluster.submit("team-b", "react")
        cluster.wait("team-b", "react")
        assert installed(cluster, RELEASE, tmp_path) == "the operator serves team-b\n"
    kinds = "jobs,deployments,networkpolicies"
    kept = {item["kind"] for item in cluster.get(kinds, "-n", "team-b")["items"]}
    assert kept == {"Job", "Deployment", "NetworkPolicy"}


def test_whoever_may_edit_a_namespace_may_edit_its_jobs(release, cluster):
    release.helm("install", str(CHART))
    cluster.kubectl("-n", TEAM, "create", "rolebinding", "alice", "--clusterrole=edit", "--user=alice")
    cluster.kubectl("-n", TEAM, "create", "rolebinding", "bob", "--clusterrole=view", "--user=bob")

    def may(user: str, verb: str) -> bool:
        return cluster.plane.kubectl("auth", "can-i", verb, "ftj", "-n", TEAM, f"--as={user}").stdout.strip() == "yes"

    wait_for(lambda: may("alice", "create"), "the role edit to be aggregated")
    assert wait_for(lambda: may("bob", "get"), "the role view to be aggregated")
    assert not may("bob", "create")


def test_a_definition_that_was_there_before_is_left_or_taken_over(release, cluster):
    cluster.plane.install(CHART.parent.parent / "crds" / "finetunejobs.finetune.dev.yaml")
    labels = ("app.kubernetes.io/managed-by-", "meta.helm.sh/release-name-", "meta.helm.sh/release-namespace-")
    cluster.kubectl("label", DEFINITION, labels[0])
    cluster.kubectl("annotate", DEFINITION, *labels[1:])
    refused = release.helm("install", str(CHART), ok=False)
    assert "invalid ownership metadata" in refused
    release.helm("install", str(CHART), *said("crds.install=false"))
    release.helm("upgrade", str(CHART), "--take-ownership", *said("crds.install=true"))
    owner = json.loads(cluster.kubectl("get", DEFINITION, "-o", "json"))["metadata"]["annotations"]
    assert owner["meta.helm.sh/release-name"] == RELEASE
    release.helm("upgrade", str(CHART), *said("crds.install=false"))
    assert release.is_there(DEFINITION), "the switch does not take it away from the jobs"


def test_monitoring_is_installed_where_it_is_switched_on(release, cluster):
    release.helm("install", str(CHART), *arguments_of("cluster-wide"))
    assert release.is_there(f"podmonitor/{RELEASE}")
    assert release.is_there(f"configmap/{RELEASE}-dashboard")
