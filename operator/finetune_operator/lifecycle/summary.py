"""The short fields of status: what the columns of `kubectl get` show."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_jobs.contract import Progress, Source, Stage
from finetune_operator.api.status import (
    CurvePointStatus,
    DemoStatus,
    EvaluationStatus,
    StageState,
    StageStatus,
    TrainingStatus,
)
from finetune_operator.lifecycle.gate import rates
from finetune_operator.lifecycle.observed import Observed
from finetune_operator.lifecycle.sound import plain, sound
from finetune_operator.lifecycle.verdict import DONE

TOLD_WITH_STATE = {StageState.QUEUED, StageState.WAITING, StageState.SUSPENDED, StageState.FAILED}
MINUTE = 60
HOUR = 3600
LONGEST_LINE = 1024
"""Characters of status.model."""


def headline(stages: Sequence[StageStatus]) -> str:
    """The stage at work, with its state where it does not simply run."""
    at = next((stage for stage in stages if stage.state not in DONE), None)
    if at is None:
        return "Ready" if stages else ""
    return f"{at.state}({at.name})" if at.state in TOLD_WITH_STATE else at.name.value


def progress_of(seen: Observed, stages: Sequence[StageStatus]) -> str:
    """Per cent of a running training, else stages done of all."""
    train = next((stage for stage in stages if stage.name is Stage.TRAIN), None)
    if train is not None and train.state is StageState.RUNNING and seen.progress and seen.progress.total_steps:
        told = seen.progress
        return f"{100 * min(told.step, told.total_steps) // told.total_steps}%"
    return f"{sum(stage.state in DONE for stage in stages)}/{len(stages)}"


def gpus_held(seen: Observed, stages: Sequence[StageStatus]) -> int:
    running = [s.name for s in stages if s.state is StageState.RUNNING and s.name is not Stage.DEMO]
    demo = [Stage.DEMO] if seen.served.revision and not seen.job.spec.suspend else []
    return sum(seen.gpus.get(stage, 0) for stage in (*running, *demo))


def model_line(source: Source) -> str:
    """The base model in a line."""
    return line_of(source)[:LONGEST_LINE]


def line_of(source: Source) -> str:
    match source:
        case Source(hugging_face=found) if found is not None:
            return found.repo
        case Source(git=found) if found is not None:
            return found.url
        case Source(volume=found) if found is not None:
            return f"{found.claim_name}/{found.path}"
        case Source(pypi=found) if found is not None:
            return found.requirement
    return ""


def training_of(seen: Observed, stages: Sequence[StageStatus]) -> TrainingStatus | None:
    train = next((stage for stage in stages if stage.name is Stage.TRAIN), None)
    if train is None or train.state is StageState.PENDING:
        return None
    before = seen.status.training
    curve = tuple(CurvePointStatus(step=step, loss=f"{loss:.4g}") for step, loss in seen.curve)
    if train.state in DONE and train.result:
        return finished_training(train.result, curve or (before.curve if before else ()))
    if seen.progress is not None and train.state is StageState.RUNNING:
        return running_training(seen.progress, curve)
    return before


def running_training(progress: Progress, curve: tuple[CurvePointStatus, ...]) -> TrainingStatus:
    told = {
        "step": progress.step,
        "total_steps": progress.total_steps,
        "loss": short(progress.loss),
        "learning_rate": short(progress.learning_rate),
        "tokens_per_second": whole(progress.tokens_per_second),
        "eta": duration(progress.eta_seconds),
        "curve": curve,
    }
    return TrainingStatus(**sound(TrainingStatus, told))


def finished_training(result: Mapping[str, Any], curve: tuple[CurvePointStatus, ...]) -> TrainingStatus:
    told = {
        "step": result.get("steps"),
        "total_steps": result.get("steps"),
        "loss": short(result.get("finalLoss")),
        "learning_rate": short(result.get("peakLearningRate")),
        "tokens_per_second": whole(result.get("tokensPerSecond")),
        "curve": curve,
    }
    return TrainingStatus(**sound(TrainingStatus, told))


def evaluation_of(stages: Sequence[StageStatus]) -> EvaluationStatus | None:
    result = rates(next((stage for stage in stages if stage.name is Stage.EVALUATE), None))
    if result is None:
        return None
    return EvaluationStatus(base=percent(result.base.valid_calls), tuned=percent(result.tuned.valid_calls))


def demo_of(seen: Observed) -> DemoStatus | None:
    return DemoStatus(url=seen.demo_url, revision=seen.served.revision) if seen.served.answers else None


def percent(rate: float) -> str:
    return f"{rate:.0%}" if 0 <= rate <= 1 else ""


def short(value: object) -> str:
    return f"{value:.4g}" if is_number(value) else ""


def whole(value: object) -> str:
    return f"{value:.0f}" if is_number(value) else ""


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and plain(value)


def duration(seconds: float | None) -> str:
    """1h20m, 4m10s, 12s."""
    if seconds is None or not 0 <= seconds < float("inf"):
        return ""
    left = round(seconds)
    if left >= HOUR:
        return f"{left // HOUR}h{left % HOUR // MINUTE:02}m"
    return f"{left // MINUTE}m{left % MINUTE:02}s" if left >= MINUTE else f"{left}s"
