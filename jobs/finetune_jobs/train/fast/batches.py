"""Rows of the packed folder to a batch of the fast path; an XTuner config's collate_fn.

Everything whose size depends on the data is counted here, on the CPU: the GPU is never asked and never waited for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from finetune_jobs.train.batches import IGNORE_INDEX
from finetune_jobs.train.batches import collate as plain_collate

ROUND = 128
"""Supervised positions are filled up to a multiple: a matrix instruction's rows."""


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What `train.batches.collate` makes, and for `model.FastPath.loss` beside it:

    positions   (P) where a next token with a label follows in the same document, counted through all rows
    targets     (P) that token, IGNORE_INDEX where `positions` was filled up
    starts      (documents + 1) int32, and longest: only where a row holds more than one document
    """
    batch = plain_collate(rows)
    data = batch["data"]
    data["attention_mask"] = None  # padding stands on the right, where a causal model does not look
    fresh = document_starts(data.get("position_ids"), data["input_ids"].shape)
    data["positions"], data["targets"] = supervised(data["labels"], fresh)
    if int(fresh.sum()) > fresh.shape[0]:
        data["starts"], data["longest"] = boundaries(fresh)
    return batch


def document_starts(position_ids: Tensor | None, shape: Sequence[int]) -> Tensor:
    """(rows, length), True where a document begins.

    Positions that stay 0 are padding, each its own document for transformers; here a run of them is one, without its
    last if that is where a real document begins.
    """
    fresh = torch.zeros(*shape, dtype=torch.bool)
    fresh[:, 0] = True
    if position_ids is not None:
        before, here = position_ids[:, :-1], position_ids[:, 1:]
        after = torch.cat([position_ids[:, 2:], torch.zeros_like(position_ids[:, :1])], 1)
        fresh[:, 1:] = (here == 0) & ((before != 0) | (after != 0))
    return fresh


def supervised(labels: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
    """Positions whose next token has a label and belongs to the same document, and these labels."""
    following = torch.full_like(labels, IGNORE_INDEX)
    following[:, :-1] = labels[:, 1:].masked_fill(fresh[:, 1:], IGNORE_INDEX)
    following = following.view(-1)
    positions = (following != IGNORE_INDEX).nonzero()[:, 0]
    spare = -len(positions) % ROUND if len(positions) else ROUND
    filler = torch.zeros(spare, dtype=torch.long)
    targets = torch.cat([following[positions], filler + IGNORE_INDEX])
    return torch.cat([positions, filler]), targets


def boundaries(fresh: Tensor) -> tuple[Tensor, int]:
    """Where documents begin in rows that stand one after the other, with the end; the longest one's tokens."""
    starts = torch.cat([fresh.view(-1).nonzero()[:, 0], torch.tensor([fresh.numel()])])
    return starts.int(), int(starts.diff().max())
