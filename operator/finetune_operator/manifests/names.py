"""Names and labels of children: deterministic, so that making one twice is making it once."""

import hashlib
import json
from typing import Any

from finetune_jobs.contract import DIGEST_LENGTH, Stage
from finetune_operator.api import GROUP, FineTuneJob
from finetune_operator.plan import PlannedStage

Manifest = dict[str, Any]

MANAGER = "finetune-operator"
"""Field manager, and value of MANAGED_BY."""
MANAGED_BY = "app.kubernetes.io/managed-by"
JOB_LABEL = f"{GROUP}/job"
STAGE_LABEL = f"{GROUP}/stage"
DIGEST_LABEL = f"{GROUP}/digest"
APPLIED = f"{GROUP}/applied"
"""Annotation of children that are updated: digest of what was applied."""
PLACEMENT = f"{GROUP}/placement"
"""Annotation of a stage's Job: digest of where and how it was to run."""
IMAGE = f"{GROUP}/image"
"""Annotation of a stage's Job: the image that it was made with, which an admission rule may have replaced."""
CONTAINER = "stage"
"""Name of the container that runs the stage; a mesh may put others beside it."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
SELECTOR = f"{MANAGED_BY}={MANAGER},{JOB_LABEL}"
"""Label selector of everything of ours."""


def stage_name(job: str, planned: PlannedStage) -> str:
    return f"{job}-{planned.stage}-{planned.digest}"


def workspace_name(job: FineTuneJob) -> str:
    """The claim that holds the workspace: the user's or ours."""
    return job.spec.storage.claim_name or f"{job.metadata.name}-workspace"


def progress_name(job: str) -> str:
    return f"{job}-progress"


def demo_name(job: str) -> str:
    return f"{job}-demo"


def labels(job: str, stage: Stage | None = None, digest: str | None = None) -> dict[str, str]:
    found = {"app.kubernetes.io/name": "finetunejob", MANAGED_BY: MANAGER, JOB_LABEL: job}
    if stage is not None:
        found[STAGE_LABEL] = stage.value
    if digest is not None:
        found[DIGEST_LABEL] = digest
    return found


def digest_of(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def with_applied(manifest: Manifest) -> Manifest:
    """The manifest with the digest of itself, by which a change is known."""
    manifest["metadata"].setdefault("annotations", {})[APPLIED] = digest_of(manifest)
    return manifest


def owner(job: FineTuneJob) -> Manifest:
    """Owner reference: children go when the FineTuneJob goes."""
    return {
        "apiVersion": job.api_version,
        "kind": job.kind,
        "name": job.metadata.name,
        "uid": uid_of(job),
        "controller": True,
        "blockOwnerDeletion": False,  # True would need the right to update finalizers
    }


def uid_of(job: FineTuneJob) -> str:
    return str((job.metadata.model_extra or {}).get("uid", ""))


def metadata(job: FineTuneJob, name: str, stage: Stage | None = None, digest: str | None = None) -> Manifest:
    return {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": labels(job.metadata.name, stage, digest),
        "ownerReferences": [owner(job)],
    }
