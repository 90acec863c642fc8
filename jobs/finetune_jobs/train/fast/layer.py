"""One decoder layer, forward and backward written by hand around its attention.

T tokens (rows one after the other), D hidden size, F intermediate size, h the residual stream (T, D).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from finetune_jobs.train.fast.attention import Documents, attend
from finetune_jobs.train.fast.group import Group, with_room
from finetune_jobs.train.fast.ops import ops_for


@dataclass(frozen=True)
class Batch:
    """What all layers share in one forward pass."""

    rows: int
    length: int
    cos: Tensor
    """(T, d/2), as is sin."""
    sin: Tensor
    documents: Documents | None
    dropout: float
    seed: int
    """Below 2**31; each dropout of the pass derives its own."""


class Layer:
    """Groups and norms of one decoder layer. `scratch` is memory for nf4 weights in use, shared by all layers."""

    def __init__(self, module: Any, index: int, store: str, scratch: dict[tuple[int, ...], Tensor]) -> None:
        attention, mlp = module.self_attn, module.mlp
        where = {"store": store, "device": module.input_layernorm.weight.device, "dtype": scratch_dtype(module)}
        self.index, self.scratch, self.width = index, scratch, attention.head_dim
        self.qkv = Group([attention.q_proj, attention.k_proj, attention.v_proj], **where)
        self.o = Group([attention.o_proj], **where)
        self.gate_up = Group([mlp.gate_proj, mlp.up_proj], **where)
        self.down = Group([mlp.down_proj], **where)
        self.norms = (module.input_layernorm, module.post_attention_layernorm)

    @property
    def groups(self) -> tuple[Group, ...]:
        return self.qkv, self.o, self.gate_up, self.down

    def seed(self, batch: Batch, site: int) -> int:
        """A seed of its own for each dropout of a pass."""
        return (batch.seed + 0x9E3779B1 * (4 * self.index + site + 1)) & 0x7FFFFFFF

    def __call__(self, h: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            for group in self.groups:
                group.refresh(ops_for(h.device))
        q, k, v, h = BeforeAttention.apply(h, self, batch, *self.qkv.parameters())
        mixed = attend(q, k, v, batch.documents).reshape(h.shape[0], -1)
        after = [part for group in self.groups[1:] for part in group.parameters()]
        return AfterAttention.apply(mixed, h, self, batch, *after)


def scratch_dtype(module: Any) -> torch.dtype:
    return module.input_layernorm.weight.dtype


class BeforeAttention(Function):  # type: ignore[misc]
    """h -> norm -> q, k, v with their positions; h itself goes on as the fourth result."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, layer: Layer, batch: Batch, *_: Tensor) -> tuple[Tensor, ...]:
        ops, group, norm = ops_for(h.device), layer.qkv, layer.norms[0]
        group.ready(layer.scratch)
        buffer, x = group.input(h.shape[0])
        xd = torch.empty_like(h) if batch.dropout else None
        ops.norm_forward(h, norm.weight, x, xd, norm.variance_epsilon, layer.seed(batch, 0), batch.dropout)
        xa = (x if xd is None else xd) @ group.a.t()
        y = torch.empty(h.shape[0], group.n, dtype=h.dtype, device=h.device)
        group.forward(buffer, xa, y, ops)
        q, k, v = (y[:, rows].view(batch.rows, batch.length, -1, layer.width) for rows in group.rows)
        for part, rows in ((q, group.rows[0]), (k, group.rows[1])):
            ops.rotate(part, y[:, rows], batch.cos, batch.sin, back=False)
        ctx.layer, ctx.batch = layer, batch
        ctx.save_for_backward(h, buffer if xd is None else xd, xa)
        return q, k, v, h.view_as(h)

    @staticmethod
    def backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:
        layer, batch = ctx.layer, ctx.batch
        h, kept, xa = ctx.saved_tensors
        ops, group, norm = ops_for(h.device), layer.qkv, layer.norms[0]
        group.ready(layer.scratch)
        dy = group.room(h.shape[0])
        for grad, rows in ((dq, group.rows[0]), (dk, group.rows[1])):
            ops.rotate(grad, dy[:, rows], batch.cos, batch.sin, back=True)
        dy[:, group.rows[2]].view(dv.shape).copy_(dv)
        group.low(dy, dy[:, group.n :])
        dropped = batch.dropout > 0
        x = kept if dropped else kept[:, group.left : group.left + group.k]
        grads = group.gradients(x, xa, dy, dy[:, group.n :])
        if not ctx.needs_input_grad[0]:
            return None, None, None, *grads
        dx, low = group.backward(dy, dropped=dropped, ops=ops)
        mask = kept if dropped else None
        out = layer.down.room(h.shape[0])[
            :, : h.shape[1]
        ]  # it goes to the layer below, whose down projection ends in h
        ops.norm_backward(dx, h, norm.weight, norm.variance_epsilon, dh, low, mask, batch.dropout, out)
        return out, None, None, *grads


class AfterAttention(Function):  # type: ignore[misc]
    """attention's result, h -> output projection, norm, SwiGLU, down projection, both residual sums."""

    @staticmethod
    def forward(ctx: Any, mixed: Tensor, h: Tensor, layer: Layer, batch: Batch, *_: Tensor) -> Tensor:
        ops, norm, p = ops_for(h.device), layer.norms[1], batch.dropout
        dropped = None
        if p:
            dropped = torch.empty_like(mixed)
            ops.dropout(mixed, dropped, layer.seed(batch, 1), p)
        xa_o = (mixed if dropped is None else dropped) @ layer.o.a.t()
        middle = _add(layer, layer.o, h, mixed, xa_o)
        gate_up = layer.gate_up
        gate_up.ready(layer.scratch)
        buffer, x = gate_up.input(h.shape[0])
        xd = torch.empty_like(h) if p else None
        ops.norm_forward(middle, norm.weight, x, xd, norm.variance_epsilon, layer.seed(batch, 2), p)
        xa = (x if xd is None else xd) @ gate_up.a.t()
        y = gate_up.room(h.shape[0])
        gate_up.forward(buffer, xa, y, ops)
        gate, up = (y[:, rows] for rows in gate_up.rows)
        inner = torch.empty(gate.shape, dtype=h.dtype, device=h.device)
        inner_d = torch.empty_like(inner) if p else None
        ops.swiglu_forward(gate, up, inner, inner_d, layer.seed(batch, 3), p)
        read = inner if inner_d is None else inner_d
        xa_d = read @ layer.down.a.t()
        out = _add(layer, layer.down, middle, inner, xa_d)
        ctx.layer, ctx.batch = layer, batch
        ctx.save_for_backward(
            mixed if dropped is None else dropped, middle, buffer if xd is None else xd, y, read, xa_o, xa, xa_d
        )
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        if getattr(ctx, "spent", False):
            raise RuntimeError("The fast path's backward pass works in place and runs once for each forward pass.")
        ctx.spent = True
        layer, batch = ctx.layer, ctx.batch
        mixed, middle, kept, y, inner, xa_o, xa, xa_d = ctx.saved_tensors
        ops, norm, p, gate_up, down = ops_for(dout.device), layer.norms[1], batch.dropout, layer.gate_up, layer.down
        down.ready(layer.scratch)
        wide = with_room(dout, down.ranks)
        down.low(wide, wide[:, down.n :])
        grads_d = down.gradients(inner, xa_d, wide, wide[:, down.n :])
        dinner, low = down.backward(wide, dropped=p > 0, ops=ops)
        gate, up = (y[:, rows] for rows in gate_up.rows)
        ops.swiglu_backward(dinner, gate, up, low, inner if p else None, p)
        del dinner, inner, low
        gate_up.ready(layer.scratch)
        gate_up.low(y, y[:, gate_up.n :])
        x = kept if p else kept[:, gate_up.left : gate_up.left + gate_up.k]
        grads_gu = gate_up.gradients(x, xa, y, y[:, gate_up.n :])
        dx, low = gate_up.backward(y, dropped=p > 0, ops=ops)
        wide = layer.o.room(middle.shape[0])
        dmiddle = wide[:, : layer.o.n]
        ops.norm_backward(dx, middle, norm.weight, norm.variance_epsilon, dout, low, kept if p else None, p, dmiddle)
        layer.o.ready(layer.scratch)
        layer.o.low(wide, wide[:, layer.o.n :])
        grads_o = layer.o.gradients(mixed, xa_o, wide, wide[:, layer.o.n :])
        dmixed, low = layer.o.backward(wide, dropped=p > 0, ops=ops)
        if low is not None:
            ops.add_masked(dmixed, low, mixed if p else None, p)
        return dmixed, dmiddle, None, None, *grads_o, *grads_gu, *grads_d


def _add(layer: Layer, group: Group, h: Tensor, x: Tensor, xa: Tensor) -> Tensor:
    """h + x W^T + s xa B^T, in two passes over the result (T, D)."""
    ops = ops_for(h.device)
    group.ready(layer.scratch)
    out = torch.empty_like(h)
    if group.store == "fp8":
        ops.rank_update(h, xa, group.b[0].t(), out, plus=group.times_w(x, ops))
        return out
    ops.rank_update(h, xa, group.b[0].t(), out)
    return out.addmm_(x, group.w.t())


class Norm(Function):  # type: ignore[misc]
    """A frozen RMS norm (T, D)."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, eps: float) -> Tensor:
        out = torch.empty_like(h)
        ops_for(h.device).norm_forward(h, weight, out, None, eps, 0, 0.0)
        ctx.save_for_backward(h, weight)
        ctx.eps = eps
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        h, weight = ctx.saved_tensors
        out = torch.empty_like(h)
        ops_for(h.device).norm_backward(grad.contiguous(), h, weight, ctx.eps, None, None, None, 0.0, out)
        return out, None, None
