"""What a training needs of a GPU's memory, from the model's shape, before anything is loaded.

An upper estimate for the Llama family and what is built like it (Mistral, Qwen2, InternLM3): weights, adapter,
optimizer and activations of the largest moment, the loss. Names: h hidden size, i intermediate size, v vocabulary, k
width of the keys, n layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_jobs.contract import TrainRequest

NF4_BYTES = 0.5 + (1 + 4 / 256) / 64
"""A weight: 4 bits, an 8-bit scale for 64 of them, and a float32 for 256 scales (double quantisation, QLoRA, section 3
of arXiv:2305.14314)."""
FLOAT32_BYTES = 4
OPTIMIZER_BYTES = 3 * FLOAT32_BYTES
"""A trained weight: AdamW's two moments and the float32 copy that it updates."""
RUNTIME_BYTES = 1.5e9
"""CUDA context, communication buffers and fragmentation."""
USABLE = 0.95
"""Part of the free memory that is planned with."""
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Shape:
    h: int
    i: int
    v: int
    k: int
    n: int
    tied: bool

    @property
    def linear(self) -> int:
        """Weights of all linear layers but the head."""
        return self.n * (2 * self.h * self.h + 2 * self.h * self.k + 3 * self.h * self.i)

    @property
    def embeddings(self) -> int:
        return self.v * self.h * (1 if self.tied else 2)

    def lora(self, rank: int) -> int:
        """Weights of an adapter on all linear layers but the head."""
        ends = 2 * (self.h + self.h) + 2 * (self.h + self.k) + 3 * (self.h + self.i)
        return self.n * rank * ends


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """From config.json; None where it is of no family that this estimate knows."""
    try:
        heads = config["num_attention_heads"]
        width = config.get("head_dim") or config["hidden_size"] // heads
        return Shape(
            h=config["hidden_size"],
            i=config["intermediate_size"],
            v=config["vocab_size"],
            k=width * config.get("num_key_value_heads", heads),
            n=config["num_hidden_layers"],
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except KeyError:
        return None


@dataclass(frozen=True)
class Estimate:
    """Bytes in each process."""

    weights: float
    adapter: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.adapter + self.activations

    def __str__(self) -> str:
        parts = {"weights": self.weights, "adapter and optimizer": self.adapter, "activations": self.activations}
        said = ", ".join(f"{name} {amount / 1e9:.1f}" for name, amount in parts.items())
        return f"{self.total / 1e9:.1f} GB ({said})"


def estimate(request: TrainRequest, shape: Shape, dtype: str, world_size: int, *, recompute: bool) -> Estimate:
    """`recompute`: activation checkpointing."""
    width = WIDTHS[dtype]
    shards = world_size if request.deepspeed == "zero3" else 1
    each = NF4_BYTES if request.quantization == "nf4" else width
    lora = shape.lora(request.lora.rank)
    return Estimate(
        weights=(shape.linear * each + shape.embeddings * width) / shards,
        adapter=lora * (width + width / shards + OPTIMIZER_BYTES / world_size),
        activations=_activations(request, shape, width, recompute=recompute),
    )


def _activations(request: TrainRequest, shape: Shape, width: int, *, recompute: bool) -> float:
    tokens = request.batch_size * request.max_length
    # saved for backward: norms and residuals, queries to rotated keys, the gated layer's four
    layer = 8 * shape.h + 2 * (shape.h + 2 * shape.k) + 4 * shape.i
    if float(request.lora.dropout) > 0:
        layer += 6 * shape.h + shape.i  # each adapter keeps its own copy of its input
    if request.deepspeed == "zero3" and request.quantization == "none":
        # LinearFunctionForZeroStage3 of DeepSpeed keeps the input beside frozen weights too; the output projection's is
        # kept by attention already
        layer += 2 * shape.h + shape.i
    layers = shape.n * shape.h + layer if recompute else shape.n * layer
    logits = shape.v * (width + 2 * FLOAT32_BYTES)  # themselves, their float32 copy and its gradient
    return float(tokens * (layers * width + logits))


def checkpoint_bytes(request: TrainRequest, shape: Shape) -> int:
    """Of one checkpoint on disk: the adapter, and its optimizer's states."""
    return shape.lora(request.lora.rank) * (FLOAT32_BYTES + OPTIMIZER_BYTES)
