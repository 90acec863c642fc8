"""Linear layers that read one input, with their adapters, as a few large matrix products.

T tokens, K inputs, N outputs of all members together, r rank of one adapter, R = r * members. `s` = alpha / r.

A joined group (q/k/v, gate/up) keeps its frozen weights W, its adapters' A and s*B in one matrix::

              left   input   right
    outputs [  sB  |   W   |  sB  ]   N rows
    ranks   [   -  |   A   |   -  ]   R rows

so that a forward product reads [x | x A^T] against [W | sB] and a backward product [dy | dy sB] against [W ; A]: the
adapter costs r columns more of a large product instead of a pass over its result. The first member reads the columns
to the right of x, the others those to the left: no member multiplies another's columns except among the others.
A single layer (o, down) has no columns beside W: forward, its low-rank term joins the residual sum, a pass that is
made anyway. In fp8 A and sB stand apart, in bfloat16.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

LEAST_RANK = 16
"""A matrix instruction's smallest inner size; smaller ranks are filled up with zeros."""


def padded(rank: int) -> int:
    return max(LEAST_RANK, 1 << (rank - 1).bit_length())


class Group:
    """`linears` are peft's LoRA layers; `resident` keeps the weights dequantised, else they are nf4 until used."""

    def __init__(self, linears: Sequence[Any], *, store: str, device: torch.device, dtype: torch.dtype) -> None:
        self.linears = list(linears)
        self.store, self.device, self.dtype = store, device, dtype
        self.rank: int = linears[0].r["default"]
        self.scale: float = linears[0].scaling["default"]
        self.r = padded(self.rank)
        self.sizes = [linear.out_features for linear in linears]
        self.n, self.k, self.ranks = sum(self.sizes), linears[0].in_features, self.r * len(linears)
        starts = [sum(self.sizes[:i]) for i in range(len(linears))]
        self.rows = [slice(a, a + size) for a, size in zip(starts, self.sizes, strict=True)]
        joined = len(linears) > 1 and store != "fp8"
        self.left, self.right = (self.ranks - self.r, self.r) if joined else (0, 0)
        self.below = 0 if store == "fp8" else self.ranks
        self.bias = [linear.base_layer.bias for linear in linears]
        self._settle()

    # --- Weights

    def _settle(self) -> None:
        """Bring the frozen weights to where the products read them; resident ones become views for their modules."""
        if self.store == "nf4":
            self.a = self._zeros(self.ranks, self.k)
            self.b = [self._zeros(size, self.r) for size in self.sizes]
            return
        self._place(self._zeros(self.n + self.below, self.left + self.k + self.right))
        for linear, rows in zip(self.linears, self.rows, strict=True):
            weight = self.w[rows]
            weight.copy_(dequantised(linear.base_layer))
            if self.store == "resident":
                give(linear.base_layer, weight)
        if self.store == "fp8":
            self._to_fp8()

    def _place(self, matrix: Tensor) -> None:
        """Name the parts of the group's matrix."""
        self.matrix = matrix
        inputs = slice(self.left, self.left + self.k)
        self.w = matrix[: self.n, inputs]
        self.a = matrix[self.n :, inputs] if self.below else self._zeros(self.ranks, self.k)
        self.b = [
            matrix[rows, self.columns(i)] if self.right else self._zeros(self.sizes[i], self.r)
            for i, rows in enumerate(self.rows)
        ]

    def _to_fp8(self) -> None:
        from finetune_jobs.train.fast.ops import ops_for

        def narrow(wide: Tensor) -> tuple[Tensor, Tensor]:
            out = torch.empty(wide.shape, dtype=torch.float8_e4m3fn, device=self.device)
            scale = torch.empty(wide.shape[0], 1, device=self.device)
            ops_for(self.device).quantise_rows(wide, out, scale)
            return out, scale.t()

        self.w8, self.w8_scale = narrow(self.w)
        self.wt8, self.wt8_scale = narrow(self.w.t().contiguous())
        for linear in self.linears:
            give(linear.base_layer, torch.empty(0, dtype=self.dtype, device=self.device))
        del self.matrix, self.w

    def columns(self, member: int) -> slice:
        """Where a member's low-rank columns lie in a joined matrix and in the input beside it."""
        if member == 0:
            return slice(self.left + self.k, self.left + self.k + self.r)
        return slice((member - 1) * self.r, member * self.r)

    def refresh(self, ops: ModuleType) -> None:
        """Copy the adapters, as the optimizer left them, to where the products read them."""
        for i, linear in enumerate(self.linears):
            a, b = adapter(linear)
            ops.scaled_copy(a, self.a[i * self.r : i * self.r + self.rank], 1.0)
            ops.scaled_copy(b, self.b[i][:, : self.rank], self.scale)

    def ready(self, scratch: dict[tuple[int, ...], Tensor]) -> None:
        """Before a product of an nf4 group: its weights dequantised into memory that all layers share."""
        if self.store != "nf4":
            return
        shape = (self.n + self.below, self.left + self.k + self.right)
        if shape not in scratch:
            scratch[shape] = self._zeros(*shape)
        matrix = scratch[shape]
        inputs = slice(self.left, self.left + self.k)
        self.matrix, self.w = matrix, matrix[: self.n, inputs]
        for i, (linear, rows) in enumerate(zip(self.linears, self.rows, strict=True)):
            self.w[rows].copy_(dequantised(linear.base_layer))
            if self.right:
                matrix[rows, self.columns(i)].copy_(self.b[i])
        matrix[self.n :, inputs].copy_(self.a)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=self.dtype, device=self.device)

    def parameters(self) -> list[Tensor]:
        return [part for linear in self.linears for part in adapter(linear)]

    # --- Products

    def input(self, tokens: int) -> tuple[Tensor, Tensor]:
        """Memory for x with room for x A^T beside it, and x's part of it (T, K)."""
        buffer = torch.empty(tokens, self.left + self.k + self.right, dtype=self.dtype, device=self.device)
        return buffer, buffer[:, self.left : self.left + self.k]

    def room(self, tokens: int) -> Tensor:
        """Memory for dy (T, N) with room for dy s B behind it."""
        return torch.empty(tokens, self.n + self.ranks, dtype=self.dtype, device=self.device)

    def forward(self, buffer: Tensor, xa: Tensor, out: Tensor, ops: ModuleType) -> None:
        """out[:, :N] = x W^T + s (x A^T) B^T of a joined group; xa = x A^T (T, R), with dropout where there is some."""
        if self.store == "fp8":
            base = self.times_w(buffer, ops)
            for i, rows in enumerate(self.rows):
                small = xa[:, i * self.r : (i + 1) * self.r].contiguous()
                ops.rank_update(base[:, rows], small, self.b[i].t(), out[:, rows])
        else:
            buffer[:, : self.left] = xa[:, self.r :]
            buffer[:, self.left + self.k :] = xa[:, : self.r]
            first, others = self.rows[0], slice(self.sizes[0], self.n)
            torch.mm(buffer[:, self.left :], self.matrix[first, self.left :].t(), out=out[:, first])
            torch.mm(buffer[:, : self.left + self.k], self.matrix[others, : self.left + self.k].t(), out=out[:, others])
        for rows, bias in zip(self.rows, self.bias, strict=True):
            if bias is not None:
                out[:, rows] += bias

    def backward(self, dy: Tensor, *, dropped: bool, ops: ModuleType) -> tuple[Tensor, Tensor | None]:
        """dx (T, K) from dy (T, N + R), whose last R columns hold dy s B.

        With dropout the low-rank part comes apart as the second result: its mask is not that of the rest.
        """
        low = dy[:, self.n :] @ self.a if dropped or self.store == "fp8" else None
        if self.store == "fp8":
            return scaled_product(dy[:, : self.n], self.wt8, self.wt8_scale, ops), low
        if dropped:
            return dy[:, : self.n] @ self.w, low
        return dy @ self.matrix[:, self.left : self.left + self.k], None

    def times_w(self, x: Tensor, ops: ModuleType) -> Tensor:
        """x W^T (T, N)."""
        if self.store == "fp8":
            return scaled_product(x, self.w8, self.w8_scale, ops)
        return x @ self.w.t()

    def low(self, dy: Tensor, out: Tensor) -> None:
        """out (T, R) = dy s B, member by member."""
        for i, rows in enumerate(self.rows):
            torch.mm(dy[:, rows], self.b[i], out=out[:, i * self.r : (i + 1) * self.r])

    def gradients(self, x: Tensor, xa: Tensor, dy: Tensor, dxa: Tensor) -> list[Tensor]:
        """Of A and B, member by member, in `parameters`' order. x is what the adapters read, after dropout."""
        da = dxa.t() @ x
        grads = []
        for i, rows in enumerate(self.rows):
            at = slice(i * self.r, i * self.r + self.rank)
            db = torch.empty(self.sizes[i], self.rank, dtype=dy.dtype, device=dy.device)
            db.addmm_(dy[:, rows].t(), xa[:, at], beta=0, alpha=self.scale)
            grads += [da[at], db]
        return grads


def scaled_product(x: Tensor, weight: Tensor, weight_scale: Tensor, ops: ModuleType) -> Tensor:
    """x (T, K) times weight (N, K) transposed, both fp8 by row; the product is rounded to x's type (T, N)."""
    narrow = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(x.shape[0], 1, device=x.device)
    ops.quantise_rows(x, narrow, scale)
    if x.device.type == "cpu":
        return ((narrow.float() * scale) @ (weight.float() * weight_scale.t()).t()).to(x.dtype)
    return torch._scaled_mm(  # noqa: SLF001 - the public torch.nn.functional.scaled_mm is newer than torch 2.9
        narrow, weight.t(), scale_a=scale, scale_b=weight_scale, out_dtype=x.dtype, use_fast_accum=True
    )


def with_room(dy: Tensor, columns: int) -> Tensor:
    """dy (T, N) with as many columns more behind it: where it was made with that room in its own memory."""
    tokens, width = dy.shape
    wide = (width + columns, 1)
    if (
        dy.stride() == wide
        and dy.storage_offset() == 0
        and dy.untyped_storage().nbytes() == (tokens * wide[0] * dy.element_size())
    ):
        return dy.as_strided((tokens, wide[0]), wide)
    roomy = torch.empty(tokens, wide[0], dtype=dy.dtype, device=dy.device)
    roomy[:, :width] = dy
    return roomy


def adapter(linear: Any) -> tuple[Tensor, Tensor]:
    """A (r, K) and B (N, r) of a peft LoRA layer."""
    return linear.lora_A["default"].weight, linear.lora_B["default"].weight


def give(layer: Any, weight: Tensor) -> None:
    """Let the layer's own parameter hold `weight`: DeepSpeed keeps every parameter, so a new one would not free it."""
    if hasattr(layer.weight, "quant_state"):
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    else:
        layer.weight.data = weight


def dequantised(layer: Any) -> Tensor:
    """The weight that the layer multiplies by (N, K): nf4 is expanded by bitsandbytes."""
    state = getattr(layer.weight, "quant_state", None)
    if state is None:
        return layer.weight.data
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, state)
