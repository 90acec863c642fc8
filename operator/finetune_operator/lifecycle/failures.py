"""From what a pod leaves behind to a reason, a sentence and a cure. Rows are tried in order; the first that fits.

A stage that ends by its own word (an `Outcome` as termination message) has named its failure itself. The rows speak for
programs that died without a word: then the termination message is the end of the log.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from pydantic import ValidationError

from finetune_jobs.contract import ExitCode, Failure, Outcome, Stage
from finetune_operator.lifecycle.observed import Pod, Served, StageJob
from finetune_operator.lifecycle.reasons import GPU_UNSCHEDULABLE, IMAGE_PULL_FAILED, PODS_NOT_CREATED, UNSCHEDULABLE

SIGKILL = 137
CRASHES = "CrashLoopBackOff"
"""A container waits so that has ended and is started again."""
QUOTED = 300
"""Characters of evidence that a message repeats."""


@dataclass(frozen=True)
class Row:
    """A pattern over one kind of evidence."""

    evidence: str
    """ended: the pod's and container's reasons; log: the log's end; waits: why nothing runs yet."""
    pattern: str
    reason: str
    message: str
    cure: str
    instead: Mapping[str, str] = field(default_factory=dict)
    """Stage -> the cure there, where it is another."""


TABLE = (
    Row(
        "ended",
        r"OOMKilled",
        "OutOfMemory",
        "The stage was killed because it used more memory than its limit.",
        "Write a larger spec.stages.{stage}.resources.limits.memory, or a smaller training.batchSize or maxLength.",
    ),
    Row(
        "ended",
        r"Evicted",
        "Evicted",
        "The node evicted the stage's pod: it ran short of memory or disk.",
        "Write spec.stages.{stage}.resources.requests for memory and ephemeral-storage: a roomier node is taken.",
    ),
    Row(
        "ended",
        r"DeadlineExceeded",
        "DeadlineExceeded",
        "The stage did not end before its deadline.",
        "Raise jobs.deadline of the operator's chart, or make the stage smaller.",
    ),
    Row(
        "ended",
        r"DisruptionTarget",
        "Disrupted",
        "The stage's pod was taken away (drain, preemption or taint).",
        "Nothing to do: the next pod goes on from what was saved.",
    ),
    Row(
        "log",
        r"CUDA out of memory|CUDA_ERROR_OUT_OF_MEMORY|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED",
        "GpuOutOfMemory",
        "The stage does not fit the GPU's memory.",
        "Give spec.stages.{stage} a node with a larger GPU; what trains also fits by a smaller training.batchSize or "
        "training.maxLength, or by training.deepspeed: zero3 over more GPUs.",
    ),
    Row(
        "log",
        r"\bloss\b[^\n]{0,20}\bnan\b|LossIsNaN",
        "LossIsNaN",
        "The loss became NaN.",
        "Write a smaller training.learningRate, or look at the dataset's report for empty answers.",
    ),
    Row(
        "log",
        r"Watchdog caught collective operation timeout|ncclSystemError|ncclRemoteError|NCCL error",
        "GpusDisconnected",
        "The GPUs lost touch with each other (NCCL).",
        "Nothing at first: it is tried again. If it stays, set NCCL_DEBUG=INFO in spec.stages.train.env.",
    ),
    Row(
        "log",
        r"GatedRepoError|gated repo|403 Client Error|401 Client Error|Invalid user token",
        "AccessDenied",
        "The hub does not give the repository to this token.",
        "Accept its licence on the hub, and name a Secret with a valid token in tokenSecretRef.",
    ),
    Row(
        "log",
        r"No space left on device|Disk quota exceeded|Errno 28",
        "DiskFull",
        "The disk is full.",
        "Enlarge the workspace's claim and write its size into spec.storage.size, or free space there.",
    ),
    Row(
        "log",
        r"TemplateError|jinja2\.exceptions|is not a template",
        "TemplateInvalid",
        "The chat template can't be used.",
        "Write the template by XTuner's name as the base model speaks it, such as llama3_chat.",
    ),
    Row(
        "log",
        r"size mismatch for|AdapterUnfit|shape mismatch",
        "AdapterUnfit",
        "The adapter does not fit the base model.",
        "Name the base model that the adapter was trained on, or another adapter.",
    ),
    Row(
        "log",
        r"DeepSpeedConfigError|is not a valid ZeRO",
        "DeepSpeedConfigInvalid",
        "DeepSpeed refuses its configuration.",
        "Write training.deepspeed: zero2, or correct the JSON in the ConfigMap of training.deepspeedConfig.",
    ),
    Row(
        "log",
        r"FileNotFoundError|No such file or directory",
        "FileMissing",
        "A file that the stage reads is not there.",
        "Look at the path in the source, and that the claim holds it.",
    ),
    Row(
        "log",
        r"ModuleNotFoundError|ImportError",
        "ImageIncomplete",
        "The image lacks a package that the stage imports.",
        "Use the trainer image of this release, or add the package to your own.",
    ),
    Row(
        "waits",
        r"ErrImagePull|ImagePullBackOff|InvalidImageName|ErrImageNeverPull",
        IMAGE_PULL_FAILED,
        "The node can't pull the stage's image.",
        "Check the image's name in the operator's settings, and spec.imagePullSecrets.",
        {
            Stage.TRAIN: "Check the image's name in the operator's settings, and write spec.imagePullSecrets: the "
            "training's own service account has none of the namespace's."
        },
    ),
    Row(
        "waits",
        r"CreateContainerConfigError|CreateContainerError|RunContainerError",
        "ContainerConfigInvalid",
        "The node can't make the container.",
        "Check that the Secrets and ConfigMaps named in spec.stages and sources exist.",
    ),
    Row(
        "waits",
        r"ReadWriteOncePod",
        "VolumeInUse",
        "Another pod holds the workspace's claim, which is ReadWriteOncePod.",
        "Take a claim that is ReadWriteOnce or ReadWriteMany. An open demo holds it: demo.replicas: 0 lets it go.",
    ),
    Row(
        "waits",
        r"volume node affinity conflict|didn't match pod affinity rules",
        "VolumeElsewhere",
        "No node that the workspace's disk reaches has what the pod asks for.",
        "Take a ReadWriteMany class; or write the nodeSelector of a node that has disk, GPUs and data into every stage."
        " An open demo keeps the disk on its node: demo.replicas: 0 lets it go.",
    ),
    Row(
        "waits",
        r"Insufficient [a-z0-9.-]+/|Insufficient nvidia",
        GPU_UNSCHEDULABLE,
        "No node has enough free GPUs.",
        "Wait for one, add GPU nodes, or write fewer in spec.stages.{stage}.resources.limits.",
        {
            Stage.TRAIN: "Wait for one, write fewer training.gpus, or add GPU nodes. An open demo keeps its own: "
            "demo.replicas: 0 lets them go.",
            Stage.EVALUATE: 'Wait for one, add GPU nodes, or judge on the CPU: nvidia.com/gpu: "0" in '
            "spec.stages.evaluate.resources.limits.",
            Stage.DEMO: "An open page keeps its GPUs until the new one answers: write demo.replicas: 0 for a moment, "
            "fewer demo.gpus, or add GPU nodes.",
        },
    ),
    Row(
        "waits",
        r'persistentvolumeclaim "[^"]+" not found',
        "ClaimMissing",
        "A claim that the job names is not in its namespace.",
        "Make the PersistentVolumeClaim there, or correct claimName; `kubectl get pvc` lists those that there are.",
    ),
    Row(
        "waits",
        r"persistentvolumeclaim|unbound immediate",
        "WorkspaceUnbound",
        "The workspace's claim is not bound.",
        "Name a StorageClass that the cluster has in spec.storage.storageClassName, or a claim that exists.",
    ),
    Row(
        "waits",
        r"didn't match Pod's node affinity|untolerated taint|node\(s\)",
        UNSCHEDULABLE,
        "No node takes the stage's pod.",
        "Look at spec.stages.{stage}.nodeSelector and tolerations, and at its resources.",
    ),
    Row(
        "waits",
        r"Insufficient",
        UNSCHEDULABLE,
        "No node has enough free processor or memory.",
        "Write smaller spec.stages.{stage}.resources.requests, or add nodes.",
    ),
    Row(
        "waits", r".", UNSCHEDULABLE, "No node takes the stage's pod.", "See `kubectl describe pod` of the stage's pod."
    ),
)

KILLED = Row(
    "",
    "",
    "Killed",
    "The stage's program was killed.",
    "Nothing at first: it is tried again. If it stays, give the stage more memory.",
)
UNFORESEEN = Row(
    "", "", "Unforeseen", "The stage ended with exit code {code} and said nothing.", "See `kubectl logs {job}`."
)
NOT_CREATED = Row(
    "",
    "",
    PODS_NOT_CREATED,
    "No pod is made for the stage.",
    "See `kubectl describe {job}`: a quota or an admission rule forbids its pods.",
)


def outcome_of(pod: Pod, stage: str, digest: str) -> Outcome | None:
    """What the stage said at its end; None for anything else, forged or cut."""
    try:
        outcome = Outcome.model_validate_json(pod.said)
    except ValidationError:
        return None
    return outcome if (outcome.stage == stage and outcome.digest == digest) else None


def explain_end(job: StageJob, pod: Pod | None) -> Failure:
    """Why the pod's program ended without success; `pod` is None when it can no longer be seen.

    Where the Job itself has named a reason of the table, that goes first: its deadline ends a pod that then tells of
    an interruption.
    """
    row = row_of("ended", job.gave_up)
    if row is not None:
        return found(row, job, "")
    if pod is None:
        return found(UNFORESEEN, job, job.gave_up_message, code="unknown")
    outcome = outcome_of(pod, job.stage, job.digest)
    if outcome is not None and outcome.failure is not None:
        return outcome.failure
    row = row_of("ended", f"{pod.ended_by} {pod.reason} {'DisruptionTarget' if pod.disrupted else ''}")
    if row is not None:
        return found(row, job, "")
    row = row_of("log", pod.said)
    if row is not None:
        return found(row, job, pod.said)
    return found(KILLED if pod.exit_code == SIGKILL else UNFORESEEN, job, pod.said, code=str(pod.exit_code))


def row_of(kind: str, evidence: str) -> Row | None:
    return next((r for r in TABLE if r.evidence == kind and re.search(r.pattern, evidence, re.IGNORECASE)), None)


def explain_wait(job: StageJob) -> Failure | None:
    """Why the newest pod does not run yet, where that is worth telling."""
    pod = job.pods[-1] if job.pods else None
    if pod is None or pod.phase != "Pending":
        return None
    waits = pod.waits if pod.waits not in {"", "ContainerCreating", "PodInitializing"} else ""
    if not waits and not pod.unschedulable:
        return None
    evidence = f"{waits} {pod.unschedulable}"
    row = next(row for row in TABLE if row.evidence == "waits" and re.search(row.pattern, evidence))
    return found(row, job, pod.waits_message if waits else pod.unschedulable)


def explain_demo(served: Served, digest: str, now: datetime) -> Failure | None:
    """Why the demo does not answer, where that is worth telling."""
    as_job = StageJob(served.name, "", Stage.DEMO.value, digest, "", now)
    if served.trouble:
        return found(NOT_CREATED, as_job, served.trouble)
    for pod in served.pods:
        as_job = replace(as_job, pods=(pod,))
        failure = explain_end(as_job, pod) if pod.waits == CRASHES else explain_wait(as_job)
        if failure is not None:
            return failure
    return None


def found(row: Row, job: StageJob, evidence: str, code: str = "") -> Failure:
    last = evidence.strip().splitlines()[-1][-QUOTED:] if evidence.strip() else ""
    message, kind = row.message.format(code=code), "deployment" if job.stage == Stage.DEMO else "job"
    return Failure(
        reason=row.reason,
        message=f"{message} It said: {last}" if last else message,
        cure=row.instead.get(job.stage, row.cure).format(stage=job.stage, job=f"{kind}/{job.name}"),
    )


def is_mistake(pod: Pod) -> bool:
    """Whether the stage itself called it the user's mistake."""
    return pod.exit_code == ExitCode.USER_MISTAKE
