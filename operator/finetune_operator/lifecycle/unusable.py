"""A FineTuneJob whose spec this operator can't read: written by another version, or past the API server's checks."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from finetune_jobs.contract import Failure
from finetune_operator.api.status import Condition, Status
from finetune_operator.lifecycle.conditions import Line, dated
from finetune_operator.lifecycle.reasons import SPEC_UNUSABLE
from finetune_operator.lifecycle.unforeseen import without_unforeseen

MOST_TOLD = 10
LONGEST_TOLD = 500
"""Problems that a condition tells, and characters of each: a wrong ConfigMap can have thousands."""


def spec_failure(problems: Sequence[str]) -> Failure:
    more = f"; and {len(problems) - MOST_TOLD} more" if len(problems) > MOST_TOLD else ""
    return Failure(
        reason=SPEC_UNUSABLE,
        message=f"The spec can't be carried out: {'; '.join(shortened(problems[:MOST_TOLD]))}{more}.",
        cure="Correct it as said; the spec is looked at again at once, a ConfigMap within a minute.",
    )


def shortened(problems: Iterable[str]) -> Iterable[str]:
    return (text if len(text) <= LONGEST_TOLD else f"{text[:LONGEST_TOLD]}..." for text in problems)


def unusable(status: Status, generation: int, problem: Failure, now: datetime) -> Status:
    """The status with the problem told, and nothing that was recorded lost."""
    message = f"{problem.message} {problem.cure}"
    known = {condition.type: condition for condition in without_unforeseen(status.conditions)}
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
