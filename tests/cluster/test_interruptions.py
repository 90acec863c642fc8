"""A training in a pod goes on, to the same loss, whatever happens to its pod, its node and its operator."""

import json
import os
import shutil
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
from tests.lives import Life, done_twice, lives_of

pytestmark = pytest.mark.timeout(1800)  # the first test waits for the agent's whole job
EVERY = 5
"""Steps between two checkpoints."""
PROGRAM = ["-m", "finetune_jobs", "train"]


def training(workspace: str) -> Object:
    """As many steps as the operator's upgrade and rollback leave time for, short ones, on a model that the workspace
    holds; in float32, for losses that are compared."""
    spec = example(
        dataset__volume={"claimName": CLAIM, "path": "many"},
        training__maxLength=LENGTH,
        training__lora={"rank": 8, "alpha": 16, "dropout": "0"},
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
    result: Object = field(default_factory=dict)
    """What it wrote beside its checkpoints."""
    lives: list[Life] = field(default_factory=list)
    rolled_back: int = 0
    """The step that was told of when the operator was the old one again."""
    pods: dict[str, set[str]] = field(default_factory=dict)
    """When -> ids of the training's containers."""


def containers(job: Job) -> set[str]:
    """Ids of those that have been started."""
    listed = [row for pod in job.pods("train") for row in pod["status"].get("containerStatuses", ())]
    return {row["containerID"] for row in listed if row.get("containerID")}


def trains(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[1:4] == PROGRAM and "kubepods" in Path(f"/proc/{process.pid}/cgroup").read_text()
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False


def kill_training() -> None:
    """SIGKILL for the first process of the training's container."""
    (process,) = [found for found in psutil.process_iter() if trains(found)]
    process.send_signal(signal.SIGKILL)


def kill_kubelet(node: Path) -> None:
    (old,) = kubelets(node)
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: bool(kubelets(node) - {old}), "kubelet is started again")


@pytest.fixture(scope="module")
def unbroken(agent, node, release) -> Trained:
    """A training whose operator is upgraded and rolled back meanwhile, and nothing else happens."""
    job = Job(agent.job.cluster, agent.job.namespace, "unbroken")
    job.submit(training(f"{agent.job.name}-workspace"))
    made = Trained()
    job.until_step(1)
    made.pods["first"] = containers(job)
    release.install("--set", "operator.logLevel=DEBUG")
    release.helm("rollback", "--wait")
    made.rolled_back = step_of(job.status)
    ended(job, node, made)
    return made


@pytest.fixture(scope="module")
def battered(agent, node, unbroken) -> Trained:
    """The same training: its process is killed, it is suspended and goes on, kubelet is killed."""
    job = Job(agent.job.cluster, agent.job.namespace, "battered")
    job.submit(training(f"{agent.job.name}-workspace"))
    made = Trained()
    happens(job, "kill", EVERY + 1, kill_training)
    happens(job, "suspend", 2 * EVERY + 1, lambda: suspend_and_resume(job))
    made.pods["before kubelet"] = containers(job)
    kill_kubelet(node)
    ended(job, node, made)
    return made


def happens(job: Job, what: str, step: int, action: Callable[[], None]) -> None:
    """Do it at a step, and wait for the pod that goes on."""
    job.until_step(step)
    known = containers(job)
    action()
    wait_for(lambda: bool(containers(job) - known), f"the next pod after {what}")


def ended(job: Job, node: Path, made: Trained) -> None:
    """Wait for the end; note it, and leave nothing of it for a twin to take."""
    made.stage = job.until_stage("train")
    made.pods["last"] = containers(job)
    (folder,) = (node / "volumes").glob(f"*_{job.namespace}_*/train/{made.stage['digest']}")
    made.result = json.loads((folder / "result.json").read_text())["result"]
    made.lives = lives_of(folder)
    job.delete()
    shutil.rmtree(folder)


def suspend_and_resume(job: Job) -> None:
    job.edit(suspend=True)
    job.until_stage("train", "Suspended")
    wait_for(lambda: not any(pod["status"]["phase"] == "Running" for pod in job.pods("train")), "the pod is gone")
    job.edit(suspend=False)


def test_an_upgrade_and_a_rollback_of_the_operator_leave_a_training_alone(unbroken):
    assert unbroken.rolled_back < unbroken.result["steps"], "it was over before the rollback"
    assert unbroken.pods["first"] == unbroken.pods["last"]
    assert unbroken.stage["attempts"] == 1


def test_a_training_that_is_killed_goes_on_from_its_last_checkpoint(battered):
    killed, _ = done_twice(battered.lives)
    assert 0 <= killed <= EVERY


def test_a_suspended_training_saves_first_and_loses_no_step(battered):
    _, suspended = done_twice(battered.lives)
    assert suspended == 0


def test_a_kubelet_that_is_killed_leaves_its_pods_alone(battered):
    assert battered.pods["before kubelet"] == battered.pods["last"]


def test_the_loss_is_the_unbroken_trainings(battered, unbroken):
    ours, theirs = battered.result, unbroken.result
    assert ours["resumed"] == 2  # after the kill and after the suspend
    assert ours["steps"] == theirs["steps"]
    # Sums of threads may come in another order.
    assert ours["finalLoss"] == pytest.approx(theirs["finalLoss"], rel=1e-4)
    losses = [{point["step"]: point["loss"] for point in told["curve"]} for told in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
