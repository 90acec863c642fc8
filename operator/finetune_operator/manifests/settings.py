"""What an installation says of the pods that it starts: one value a line, with its unit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from finetune_jobs.contract import Stage

Quantities = Mapping[str, str]


def requests(cpu: str, memory: str) -> Quantities:
    return MappingProxyType({"cpu": cpu, "memory": memory})


@dataclass(frozen=True)
class PodSettings:
    """Of every job's pods; a job's own spec.stages wins where both speak."""

    trainer_image: str = "finetune-trainer:latest"
    """Image of every stage but the demo."""
    demo_image: str = "finetune-demo:latest"
    """Image of the demo."""
    pull_policy: str = "IfNotPresent"
    """imagePullPolicy of both."""
    user: int = 10001
    """User and group number of the processes; the workspace is made writable for the group (fsGroup)."""
    grace_period: int = 300
    """Seconds that a stage which is asked to stop has for saving before it is killed."""
    deadline: int = 14 * 24 * 3600
    """Seconds after which a stage is given up, retries and waiting for a node included."""
    attempts: int = 3
    """How often a stage is started whose machine fails it; pauses between are the Job controller's, 10 s doubled."""
    shared_memory: str = "8Gi"
    """Size limit of /dev/shm in a training pod; it counts as the pod's memory."""
    scratch: str = "20Gi"
    """Size limit of /tmp, which holds caches and what Triton compiles."""
    progress_every: int = 10
    """Seconds between two reports of a training's progress."""
    gpu_resource: str = "nvidia.com/gpu"
    """Name by which the cluster counts GPUs."""
    demo_port: int = 8501
    """Port of the demo's container."""
    reserved: Mapping[Stage, Quantities] = field(
        default_factory=lambda: {
            Stage.MODEL: requests("500m", "2Gi"),
            Stage.DATASET: requests("1", "4Gi"),
            Stage.TRAIN: requests("2", "8Gi"),
            Stage.EXPORT: requests("500m", "4Gi"),
            Stage.MERGE: requests("1", "8Gi"),
            Stage.EVALUATE: requests("1", "8Gi"),
            Stage.DEMO: requests("1", "8Gi"),
        }
    )
    """Processor and memory that a stage's pod reserves where the job says nothing."""
