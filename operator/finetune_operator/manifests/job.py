"""A stage as a batch/v1 Job: what ends it for good, what is tried again, several nodes."""

from finetune_jobs.contract import PROGRESS_SECONDS_VARIABLE, PROGRESS_VARIABLE, ExitCode, Stage, TrainRequest
from finetune_operator.manifests.names import (
    CONTAINER,
    IMAGE,
    PLACEMENT,
    QUEUE_LABEL,
    Manifest,
    labels,
    metadata,
    progress_name,
    stage_name,
)
from finetune_operator.manifests.pod import Surroundings, pod_metadata, pod_spec
from finetune_operator.plan import PlannedStage
from finetune_operator.plan.placement import placement

MASTER_PORT = 29500
"""torchrun's rendezvous between the pods of one training."""

FAILURE_POLICY = {
    "rules": [
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [int(ExitCode.USER_MISTAKE)]},
        },
        {
            "action": "Ignore",
            "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [int(ExitCode.INTERRUPTED)]},
        },
        # A drained node or an eviction is nobody's fault; the next pod goes on from what was saved.
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
}


def nodes_of(planned: PlannedStage) -> int:
    return planned.request.nodes if isinstance(planned.request, TrainRequest) else 1


def stage_job(given: Surroundings, planned: PlannedStage) -> Manifest:
    """The Job of one stage. With a queue it starts suspended, and Kueue lets it go."""
    job, spec = given.job, given.job.spec
    name, nodes = stage_name(job.metadata.name, planned), nodes_of(planned)
    meta = metadata(job, name, planned.stage, planned.digest)
    meta["annotations"] = {PLACEMENT: placement(spec, planned.stage), IMAGE: given.settings.trainer_image}
    body: Manifest = {
        **job_limits(given, planned),
        "podFailurePolicy": FAILURE_POLICY,
        "podReplacementPolicy": "Failed",  # two pods of one stage would only wait for each other
        "template": pod_template(given, planned, name, nodes),
    }
    if nodes > 1:
        body |= {"completions": nodes, "completionMode": "Indexed"}
    if spec.queue_name:
        meta["labels"][QUEUE_LABEL] = spec.queue_name
        body["suspend"] = True
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": body}


def job_limits(given: Surroundings, planned: PlannedStage) -> dict[str, int]:
    """What the API server lets anybody change in a Job that is there, `suspend` apart."""
    nodes = nodes_of(planned)
    return {
        "parallelism": nodes,
        "backoffLimit": (given.settings.attempts - 1) * nodes,
        "activeDeadlineSeconds": given.settings.deadline,
    }


def pod_template(given: Surroundings, planned: PlannedStage, name: str, nodes: int) -> Manifest:
    pod = pod_spec(given, planned, environment(given, planned, name, nodes))
    pod["restartPolicy"] = "Never"
    if planned.stage is Stage.TRAIN:
        pod["serviceAccountName"] = progress_name(given.job.metadata.name)
        pod["automountServiceAccountToken"] = True
    if nodes > 1:
        pod["subdomain"] = name
    return {"metadata": pod_metadata(given, planned), "spec": pod}


def environment(given: Surroundings, planned: PlannedStage, name: str, nodes: int) -> dict[str, str]:
    found: dict[str, str] = {}
    if planned.stage is Stage.TRAIN:
        meta = given.job.metadata
        found[PROGRESS_VARIABLE] = f"{meta.namespace}/{progress_name(meta.name)}"
        found[PROGRESS_SECONDS_VARIABLE] = str(given.settings.progress_every)
    if nodes > 1:
        found |= {"NNODES": str(nodes), "MASTER_ADDR": f"{name}-0.{name}", "MASTER_PORT": str(MASTER_PORT)}
    return found


def rendezvous_service(given: Surroundings, planned: PlannedStage) -> Manifest | None:
    """The headless Service by which the pods of one training find each other; None on one node."""
    if nodes_of(planned) == 1:
        return None
    name = stage_name(given.job.metadata.name, planned)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(given.job, name, planned.stage, planned.digest),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # they meet before any of them is ready
            "selector": labels(given.job.metadata.name, planned.stage, planned.digest),
            "ports": [{"name": "rendezvous", "port": MASTER_PORT}],
        },
    }
