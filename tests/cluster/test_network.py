"""NetworkPolicies hold: in a namespace that denies by default a job gets by the chart's exceptions what it needs."""

import socket
from collections.abc import Iterator

import pytest
from tests.cluster.kube import Cluster, Object
from tests.cluster.specs import BUSYBOX, default_deny, fit, network_policy
from tests.kubernetes.cluster import HOST
from tests.kubernetes.node import DNS, wait_for

pytestmark = [
    pytest.mark.timeout(1800),  # the first test waits for the images and the whole job
    pytest.mark.usefixtures("node"),  # whether another cluster enforces is its owner's affair
]
ELSEWHERE = "strangers"
SELECTED = ("app.kubernetes.io/name", "app.kubernetes.io/managed-by", "finetune.dev/stage")
"""Labels by which the chart's policies know a pod; one that has these alone is no job's."""
REACHES = {
    "model": {"index", "dns"},
    "train": {"api", "dns"},
    "merge": set(),
    "notebook": set(),
    "stranger": {"index", "port", "pod", "api", "dns"},
}
"""Who asks -> what answers. The stranger, whom no policy selects, shows that all but the demo can be reached."""


def runs(name: str, namespace: str, labels: dict[str, str]) -> Object:
    """A pod that answers on port 8080 and waits to be told whom to ask."""
    container = {"name": "main", "image": BUSYBOX, "command": ["httpd", "-f", "-p", "8080"]}
    meta = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": fit(container)}


@pytest.fixture(scope="module")
def closed_port() -> Iterator[int]:
    """One of this machine that answers, and that no value of the chart names."""
    with socket.create_server((HOST, 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture(scope="module")
def spaces(agent, cluster) -> dict[str, str]:
    """Pod -> its namespace: some with the labels of the job's own pods, one that is no job's, one from elsewhere."""
    job = agent.job
    cluster.namespace(ELSEWHERE)
    spaces = {name: ELSEWHERE if name == "stranger" else job.namespace for name in REACHES}
    labels = {name: {"app": name} for name in ("notebook", "stranger")}
    for stage in ("model", "train", "merge"):
        own = job.pods(stage)[0]["metadata"]["labels"]
        labels[stage] = {key: own[key] for key in SELECTED}
    cluster.apply(*(runs(name, space, labels[name]) for name, space in spaces.items()))
    for name, space in spaces.items():
        cluster.wait("condition=Ready", f"pod/{name}", space)
    return spaces


@pytest.fixture(scope="module")
def targets(agent, cluster, spaces, index_url, closed_port) -> dict[str, str]:
    """What can be asked -> its address and port."""
    pod = cluster.get("pod", "stranger", "-n", spaces["stranger"])["status"]["podIP"]
    return {
        "index": index_url.removeprefix("http://").strip("/"),
        "port": f"{HOST}:{closed_port}",
        "pod": f"{pod}:8080",
        "api": service(cluster, "kubernetes", "default"),
        "dns": f"{DNS}:53",
        "demo": service(cluster, f"{agent.job.name}-demo", agent.job.namespace),
    }


def service(cluster: Cluster, name: str, namespace: str) -> str:
    spec = cluster.get("service", name, "-n", namespace)["spec"]
    return f"{spec['clusterIP']}:{spec['ports'][0]['port']}"


def reached(cluster: Cluster, namespace: str, pod: str, targets: dict[str, str]) -> set[str]:
    """Which of the targets accept a connection of the pod's; a packet that a policy forbids is dropped in silence."""
    asks = (f"nc -w 3 {target.replace(':', ' ')} -e true && echo {name} &" for name, target in targets.items())
    return set(cluster.kubectl("exec", "-n", namespace, pod, "--", "sh", "-c", "\n".join([*asks, "wait"])).split())


@pytest.mark.parametrize("pod", REACHES)
def test_a_pod_reaches_what_the_charts_policies_name_and_nothing_else(cluster, spaces, targets, pod):
    wait_for(lambda: reached(cluster, spaces[pod], pod, targets) == REACHES[pod], f"{pod} reaches {REACHES[pod]} alone")


def test_the_whole_job_has_run_where_everything_is_denied_by_default(agent, cluster):
    denial = cluster.get("networkpolicy", "default-deny", "-n", agent.job.namespace)
    assert denial["spec"] == default_deny(agent.job.namespace)["spec"]
    assert denial["metadata"]["creationTimestamp"] < agent.job.status["stages"][0]["startedAt"]
    assert agent.job.status["stage"] == "Ready"


def test_a_stranger_opens_the_demos_page_only_while_a_policy_says_so(agent, cluster, spaces, targets):
    home, space, page = agent.job.namespace, spaces["stranger"], {"demo": targets["demo"]}
    guests = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ELSEWHERE}}}
    pods = {"matchLabels": {"finetune.dev/job": agent.job.name, "finetune.dev/stage": "demo"}}
    leave = {"podSelector": pods, "policyTypes": ["Ingress"], "ingress": [{"from": [guests]}]}
    assert not reached(cluster, space, "stranger", page)
    cluster.apply(network_policy("guests", home, leave))
    wait_for(lambda: reached(cluster, space, "stranger", page) == {"demo"}, "the page opens")
    cluster.kubectl("delete", "networkpolicy", "guests", "-n", home)
    wait_for(lambda: not reached(cluster, space, "stranger", page), "the page is shut again")
