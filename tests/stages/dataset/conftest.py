"""Runs the dataset stage on files of a test's own, with the real base model's tokenizer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_jobs.contract import DatasetRequest, DatasetResult, Source, Stage, VolumeSource
from finetune_jobs.room import Room

CLAIM = "data"


class Runs:
    """`data` is the claim's folder; each call is one run of the stage."""

    def __init__(self, data: Path, base: Any) -> None:
        self.data = data
        self.base = base
        self.room: Room

    def request(self, **more: Any) -> DatasetRequest:
        asked = {"format": "agent-flan", "template": "qwen_chat", "max_length": 256} | more
        source = Source(volume=VolumeSource(claim_name=CLAIM, path=asked.pop("path", "")))
        return DatasetRequest(source=source, needs={Stage.MODEL: self.base.digest}, **asked)

    def __call__(self, *, out: Path | None = None, **more: Any) -> DatasetResult:
        from finetune_jobs import dataset

        request = self.request(**more)
        folder = out or self.data.parent / "out" / request.digest()
        folder.mkdir(parents=True, exist_ok=True)
        self.room = Room(self.base.workspace, request, folder, {CLAIM: self.data})
        return dataset.run(request, self.room)

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.room.out / "report.json").read_text(encoding="utf-8"))
        return found


@pytest.fixture
def stage(tmp_path: Path, smollm2_workspace: Any) -> Runs:
    data = tmp_path / "data"
    data.mkdir()
    return Runs(data, smollm2_workspace)


@pytest.fixture
def write_rows(stage: Runs) -> Callable[..., Path]:
    """Rows as JSON lines in the claim's folder."""

    def write(name: str, *rows: Any) -> Path:
        path = stage.data / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
