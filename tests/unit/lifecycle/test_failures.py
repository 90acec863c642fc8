"""From evidence to reason: one row of the table a case."""

from dataclasses import replace

import pytest
from tests.unit.lifecycle.looks import outcome, stage_job

from finetune_jobs.contract import Failure, Stage, State
from finetune_operator.lifecycle.failures import TABLE, explain_end, explain_wait
from finetune_operator.lifecycle.observed import Pod

JOB = stage_job(Stage.TRAIN, "d" * 12)
LOGS = [
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "GpuOutOfMemory"),
    ("mmengine - INFO - loss: nan", "LossIsNaN"),
    ("Watchdog caught collective operation timeout: WorkNCCL", "GpusDisconnected"),
    ("huggingface_hub.errors.GatedRepoError: 403 Client Error.", "AccessDenied"),
    ("401 Client Error: Invalid user token", "AccessDenied"),
    ("FileNotFoundError: [Errno 2] No such file or directory: 'data.jsonl'", "FileMissing"),
    ("OSError: [Errno 28] No space left on device", "DiskFull"),
    ("jinja2.exceptions.TemplateSyntaxError: unexpected '}'", "TemplateInvalid"),
    ("RuntimeError: size mismatch for q_proj.lora_A", "AdapterUnfit"),
    ("deepspeed.DeepSpeedConfigError: zero_optimization", "DeepSpeedConfigInvalid"),
    ("ModuleNotFoundError: No module named 'flash_attn'", "ImageIncomplete"),
]


@pytest.mark.parametrize(("text", "reason"), LOGS)
def test_the_logs_end_is_explained(text, reason):
    failure = explain_end(JOB, Pod("p", "Failed", exit_code=1, said=f"Traceback\n{text}"))
    assert failure.reason == reason
    assert text in failure.message
    assert failure.cure


def test_a_gpu_that_is_too_small_for_a_stage_is_told_with_that_stages_cure():
    judged = stage_job(Stage.EVALUATE, "d" * 12)
    failure = explain_end(judged, Pod("p", "Failed", exit_code=1, said="torch.OutOfMemoryError: CUDA out of memory."))
    assert failure.cure.startswith("Give spec.stages.evaluate a node with a larger GPU")


ENDS = [
    (Pod("p", "Failed", exit_code=137, ended_by="OOMKilled"), "OutOfMemory"),
    (Pod("p", "Failed", reason="Evicted"), "Evicted"),
    (Pod("p", "Failed", exit_code=143, disrupted=True), "Disrupted"),
    (Pod("p", "Failed", exit_code=137), "Killed"),
    (Pod("p", "Failed", exit_code=3, said="\x00\x01noise" * 500), "Unforeseen"),
    (None, "Unforeseen"),
]


@pytest.mark.parametrize(("pod", "reason"), ENDS)
def test_an_end_without_a_word_is_explained(pod, reason):
    assert explain_end(JOB, pod).reason == reason


INTERRUPTED = Failure(reason="Interrupted", message="It was asked to stop.", cure="Nothing to do.")
SAVED = outcome("train", "d" * 12, State.INTERRUPTED, failure=INTERRUPTED)


@pytest.mark.parametrize("pod", [Pod("p", "Failed", exit_code=143), Pod("p", "Failed", exit_code=80, said=SAVED), None])
def test_a_deadline_is_explained_whatever_its_pod_has_said(pod):
    assert explain_end(replace(JOB, gave_up="DeadlineExceeded"), pod).reason == "DeadlineExceeded"


WAITS = [
    (Pod("p", waits="ImagePullBackOff"), "ImagePullFailed"),
    (Pod("p", waits="CreateContainerConfigError"), "ContainerConfigInvalid"),
    (Pod("p", unschedulable="0/2 nodes are available: 2 Insufficient nvidia.com/gpu."), "GpuUnschedulable"),
    (Pod("p", unschedulable="0/2 nodes are available: 2 Insufficient memory."), "Unschedulable"),
    (
        Pod("p", unschedulable='0/1 nodes are available: persistentvolumeclaim "reakt-data" not found.'),
        "ClaimMissing",
    ),
    (
        Pod("p", unschedulable="1 node has pod using PersistentVolumeClaim with ReadWriteOncePod access mode"),
        "VolumeInUse",
    ),
    (Pod("p", unschedulable="pod has unbound immediate PersistentVolumeClaims"), "WorkspaceUnbound"),
    (Pod("p", unschedulable="node(s) didn't match Pod's node affinity/selector"), "Unschedulable"),
    (Pod("p", waits="ContainerCreating"), None),
    (Pod("p", phase="Running", waits="ImagePullBackOff"), None),
]


@pytest.mark.parametrize(("pod", "reason"), WAITS)
def test_a_pod_that_waits_is_explained(pod, reason):
    found = explain_wait(replace(JOB, pods=(pod,)))
    assert (found.reason if found else None) == reason


def test_what_the_stage_itself_says_goes_before_any_guess():
    said = Failure(reason="LossDiverged", message="It rose.", cure="Write less.")
    pod = Pod("p", "Failed", exit_code=64, ended_by="OOMKilled",
              said=outcome("train", "d" * 12, State.FAILED, failure=said))  # fmt: skip
    assert explain_end(JOB, pod) == said


def test_another_stages_word_is_not_believed():
    said = Failure(reason="Forged", message="x", cure="y")
    pod = Pod("p", "Failed", exit_code=1, said=outcome("train", "0" * 12, State.FAILED, failure=said))
    assert explain_end(JOB, pod).reason == "Unforeseen"


def test_every_row_says_what_to_do():
    for row in TABLE:
        for cure in (row.cure, *row.instead.values()):
            assert cure.format(stage="train", job="j").endswith(".")


OWN_CURES = [
    ("GpuUnschedulable", Stage.TRAIN, "write fewer training.gpus"),
    ("GpuUnschedulable", Stage.MERGE, "write fewer in spec.stages.merge.resources.limits."),
    ("GpuUnschedulable", Stage.EVALUATE, 'nvidia.com/gpu: "0" in spec.stages.evaluate.resources.limits.'),
    ("GpuUnschedulable", Stage.DEMO, "write demo.replicas: 0 for a moment, fewer demo.gpus"),
    ("ImagePullFailed", Stage.TRAIN, "write spec.imagePullSecrets: the training's own service account has none"),
    ("ImagePullFailed", Stage.MERGE, "and spec.imagePullSecrets."),
]
EVIDENCE = {
    "GpuUnschedulable": Pod("p", unschedulable="0/1 nodes are available: 1 Insufficient nvidia.com/gpu."),
    "ImagePullFailed": Pod("p", waits="ErrImagePull"),
}


@pytest.mark.parametrize(("reason", "stage", "cure"), OWN_CURES)
def test_a_stage_is_told_what_it_can_follow(reason, stage, cure):
    assert cure in explain_wait(stage_job(stage, "d" * 12, pods=(EVIDENCE[reason],))).cure
