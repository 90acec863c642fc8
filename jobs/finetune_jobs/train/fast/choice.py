"""Whether the fast path takes a training, and what of it fits into a GPU's memory. Imports nothing heavy.

Bytes throughout, unless a name says tokens or seconds. T = tokens of a micro-step, r = rank filled up to a power of 2.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Store = Literal["resident", "nf4", "fp8"]

KNOWN = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
NARROW = 2
"""Bytes of a bfloat16."""
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in nf4 with double quantisation: a byte each 64 weights, four bytes each 256 of these."""
OPTIMIZER = 20
"""Of a trainable parameter under DeepSpeed: itself and its gradient in bfloat16, fp32 copy, gradient sum, Adam."""
CHUNK = 4096
"""As `head.CHUNK`: positions whose logits exist at once."""
USABLE = 0.94
"""Of a GPU's memory, after its context and what the allocator can't join."""
CONTEXT = 700 * 2**20
LARGEST_RANK = 256
FP8_TILE = 16
"""What ``torch._scaled_mm`` wants sizes to be multiples of."""
FLOPS = 6e14
"""Of an H200 in matrix products: only the ratio of two ways of saving memory depends on it."""
DEQUANTISED = 6e11
"""Weights that an H200 expands from nf4 a second."""


@dataclass(frozen=True)
class Choice:
    """How to train; `store` and `recomputed_layers` are arguments of `model.build`."""

    fast: bool
    reason: str
    """One sentence for the log."""
    store: Store = "resident"
    recomputed_layers: int = 0
    expected_bytes: int = 0
    """Most memory that PyTorch holds at once on each GPU."""


@dataclass(frozen=True)
class Shape:
    """A Llama-like model, as its config.json says."""

    layers: int
    hidden: int
    inner: int
    heads: int
    groups: int
    width: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape":
        heads = int(config["num_attention_heads"])
        return cls(
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            inner=int(config["intermediate_size"]),
            heads=heads,
            groups=int(config.get("num_key_value_heads") or heads),
            width=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )

    @property
    def q(self) -> int:
        return self.heads * self.width

    @property
    def qkv(self) -> int:
        return self.q + 2 * self.groups * self.width

    @property
    def linear(self) -> int:
        """Weights of one layer's seven matrices."""
        return self.hidden * self.qkv + self.q * self.hidden + 3 * self.hidden * self.inner

    def adapter(self, rank: int) -> int:
        """Parameters of one layer's seven adapters."""
        attention = 3 * self.hidden + self.qkv + self.q + self.hidden
        return rank * (attention + 3 * (self.hidden + self.inner))


@dataclass(frozen=True)
class Load:
    """What is trained on one GPU."""

    shape: Shape
    tokens: int
    """Of a micro-step."""
    rank: int
    dropout: float
    optimizer: float = OPTIMIZER
    """Bytes of a trainable parameter."""
    head_tokens: int | None = None
    """Most supervised positions of a micro-step; None: all."""

    @property
    def r(self) -> int:
        return max(16, 1 << (self.rank - 1).bit_length())


def choose(  # noqa: PLR0917 - the facts of a training, in the order of the spec
    model_config: Mapping[str, Any],
    gpu_memory_bytes: int,
    max_length: int,
    batch_size: int,
    lora_rank: int,
    dropout: float,
    quantization: str,
    *,
    fp8: bool = False,
) -> Choice:
    """The fastest way that fits; plain XTuner (`fast` False), with the reason, for what the fast path doesn't know."""
    refusal = next(refusals(model_config, gpu_memory_bytes, max_length, lora_rank, fp8=fp8), None)
    if refusal:
        return Choice(fast=False, reason=f"Plain XTuner: {refusal}.")
    load = Load(Shape.of(model_config), batch_size * max_length, lora_rank, dropout)
    stores: tuple[Store, ...] = ("fp8",) if fp8 else ("resident", "nf4") if quantization == "nf4" else ("resident",)
    room = int(gpu_memory_bytes * USABLE) - CONTEXT
    fitting = [way for store in stores if (way := lightest_that_fits(load, store, room))]
    if not fitting:
        least = min(expected(load, store, load.shape.layers) for store in stores)
        return Choice(
            fast=False,
            reason=f"Plain XTuner: {load.tokens} tokens a micro-step need {gigabytes(least)} with every layer run "
            f"again, of {gigabytes(room)} that this GPU can give; a smaller batchSize or maxLength needs less.",
            expected_bytes=least,
        )
    best = min(fitting, key=lambda way: seconds(load, way))
    return replace(best, reason=told(load, best, room))


def refusals(config: Mapping[str, Any], memory: int, max_length: int, rank: int, *, fp8: bool = False) -> Iterator[str]:
    """Why the fast path doesn't take a training, in words that follow a colon."""
    name = next(iter(config.get("architectures") or ["no architecture"]))
    if not memory:
        yield "the fast path is for GPUs, and there is none"
    if name not in KNOWN:
        yield f"the fast path knows {', '.join(KNOWN)}, and this model's config.json says {name}"
    if config.get("hidden_act", "silu") != "silu":
        yield f"the fast path knows the activation silu, and this model has {config['hidden_act']}"
    if config.get("attention_bias") or config.get("mlp_bias"):
        yield "this model has biases that the fast path doesn't add"
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if window and window < max_length:
        yield f"this model attends over a window of {window} tokens, and maxLength is {max_length}"
    if rank > LARGEST_RANK:
        yield f"the fast path takes LoRA ranks up to {LARGEST_RANK}, not {rank}"
    if fp8 and name in KNOWN:
        shape = Shape.of(config)
        odd = [size for size in (shape.hidden, shape.inner, shape.q, shape.qkv) if size % FP8_TILE]
        if odd:
            yield f"fp8 products want sizes that are multiples of {FP8_TILE}, and this model has {odd[0]}"


def lightest_that_fits(load: Load, store: Store, room: int) -> Choice | None:
    """The way with this store that runs the fewest layers again."""
    for layers in range(load.shape.layers + 1):
        need = expected(load, store, layers)
        if need <= room:
            return Choice(fast=True, reason="", store=store, recomputed_layers=layers, expected_bytes=need)
    return None


def seconds(load: Load, way: Choice) -> float:
    """What a way of saving memory costs a micro-step, on an H200."""
    again = way.recomputed_layers * 2 * load.shape.linear * load.tokens / FLOPS
    passes = 2 * load.shape.layers + way.recomputed_layers
    return again + (passes * load.shape.linear / DEQUANTISED if way.store == "nf4" else 0)


def expected(load: Load, store: Store, recomputed_layers: int) -> int:
    """The most memory that PyTorch holds at once, at the loss or while a layer goes backwards."""
    shape, narrow = load.shape, NARROW
    kept = shape.layers - recomputed_layers
    layer = activations(load, store)
    held = kept * layer + recomputed_layers * load.tokens * shape.hidden * narrow
    rotary = load.tokens * shape.width * narrow
    positions = load.tokens if load.head_tokens is None else load.head_tokens
    head = min(positions, CHUNK) * shape.vocabulary * narrow + 3 * positions * shape.hidden * narrow
    backward = float(load.tokens * (shape.inner + 3 * shape.hidden) * narrow)
    if store == "fp8":
        backward += load.tokens * 2 * shape.inner
    if not kept:
        backward += layer
    return int(frozen(load, store) + trained(load) + held + rotary + max(head, backward))


def trained(load: Load) -> float:
    return load.shape.layers * load.shape.adapter(load.rank) * load.optimizer


def frozen(load: Load, store: Store) -> float:
    """Weights, as `group.Group` keeps them, with the adapters' copies that stand beside them."""
    shape, r = load.shape, load.r
    outer = shape.vocabulary * shape.hidden * (1 if shape.tied else 2) * NARROW
    copies = shape.adapter(r) * NARROW
    joined = (shape.qkv + 3 * r) * (shape.hidden + 3 * r) + (2 * shape.inner + 2 * r) * (shape.hidden + 2 * r)
    single = (shape.hidden + r) * (shape.q + shape.inner)
    if store == "nf4":
        scratch = (joined + single + shape.hidden * shape.inner) * NARROW
        return outer + scratch + shape.layers * (shape.linear * NF4 + copies)
    if store == "fp8":
        return outer + shape.layers * (2 * shape.linear + copies)
    return outer + shape.layers * (joined + single + 2 * r * shape.hidden) * NARROW


def activations(load: Load, store: Store) -> float:
    """What a layer keeps for its backward pass."""
    shape, r = load.shape, load.r
    beside = 0 if store == "fp8" or load.dropout else 5 * r
    columns = 4 * shape.hidden + beside + shape.qkv + shape.q + 3 * shape.inner + 2 * r + 7 * r
    if load.dropout:
        columns += shape.q
    return load.tokens * (columns * NARROW + 4 * shape.heads)


def told(load: Load, way: Choice, room: int) -> str:
    weights = {
        "resident": "frozen weights expanded to bfloat16 once",
        "nf4": "frozen weights in nf4, expanded at each use",
        "fp8": "frozen weights and their inputs in fp8",
    }[way.store]
    again = f"{way.recomputed_layers} of {load.shape.layers} layers run again" if way.recomputed_layers else "all kept"
    return (
        f"Fast path: {weights}, activations {again}; {load.tokens} tokens a micro-step should take "
        f"{gigabytes(way.expected_bytes)} of the {gigabytes(room)} that this GPU can give."
    )


def gigabytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
