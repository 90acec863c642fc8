"""What the operator writes: ``status`` of a FineTuneJob.

Numbers with a fraction are strings, rounded for reading: a status is for people and printer columns, and full
precision stays in the workspace.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from finetune_jobs.contract import Contract, Stage

Steps = Annotated[int, Field(strict=True, ge=0, le=1_000_000_000_000)]


class StageState(StrEnum):
    PENDING = "Pending"
    QUEUED = "Queued"
    """Kueue holds it back."""
    WAITING = "Waiting"
    """Another job makes the same thing in the same workspace."""
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    REUSED = "Reused"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class Condition(Contract):
    """As metav1.Condition."""

    type: str = Field(max_length=316, description="What is told of: Ready, Trained, Failed, ...")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    observed_generation: int = Field(ge=0, description="The spec's generation that this was seen of.")
    last_transition_time: datetime = Field(description="When status last changed.")
    reason: str = Field(max_length=1024, description="CamelCase and stable.")
    message: str = Field(max_length=32768, description="A sentence, with a cure where something is wrong.")


class StageStatus(Contract):
    """One stage."""

    name: Stage = Field(description="The stage.")
    state: StageState = Field(description="How it stands.")
    digest: str = Field(max_length=64, description="Digest of its request; its folder's name in the workspace.")
    attempts: int = Field(default=0, ge=0, description="How often it was started.")
    started_at: datetime | None = Field(default=None, description="When the last attempt started.")
    finished_at: datetime | None = Field(default=None, description="When it ended.")
    reason: str = Field(default="", max_length=1024, description="Why it stands so, CamelCase.")
    message: str = Field(default="", max_length=4096, description="The same as a sentence, with a cure.")
    result: dict[str, Any] | None = Field(default=None, description="What came out, as the stage told it.")


class CurvePointStatus(Contract):
    """One point of the loss curve."""

    step: Steps = Field(description="Optimizer step.")
    loss: str = Field(max_length=32, description="Loss there.")


class TrainingStatus(Contract):
    """How far training is."""

    step: Steps = Field(default=0, description="Optimizer step.")
    total_steps: Steps = Field(default=0, description="All optimizer steps.")
    loss: str = Field(default="", max_length=32, description="Latest loss.")
    learning_rate: str = Field(default="", max_length=32, description="Latest learning rate.")
    tokens_per_second: str = Field(default="", max_length=32, description="Latest speed.")
    eta: str = Field(default="", max_length=32, description="Time left, such as 1h20m.")
    curve: tuple[CurvePointStatus, ...] = Field(default=(), max_length=60, description="The loss so far, thinned.")


class EvaluationStatus(Contract):
    """Rates before and after."""

    base: str = Field(default="", max_length=32, description="Well-formed calls of the base model, such as 2%.")
    tuned: str = Field(default="", max_length=32, description="Well-formed calls of the tuned model.")


class DemoStatus(Contract):
    """Where the agent is served."""

    url: str = Field(default="", max_length=2048, description="The page.")
    revision: str = Field(default="", max_length=64, description="Digest of the demo that is served.")


class Status(Contract):
    """What the operator has seen and done."""

    observed_generation: int = Field(default=0, ge=0, description="The spec's generation that this status is of.")
    stage: str = Field(default="", max_length=63, description="The stage at work, or how the job stands.")
    progress: str = Field(default="", max_length=63, description="How far that stage is, such as 42%.")
    gpus: int = Field(default=0, ge=0, description="GPUs that the job holds now.")
    model: str = Field(default="", max_length=1024, description="Base model in a line, for the wide columns.")
    conditions: tuple[Condition, ...] = Field(default=(), max_length=20, description="As Kubernetes has them.")
    stages: tuple[StageStatus, ...] = Field(default=(), max_length=10, description="Each stage.")
    training: TrainingStatus | None = Field(default=None, description="How far training is.")
    evaluation: EvaluationStatus | None = Field(default=None, description="Rates before and after.")
    demo: DemoStatus | None = Field(default=None, description="Where the agent is served.")
