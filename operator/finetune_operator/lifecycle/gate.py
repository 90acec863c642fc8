"""The gate before the demo: a tuned model that calls tools worse than asked is kept, but not shown."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from finetune_jobs.contract import EvaluateResult, Failure
from finetune_operator.api.status import StageStatus

EVALUATION_BELOW_GATE = "EvaluationBelowGate"


def rates(judged: StageStatus | None) -> EvaluateResult | None:
    """What the evaluate stage has found; None where that can't be read."""
    try:
        return EvaluateResult.model_validate(judged.result) if judged else None
    except ValidationError:
        return None


def below_gate(evaluation: Mapping[str, Any], minimum_valid_calls: float | None) -> Failure | None:
    """Why the demo stays where it is, or None when it may move.

    `evaluation` is an `EvaluateResult` as JSON; rates are fractions, 0 to 1.
    """
    reached = float(evaluation["tuned"]["validCalls"])
    if minimum_valid_calls is None or reached >= minimum_valid_calls:
        return None
    return Failure(
        reason=EVALUATION_BELOW_GATE,
        message=f"The tuned model's rate of valid tool calls is {reached:g}, below "
        f"spec.evaluation.minimumValidCalls {minimum_valid_calls:g}; the demo is not moved, the model is kept.",
        cure="Train longer or with better data, or lower spec.evaluation.minimumValidCalls.",
    )
