"""From rows of the packed folder to a batch; nothing is tokenised, packed or cached here."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

IGNORE_INDEX = -100
"""Label without loss, as transformers' loss functions know it."""
PAD_INDEX = 0
"""Any token will do: a padded position is never attended to and has no label."""


def packed_rows(folder: str | Path) -> Any:
    """The dataset stage's rows, as numpy arrays: lists of Python numbers take three times as long to a batch."""
    from datasets import load_from_disk

    return load_from_disk(str(folder)).with_format("numpy")


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows with input_ids and labels, packed ones with position_ids (from 0 in each document) too.

    Packed rows go without an attention mask: from positions that restart, transformers' masks (sdpa, eager, flex)
    and its flash attention make each document see itself alone
    (``transformers.masking_utils.find_packed_sequence_indices``).
    Unpacked rows of unequal length are padded on the right under a mask.

    Returns what XTuner's SupervisedFinetune takes, tensors of shape (rows, longest row).
    """
    input_ids = [torch.as_tensor(row["input_ids"], dtype=torch.long) for row in rows]
    labels = [torch.as_tensor(row["labels"], dtype=torch.long) for row in rows]
    data: dict[str, Any] = {
        "input_ids": pad_sequence(input_ids, batch_first=True, padding_value=PAD_INDEX),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
    }
    if all("position_ids" in row for row in rows):
        positions = [torch.as_tensor(row["position_ids"], dtype=torch.long) for row in rows]
        # padding of zeros restarts at every position: each is a document of its own
        data |= {"attention_mask": None, "position_ids": pad_sequence(positions, batch_first=True)}
    else:
        ones = [torch.ones_like(ids, dtype=torch.bool) for ids in input_ids]
        data["attention_mask"] = pad_sequence(ones, batch_first=True)
    return {"data": data, "data_samples": None}
