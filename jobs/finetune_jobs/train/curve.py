"""curve.jsonl: one `CurvePoint` a line, appended a step, rewound when training goes on from a checkpoint."""

from pathlib import Path

from pydantic import ValidationError

from finetune_jobs.contract import CurvePoint
from finetune_jobs.json_lines import whole_lines
from finetune_jobs.room import write_atomically

POINTS_IN_RESULT = 30


def read(path: Path) -> list[CurvePoint]:
    """Whole lines only: a kill may have cut the last one."""
    points = []
    for line in whole_lines(path):
        try:
            points.append(CurvePoint.model_validate_json(line))
        except ValidationError:
            break
    return points


def append(path: Path, point: CurvePoint) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(point.to_json() + "\n")


def rewind(path: Path, step: int) -> None:
    """Drop what came after `step`: it is going to be trained again."""
    kept = [point.to_json() + "\n" for point in read(path) if point.step <= step]
    write_atomically(path, "".join(kept))


def thin(points: list[CurvePoint], most: int = POINTS_IN_RESULT) -> tuple[CurvePoint, ...]:
    """At most `most` points, evenly spaced, the first and the last among them."""
    if len(points) <= most:
        return tuple(points)
    last = len(points) - 1
    return tuple(points[round(index * last / (most - 1))] for index in range(most))


def final_loss(points: list[CurvePoint]) -> float:
    """Mean of the last tenth of the losses."""
    tail = points[-max(1, len(points) // 10) :]
    return sum(point.loss for point in tail) / len(tail)
