"""The loss over the vocabulary without the logits of a whole batch: some thousand positions at a time."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from finetune_jobs.train.fast.ops import ops_for

CHUNK = 4096
"""Positions a product: enough to fill a GPU, few enough that a chunk's logits stay near 1 GB."""


def chunks(positions: int) -> int:
    """Positions a chunk: chunks of nearly equal size, in whole tiles of 128 rows."""
    count = max(1, -(-positions // CHUNK))
    return -(-positions // (count * 128)) * 128


class HeadLoss(Function):  # type: ignore[misc]
    """Mean cross-entropy of x W^T: x (P, D), frozen W (V, D), target (P), negative where there is none.

    The gradient of x is made in the forward pass, chunk by chunk, while the logits are there (as Liger does).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        ops = ops_for(x.device)
        inverse_count = 1 / (target >= 0).sum().clamp(min=1).float()
        losses = torch.empty(x.shape[0], device=x.device)
        dx = torch.empty_like(x)
        size = chunks(x.shape[0])
        memory = torch.empty(size, weight.shape[0], dtype=x.dtype, device=x.device)
        for start in range(0, x.shape[0], size):
            part = slice(start, min(start + size, x.shape[0]))
            logits = memory[: part.stop - part.start]
            torch.mm(x[part], weight.t(), out=logits)
            ops.cross_entropy(logits, target[part], losses[part], inverse_count)
            torch.mm(logits, weight, out=dx[part])
        ctx.save_for_backward(dx)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (dx,) = ctx.saved_tensors
        return dx * grad.to(dx.dtype), None, None
