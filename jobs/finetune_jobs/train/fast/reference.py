# ruff: noqa: PLR0917 - the arguments of the kernels, in their order
"""The functions of `kernels` in plain PyTorch: the path without Triton, and what the tests hold the kernels to.

Same names, arguments, shapes and dropped elements; where the kernels write in place or into a view, so do these.
"""

import torch
from torch import Tensor

MASK32 = 0xFFFFFFFF


def _hash(counter: Tensor, seed: int) -> Tensor:
    """Two rounds of lowbias32 (Wellons, hash-prospector) over 32-bit numbers held in int64."""
    x = (counter & MASK32) ^ seed
    for addend in (seed, 0):
        x = x ^ (x >> 16)
        x = (x * 0x21F0AAAD) & MASK32
        x = x ^ (x >> 15)
        x = (x * 0xD35A2D97) & MASK32
        x = x ^ (x >> 15)
        x = (x + addend) & MASK32
    return x


def kept(shape: tuple[int, int], seed: int, p: float, device: torch.device) -> Tensor:
    """The dropout mask of a (T, K) activation: True where an element stays."""
    counter = torch.arange(shape[0] * shape[1], device=device).view(shape)
    return _hash(counter, seed) >= min(int(p * 2**32), MASK32)


def is_kept(xd: Tensor) -> Tensor:
    return ~((xd == 0) & torch.signbit(xd))


def dropout(x: Tensor, out: Tensor, seed: int, p: float) -> None:
    scaled = (x.float() / (1 - p)).to(x.dtype) + 0.0
    mask = kept((x.shape[0], x.shape[1]), seed, p, x.device)
    out.copy_(torch.where(mask, scaled, torch.tensor(-0.0, dtype=x.dtype, device=x.device)))


def _unit(h: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    value = h.float()
    scale = torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + eps)
    return value * scale, scale


def norm_forward(h: Tensor, w: Tensor, x: Tensor, xd: Tensor | None, eps: float, seed: int, p: float) -> None:
    x.copy_(w * _unit(h, eps)[0].to(h.dtype))
    if xd is not None:
        dropout(x, xd, seed, p)


def norm_backward(
    dx: Tensor, h: Tensor, w: Tensor, eps: float, residual: Tensor | None, low_rank: Tensor | None, xd: Tensor | None,
    p: float, out: Tensor,
) -> None:  # fmt: skip
    grad = dx.float()
    if low_rank is not None:
        extra = low_rank.float()
        grad = grad + (extra if xd is None else torch.where(is_kept(xd), extra / (1 - p), 0.0))
    unit, scale = _unit(h, eps)
    grad = grad * w.float()
    result = scale * (grad - unit * (grad * unit).mean(-1, keepdim=True))
    if residual is not None:
        result = result + residual.float()
    out.copy_(result)


def rotate(src: Tensor, dst: Tensor, cos: Tensor, sin: Tensor, *, back: bool) -> None:
    batch, length, heads, width = src.shape
    c, s = (t.float().view(batch, length, 1, width // 2) for t in (cos, sin))
    s = -s if back else s
    a, b = src.float().chunk(2, -1)
    dst.copy_(torch.cat([a * c - b * s, b * c + a * s], -1).reshape(batch * length, heads * width))


def swiglu_forward(gate: Tensor, up: Tensor, h: Tensor, hd: Tensor | None, seed: int, p: float) -> None:
    h.copy_(torch.nn.functional.silu(gate.float()).to(gate.dtype) * up)
    if hd is not None:
        dropout(h, hd, seed, p)


def swiglu_backward(dh: Tensor, gate: Tensor, up: Tensor, low_rank: Tensor | None, hd: Tensor | None, p: float) -> None:
    d = dh.float()
    if low_rank is not None:
        extra = low_rank.float()
        d = d + (extra if hd is None else torch.where(is_kept(hd), extra / (1 - p), 0.0))
    g, u = gate.float(), up.float()
    sig = torch.sigmoid(g)
    dgate, dup = d * u * sig * (1 + g * (1 - sig)), d * g * sig
    gate.copy_(dgate)
    up.copy_(dup)


def rank_update(base: Tensor, left: Tensor, right: Tensor, out: Tensor, plus: Tensor | None = None) -> None:
    total = base.float() + left.float() @ right.float()
    out.copy_(total if plus is None else total + plus.float())


def add_masked(base: Tensor, extra: Tensor, xd: Tensor | None, p: float) -> None:
    wide = extra.float()
    base.copy_(base.float() + (wide if xd is None else torch.where(is_kept(xd), wide / (1 - p), 0.0)))


def cross_entropy(logits: Tensor, target: Tensor, loss: Tensor, inverse_count: Tensor) -> None:
    wide = logits.float()
    wanted = target.clamp(min=0)
    log_sum = wide.logsumexp(-1)
    counted = (target >= 0).float() * inverse_count
    loss.copy_((log_sum - wide.gather(1, wanted[:, None])[:, 0]) * counted)
    grad = (wide - log_sum[:, None]).exp()
    grad.scatter_add_(1, wanted[:, None], -torch.ones_like(grad[:, :1]))
    logits.copy_(grad * counted[:, None])


def quantise_rows(x: Tensor, out: Tensor, scale: Tensor) -> None:
    wide = x.float()
    scale.copy_(wide.abs().amax(1).clamp(min=1e-12).view(scale.shape) / 448.0)
    out.copy_(wide / scale.view(-1, 1))


def scaled_copy(src: Tensor, dst: Tensor, scale: float) -> None:
    dst.copy_(src.float() * scale)
