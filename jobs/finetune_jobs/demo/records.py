"""What the stages before left behind, as the training page shows it. Reads files; knows nothing of Streamlit.

Whatever a job has not made (no training for a ready adapter, no evaluation) is None or empty here.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_jobs.contract import (
    CURVE_FILE,
    MERGED_FOLDER,
    REPORT_FILE,
    RESULT_FILE,
    TRANSCRIPTS_FILE,
    CurvePoint,
    EvaluateResult,
    Rates,
    Record,
    TrainRequest,
    TrainResult,
)
from finetune_jobs.json_lines import whole_lines
from finetune_jobs.sources.token import masked

HISTOGRAM_FILE = "histogram.png"
"""The dataset stage's picture of conversation lengths."""
RATES = {
    "valid_calls": "Well-formed tool calls",
    "exact_arguments": "Exact arguments",
    "finished_turns": "Finished turns",
    "no_tool_answers": "No tool where none is needed",
}


@dataclass(frozen=True)
class Training:
    request: TrainRequest
    result: TrainResult
    curve: list[CurvePoint]


@dataclass(frozen=True)
class RateRow:
    """One row of the table base against tuned; fractions from 0 to 1, or None."""

    name: str
    base: float | None
    tuned: float | None


def record_of(folder: Path | None) -> Record | None:
    if folder is None or not (folder / RESULT_FILE).exists():
        return None
    return Record.model_validate_json((folder / RESULT_FILE).read_text(encoding="utf-8"))


def training_of(folder: Path | None) -> Training | None:
    record = record_of(folder)
    if folder is None or record is None or not isinstance(record.request, TrainRequest):
        return None
    result = TrainResult.model_validate(record.result)
    return Training(record.request, result, list(curve_of(folder / CURVE_FILE)) or list(result.curve))


def curve_of(path: Path) -> Iterator[CurvePoint]:
    """Every whole line; one that is cut or broken is left out, since a drawing needs no more."""
    for line in whole_lines(path):
        try:
            yield CurvePoint.model_validate_json(line)
        except ValidationError:
            continue


def report_of(folder: Path | None) -> dict[str, Any] | None:
    """The dataset stage's report.json."""
    path = folder / REPORT_FILE if folder else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else None


def fates(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What happened to rows that were not taken as they are, one line a reason."""
    kinds = {"rowsDropped": "dropped", "rowsCut": "cut", "rowsRepaired": "repaired", "rowsNoted": "noted"}
    return [
        {
            "what": what,
            "reason": reason,
            "rows": fate["rows"],
            "meaning": fate["meaning"],
            "first": ", ".join(f"{row['file']}:{row['line']}" for row in fate["first"][:3]),
        }
        for key, what in kinds.items()
        for reason, fate in report.get(key, {}).items()
    ]


def evaluation_of(folder: Path | None) -> EvaluateResult | None:
    record = record_of(folder)
    return EvaluateResult.model_validate(record.result) if record else None


def rate_rows(result: EvaluateResult) -> list[RateRow]:
    """The rates that were measured."""
    rows = [RateRow(name, rate(result.base, field), rate(result.tuned, field)) for field, name in RATES.items()]
    return [row for row in rows if row.base is not None or row.tuned is not None]


def rate(rates: Rates, field: str) -> float | None:
    value: float | None = getattr(rates, field)
    return value


def transcripts_of(folder: Path | None) -> list[list[dict[str, Any]]]:
    """One list a question: what each model said to it, in the file's order."""
    path = folder / TRANSCRIPTS_FILE if folder else None
    said = map(json.loads, whole_lines(path) if path else [])
    return [list(group) for _, group in groupby(said, key=itemgetter("question"))]


def model_card_of(folder: Path | None) -> str | None:
    """The merged model's README.md without its front matter; cards were written with whole URLs once."""
    path = folder / MERGED_FOLDER / "README.md" if folder else None
    if path is None or not path.exists():
        return None
    text = masked(path.read_text(encoding="utf-8"))
    return text.split("\n---\n", 1)[1] if text.startswith("---\n") and "\n---\n" in text else text
