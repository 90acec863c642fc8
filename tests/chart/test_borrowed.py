"""The tests on a cluster with somebody else's: one that is in use is refused, any other given back as it was."""

import pytest
from tests.chart.helm import CHART, NAMESPACE
from tests.cluster.conftest import borrowed
from tests.cluster.kube import Cluster
from tests.cluster.release import Release
from tests.kubernetes.control_plane import CONTEXT, ControlPlane

KINDS = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,persistentvolumes"


@pytest.fixture
def somebodys(tmp_path):
    with ControlPlane(tmp_path) as plane:
        yield Cluster(plane.kubeconfig, CONTEXT)


def held(cluster: Cluster) -> set[str]:
    return set(cluster.kubectl("get", KINDS, "--output=name").split())


def test_a_borrowed_cluster_is_given_back_as_it_was(somebodys):
    before = held(somebodys)
    with borrowed(somebodys) as cluster:
        cluster.namespace("agents")
        Release(cluster, ()).helm("install", str(CHART), "--create-namespace")
        assert len(held(cluster) - before) > 3
    assert held(somebodys) == before


def test_a_cluster_that_has_an_operator_is_not_borrowed(somebodys):
    somebodys.namespace(NAMESPACE)
    with pytest.raises(pytest.exit.Exception, match=f"has namespace/{NAMESPACE} already"), borrowed(somebodys):
        pass
    assert f"namespace/{NAMESPACE}" in held(somebodys)


def test_a_namespace_that_is_there_is_not_taken(somebodys):
    somebodys.kubectl("create", "namespace", "agents")
    with pytest.raises(AssertionError, match="AlreadyExists"):
        somebodys.namespace("agents")
    assert somebodys.made == []
