"""A pass that the operator itself failed over: a condition tells it until a pass succeeds."""

from collections.abc import Sequence
from datetime import datetime

from finetune_operator.api.status import Condition
from finetune_operator.lifecycle.conditions import Line, dated
from finetune_operator.lifecycle.reasons import OPERATOR_FAILED

UNFORESEEN = "Unforeseen"
"""Type of the condition; where all is well there is none."""
LONGEST_LINE = 300
"""Characters of the exception that are told."""


def with_unforeseen(
    conditions: Sequence[Condition], generation: int, error: Exception, logs: str, now: datetime
) -> tuple[Condition, ...]:
    """The conditions as they were, and what the operator failed over; `logs` is the command that shows its log."""
    line = Line(UNFORESEEN, "True", OPERATOR_FAILED, sentence(error, logs))
    before = next((condition for condition in conditions if condition.type == UNFORESEEN), None)
    return (*without_unforeseen(conditions), dated(line, before, generation, now))


def without_unforeseen(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    return tuple(condition for condition in conditions if condition.type != UNFORESEEN)


def sentence(error: Exception, logs: str) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    said = f"{type(error).__name__}: {first}"[:LONGEST_LINE].rstrip(" .:")
    return (
        f"The operator failed on this job: {said}. Nothing is lost, and it tries again by itself; if this stays, "
        f"report it with the operator's log, `{logs}`."
    )
