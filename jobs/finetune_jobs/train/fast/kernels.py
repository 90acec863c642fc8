# ruff: noqa: ANN001, ANN202, N803, PLR0917 - a kernel's arguments are pointers and constants, named as Triton's are
# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Triton kernels for what lies between the matrix products: norms, rotary positions, SwiGLU, dropout, cross-entropy.

Each has a twin of the same name and arguments in `reference`; `ops` takes these on a GPU. They write into strided
views and in place, which torch.compile turns into a copy more. Arithmetic is fp32 inside, rounded where Transformers
rounds.

Shapes: T tokens, D hidden size, F intermediate size, H heads of width d, r rank, V vocabulary, P supervised positions.
A dropped element is stored as -0.0 and a kept zero as +0.0, so that the backward pass needs neither mask nor seed.
"""

import triton
import triton.language as tl
from torch import Tensor

MINUS_ZERO = tl.constexpr(-(2**31))
"""The bits of -0.0."""


@triton.jit
def _kept(counter, seed, threshold):
    """True where a 32-bit hash of (counter, seed) is at or above the threshold: two rounds of lowbias32."""
    x = counter.to(tl.uint32) ^ seed.to(tl.uint32)
    x ^= x >> 16
    x *= 0x21F0AAAD
    x ^= x >> 15
    x *= 0xD35A2D97
    x ^= x >> 15
    x += seed.to(tl.uint32)
    x ^= x >> 16
    x *= 0x21F0AAAD
    x ^= x >> 15
    x *= 0xD35A2D97
    x ^= x >> 15
    return x >= threshold.to(tl.uint32)


@triton.jit
def _is_kept(value):
    """False for the -0.0 of a dropped element. `value` is fp32."""
    return value.to(tl.int32, bitcast=True) != MINUS_ZERO


@triton.jit
def _drop(value, counter, seed, threshold, inverse_keep, DTYPE: tl.constexpr):
    """`value` after dropout, rounded to the narrow type. The literal -0.0 would become 0.0: its bits are given."""
    scaled = (value.to(tl.float32) * inverse_keep).to(DTYPE).to(tl.float32)
    scaled = tl.where(scaled == 0.0, 0.0, scaled)
    dropped = tl.full(scaled.shape, MINUS_ZERO, tl.int32).to(tl.float32, bitcast=True)
    return tl.where(_kept(counter, seed, threshold), scaled, dropped)


@triton.jit(do_not_specialize=["seed", "threshold"])
def _norm_forward(h, w, x, xd, h_row, x_row, xd_row, eps, seed, threshold, inverse_keep,
                  D: tl.constexpr, BLOCK: tl.constexpr, DROP: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    col = tl.arange(0, BLOCK)
    inside = col < D
    value = tl.load(h + row * h_row + col, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(w + col, mask=inside, other=0.0)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, 0) / D + eps)
    narrow = x.dtype.element_ty
    out = ((value * scale).to(narrow) * weight).to(narrow)
    tl.store(x + row * x_row + col, out, mask=inside)
    if DROP:
        dropped = _drop(out, row * D + col, seed, threshold, inverse_keep, narrow)
        tl.store(xd + row * xd_row + col, dropped.to(narrow), mask=inside)


@triton.jit
def _norm_backward(dx, h, w, residual, low_rank, xd, out, dx_row, h_row, res_row, low_row, xd_row, out_row, eps,
                   inverse_keep, D: tl.constexpr, BLOCK: tl.constexpr, RESIDUAL: tl.constexpr, LOW: tl.constexpr,
                   DROP: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    col = tl.arange(0, BLOCK)
    inside = col < D
    value = tl.load(h + row * h_row + col, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(w + col, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(dx + row * dx_row + col, mask=inside, other=0.0).to(tl.float32)
    if LOW:
        extra = tl.load(low_rank + row * low_row + col, mask=inside, other=0.0).to(tl.float32)
        if DROP:
            kept = _is_kept(tl.load(xd + row * xd_row + col, mask=inside, other=0.0).to(tl.float32))
            extra = tl.where(kept, extra * inverse_keep, 0.0)
        grad += extra
    scale = 1.0 / tl.sqrt(tl.sum(value * value, 0) / D + eps)
    grad *= weight
    unit = value * scale
    result = scale * (grad - unit * (tl.sum(grad * unit, 0) / D))
    if RESIDUAL:
        result += tl.load(residual + row * res_row + col, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_row + col, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _rotate(src, dst, cos, sin, src_batch, src_token, src_head, dst_token, length, sign,
            HEADS: tl.constexpr, BLOCK_H: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)[:, None]
    col = tl.arange(0, BLOCK)[None, :]
    inside = (head < HEADS) & (col < HALF)
    c = tl.load(cos + token * HALF + col, mask=col < HALF, other=0.0).to(tl.float32)
    s = tl.load(sin + token * HALF + col, mask=col < HALF, other=0.0).to(tl.float32) * sign
    source = src + (token // length) * src_batch + (token % length) * src_token + head * src_head + col
    a = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)
    target = dst + token * dst_token + head * (2 * HALF) + col
    tl.store(target, (a * c - b * s).to(dst.dtype.element_ty), mask=inside)
    tl.store(target + HALF, (b * c + a * s).to(dst.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["seed", "threshold"])
def _swiglu_forward(gate, up, h, hd, gu_row, h_row, hd_row, seed, threshold, inverse_keep,
                    F: tl.constexpr, BLOCK: tl.constexpr, DROP: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = col < F
    g = tl.load(gate + row * gu_row + col, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * gu_row + col, mask=inside, other=0.0)
    narrow = h.dtype.element_ty
    out = ((g * tl.sigmoid(g)).to(narrow) * u).to(narrow)
    tl.store(h + row * h_row + col, out, mask=inside)
    if DROP:
        dropped = _drop(out, row * F + col, seed, threshold, inverse_keep, narrow)
        tl.store(hd + row * hd_row + col, dropped.to(narrow), mask=inside)


@triton.jit
def _swiglu_backward(dh, gate, up, low_rank, hd, dh_row, gu_row, low_row, hd_row, inverse_keep, F: tl.constexpr,
                     BLOCK: tl.constexpr, LOW: tl.constexpr, DROP: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = col < F
    d = tl.load(dh + row * dh_row + col, mask=inside, other=0.0).to(tl.float32)
    if LOW:
        extra = tl.load(low_rank + row * low_row + col, mask=inside, other=0.0).to(tl.float32)
        if DROP:
            kept = _is_kept(tl.load(hd + row * hd_row + col, mask=inside, other=0.0).to(tl.float32))
            extra = tl.where(kept, extra * inverse_keep, 0.0)
        d += extra
    g = tl.load(gate + row * gu_row + col, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * gu_row + col, mask=inside, other=0.0).to(tl.float32)
    sig = tl.sigmoid(g)
    tl.store(gate + row * gu_row + col, (d * u * sig * (1.0 + g * (1.0 - sig))).to(gate.dtype.element_ty), mask=inside)
    tl.store(up + row * gu_row + col, (d * g * sig).to(up.dtype.element_ty), mask=inside)


@triton.jit
def _rank_update(base, left, right, plus, out, base_row, right_row, right_col, plus_row, out_row, T,
                 N: tl.constexpr, RANK: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr,
                 PLUS: tl.constexpr):  # fmt: skip
    row = (tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)[:, None]
    col = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    inside = (row < T) & (col < N)
    rank = tl.arange(0, RANK)
    small = tl.load(left + row * RANK + rank[None, :], mask=row < T, other=0.0)
    wide = tl.load(right + rank[:, None] * right_row + col * right_col, mask=col < N, other=0.0)
    value = tl.load(base + row * base_row + col, mask=inside, other=0.0).to(tl.float32)
    value += tl.dot(small, wide, input_precision="ieee")
    if PLUS:
        value += tl.load(plus + row * plus_row + col, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_row + col, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _add_masked(base, extra, xd, base_row, extra_row, xd_row, inverse_keep, K: tl.constexpr, BLOCK: tl.constexpr,
                DROP: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = col < K
    value = tl.load(extra + row * extra_row + col, mask=inside, other=0.0).to(tl.float32)
    if DROP:
        kept = _is_kept(tl.load(xd + row * xd_row + col, mask=inside, other=0.0).to(tl.float32))
        value = tl.where(kept, value * inverse_keep, 0.0)
    value += tl.load(base + row * base_row + col, mask=inside, other=0.0).to(tl.float32)
    tl.store(base + row * base_row + col, value.to(base.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["seed", "threshold"])
def _dropout(x, out, x_row, out_row, seed, threshold, inverse_keep, K: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = col < K
    narrow = out.dtype.element_ty
    value = tl.load(x + row * x_row + col, mask=inside, other=0.0)
    dropped = _drop(value, row * K + col, seed, threshold, inverse_keep, narrow)
    tl.store(out + row * out_row + col, dropped.to(narrow), mask=inside)


@triton.jit
def _cross_entropy(logits, target, loss, inverse_count, row_stride, V: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    wanted = tl.load(target + row)
    line = logits + row * row_stride
    col = tl.arange(0, BLOCK)
    if wanted < 0:
        for start in range(0, V, BLOCK):
            tl.store(line + start + col, tl.zeros([BLOCK], logits.dtype.element_ty), mask=start + col < V)
        tl.store(loss + row, 0.0)
    else:
        top = tl.full([BLOCK], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK], tl.float32)
        for start in range(0, V, BLOCK):
            value = tl.load(line + start + col, mask=start + col < V, other=float("-inf")).to(tl.float32)
            higher = tl.maximum(top, value)
            safe = tl.where(higher == float("-inf"), 0.0, higher)
            total = total * tl.exp(top - safe) + tl.exp(value - safe)
            top = higher
        peak = tl.max(top, 0)
        log_sum = peak + tl.log(tl.sum(total * tl.exp(top - peak), 0))
        weight = tl.load(inverse_count)
        tl.store(loss + row, (log_sum - tl.load(line + wanted).to(tl.float32)) * weight)
        for start in range(0, V, BLOCK):
            value = tl.load(line + start + col, mask=start + col < V, other=float("-inf")).to(tl.float32)
            grad = (tl.exp(value - log_sum) - tl.where(start + col == wanted, 1.0, 0.0)) * weight
            tl.store(line + start + col, grad.to(logits.dtype.element_ty), mask=start + col < V)


@triton.jit
def _quantise_rows(x, out, scale, x_row, K: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    col = tl.arange(0, BLOCK)
    value = tl.load(x + row * x_row + col, mask=col < K, other=0.0).to(tl.float32)
    step = tl.maximum(tl.max(tl.abs(value), 0), 1e-12) / 448.0
    tl.store(scale + row, step)
    tl.store(out + row * K + col, (value / step).to(out.dtype.element_ty), mask=col < K)


@triton.jit
def _scaled_copy(src, dst, src_row, dst_row, scale, K: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, N):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    col = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    inside = (row < N) & (col < K)
    value = tl.load(src + row * src_row + col, mask=inside, other=0.0).to(tl.float32) * scale
    tl.store(dst + row * dst_row + col, value.to(dst.dtype.element_ty), mask=inside)


def _warps(block: int) -> int:
    return max(1, min(16, block // 512))


def norm_forward(h: Tensor, w: Tensor, x: Tensor, xd: Tensor | None, eps: float, seed: int, p: float) -> None:
    block = triton.next_power_of_2(h.shape[1])
    spare = x if xd is None else xd
    _norm_forward[(h.shape[0],)](
        h, w, x, spare, h.stride(0), x.stride(0), spare.stride(0), eps, seed, _threshold(p), 1 / (1 - p),
        D=h.shape[1], BLOCK=block, DROP=xd is not None, num_warps=_warps(block),
    )  # fmt: skip


def norm_backward(
    dx: Tensor, h: Tensor, w: Tensor, eps: float, residual: Tensor | None, low_rank: Tensor | None, xd: Tensor | None,
    p: float, out: Tensor,
) -> None:  # fmt: skip
    block = triton.next_power_of_2(h.shape[1])
    res, low, mask = (out if t is None else t for t in (residual, low_rank, xd))
    _norm_backward[(h.shape[0],)](
        dx, h, w, res, low, mask, out, dx.stride(0), h.stride(0), res.stride(0), low.stride(0), mask.stride(0),
        out.stride(0), eps, 1 / (1 - p), D=h.shape[1], BLOCK=block, RESIDUAL=residual is not None,
        LOW=low_rank is not None, DROP=xd is not None, num_warps=_warps(block),
    )  # fmt: skip


def rotate(src: Tensor, dst: Tensor, cos: Tensor, sin: Tensor, *, back: bool) -> None:
    batch, length, heads, width = src.shape
    src = src if src.stride(3) == 1 else src.contiguous()
    block_h = min(8, triton.next_power_of_2(heads))
    _rotate[(batch * length, triton.cdiv(heads, block_h))](
        src, dst, cos, sin, src.stride(0), src.stride(1), src.stride(2), dst.stride(0), length, -1.0 if back else 1.0,
        HEADS=heads, BLOCK_H=block_h, HALF=width // 2, BLOCK=triton.next_power_of_2(width // 2), num_warps=2,
    )  # fmt: skip


def swiglu_forward(gate: Tensor, up: Tensor, h: Tensor, hd: Tensor | None, seed: int, p: float) -> None:
    block = min(2048, triton.next_power_of_2(h.shape[1]))
    spare = h if hd is None else hd
    _swiglu_forward[(h.shape[0], triton.cdiv(h.shape[1], block))](
        gate, up, h, spare, gate.stride(0), h.stride(0), spare.stride(0), seed, _threshold(p), 1 / (1 - p),
        F=h.shape[1], BLOCK=block, DROP=hd is not None, num_warps=8,
    )  # fmt: skip


def swiglu_backward(dh: Tensor, gate: Tensor, up: Tensor, low_rank: Tensor | None, hd: Tensor | None, p: float) -> None:
    block = min(2048, triton.next_power_of_2(dh.shape[1]))
    low, mask = (dh if t is None else t for t in (low_rank, hd))
    _swiglu_backward[(dh.shape[0], triton.cdiv(dh.shape[1], block))](
        dh, gate, up, low, mask, dh.stride(0), gate.stride(0), low.stride(0), mask.stride(0), 1 / (1 - p),
        F=dh.shape[1], BLOCK=block, LOW=low_rank is not None, DROP=hd is not None, num_warps=8,
    )  # fmt: skip


def rank_update(base: Tensor, left: Tensor, right: Tensor, out: Tensor, plus: Tensor | None = None) -> None:
    """out = base + plus + left @ right; left (T, r), right (r, N), the others (T, N)."""
    tokens, width = base.shape
    addend = base if plus is None else plus
    _rank_update[(triton.cdiv(width, 128), triton.cdiv(tokens, 64))](
        base, left, right, addend, out, base.stride(0), right.stride(0), right.stride(1), addend.stride(0),
        out.stride(0), tokens, N=width, RANK=left.shape[1], BLOCK_T=64, BLOCK_N=128, PLUS=plus is not None,
        num_warps=4,
    )  # fmt: skip


def add_masked(base: Tensor, extra: Tensor, xd: Tensor | None, p: float) -> None:
    """base += extra / (1 - p) where `xd` was not dropped; += extra without `xd`."""
    block = min(2048, triton.next_power_of_2(base.shape[1]))
    mask = base if xd is None else xd
    _add_masked[(base.shape[0], triton.cdiv(base.shape[1], block))](
        base, extra, mask, base.stride(0), extra.stride(0), mask.stride(0), 1 / (1 - p), K=base.shape[1], BLOCK=block,
        DROP=xd is not None, num_warps=4,
    )  # fmt: skip


def dropout(x: Tensor, out: Tensor, seed: int, p: float) -> None:
    block = min(2048, triton.next_power_of_2(x.shape[1]))
    _dropout[(x.shape[0], triton.cdiv(x.shape[1], block))](
        x, out, x.stride(0), out.stride(0), seed, _threshold(p), 1 / (1 - p), K=x.shape[1], BLOCK=block, num_warps=4
    )


def cross_entropy(logits: Tensor, target: Tensor, loss: Tensor, inverse_count: Tensor) -> None:
    block = min(8192, triton.next_power_of_2(logits.shape[1]))
    _cross_entropy[(logits.shape[0],)](
        logits, target, loss, inverse_count, logits.stride(0), V=logits.shape[1], BLOCK=block, num_warps=16
    )


def quantise_rows(x: Tensor, out: Tensor, scale: Tensor) -> None:
    """x (T, K) to fp8 with one scale a row, in one pass: a row fits into one program's registers."""
    block = triton.next_power_of_2(x.shape[1])
    _quantise_rows[(x.shape[0],)](x, out, scale, x.stride(0), K=x.shape[1], BLOCK=block, num_warps=_warps(block))


def scaled_copy(src: Tensor, dst: Tensor, scale: float) -> None:
    """dst (N, K) = scale * src, rounded to dst's type."""
    block = min(1024, triton.next_power_of_2(src.shape[1]))
    rows = 4096 // block
    _scaled_copy[(triton.cdiv(src.shape[0], rows), triton.cdiv(src.shape[1], block))](
        src, dst, src.stride(0), dst.stride(0), scale, K=src.shape[1], BLOCK=block, ROWS=rows, N=src.shape[0],
        num_warps=4,
    )  # fmt: skip


def _threshold(p: float) -> int:
    return min(int(p * 2**32), 2**32 - 1)
