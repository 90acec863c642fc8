"""The test cluster does what the tests that stand on it take for granted."""

import json
import os
import signal
from http.client import HTTPConnection
from typing import Any

import pytest
from tests.cluster.specs import BUSYBOX, fit
from tests.kubernetes.node import ADDRESS, kubelets, wait_for

pytestmark = pytest.mark.usefixtures("node")  # what another cluster does is its owner's affair
SPACE = "restricted"
PAGE = "served from a volume"


def pod(script: str, **more: Any) -> dict[str, Any]:
    """A pod that keeps its data on the claim."""
    container = {
        "name": "main",
        "image": BUSYBOX,
        "command": ["sh", "-ec", script],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    return fit(container | more, volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}])


def named(kind: str, name: str, spec: Any, version: str = "v1") -> dict[str, Any]:
    meta = {"name": name, "namespace": SPACE, "labels": {"app": name}}
    return {"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec}


@pytest.fixture(scope="module")
def web(cluster):
    """A page on a claim, behind a Service and an Ingress."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    rule = {"host": "web.test", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    probe = {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1}
    serve = f"echo {PAGE} > /data/index.html; exec httpd -f -p 8080 -h /data"
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE, "labels": labels}},
        named("PersistentVolumeClaim", "data", claim),
        named("Pod", "web", pod(serve, readinessProbe=probe)),
        named("Service", "web", {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}),
        named("Ingress", "web", {"rules": [rule]}, "networking.k8s.io/v1"),
    )
    cluster.wait("condition=Ready", "pod/web", SPACE)


def get(address: str, host: str = "") -> tuple[int, str]:
    """Status and body; a machine's proxy settings don't count."""
    connection = HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", "/", headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def serves_page(address: str, host: str = "") -> bool:
    """A Service that kube-proxy doesn't know yet swallows whole connections."""
    try:
        return get(address, host) == (200, f"{PAGE}\n")
    except (ConnectionError, TimeoutError):
        return False


def test_the_node_is_ready_and_of_the_version_that_is_tested(cluster):
    node = json.loads(cluster.kubectl("get", "node", "-o", "json"))["items"][0]
    assert node["status"]["nodeInfo"]["kubeletVersion"] == "v1.34.4"
    assert next(c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready") == "True"


@pytest.mark.usefixtures("web")
def test_a_service_answers_this_machine_and_keeps_its_page_on_a_volume(cluster):
    address = cluster.kubectl("get", "service", "web", "-n", SPACE, "-o", "jsonpath={.spec.clusterIP}")
    wait_for(lambda: serves_page(address), "the Service serves the page")
    claim = json.loads(cluster.kubectl("get", "pvc", "data", "-n", SPACE, "-o", "json"))
    assert claim["status"]["phase"] == "Bound"


@pytest.mark.usefixtures("web")
def test_the_ingress_controller_serves_a_host_and_refuses_others():
    wait_for(lambda: serves_page(ADDRESS, "web.test"), "the Ingress serves the page")
    assert get(ADDRESS, "other.test")[0] == 404


@pytest.mark.usefixtures("web")
def test_a_job_finds_a_service_by_its_name_and_ends(cluster):
    script = 'test "$(wget -qO- http://web.restricted.svc.cluster.local)" = "served from a volume"'
    cluster.apply(named("Job", "asks", {"backoffLimit": 0, "template": {"spec": pod(script)}}, "batch/v1"))
    cluster.wait("condition=Complete", "job/asks", SPACE)


@pytest.mark.usefixtures("web")
def test_a_pod_that_asks_for_more_than_restricted_allows_is_refused(cluster):
    loose = pod("true") | {"securityContext": {}}
    answer = cluster.kubectl("apply", "-f", "-", stdin=json.dumps(named("Pod", "loose", loose)), ok=False)
    assert 'violates PodSecurity "restricted:latest"' in answer


def container(cluster) -> str:
    """Id of the web pod's container; another one if it was started again."""
    path = "jsonpath={.status.containerStatuses[0].containerID}"
    return cluster.kubectl("get", "pod", "web", "-n", SPACE, "-o", path)


@pytest.mark.usefixtures("web")
def test_kubelet_is_started_again_and_its_pods_go_on(cluster):
    before = container(cluster)
    (old,) = kubelets(cluster.folder)
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: bool(kubelets(cluster.folder) - {old}), "kubelet is started again")
    cluster.apply(
        named("Job", "later", {"backoffLimit": 0, "template": {"spec": pod("cat /data/index.html")}}, "batch/v1")
    )
    cluster.wait("condition=Complete", "job/later", SPACE)
    assert container(cluster) == before
