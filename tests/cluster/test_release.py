"""The chart's own promises on a whole cluster: its test, and what outlives it."""

import pytest
from tests.chart.helm import NAMESPACE, RELEASE
from tests.cluster.agent import pods_of_stages
from tests.cluster.kube import Job
from tests.cluster.release import OPERATOR

pytestmark = pytest.mark.timeout(1800)  # the first test waits for the images and the whole job


def test_what_the_page_on_installing_says_next_ends_well(release, cluster):
    cluster.kubectl("--namespace", NAMESPACE, "rollout", "status", f"deployment/{RELEASE}", "--timeout=60s")
    release.helm("test", "--timeout", "3m")


def test_uninstalling_leaves_definition_jobs_models_and_the_page(agent, release, cluster):
    job, pods = agent.job, pods_of_stages(agent.job)
    weights = models(job)
    release.helm("uninstall", "--wait")
    try:
        cluster.kubectl("wait", "--for=delete", "pods", "-n", NAMESPACE, "-l", OPERATOR, "--timeout=60s")
        cluster.kubectl("get", "crd", "finetunejobs.finetune.dev")
        assert job.status["stage"] == "Ready"
        claim = cluster.get("pvc", f"{job.name}-workspace", "-n", job.namespace)
        assert claim["status"]["phase"] == "Bound"
        assert models(job) == weights
        cluster.wait("condition=Available", f"deployment/{job.name}-demo", job.namespace)
    finally:
        release.install()
    # How many checkpoints are kept is in no digest: an edit that makes the new operator look, and nothing run.
    job.edit(training={"checkpoint": {"keep": 3}})
    edited = cluster.get("ftj", job.name, "-n", job.namespace)["metadata"]["generation"]
    job.until(lambda status: status["observedGeneration"] == edited, "the new operator's look at the edit")
    assert job.status["stage"] == "Ready"
    assert pods_of_stages(job) == pods, "an operator that is installed again starts nothing anew"


def models(job: Job) -> dict[str, int]:
    """Each file of the tuned model's weights on the node's volume, and its inode; none where the node is not ours."""
    merged = job.folder("merge")
    if merged is None:
        return {}
    found = {path.name: path.stat().st_ino for path in (merged / "merged").glob("*.safetensors")}
    assert found, merged
    return found
