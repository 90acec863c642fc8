"""helm install, kubectl apply, and a visitor at the Ingress: the tutorial's way in pods, on images built here."""

import re
from pathlib import Path
from statistics import mean

import pytest
from tests import browser
from tests.cluster.agent import GATE, HOST, QUESTIONS, TITLE, pods_of_stages
from tests.cluster.kube import stage
from tests.kubernetes.node import ADDRESS

pytestmark = pytest.mark.timeout(1800)  # the first test waits for the images and the whole job
WORK = ("model", "dataset", "train", "export", "merge", "evaluate")
ASKED = QUESTIONS[1]["question"]
FORTH = {"Pending": 0, "Running": 1, "Succeeded": 2}
"""The states of a stage that nothing happens to, in their order."""
SECONDS = {"h": 3600, "m": 60, "s": 1}


def test_each_stage_ends_well_in_one_pod_that_restricted_admits(agent, cluster):
    assert {row["name"]: row["state"] for row in agent.job.status["stages"]} == dict.fromkeys(
        (*WORK, "demo"), "Succeeded"
    )
    assert {name: count for name, count in pods_of_stages(agent.job).items() if name in WORK} == dict.fromkeys(WORK, 1)
    labels = cluster.get("namespace", agent.job.namespace)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_operator_is_killed_in_every_stage_and_the_job_does_not_notice(agent):
    assert list(agent.killed) == [*WORK, "demo"]
    assert len(set(agent.killed.values())) == len(agent.killed), "each time it was another pod"
    assert {row["name"]: row["attempts"] for row in agent.job.status["stages"] if row["name"] in WORK} == dict.fromkeys(
        WORK, 1
    )
    for name in agent.killed:
        states = [row["state"] for status in agent.history for row in status.get("stages", ()) if row["name"] == name]
        assert states == sorted(states, key=FORTH.__getitem__), name
        assert "Running" in states
    told = {row["type"] for status in agent.history for row in status.get("conditions", ()) if row["status"] == "True"}
    assert not told & {"Failed", "Unforeseen"}


def test_kubectl_get_shows_progress_loss_and_time_left_that_move(agent):
    head, *lines = agent.table.splitlines()
    assert head.split()[:5] == ["NAME", "STAGE", "PROGRESS", "LOSS", "ETA"]
    training = [line.split() for line in lines if line.split()[1:2] == ["train"]]
    told = [row for row in training if len(row) > 5]
    progress, loss, left = zip(*(row[2:5] for row in told), strict=True)
    for column in (progress, loss, left):
        assert len(set(column)) > 3, agent.table
    done = [int(text.removesuffix("%")) for text in progress]
    assert done == sorted(done)
    quarter = len(loss) // 4
    assert mean(map(float, loss[-quarter:])) < mean(map(float, loss[:quarter]))
    assert seconds(left[-1]) < seconds(left[0])


def seconds(duration: str) -> int:
    """Of 1h20m, 4m10s or 12s."""
    return sum(int(count) * SECONDS[unit] for count, unit in re.findall(r"(\d+)([hms])", duration))


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
