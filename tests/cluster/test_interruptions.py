"""A training in a pod goes on, to the same loss, whatever happens to its pod, its node and its operator."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from tests.brief import LENGTH
from tests.cluster.kube import Job, Object
from tests.cluster.specs import CLAIM, example
from tests.kubernetes.node import kubelets, wait_for
from tests.lives import Life, curve_in, done_twice, lives_of

pytestmark = pytest.mark.timeout(1800)  # the first test waits for the agent's whole job
EVERY = 5
"""Steps between two checkpoints."""
PROGRAM = ["-m", "finetune_jobs", "train"]
ATTEMPTS = {"before": 3, "next": 4}
"""How often a stage is tried, by the release's values. The Job of a stage that runs takes it on, which shows that an
operator has read its new values; the image, which they name too, is that of stages to come."""
NEXT = ("--set", "jobs.trainerImage.tag=next", "--set", f"jobs.attempts={ATTEMPTS['next']}")


def training(workspace: str, no_dropout: str) -> Object:
    """As many steps as the operator's upgrade and rollback leave time for, short ones, on a model that the workspace
    holds; in float32, for losses that are compared. Nothing that was made with another way to write 0 is taken."""
    spec = example(
        dataset__volume={"claimName": CLAIM, "path": "many"},
        training__maxLength=LENGTH,
        training__lora={"rank": 8, "alpha": 16, "dropout": no_dropout},
        training__checkpoint={"everySteps": EVERY, "keep": 2},
        evaluation={"enabled": False},
        demo={"enabled": False},
        storage={"claimName": workspace},
    )
    spec["stages"]["train"]["env"] = [{"name": "FINETUNE_CPU_DTYPE", "value": "float32"}]
    return spec


def step_of(status: Object) -> int:
    return int((status.get("training") or {}).get("step", 0))


@dataclass
class Trained:
    """A training that has ended, and what was seen of it."""

    stage: Object = field(default_factory=dict)
    """Its row in status."""
    curve: dict[int, float] = field(default_factory=dict)
    """Step -> loss, as it wrote it beside its checkpoints; empty on another cluster than the tests' own."""
    lives: list[Life] = field(default_factory=list)
    rolled_back: int = 0
    """The step that was told of when the operator was the old one again."""
    pods: dict[str, set[str]] = field(default_factory=dict)
    """When -> ids of the training's containers."""

    @property
    def result(self) -> Object:
        told: Object = self.stage["result"]
        return told


def containers(job: Job) -> set[str]:
    """Ids of those that have been started."""
    listed = [row for pod in job.pods("train") for row in pod["status"].get("containerStatuses", ())]
    return {row["containerID"] for row in listed if row.get("containerID")}


def trains(process: psutil.Process, ids: set[str]) -> bool:
    """Whether it is the first process of one of these containers."""
    try:
        if process.cmdline()[1:4] != PROGRAM:
            return False
        group = Path(f"/proc/{process.pid}/cgroup").read_text()
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False
    return any(name.rpartition("/")[2] in group for name in ids)


def kill_training(job: Job) -> None:
    """SIGKILL for the first process of the training's container."""
    ids = containers(job)
    (process,) = [found for found in psutil.process_iter() if trains(found, ids)]
    process.send_signal(signal.SIGKILL)


def kill_kubelet(node: Path) -> None:
    (old,) = kubelets(node)
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: bool(kubelets(node) - {old}), "kubelet is started again")


def until_tried(job: Job, attempts: int) -> None:
    """Until an operator with these values has looked at the training."""
    of_training = ["jobs", "-n", job.namespace, "-l", f"finetune.dev/job={job.name},finetune.dev/stage=train"]

    def limits() -> list[int]:
        return [made["spec"]["backoffLimit"] for made in job.cluster.get(*of_training)["items"]]

    wait_for(lambda: limits() == [attempts - 1], f"the training is tried {attempts} times")


@pytest.fixture(scope="module")
def trained(agent, release, cluster) -> tuple[Trained, Trained]:
    """The same training twice, side by side.

    The first's operator is upgraded and rolled back, and nothing else happens to it. The second's process is killed, it
    is suspended and goes on, kubelet is killed; on another cluster than the tests' own it is suspended alone.
    """
    unbroken, battered = (Job(cluster, agent.job.namespace, name) for name in ("unbroken", "battered"))
    workspace, first, second = f"{agent.job.name}-workspace", Trained(), Trained()
    unbroken.submit(training(workspace, no_dropout="0"))
    battered.submit(training(workspace, no_dropout="0.0"))
    unbroken.until_step(1)
    first.pods["first"] = containers(unbroken)
    if cluster.folder is not None:
        happens(battered, "kill", EVERY + 1, lambda: kill_training(battered))
    until_tried(unbroken, ATTEMPTS["before"])
    release.install(*NEXT)
    until_tried(unbroken, ATTEMPTS["next"])
    release.helm("rollback", "--wait")
    until_tried(unbroken, ATTEMPTS["before"])
    first.rolled_back = step_of(unbroken.status)
    happens(battered, "suspend", 2 * EVERY + 1, lambda: suspend_and_resume(battered))
    second.pods["before kubelet"] = containers(battered)
    if cluster.folder is not None:
        kill_kubelet(cluster.folder)
    ended(unbroken, first)
    ended(battered, second)
    return first, second


@pytest.fixture(scope="module")
def unbroken(trained) -> Trained:
    return trained[0]


@pytest.fixture(scope="module")
def battered(trained) -> Trained:
    return trained[1]


def happens(job: Job, what: str, step: int, action: Callable[[], None]) -> None:
    """Do it at a step, and wait for the pod that goes on."""
    job.until_step(step)
    known = containers(job)
    action()
    wait_for(lambda: bool(containers(job) - known), f"the next pod after {what}")


def ended(job: Job, made: Trained) -> None:
    """Wait for the end, and note it."""
    made.stage = job.until_stage("train", "Succeeded")
    made.pods["last"] = containers(job)
    if folder := job.folder("train"):
        made.curve = curve_in(folder)
        made.lives = lives_of(folder)
    job.delete()


def suspend_and_resume(job: Job) -> None:
    job.edit(suspend=True)
    job.until_stage("train", "Suspended")
    wait_for(lambda: not any(pod["status"]["phase"] == "Running" for pod in job.pods("train")), "the pod is gone")
    job.edit(suspend=False)


def test_an_upgrade_and_a_rollback_of_the_operator_leave_a_training_alone(unbroken):
    assert unbroken.rolled_back < unbroken.result["steps"], "it was over before the rollback"
    assert unbroken.pods["first"] == unbroken.pods["last"]
    assert unbroken.stage["attempts"] == 1


@pytest.mark.usefixtures("node")
def test_a_training_that_is_killed_goes_on_from_its_last_checkpoint(battered):
    killed, _ = done_twice(battered.lives)
    assert 0 <= killed <= EVERY


@pytest.mark.usefixtures("node")
def test_a_suspended_training_saves_first_and_loses_no_step(battered):
    _, suspended = done_twice(battered.lives)
    assert suspended == 0


@pytest.mark.usefixtures("node")
def test_a_kubelet_that_is_killed_leaves_its_pods_alone(battered):
    assert battered.pods["before kubelet"] == battered.pods["last"]


def test_the_loss_is_the_unbroken_trainings(battered, unbroken, cluster):
    ours, theirs = battered.result, unbroken.result
    assert ours["resumed"] == (1 if cluster.folder is None else 2)  # after the suspend, and after the kill
    assert ours["steps"] == theirs["steps"]
    # Sums of threads may come in another order.
    assert ours["finalLoss"] == pytest.approx(theirs["finalLoss"], rel=1e-4)
    assert battered.curve == pytest.approx(unbroken.curve, rel=1e-3)
