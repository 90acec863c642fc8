"""helm install, kubectl apply, and a visitor at the Ingress: the tutorial's way in pods, on images built here."""

from pathlib import Path

import pytest
from tests import browser
from tests.cluster.agent import GATE, HOST, QUESTIONS, TITLE, pods_of_stages
from tests.cluster.kube import stage
from tests.kubernetes.node import ADDRESS

pytestmark = pytest.mark.timeout(1800)  # the first test waits for the images and the whole job
WORK = ("model", "dataset", "train", "export", "merge", "evaluate")
ASKED = QUESTIONS[1]["question"]


def test_each_stage_ends_well_in_one_pod_that_restricted_admits(agent, cluster):
    assert {row["name"]: row["state"] for row in agent.job.status["stages"]} == dict.fromkeys(
        (*WORK, "demo"), "Succeeded"
    )
    assert {name: count for name, count in pods_of_stages(agent.job).items() if name in WORK} == dict.fromkeys(WORK, 1)
    labels = cluster.get("namespace", agent.job.namespace)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_operator_is_killed_in_every_stage_and_the_job_does_not_notice(agent):
    assert agent.killed_in == [*WORK, "demo"]
    assert {row["name"]: row["attempts"] for row in agent.job.status["stages"] if row["name"] in WORK} == dict.fromkeys(
        WORK, 1
    )


def test_kubectl_get_shows_progress_loss_and_time_left_that_move(agent):
    head, *lines = agent.table.splitlines()
    assert head.split()[:5] == ["NAME", "STAGE", "PROGRESS", "LOSS", "ETA"]
    training = [line.split() for line in lines if line.split()[1:2] == ["train"]]
    told = [row for row in training if len(row) > 5]
    for column in (2, 3, 4):
        assert len({row[column] for row in told}) > 3, agent.table


def test_the_tuned_model_calls_tools_that_the_base_model_does_not(agent):
    result = stage(agent.job.status, "evaluate")["result"]
    assert result["prompts"] == len(QUESTIONS)
    assert result["base"]["validCalls"] < float(GATE) <= result["tuned"]["validCalls"]


@pytest.fixture
def ingress_address(agent, cluster) -> str:
    """Where the cluster's Ingress controller answers."""
    if cluster.folder is not None:
        return ADDRESS
    ingress = cluster.get("ingress", f"{agent.job.name}-demo", "-n", agent.job.namespace)
    for entry in ingress["status"].get("loadBalancer", {}).get("ingress", ()):
        return str(entry.get("ip") or entry["hostname"])
    return pytest.skip("no Ingress controller has given the demo's Ingress an address")


def test_a_visitor_at_the_ingress_sees_both_answers(agent, ingress_address):
    assert agent.job.status["demo"]["url"] == f"http://{HOST}"
    with browser.browser({HOST: ingress_address}) as page:
        picture = Path("test-output/cluster-demo.png")
        browser.both_answers(page, f"http://{HOST}", TITLE, question=ASKED, topic="mean field", picture=picture)
