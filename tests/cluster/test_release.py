"""The chart's own promises on a whole cluster: its test, and what outlives it."""

import pytest
from tests.chart.helm import NAMESPACE, RELEASE
from tests.cluster.agent import pods_of_stages
from tests.cluster.release import OPERATOR

pytestmark = pytest.mark.timeout(1800)  # the first test waits for the images and the whole job


def test_what_the_page_on_installing_says_next_ends_well(release, cluster):
    cluster.kubectl("--namespace", NAMESPACE, "rollout", "status", f"deployment/{RELEASE}", "--timeout=60s")
    release.helm("test", "--timeout", "3m")


def test_uninstalling_leaves_definition_jobs_models_and_the_page(agent, release, cluster):
    space, pods = agent.job.namespace, pods_of_stages(agent.job)
    release.helm("uninstall", "--wait")
    try:
        cluster.kubectl("wait", "--for=delete", "pods", "-n", NAMESPACE, "-l", OPERATOR, "--timeout=60s")
        cluster.kubectl("get", "crd", "finetunejobs.finetune.dev")
        assert agent.job.status["stage"] == "Ready"
        claim = cluster.get("pvc", f"{agent.job.name}-workspace", "-n", space)
        assert claim["status"]["phase"] == "Bound"
        cluster.wait("condition=Available", f"deployment/{agent.job.name}-demo", space)
    finally:
        release.install()
    agent.job.until(lambda status: status["stage"] == "Ready", "Ready")
    assert pods_of_stages(agent.job) == pods, "an operator that is installed again starts nothing anew"
