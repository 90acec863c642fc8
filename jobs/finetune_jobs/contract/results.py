"""What each stage tells: its progress, how it ended, what came out."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StringConstraints

from finetune_jobs.contract.base import Contract
from finetune_jobs.contract.names import Stage
from finetune_jobs.contract.requests import AnyRequest


class ModelResult(Contract):
    parameters: int
    """Counted in the weights themselves."""
    architecture: str
    """config.json's first architecture, such as LlamaForCausalLM."""
    dtype: str
    bytes: int
    sha256: str
    """As `Source.sha256` is defined, over the model folder."""
    license: str | None = None
    revision: str | None = None
    """The commit or version that the source meant."""
    source: str
    """One line that a person can read: huggingFace meta-llama/... at 5f0b02c..."""


class DatasetResult(Contract):
    rows_read: int
    rows_kept: int
    rows_dropped: dict[str, int]
    """Rows by reason."""
    rows_cut: int = 0
    """Kept, but longer than max_length and cut."""
    rows_repaired: dict[str, int] = Field(default_factory=dict)
    tokens: int
    supervised_tokens: int
    """Tokens that the loss is taken over."""
    packs: int
    fill: float
    """Part of the packed rows that is not padding, 0 to 1."""


class CurvePoint(Contract):
    step: int
    loss: float
    learning_rate: float
    tokens_per_second: float | None = None


class TrainResult(Contract):
    checkpoint: str
    """Relative to the stage's folder."""
    steps: int
    final_loss: float
    """Mean of the last tenth of the logged losses."""
    peak_learning_rate: float
    tokens_per_second: float
    gpu_seconds: float
    """Seconds of training times GPUs; 0 on CPU."""
    world_size: int
    resumed: int = 0
    """How often training went on from a checkpoint."""
    curve: tuple[CurvePoint, ...]
    """At most 30 points; all of them are in curve.jsonl."""


class ExportResult(Contract):
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    tensors: int
    bytes: int
    source: str
    """What it was made from, in one line."""


class MergeResult(Contract):
    dtype: str
    shards: int
    bytes: int
    sha256: str
    merged_tensors: int
    """Weights that the adapter changed."""


class Rates(Contract):
    """Fractions of the prompts, 0 to 1; None where no prompt was of that sort."""

    valid_calls: float
    """Right tool, a JSON object, the right keys."""
    exact_arguments: float | None = None
    finished_turns: float | None = None
    """Call, observation, final answer within the turn limit."""
    no_tool_answers: float | None = None
    """Questions that need no tool, answered without one."""


class EvaluateResult(Contract):
    base: Rates
    tuned: Rates
    prompts: int
    turns: int


class DemoResult(Contract):
    url: str


RESULTS: dict[Stage, type[Contract]] = {
    Stage.MODEL: ModelResult,
    Stage.DATASET: DatasetResult,
    Stage.TRAIN: TrainResult,
    Stage.EXPORT: ExportResult,
    Stage.MERGE: MergeResult,
    Stage.EVALUATE: EvaluateResult,
    Stage.DEMO: DemoResult,
}


class Failure(Contract):
    """Why a stage did not end well, and what to do."""

    reason: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Za-z0-9]*$")]
    """CamelCase, stable: scripts and conditions key on it."""
    message: str
    cure: str


class State(StrEnum):
    RUNNING = "Running"
    REUSED = "Reused"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    INTERRUPTED = "Interrupted"


class Outcome(Contract):
    """How one run of a stage program ended; the pod's termination message."""

    stage: Stage
    digest: str
    state: State
    result: dict[str, object] | None = None
    failure: Failure | None = None


class Record(Contract):
    """result.json: what was asked, when it was made and what came out."""

    stage: Stage
    digest: str
    request: AnyRequest
    started_at: datetime
    finished_at: datetime
    result: dict[str, object]
    versions: dict[str, str] = Field(default_factory=dict)
    """Installed packages that shape the output, by name."""

    @classmethod
    def of(
        cls,
        request: AnyRequest,
        result: Contract,
        started_at: datetime | None = None,
        versions: dict[str, str] | None = None,
    ) -> Self:
        """What ended just now."""
        now = datetime.now(UTC)
        return cls(
            stage=request.stage,
            digest=request.digest(),
            request=request,
            started_at=started_at or now,
            finished_at=now,
            result=result.model_dump(mode="json", by_alias=True, exclude_none=True),
            versions=versions or {},
        )


class Progress(Contract):
    """How far a running stage is."""

    step: int
    total_steps: int
    unit: str = "step"
    """What is counted: step, row, file, MB, prompt."""
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    message: str = ""
    updated_at: datetime
