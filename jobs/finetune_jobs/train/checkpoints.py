"""Checkpoint folders: written as `writing-<step>`, made durable, then renamed to `step-<step>`.

So a folder named `step-...` is whole, whatever was killed when; a `writing-...` is the rest of an interrupted write.
"""

import shutil
from pathlib import Path

from finetune_jobs.contract import CHECKPOINTS_FOLDER, Contract
from finetune_jobs.room import flush

MARKER_FILE = "checkpoint.json"
DRAFT = "writing-"
COMPLETE = "step-"


class Tally(Contract):
    """What a training has done so far, over all its interruptions."""

    seconds: float = 0.0
    """Of training, start-up not counted."""
    tokens: int = 0
    peak_learning_rate: float = 0.0
    """The highest that an optimizer step used."""
    resumed: int = 0
    first_losses: tuple[float, ...] = ()
    """For `divergence`."""


class Marker(Contract):
    """checkpoint.json: what a checkpoint is of."""

    step: int
    total_steps: int
    world_size: int
    dtype: str
    tally: Tally


def draft(out: Path, step: int) -> Path:
    return out / CHECKPOINTS_FOLDER / f"{DRAFT}{step}"


def read_marker(checkpoint: Path) -> Marker:
    return Marker.model_validate_json((checkpoint / MARKER_FILE).read_text(encoding="utf-8"))


def complete(out: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = (out / CHECKPOINTS_FOLDER).glob(f"{COMPLETE}*")
    return sorted(found, key=lambda folder: int(folder.name.removeprefix(COMPLETE)))


def newest(out: Path) -> Path | None:
    return next(iter(reversed(complete(out))), None)


def clear_drafts(out: Path) -> list[Path]:
    """Remove what interrupted writes left; their names are returned for the log."""
    left = sorted((out / CHECKPOINTS_FOLDER).glob(f"{DRAFT}*"))
    for folder in left:
        shutil.rmtree(folder)
    return left


def finish(folder: Path, marker: Marker) -> Path:
    """Mark a written draft, flush it to disk and give it its name."""
    (folder / MARKER_FILE).write_text(marker.to_json(), encoding="utf-8")
    for path in [*folder.rglob("*"), folder]:
        flush(path)
    named = folder.with_name(f"{COMPLETE}{marker.step}")
    folder.rename(named)
    flush(named.parent)
    return named


def prune(out: Path, keep: int) -> None:
    for folder in complete(out)[:-keep]:
        # under its draft's name first: killed in the middle of a removal, it must not look complete
        shutil.rmtree(folder.rename(folder.with_name(folder.name.replace(COMPLETE, DRAFT, 1))))
