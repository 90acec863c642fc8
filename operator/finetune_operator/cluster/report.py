"""What a training tells of itself in its progress ConfigMap.

Whoever runs in that pod may write anything there: what status can't show is dropped, the rest is kept.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from finetune_jobs.contract import CURVE_KEY, DIGEST_KEY, PROGRESS_KEY, Progress
from finetune_operator.api.status import Steps

LONGEST_REPORT = 16_384
"""Characters of a value that are read: a longer one is not of ours."""
MOST_POINTS = 60
NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
SHOWN: dict[str, TypeAdapter[Any]] = {
    "step": TypeAdapter(Steps),
    "totalSteps": TypeAdapter(Steps),
    "loss": TypeAdapter(Number),
    "learningRate": TypeAdapter(Number),
    "tokensPerSecond": TypeAdapter(Annotated[Number, Field(ge=0)]),
    "etaSeconds": TypeAdapter(Annotated[Number, Field(ge=0)]),
}
"""What status shows of a `Progress`."""
POINT = TypeAdapter(tuple[Steps, Number])


@dataclass(frozen=True, slots=True)
class Report:
    """What a training told."""

    digest: str
    progress: Progress | None
    curve: tuple[tuple[int, float], ...]
    """Step and loss."""


def report_of(data: Mapping[str, Any]) -> Report | None:
    """None where nothing in it can be shown."""
    found, points = loaded(data.get(PROGRESS_KEY)), loaded(data.get(CURVE_KEY))
    told = found.items() if isinstance(found, dict) else ()
    kept = {name: value for name, value in told if name in SHOWN and takes(SHOWN[name], value)}
    curve = (
        [POINT.validate_python(point) for point in points if takes(POINT, point)] if isinstance(points, list) else []
    )
    if not kept and not curve:
        return None
    counted = {"step": 0, "totalSteps": 0, "updatedAt": NO_TIME} | kept
    progress = Progress.model_validate(counted) if kept else None
    return Report(str(data.get(DIGEST_KEY, "")), progress, tuple(curve[:MOST_POINTS]))


def loaded(text: object) -> Any:
    """The JSON in it; None for what is none, or is too long."""
    if not isinstance(text, str) or len(text) > LONGEST_REPORT:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def takes(adapter: TypeAdapter[Any], value: object) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True
