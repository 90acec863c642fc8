"""Who may talk to whom: the table that the chart's NetworkPolicies are held to."""

import pytest
from tests.chart.helm import of_kind, only, rendered, said
from tests.chart.job_pods import job_pods
from tests.chart.network import Peer, may_talk

TEAM, OTHER_TEAM = "team-a", "team-b"
ON = said('networkPolicy.jobNamespaces=["team-a","team-b"]')
STAGES = ("model", "dataset", "train", "export", "merge", "evaluate", "demo")
INTERNET, METADATA, API_SERVER = Peer("203.0.113.5"), Peer("169.254.169.254"), Peer("192.0.2.10")
DNS = Peer("10.1.0.53", "kube-system", {"k8s-app": "kube-dns"})
STRANGER = Peer("10.1.0.9", TEAM, {"app": "notebook"})
PROMETHEUS = Peer("10.1.0.8", "monitoring", {"app.kubernetes.io/name": "prometheus"})
DENIAL = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
INGRESS = Peer("10.1.0.7", "ingress", {"app.kubernetes.io/name": "traefik"})


def stage(name: str, namespace: str = TEAM) -> Peer:
    labels = job_pods(namespace)[name]["spec"]["template"]["metadata"]["labels"]
    return Peer(f"10.1.1.{STAGES.index(name)}", namespace, labels)


@pytest.fixture(scope="module")
def made():
    return rendered(*ON, *said('networkPolicy.metrics.from=[{"namespaceSelector":{}}]'))


@pytest.fixture(scope="module")
def policies(made):
    return of_kind(made, "NetworkPolicy")


@pytest.fixture(scope="module")
def operator(made):
    return Peer("10.1.0.2", "finetune-system", only(made, "Deployment")["spec"]["template"]["metadata"]["labels"])


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_reaches_what_it_needs_and_nothing_else(policies, name):
    sender = stage(name)
    fetches, asks, rendezvous = name in {"model", "dataset", "export"}, name == "demo", name == "train"
    assert may_talk(policies, sender, DNS, 53, "UDP") is (fetches or asks or rendezvous)
    assert may_talk(policies, sender, INTERNET, 443) is (fetches or asks or rendezvous)
    assert may_talk(policies, sender, API_SERVER, 6443) is rendezvous
    assert may_talk(policies, sender, stage("train"), 29500) is rendezvous
    assert not may_talk(policies, sender, INTERNET, 80)
    assert not may_talk(policies, sender, STRANGER, 8080)


def test_a_training_reaches_the_api_server_alone_where_its_address_is_known():
    known = said('networkPolicy.apiServer.to=[{"ipBlock":{"cidr":"192.0.2.10/32"}}]')
    policies = of_kind(rendered(*ON, *known), "NetworkPolicy")
    assert may_talk(policies, stage("train"), API_SERVER, 443)
    assert not may_talk(policies, stage("train"), INTERNET, 443)
    assert may_talk(policies, stage("model"), INTERNET, 443)


@pytest.mark.parametrize("name", ["model", "dataset", "export", "merge", "evaluate", "demo"])
def test_no_job_reaches_a_clouds_credentials(policies, name):
    for port in (80, 443):
        assert not may_talk(policies, stage(name), METADATA, port)


@pytest.mark.parametrize("name", STAGES)
def test_nobody_reaches_a_stage_but_the_demos_page_and_the_trainings_own_pods(policies, name):
    receiver = stage(name)
    assert may_talk(policies, INGRESS, receiver, 8501) is (name == "demo")
    assert may_talk(policies, INTERNET, receiver, 8501) is (name == "demo")
    assert not may_talk(policies, STRANGER, receiver, 8502)
    assert may_talk(policies, stage("train"), receiver, 41234) is (name == "train")
    assert not may_talk(policies, stage("train", OTHER_TEAM), receiver, 41234)


def test_the_operator_reaches_the_api_server_and_is_reached_for_metrics(policies, operator):
    assert may_talk(policies, operator, API_SERVER, 6443)
    assert may_talk(policies, operator, DNS, 53, "UDP")
    assert not may_talk(policies, operator, INTERNET, 80)
    assert not may_talk(policies, operator, STRANGER, 8080)
    assert may_talk(policies, PROMETHEUS, operator, 8080)
    assert not may_talk(policies, PROMETHEUS, operator, 22)
    assert not may_talk(policies, INTERNET, operator, 8080)


def test_without_a_word_nobody_reads_the_metrics(operator):
    assert not may_talk(of_kind(rendered(), "NetworkPolicy"), PROMETHEUS, operator, 8080)


def test_the_page_can_be_kept_to_the_ingress_controller():
    from_ingress = '[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"ingress"}}}]'
    policies = of_kind(rendered(*ON, *said(f"networkPolicy.demo.from={from_ingress}")), "NetworkPolicy")
    assert may_talk(policies, INGRESS, stage("demo"), 8501)
    assert not may_talk(policies, STRANGER, stage("demo"), 8501)


def test_pods_need_no_address_to_be_known(policies):
    """Some network plugins match pods by their labels alone, whatever an ipBlock says."""
    ingress, dns = Peer("", INGRESS.namespace, INGRESS.labels), Peer("", DNS.namespace, DNS.labels)
    assert may_talk(policies, ingress, stage("demo"), 8501)
    assert may_talk(policies, stage("model"), dns, 53, "UDP")


@pytest.mark.parametrize("name", STAGES)
def test_where_a_namespace_denies_by_default_a_stage_keeps_what_the_chart_opens(policies, name):
    denied = [*policies, {"metadata": {"namespace": TEAM}, "spec": DENIAL}]
    for receiver, port in ((DNS, 53), (INTERNET, 443), (API_SERVER, 6443), (stage("train"), 29500)):
        assert may_talk(denied, stage(name), receiver, port) is may_talk(policies, stage(name), receiver, port)
    assert may_talk(denied, INGRESS, stage(name), 8501) is (name == "demo")
    assert not may_talk(denied, STRANGER, INTERNET, 443)


def test_other_peoples_pods_are_left_alone(policies):
    assert may_talk(policies, STRANGER, INTERNET, 80)
    assert may_talk(policies, INTERNET, STRANGER, 80)


def test_named_namespaces_are_fenced_in_without_being_named_twice():
    policies = of_kind(rendered(*said('namespaces=["team-a"]')), "NetworkPolicy")
    assert not may_talk(policies, stage("merge"), INTERNET, 443)


def test_switched_off_there_is_none():
    assert not of_kind(rendered(*said("networkPolicy.enabled=false", 'namespaces=["team-a"]')), "NetworkPolicy")
