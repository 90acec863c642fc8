"""The output as ``datasets.load_from_disk`` reads it: Arrow shards that are memory-mapped, and two small JSON files.

Written shard by shard as it comes, without the library's cache: nothing is kept in memory, nothing is written twice.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from finetune_jobs.dataset.tokens import Array, ids_of, labels_of

SHARD_BYTES = 500_000_000
"""About how large a shard becomes, as datasets' own default."""
PACKED_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("cumulative_len", pa.list_(pa.int32())),
        ("position_ids", pa.list_(pa.int32())),
        ("length", pa.int32()),
    ]
)
"""As xtuner.dataset.utils.Packer names them: `cumulative_len` is 0 and the end of each document, `position_ids` begin
at 0 in each document; `length` is the row's tokens."""
MESSAGES_SCHEMA = pa.schema(
    [("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("loss", pa.bool_())])))]
)


class ArrowFolder:
    """A folder of shards, complete when the `with` block ends well; before that it has another name."""

    def __init__(self, folder: Path, schema: pa.Schema, fingerprint: str) -> None:
        self.folder = folder
        self.draft = folder.with_name(f".{folder.name}.draft")
        self.schema = schema
        self.fingerprint = fingerprint
        self.shards: list[Path] = []
        self.rows = 0

    def __enter__(self) -> Self:
        for left in (self.draft, self.folder):
            if left.exists():
                shutil.rmtree(left)
        self.draft.mkdir(parents=True)
        self.open_shard()
        return self

    def open_shard(self) -> None:
        self.shards.append(self.draft / f"{len(self.shards):05d}.arrow")
        self.file = pa.OSFile(str(self.shards[-1]), "wb")
        self.writer = pa.ipc.new_stream(self.file, self.schema)

    def close_shard(self) -> None:
        self.writer.close()
        self.file.close()

    def write(self, batch: pa.RecordBatch) -> None:
        if self.file.tell() > SHARD_BYTES:
            self.close_shard()
            self.open_shard()
        self.writer.write_batch(batch)
        self.rows += batch.num_rows

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self.file.close()
            shutil.rmtree(self.draft)
            return
        self.close_shard()
        self.describe()
        self.draft.rename(self.folder)

    def describe(self) -> None:
        """The two files beside the shards, and the shards' final names."""
        from datasets import DatasetInfo, Features

        names = [f"data-{number:05d}-of-{len(self.shards):05d}.arrow" for number in range(len(self.shards))]
        for path, name in zip(self.shards, names, strict=True):
            path.rename(self.draft / name)
        state: dict[str, Any] = {
            "_data_files": [{"filename": name} for name in names],
            "_fingerprint": self.fingerprint,
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        (self.draft / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        DatasetInfo(features=Features.from_arrow_schema(self.schema)).write_to_directory(self.draft)


def packed_batch(rows: Sequence[Sequence[Array]]) -> pa.RecordBatch:
    """Rows of documents as PACKED_SCHEMA."""
    lengths = [[len(document) for document in row] for row in rows]
    flat = np.concatenate([document for row in rows for document in row])
    totals = [sum(row) for row in lengths]
    boundaries = [np.cumsum([0, *row], dtype=np.int32) for row in lengths]
    positions = np.concatenate([np.arange(length, dtype=np.int32) for row in lengths for length in row])
    columns = [
        lists(ids_of(flat), totals),
        lists(labels_of(flat), totals),
        lists(np.concatenate(boundaries), [len(one) for one in boundaries]),
        lists(positions, totals),
        pa.array(totals, pa.int32()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=PACKED_SCHEMA)


def lists(flat: Array, lengths: Iterable[int]) -> pa.ListArray:
    """`flat` cut into lists of these lengths, without a copy."""
    offsets = np.cumsum([0, *lengths], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat, pa.int32()))


def messages_batch(rows: Sequence[list[dict[str, str | bool]]]) -> pa.RecordBatch:
    """Conversations as MESSAGES_SCHEMA."""
    return pa.RecordBatch.from_arrays([pa.array(rows, MESSAGES_SCHEMA.types[0])], schema=MESSAGES_SCHEMA)
