"""Several pods as one training, and GPUs that a node advertises."""

import pytest
from tests.brief import LENGTH
from tests.cluster.kube import Job, Object, stage
from tests.cluster.specs import CLAIM, RESOURCES, example
from tests.kubernetes.node import wait_for

pytestmark = pytest.mark.timeout(1800)  # the first test waits for the agent's whole job
FAKE_GPUS = 4
"""nvidia.com/gpu that the node's status claims; there is no device behind it."""


def training(agent, **shape: int) -> Object:
    """Six steps of two rows, however they are shared out; in float32, for losses that are compared."""
    spec = example(
        dataset__volume={"claimName": CLAIM, "path": "few"},
        training__maxLength=LENGTH,
        training__nodes=shape.get("nodes", 1),
        training__gradientAccumulation=shape.get("accumulation", 1),
        evaluation={"enabled": False},
        demo={"enabled": False},
        storage={"claimName": f"{agent.job.name}-workspace"},
    )
    spec["stages"]["train"]["env"] = [{"name": "FINETUNE_CPU_DTYPE", "value": "float32"}]
    return spec


def at_work(job: Job) -> list[Object]:
    """The training's pods of the moment: none that has ended or is being replaced."""
    pods = (pod for pod in job.pods("train") if "deletionTimestamp" not in pod["metadata"])
    return [pod for pod in pods if pod["status"]["phase"] in {"Pending", "Running"}]


def index_of(pod: Object) -> str:
    return str(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"])


@pytest.fixture(scope="module")
def alone(agent) -> Object:
    """One pod that adds up two rows a step."""
    job = Job(agent.job.cluster, agent.job.namespace, "alone").submit(training(agent, accumulation=2))
    result: Object = job.until_stage("train")["result"]
    job.delete()
    return result


@pytest.fixture
def one_node(cluster) -> None:
    """Where the workspace's claim (ReadWriteOnce) serves both pods."""
    if len(cluster.get("nodes")["items"]) > 1:
        pytest.skip("two pods on two nodes need a claim that is ReadWriteMany")


@pytest.mark.usefixtures("one_node")
def test_two_pods_train_to_the_loss_of_one_with_the_same_global_batch(agent, alone):
    job = Job(agent.job.cluster, agent.job.namespace, "together").submit(training(agent, nodes=2))
    job.until(lambda seen: stage(seen, "train").get("state") == "Running", "the training")
    wait_for(lambda: sorted(map(index_of, at_work(job))) == ["0", "1"], "both pods at work, and no other")
    result = job.until_stage("train")["result"]
    job.delete()
    assert result["worldSize"] == 2
    assert result["steps"] == alone["steps"]
    assert result["finalLoss"] == pytest.approx(alone["finalLoss"], rel=1e-2)


@pytest.fixture
def fake_gpus(cluster, node):
    """The node's status tells of GPUs, as a device plugin would make it."""

    def advertise(what: str) -> None:
        patch = f'[{{"op": "{what}", "path": "/status/capacity/nvidia.com~1gpu"'
        patch += f', "value": "{FAKE_GPUS}"}}]' if what == "add" else "}]"
        cluster.kubectl("patch", "node", "node", "--subresource=status", "--type=json", "-p", patch)

    advertise("add")
    yield
    advertise("remove")


def on_gpus(agent, count: int) -> Object:
    spec = training(agent) | {"training": {"recipe": "qlora", "gpus": count, "maxLength": LENGTH}}
    spec["stages"]["train"] = {"resources": RESOURCES}
    return spec


@pytest.mark.usefixtures("fake_gpus")
def test_a_pod_asks_for_the_gpus_that_the_spec_says(agent, cluster):
    job = Job(cluster, agent.job.namespace, "gpus").submit(on_gpus(agent, 2))
    job.until(lambda seen: seen.get("gpus") == 2, "two GPUs")
    wait_for(lambda: bool(at_work(job)), "the training's pod")
    (pod,) = at_work(job)
    cluster.wait("condition=PodScheduled", f"pod/{pod['metadata']['name']}", agent.job.namespace)
    job.delete()
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"


@pytest.mark.usefixtures("fake_gpus")
def test_more_gpus_than_there_are_is_told_with_the_cure(agent, cluster):
    job = Job(cluster, agent.job.namespace, "too-many").submit(on_gpus(agent, 2 * FAKE_GPUS))
    status = job.until(lambda seen: stage(seen, "train").get("reason") == "GpuUnschedulable", "GpuUnschedulable")
    job.delete()
    assert "write fewer training.gpus" in stage(status, "train")["message"]
