"""The conditions, from the stages: one row a condition."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from finetune_jobs.contract import Failure, Stage
from finetune_operator.api.status import Condition, StageState, StageStatus
from finetune_operator.lifecycle import reasons
from finetune_operator.lifecycle.observed import Observed
from finetune_operator.lifecycle.verdict import DONE

STAGE_CONDITIONS = {
    "ModelReady": Stage.MODEL,
    "DatasetReady": Stage.DATASET,
    "Trained": Stage.TRAIN,
    "Merged": Stage.MERGE,
    "Evaluated": Stage.EVALUATE,
}
"""True once the stage is done."""
LONGEST = 32_768
"""Characters of a condition's message that the API server takes."""
Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Line:
    """A condition before it has its times."""

    type: str
    status: Truth
    reason: str
    message: str = ""


def conditions(
    seen: Observed, stages: Sequence[StageStatus], problem: Failure | None, now: datetime
) -> tuple[Condition, ...]:
    """All of them, in a fixed order; lastTransitionTime moves only where the status does."""
    lines = [ready(seen, stages, problem)]
    lines += [of_stage(name, stage, stages) for name, stage in STAGE_CONDITIONS.items()]
    lines += [demo_available(seen, stages), suspended(seen), failed(stages, problem)]
    known = {condition.type: condition for condition in seen.status.conditions}
    return tuple(dated(line, known.get(line.type), seen.generation, now) for line in lines)


def dated(line: Line, before: Condition | None, generation: int, now: datetime) -> Condition:
    kept = before is not None and before.status == line.status
    return Condition(
        type=line.type,
        status=line.status,
        observed_generation=generation,
        last_transition_time=before.last_transition_time if kept and before else now,
        reason=line.reason,
        message=line.message[:LONGEST],
    )


def ready(seen: Observed, stages: Sequence[StageStatus], problem: Failure | None) -> Line:
    """True when the whole job is done, the demo open if it has one."""
    if problem is not None:
        return Line("Ready", "False", problem.reason, f"{problem.message} {problem.cure}")
    if stages and all(stage.state in DONE for stage in stages):
        return Line("Ready", "True", reasons.SUCCEEDED)
    at = next((stage for stage in stages if stage.state not in DONE), None)
    if seen.job.spec.suspend:
        return Line("Ready", "False", reasons.SUSPENDED, "spec.suspend is true; write false to go on.")
    if at is None:
        return Line("Ready", "False", reasons.WAITING_TO_START)
    message = f"{at.name}: {at.message}" if at.message else f"{at.name} is {at.state}"
    return Line("Ready", "False", at.reason or reasons.RUNNING, message)


def of_stage(name: str, stage: Stage, stages: Sequence[StageStatus]) -> Line:
    status = next((found for found in stages if found.name is stage), None)
    if status is None:
        return Line(name, "False", reasons.NOT_PLANNED, "This job has no such stage.")
    done: Truth = "True" if status.state in DONE else "False"
    return Line(name, done, status.reason or status.state.value, status.message)


def demo_available(seen: Observed, stages: Sequence[StageStatus]) -> Line:
    """True while any revision answers: a gate that is shut leaves the last good model in place."""
    demo = next((found for found in stages if found.name is Stage.DEMO), None)
    if demo is None:
        return Line("DemoAvailable", "False", reasons.DEMO_DISABLED, "spec.demo.enabled is false.")
    if demo.state is StageState.SUCCEEDED:
        return Line("DemoAvailable", "True" if seen.job.spec.demo.replicas else "False", demo.reason, demo.message)
    answers: Truth = "True" if seen.served.answers and not seen.job.spec.suspend else "False"
    if answers == "True" and seen.served.revision != demo.digest:
        return Line("DemoAvailable", answers, reasons.LAST_GOOD_MODEL, demo.message or "A new model is being made.")
    return Line("DemoAvailable", answers, demo.reason or demo.state.value, demo.message)


def suspended(seen: Observed) -> Line:
    asked = seen.job.spec.suspend
    return Line("Suspended", "True" if asked else "False", reasons.SUSPENDED if asked else reasons.NOT_SUSPENDED)


def failed(stages: Sequence[StageStatus], problem: Failure | None) -> Line:
    at = next((stage for stage in stages if stage.state is StageState.FAILED), None)
    if at is not None:
        return Line("Failed", "True", at.reason or reasons.STAGE_FAILED, f"{at.name}: {at.message}")
    if problem is not None:
        return Line("Failed", "True", problem.reason, f"{problem.message} {problem.cure}")
    return Line("Failed", "False", reasons.NOTHING_FAILED)
