"""Opens what was written, as the GPU job will, and compares it with what was read."""

from pathlib import Path

import numpy as np

from finetune_jobs.dataset import arrow_rows
from finetune_jobs.dataset.tokens import IGNORE_INDEX
from finetune_jobs.errors import MachineTrouble


def check_packed(folder: Path, *, rows: int, tokens: int, supervised: int, max_length: int) -> None:
    """MachineTrouble when the folder doesn't hold exactly this."""
    found_rows = found_tokens = found_supervised = 0
    for shard in arrow_rows.shards(folder):
        for batch in arrow_rows.batches(shard):
            lengths = offsets(batch, "input_ids")
            require(bool((np.diff(lengths) <= max_length).all()), f"a row is longer than {max_length} tokens")
            for column in ("labels", "position_ids"):
                require(np.array_equal(offsets(batch, column), lengths), f"{column} and input_ids differ in length")
            last = offsets(batch, "cumulative_len")[1:] - 1
            ends = batch.column("cumulative_len").values.to_numpy()[last]
            require(np.array_equal(ends, np.diff(lengths)), "a row's last document doesn't end where the row ends")
            labels = batch.column("labels").values.to_numpy()
            found_rows += batch.num_rows
            found_tokens += int(lengths[-1])
            found_supervised += int(np.count_nonzero(labels != IGNORE_INDEX))
    require(found_rows == rows, f"{found_rows} rows instead of {rows}")
    require(found_tokens == tokens, f"{found_tokens} tokens instead of {tokens}")
    require(found_supervised == supervised, f"{found_supervised} trained tokens instead of {supervised}")
    check_loads(folder, rows)


def offsets(batch: object, column: str) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    found: np.ndarray[tuple[int], np.dtype[np.int32]] = batch.column(column).offsets.to_numpy()  # type: ignore[attr-defined]
    return found


def check_loads(folder: Path, rows: int) -> None:
    """Through datasets' own reader: the rows, and that the first and the last can be had."""
    from datasets import load_from_disk

    loaded = load_from_disk(str(folder))
    require(len(loaded) == rows, f"datasets reads {len(loaded)} rows instead of {rows}")
    for place in (0, rows - 1):
        require(bool(loaded[place]), f"row {place} is empty")


def require(fine: bool, what: str) -> None:
    if not fine:
        raise MachineTrouble(
            "OutputBroken", f"What was written is not what was read: {what}.", "Check the disk, then run it again."
        )
