"""A FineTuneJob whose spec this operator can't read: written by another version, or past the API server's checks."""

from collections.abc import Iterable
from datetime import datetime

from finetune_jobs.contract import Failure
from finetune_operator.api.status import Condition, Status
from finetune_operator.lifecycle.conditions import Line, dated
from finetune_operator.lifecycle.reasons import SPEC_UNUSABLE


def spec_failure(problems: Iterable[str]) -> Failure:
    return Failure(
        reason=SPEC_UNUSABLE,
        message=f"The spec can't be carried out: {'; '.join(problems)}.",
        cure="Correct it as said; the spec is looked at again at once, a ConfigMap within a minute.",
    )


def unusable(status: Status, generation: int, problem: Failure, now: datetime) -> Status:
    """The status with the problem told, and nothing that was recorded lost."""
    message = f"{problem.message} {problem.cure}"
    known = {condition.type: condition for condition in status.conditions}
    told: dict[str, Condition] = {
        line.type: dated(line, known.get(line.type), generation, now)
        for line in (
            Line("Ready", "False", problem.reason, message),
            Line("Failed", "True", problem.reason, message),
        )
    }
    return status.model_copy(
        update={
            "observed_generation": generation,
            "stage": problem.reason,
            "conditions": tuple((known | told).values()),
        }
    )
