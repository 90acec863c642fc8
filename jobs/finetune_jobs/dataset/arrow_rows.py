"""Rows of Parquet files and of Datasets that ``save_to_disk`` wrote, in batches that are small in memory."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_jobs.errors import UserMistake

BATCH = 256  # rows decoded at once
STATE = "state.json"
SPLITS = "dataset_dict.json"
MESSAGE_COLUMNS = ("messages", "conversation")
"""Where a Parquet file has one of these, its other columns aren't read."""


def parquet(path: Path) -> Iterator[tuple[int, float, dict[str, Any]]]:
    """(row from 1, part of the file that is read, row as a dict)."""
    try:
        file = pq.ParquetFile(path, pre_buffer=False)
    except pa.ArrowInvalid as error:
        raise UserMistake(
            "FileBroken", f"{path.name} is no Parquet file: {error}.", "Bring the file again, or name other files."
        ) from None
    total = max(1, file.metadata.num_rows)
    number = 0
    known = [name for name in file.schema_arrow.names if name in MESSAGE_COLUMNS]
    for batch in file.iter_batches(batch_size=BATCH, columns=known or None, use_threads=False):
        for row in batch.to_pylist():
            number += 1
            yield number, number / total, without_empty(row)


def without_empty(row: dict[str, Any]) -> dict[str, Any]:
    """Arrow gives every message all the fields that any message has; None means that this one lacks it.

    `loss` stays: that it is None tells that it was lost on the way.
    """
    for column, value in row.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            row[column] = [{k: v for k, v in one.items() if v is not None or k == "loss"} for one in value]
    return row


def dataset_folder(root: Path) -> Path:
    """The folder of one Dataset at or below `root`; of a DatasetDict its train split."""
    if (root / SPLITS).is_file():
        return train_split(root)
    if (root / STATE).is_file():
        return root
    below = sorted(path.parent for path in root.glob(f"*/{STATE}"))
    if len(below) == 1:
        return below[0]
    found = ", ".join(path.name for path in below) or "none"
    raise UserMistake(
        "DatasetMissing",
        f"The source is no Dataset that save_to_disk wrote: it has no {STATE} (folders that have one: {found}).",
        "Name the folder that datasets' save_to_disk wrote, or use the format agent-flan or messages for raw files.",
    )


def train_split(root: Path) -> Path:
    splits = json.loads((root / SPLITS).read_text(encoding="utf-8"))["splits"]
    chosen = "train" if "train" in splits else splits[0] if len(splits) == 1 else None
    if chosen is None:
        raise UserMistake(
            "SplitUnknown",
            f"The Dataset has the splits {', '.join(splits)}, none of which is train.",
            "Name the folder of the split that is to be trained.",
        )
    return root / str(chosen)


def shards(folder: Path) -> list[Path]:
    """The folder's Arrow files, in the order of its rows."""
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return [folder / entry["filename"] for entry in state["_data_files"]]


def columns(shard: Path) -> list[str]:
    with pa.OSFile(str(shard)) as file:
        return list(pa.ipc.open_stream(file).schema.names)


def batches(shard: Path) -> Iterator[pa.RecordBatch]:
    """Read, not memory-mapped: mapped pages would count as this process's memory."""
    with pa.OSFile(str(shard)) as file:
        yield from pa.ipc.open_stream(file)


def rows(shard: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row from 1, row as a dict)."""
    number = 0
    for batch in batches(shard):
        for start in range(0, batch.num_rows, BATCH):
            for row in batch.slice(start, BATCH).to_pylist():
                number += 1
                yield number, without_empty(row)
