"""Why a stage would run: what differs from what the workspace holds."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune_jobs.contract import Request, Stage
from finetune_operator.local.workspace import StageFolder, earlier_records

ABSENT = "nothing"
LONGEST_VALUE = 60
"""Characters of a value that are shown."""


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested JSON objects with its dotted name."""
    for name, child in value.items():
        if isinstance(child, Mapping):
            yield from flat(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "..."


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One sentence for each field that differs between two requests, those of `needs` last."""
    old, new = dict(flat(before)), dict(flat(now))
    names = sorted((n for n in old | new if old.get(n) != new.get(n)), key=lambda n: (n.startswith("needs."), n))
    return [sentence(name, old.get(name), new.get(name)) for name in names]


def sentence(name: str, before: Any, now: Any) -> str:
    if name.startswith("needs."):
        return f"follows a new {name.removeprefix('needs.')}"
    said = [ABSENT if value is None else shown(value) for value in (before, now)]
    return f"{name} changed: {said[0]} -> {said[1]}"


def why_it_runs(workspace: Path, stage: Stage, request: Request) -> str:
    """The reason in a line, for a stage whose result is not in the workspace.

    Compared with the newest result of the same stage. One that was asked for in the same words and yet
    has another digest was made by another version of the stage.
    """
    folder = StageFolder(workspace, stage, request.digest())
    if folder.has_checkpoint():
        return "an earlier run was interrupted; goes on from its checkpoint"
    now = json.loads(request.to_json())
    others = sorted(earlier_records(workspace, stage), key=lambda record: record["finishedAt"], reverse=True)
    if not others:
        return "not made yet"
    changed = [differences(record["request"], now) for record in others]
    return "; ".join(changed[0]) if all(changed) else "its program is newer than the result"
