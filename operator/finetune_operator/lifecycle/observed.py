"""What the operator has seen of one FineTuneJob: plain values, made by cluster/, read by every policy here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from finetune_jobs.contract import Failure, Progress, Stage
from finetune_operator.api import FineTuneJob
from finetune_operator.api.status import Status
from finetune_operator.plan import Plan


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of a stage."""

    name: str
    phase: str = "Pending"
    reason: str = ""
    """Of the pod itself, such as Evicted."""
    exit_code: int | None = None
    """Of the stage's container, once it has ended."""
    ended_by: str = ""
    """The container's terminated reason, such as OOMKilled."""
    said: str = ""
    """The termination message: an `Outcome`, or the log's end."""
    waits: str = ""
    """The container's waiting reason, such as ImagePullBackOff."""
    waits_message: str = ""
    unschedulable: str = ""
    """The scheduler's message, while it finds no node."""
    disrupted: bool = False
    finished_at: datetime | None = None
    uid: str = ""
    created: str = ""
    """Its creationTimestamp, which sorts as text."""


@dataclass(frozen=True, slots=True)
class StageJob:
    """The batch/v1 Job of a stage, with its pods, oldest first."""

    name: str
    uid: str
    stage: str
    digest: str
    placement: str
    created_at: datetime
    suspended: bool = False
    queued: bool = False
    """It carries Kueue's label."""
    failed: int = 0
    complete: bool = False
    gave_up: str = ""
    """Reason of its Failed condition, such as BackoffLimitExceeded."""
    gave_up_message: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    deleting: bool = False
    nodes: int = 1
    limits: Mapping[str, int] = field(default_factory=dict)
    """Those of its numbers that anybody may edit."""
    image: str = ""
    """The one that it was made with."""
    pods: tuple[Pod, ...] = ()

    @property
    def over(self) -> bool:
        """Its end is decided: on one node by its pod, which the Job's own conditions follow a second later."""
        ended = self.nodes == 1 and any(pod.phase == "Succeeded" for pod in self.pods)
        return self.complete or bool(self.gave_up) or ended

    @property
    def busy(self) -> bool:
        """A pod of it has begun, so that stopping it would lose work."""
        return any(pod.phase == "Running" for pod in self.pods)


@dataclass(frozen=True, slots=True)
class Served:
    """What stands of the demo."""

    revision: str = ""
    """Digest of the demo that the Deployment serves."""
    available: bool = False
    """The newest revision answers."""
    stale: bool = True
    """Something of it is missing, edited by hand, or not as the job now says."""
    unverified: bool = False
    """Something of it may have been edited before this operator started."""
    answers: bool = False
    """Any revision answers."""
    replicas: int = 0
    """Pods that are wanted of it now."""
    pods: tuple[Pod, ...] = ()
    """Those that there are, of any revision."""
    name: str = ""
    """Of its Deployment."""
    trouble: str = ""
    """Why the Deployment can't make its pods."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another FineTuneJob in the same workspace, seen from one stage of this one."""

    name: str
    runs: bool = False
    """It has an unfinished Job for the stage."""
    wants: bool = False
    """It is about to start the stage."""
    result: Mapping[str, Any] | None = None
    """What came out, when it has finished the stage."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One look at a job and all that belongs to it."""

    job: FineTuneJob
    generation: int
    status: Status
    plan: Plan | None
    """None where the spec can't be planned; then `problem` says why."""
    problem: Failure | None = None
    jobs: Mapping[str, StageJob] = field(default_factory=dict)
    """By name, superseded ones included."""
    names: Mapping[Stage, str] = field(default_factory=dict)
    """Names of the Jobs that the plan's stages have."""
    placements: Mapping[Stage, str] = field(default_factory=dict)
    gpus: Mapping[Stage, int] = field(default_factory=dict)
    """GPUs that the stage holds while it runs, over all its pods."""
    limits: Mapping[Stage, Mapping[str, int]] = field(default_factory=dict)
    """What the limits of each stage's Job are to be."""
    image: str = ""
    """Image that the stages' Jobs are made with now."""
    workspace: bool = False
    """The claim is there, or is the user's own."""
    workspace_stale: bool = False
    """It is there, but not as the job now says."""
    requests: bool = False
    """The ConfigMap with this plan's requests is there."""
    progress_ready: bool = False
    """The progress ConfigMap and its rights are there, as they were made."""
    progress: Progress | None = None
    curve: tuple[tuple[int, float], ...] = ()
    """Step and loss, thinned."""
    served: Served = field(default_factory=Served)
    demo_url: str = ""
    peers: Mapping[Stage, tuple[Peer, ...]] = field(default_factory=dict)
    refusal: Failure | None = None
    """Why the API server refused the last thing that was to be made."""


class Make(StrEnum):
    """What can be made; manifests/ knows how."""

    WORKSPACE = "workspace"
    REQUESTS = "requests"
    PROGRESS = "progress"
    STAGE = "stage"
    DEMO = "demo"


@dataclass(frozen=True, slots=True)
class Want:
    make: Make
    stage: Stage | None = None


@dataclass(frozen=True, slots=True)
class Switch:
    """Suspend a Job, or let it go on."""

    name: str
    uid: str
    suspend: bool


@dataclass(frozen=True, slots=True)
class Mend:
    """Write the limits of a Job as they were before somebody edited them; None takes one away."""

    name: str
    uid: str
    limits: Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete a Job; its pods are asked to save."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Told:
    """An Event to come."""

    type: str
    """Normal or Warning."""
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens next, in this order: apply, switch, mend, remove, status, events."""

    status: Status
    apply: tuple[Want, ...] = ()
    switch: tuple[Switch, ...] = ()
    mend: tuple[Mend, ...] = ()
    remove: tuple[Remove, ...] = ()
    drop_demo: bool = False
    """Take the demo down."""
    scale_demo: int | None = None
    """So many pods for the demo that stands, of whatever revision."""
    verify_demo: bool = False
    """Apply the demo once more, after the status: nothing waits for it."""
    events: tuple[Told, ...] = ()
    look_again_after: float | None = None
    """Seconds; None waits for a change."""
