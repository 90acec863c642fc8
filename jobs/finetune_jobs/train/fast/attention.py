"""Causal attention over rows, and over documents packed into rows, never from one document into another."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from finetune_jobs.train.fast import hopper

HALF = (torch.bfloat16, torch.float16)
"""What the GPU's fused kernels compute in."""


@dataclass(frozen=True)
class Documents:
    """Where documents begin in a batch whose rows stand one after the other."""

    starts: Tensor
    """(documents + 1) int32, from 0 to the batch's tokens, on the device of the batch."""
    longest: int
    """Tokens of the longest document."""


Attention = Callable[[Tensor, Tensor, Tensor, Documents | None], Tensor]


def attend(q: Tensor, k: Tensor, v: Tensor, documents: Documents | None) -> Tensor:
    """q (B, S, H, d); k, v (B, S, G, d), H a multiple of G. Returns (B, S, H, d).

    Without `documents` each row is one document.
    """
    way = attention_for(q.device, q.dtype, q.shape[2], k.shape[2], q.shape[3])
    return way(q, k, v, documents)


@lru_cache
def attention_for(device: torch.device, dtype: torch.dtype, heads: int, groups: int, width: int) -> Attention:
    """`by_torch`, or flash-attn-4's where it can be had."""
    if not hopper.wanted(device, dtype) or width != hopper.WIDTH:
        return by_torch
    differs = partial(_differs, device=device, heads=heads, groups=groups)
    return hopper.trusted(hopper.flash_attention, differs) or by_torch


def _differs(way: Attention, device: torch.device, heads: int, groups: int) -> float:
    """How far results and gradients are from PyTorch's, at most: two rows as they are, and as four documents."""
    draw = torch.Generator(device).manual_seed(0)
    q, k, v, given = (
        torch.randn(2, 384, count, hopper.WIDTH, device=device, generator=draw).bfloat16()
        for count in (heads, groups, groups, heads)
    )
    inputs = [t.requires_grad_() for t in (q, k, v)]
    packed = Documents(torch.tensor([0, 100, 384, 400, 768], dtype=torch.int32, device=device), 368)
    away = []
    with torch.enable_grad():
        for documents in (None, packed):
            told = []
            for one in (way, by_torch):
                out = one(q, k, v, documents)
                told.append([out, *torch.autograd.grad(out, inputs, given)])
            away += [(a.float() - b.float()).norm() / b.float().norm() for a, b in zip(*told, strict=True)]
    return float(torch.stack(away).max())  # nan where one is


def by_torch(q: Tensor, k: Tensor, v: Tensor, documents: Documents | None) -> Tensor:
    """As `attend`. On a GPU: cuDNN or flash attention, for documents varlen_attn; elsewhere a product under a mask."""
    if documents is None:
        return _rows(q, k, v, None)
    if q.device.type == "cuda" and q.dtype in HALF:
        flat = [t.flatten(0, 1) for t in (q, k, v)]
        out = _varlen()(*flat, documents.starts, documents.starts, documents.longest, documents.longest, **_options())
        return out.view(q.shape)
    flat = [t.flatten(0, 1)[None] for t in (q, k, v)]
    return _rows(flat[0], flat[1], flat[2], mask_of(documents)).view(q.shape)


def mask_of(documents: Documents) -> Tensor:
    """(T, T), True where a token may look: at its own document, not ahead."""
    starts = documents.starts.long()
    owner = torch.repeat_interleave(torch.arange(len(starts) - 1, device=starts.device), starts.diff())
    return (owner[:, None] == owner[None, :]).tril()


def _rows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    turned = [t.transpose(1, 2) for t in (q, k, v)]
    grouped = q.shape[2] != k.shape[2]
    fast = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(fast, set_priority=True):
        out = scaled_dot_product_attention(*turned, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)
    return out.transpose(1, 2)


@lru_cache
def _varlen() -> Any:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


@lru_cache
def _options() -> dict[str, Any]:
    """How this torch spells causal attention with grouped heads."""
    known = inspect.signature(_varlen()).parameters
    causal: dict[str, Any] = {"is_causal": True} if "is_causal" in known else {"window_size": (-1, 0)}
    return causal | ({"enable_gqa": True} if "enable_gqa" in known else {})
