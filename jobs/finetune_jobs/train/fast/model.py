"""A causal language model whose training step is the fast path's; everything else about it stays Transformers'.

An XTuner config names `build` as its llm's type and `finetune_jobs.train.fast.xtuner.FastFinetune` as its model's.
peft wraps the layers as ever, so that state dicts, adapters and checkpoints have peft's names. The first training
forward gathers the layers into `Layer`s; without labels or outside training the model's own forward runs.
"""

import functools
import logging
import os
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from finetune_jobs.train.fast import hopper
from finetune_jobs.train.fast.attention import Documents
from finetune_jobs.train.fast.choice import Shape
from finetune_jobs.train.fast.head import HeadLoss
from finetune_jobs.train.fast.layer import Batch, Layer, Norm
from finetune_jobs.train.preflight import read_model_config

log = logging.getLogger(__name__)

IGNORE_INDEX = -100


@dataclass(frozen=True)
class Mode:
    """How the fast path runs; `choice.Choice` has the same fields."""

    store: str = "resident"
    """Frozen weights: resident (dequantised once), nf4 (dequantised at each use) or fp8 (by row, both ways)."""
    recomputed_layers: int = 0
    """The first so many layers are run again in the backward pass instead of kept."""
    dropout: float = 0.0


class FastPath:
    """The training step of a Llama-like model with peft's LoRA on all seven linear layers."""

    def __init__(self, model: Any, mode: Mode) -> None:
        self.model, self.mode = model, mode
        scratch: dict[tuple[int, ...], Tensor] = {}
        with torch.no_grad():
            self.layers = [Layer(module, i, mode.store, scratch) for i, module in enumerate(model.model.layers)]

    def loss(self, input_ids: Tensor, labels: Tensor | None, **batch: Any) -> Tensor:
        """Mean loss over supervised positions. input_ids and labels (rows, length).

        From `batches.collate`: `targets` (P) with `positions` (P) that have one, `starts` and `longest` of documents.
        Without them labels are shifted here, and `position_ids` that restart separate nothing but their targets.
        """
        rows, length = input_ids.shape
        shared = self._batch(input_ids, **batch)
        with torch.no_grad():
            h = self.model.model.embed_tokens(input_ids).view(rows * length, -1)
        for layer in self.layers:
            if layer.index < self.mode.recomputed_layers:
                h = checkpoint(layer, h, shared, use_reentrant=False, preserve_rng_state=False)
            else:
                h = layer(h, shared)
        targets = batch.get("targets")
        if targets is None:
            targets = shifted(labels)
        else:
            h = h.index_select(0, batch["positions"])
        norm = self.model.model.norm
        x = Norm.apply(h, norm.weight, norm.variance_epsilon)
        return HeadLoss.apply(x, self.model.lm_head.weight, targets)

    def _batch(self, input_ids: Tensor, position_ids: Tensor | None = None, starts: Tensor | None = None,
               longest: int = 0, **_: Any) -> Batch:  # fmt: skip
        rows, length = input_ids.shape
        if position_ids is None:
            position_ids = torch.arange(length, device=input_ids.device)[None]
        position_ids = position_ids.expand(rows, length)
        base = self.model.model
        cos, sin = base.rotary_emb(base.norm.weight[:1, None], position_ids)
        half = cos.shape[-1] // 2
        flat = [t[..., :half].reshape(rows * length, half).contiguous() for t in (cos, sin)]
        documents = None if starts is None else Documents(starts, longest)
        seed = int(torch.randint(0, 2**31, ()).item()) if self.mode.dropout else 0
        return Batch(rows, length, flat[0], flat[1], documents, self.mode.dropout, seed)


def shifted(labels: Tensor) -> Tensor:
    """The next token's label of each position, negative where there is none (T)."""
    targets = torch.full_like(labels, IGNORE_INDEX)
    targets[:, :-1] = labels[:, 1:]
    return targets.view(-1)


def hasten(model: Any, mode: Mode, compiling: hopper.Compiling = None) -> Any:
    """Give a causal language model the fast training step, from its first training forward on; returns the model.

    `compiling` is what `hopper.prepare` returned.
    """
    plain = model.forward

    @functools.wraps(plain)
    def forward(self: Any, input_ids: Tensor | None = None, labels: Tensor | None = None, **more: Any) -> Any:
        training = self.training and torch.is_grad_enabled() and input_ids is not None
        if not training or (labels is None and "targets" not in more):
            unknown = ("targets", "positions", "starts", "longest")
            return plain(input_ids=input_ids, labels=labels, **{k: v for k, v in more.items() if k not in unknown})
        if not hasattr(self, "fast_path"):
            hopper.await_compiled(compiling)
            self.fast_path = FastPath(self, mode)
        from transformers.modeling_outputs import CausalLMOutputWithPast

        return CausalLMOutputWithPast(loss=self.fast_path.loss(input_ids, labels, **more))

    model.forward = types.MethodType(forward, model)
    return model


def build(
    pretrained_model_name_or_path: str,
    *,
    store: str = "resident",
    quantization: str = "nf4",
    recomputed_layers: int = 0,
    dropout: float = 0.0,
    torch_dtype: Any = None,
    device: str | None = None,
    **_from_xtuner: Any,
) -> Any:
    """Load a model for the fast path: an XTuner config's llm type.

    `quantization` nf4 rounds the linear layers' weights to bitsandbytes' nf4 with double quantisation, whatever
    `store` then keeps them as; none takes them as they are. `device` is the current GPU, or the CPU without one.
    XTuner adds attn_implementation by itself; it is not used.
    """
    from finetune_jobs.train.fast.loading import load

    where = torch.device(device or (f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"))
    dtype = torch_dtype or (torch.bfloat16 if where.type == "cuda" else torch.float32)
    compiling = prepare_kernels(pretrained_model_name_or_path) if where.type == "cuda" else None
    model = load(pretrained_model_name_or_path, nf4=quantization == "nf4", keep_nf4=store == "nf4", dtype=dtype,
                 device=where)  # fmt: skip
    return hasten(model, Mode(store, recomputed_layers, dropout), compiling)


def prepare_kernels(folder: str) -> hopper.Compiling:
    """Let what compiles at its first use do so beside the reading of the weights, once for all ranks of a machine."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return None
    shape = Shape.of(read_model_config(Path(folder)))
    return hopper.prepare(shape.heads, shape.groups)
