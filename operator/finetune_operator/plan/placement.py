"""Where and how a stage runs, as a digest: what shapes its pod and not its output."""

import hashlib

from finetune_jobs.contract import DIGEST_LENGTH, Stage
from finetune_operator.api import Spec


def placement(spec: Spec, stage: Stage) -> str:
    """Changes with the stage's settings, pull secrets, priority, queue and the workspace's claim."""
    said = spec.stages.of(stage).model_dump_json(by_alias=True, exclude_none=True)
    secrets = [secret.name for secret in spec.image_pull_secrets]
    text = f"{said} {secrets} {spec.priority_class_name} {spec.queue_name} {spec.storage.claim_name}"
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
