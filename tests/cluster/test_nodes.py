"""Several pods as one training, and GPUs that a node advertises."""

from dataclasses import dataclass

import pytest
from tests.brief import LENGTH
from tests.cluster.kube import Job, Object, stage
from tests.cluster.specs import CLAIM, FEW, RESOURCES, example
from tests.kubernetes.node import wait_for
from tests.lives import curve_in

from finetune_operator.manifests.job import MASTER_PORT

pytestmark = pytest.mark.timeout(1800)  # the first test waits for the agent's whole job
FAKE_GPUS = 4
"""nvidia.com/gpu that the node's status claims; there is no device behind it."""
CLOSE = 1e-4
"""Bit for bit the same where it was looked at; other numbers of threads may add up in another order."""


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


@dataclass(frozen=True)
class Trained:
    result: Object
    curve: dict[int, float]
    """Step -> loss; empty on another cluster than the tests' own."""
    log: str
    """XTuner's own; empty there too."""


def ended(job: Job) -> Trained:
    """Wait for the training's end, note it and delete the job."""
    result, folder = job.until_stage("train", "Succeeded")["result"], job.folder("train")
    made = Trained(result, {}, "")
    if folder is not None:
        made = Trained(result, curve_in(folder), "".join(path.read_text() for path in folder.glob("xtuner/*/*.log")))
    job.delete()
    return made


@pytest.fixture
def one_node(cluster) -> None:
    """Where the workspace's claim (ReadWriteOnce) serves both pods."""
    if len(cluster.get("nodes")["items"]) > 1:
        pytest.skip("two pods on two nodes need a claim that is ReadWriteMany")


@pytest.mark.usefixtures("one_node")
def test_two_pods_train_to_the_loss_of_one_with_the_same_global_batch(agent):
    cluster, namespace = agent.job.cluster, agent.job.namespace
    one = Job(cluster, namespace, "alone").submit(training(agent, accumulation=2))
    two = Job(cluster, namespace, "together").submit(training(agent, nodes=2))
    two.until(lambda seen: stage(seen, "train").get("state") == "Running", "the training")
    wait_for(lambda: sorted(map(index_of, at_work(two))) == ["0", "1"], "both pods at work, and no other")
    meeting = cluster.get("services", "-n", namespace, "-l", f"finetune.dev/job={two.name}")["items"]
    assert [(service["spec"]["clusterIP"], service["spec"]["ports"][0]["port"]) for service in meeting] == [
        ("None", MASTER_PORT)
    ]
    alone, together = ended(one), ended(two)
    assert together.result["worldSize"] == 2
    assert together.result["steps"] == alone.result["steps"] == FEW // 2
    assert together.result["finalLoss"] == pytest.approx(alone.result["finalLoss"], rel=CLOSE)
    assert together.curve == pytest.approx(alone.curve, rel=CLOSE)
    if cluster.folder is not None:
        assert "'backend': 'gloo'" in together.log


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
