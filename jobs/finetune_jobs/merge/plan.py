"""What is to be written: each weight with its source, its change and its shard. Reads headers, writes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune_jobs.contract import MergeRequest
from finetune_jobs.errors import UserMistake
from finetune_jobs.merge.adapter import Adapter, Lora, read_adapter
from finetune_jobs.merge.nf4 import quantised_weights
from finetune_jobs.merge.tensors import (
    FLOATS,
    INDEX_FILE,
    ITEM_BYTES,
    SAFETENSORS_NAMES,
    SINGLE_FILE,
    StoredTensor,
    read_weights,
)

EMBEDDING_PAIRS = {
    "embed_tokens": "lm_head", "wte": "lm_head", "word_embeddings": "lm_head",
    "embed_in": "embed_out", "tok_embeddings": "output",
}  # fmt: skip
"""Input embedding -> the output layer that may share its weight, as the architectures name them."""
UNITS = {"MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class Weight:
    """One tensor of the merged model."""

    name: str
    source: StoredTensor
    dtype: str
    """As it is written, in safetensors' names."""
    lora: Lora | None = None
    nf4: bool = False
    """The source's values are rounded to nf4 before anything is added."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def size(self) -> int:
        return self.source.elements * ITEM_BYTES[self.dtype]

    @property
    def copied(self) -> bool:
        """Its bytes are the source's."""
        return self.lora is None and not self.nf4 and self.dtype == self.source.dtype


@dataclass(frozen=True)
class Shard:
    file: str
    weights: tuple[Weight, ...]

    @property
    def size(self) -> int:
        return sum(weight.size for weight in self.weights)


@dataclass(frozen=True)
class Plan:
    shards: tuple[Shard, ...]
    untied: bool
    """The base shares its embedding with the output layer; the merged model can't."""
    merged: int
    """Weights that the adapter changes or brings whole."""

    @property
    def weights(self) -> list[Weight]:
        return [weight for shard in self.shards for weight in shard.weights]

    @property
    def size(self) -> int:
        return sum(shard.size for shard in self.shards)


def make_plan(base_folder: Path, adapter_folder: Path, config: Mapping[str, Any], request: MergeRequest) -> Plan:
    """`config` is the base model's. Raises UserMistake."""
    if "quantization_config" in config:
        raise UserMistake(
            "BaseQuantized",
            "The base model's weights are quantised (config.json has a quantization_config).",
            "Name the unquantised model as spec.model; training quantises it by itself.",
        )
    base = read_weights(base_folder)
    pair = tied_pair(base, config)
    if pair is not None:
        base = with_output(base, *pair)
    adapter = read_adapter(adapter_folder, base)
    untied = pair is not None and moves_apart(adapter, *pair)
    if pair is not None and not untied:
        del base[pair[1]]
    nf4 = quantised_weights(base_folder) if request.base_weights == "nf4" else set()
    weights = [
        make_weight(
            tensor,
            adapter.replaced.get(name),
            adapter.loras.get(name),
            SAFETENSORS_NAMES[request.dtype],
            nf4=name in nf4,
        )
        for name, tensor in base.items()
    ]
    changed = (adapter.replaced.keys() | adapter.loras.keys()) & base.keys()
    return Plan(in_shards(weights, in_bytes(request.max_shard_size)), untied, len(changed))


def make_weight(
    tensor: StoredTensor, replacement: StoredTensor | None, lora: Lora | None, dtype: str, *, nf4: bool
) -> Weight:
    source = replacement or tensor
    written = dtype if source.dtype in FLOATS else source.dtype
    return Weight(tensor.name, source, written, lora, nf4 and replacement is None and source.dtype in FLOATS)


def tied_pair(base: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Names of the input embedding and the output layer if they are one weight."""
    for name in base:
        module, _, _ = name.removesuffix(".weight").rpartition(".")
        last = name.removesuffix(".weight").rpartition(".")[2]
        if last in EMBEDDING_PAIRS and name.endswith(".weight"):
            root = module.rpartition("model")[0] if module.endswith("model") else ""
            output = f"{root}{EMBEDDING_PAIRS[last]}.weight"
            # transformers ties by default; a model that says nothing and has an output layer is taken at its weights
            tied = config.get("tie_word_embeddings", output not in base)
            return (name, output) if tied else None
    return None


def with_output(base: Mapping[str, StoredTensor], embedding: str, output: str) -> dict[str, StoredTensor]:
    """The output layer as a name of its own for the embedding's bytes, so that an adapter may name either."""
    return {**base, output: replace(base[embedding], name=output)}


def moves_apart(adapter: Adapter, embedding: str, output: str) -> bool:
    """Whether the adapter changes the embedding or the output layer without the other.

    peft trains each on its own (the other stays as the base has it); its merge_and_unload then changes both
    through the shared weight, and warns. Untying first is what it recommends, and what happens here.
    """
    if {embedding, output} & adapter.loras.keys():
        return True
    brought = [adapter.replaced[name] for name in (embedding, output) if name in adapter.replaced]
    if len(brought) == 2:  # noqa: PLR2004 (both of the pair)
        return not np.array_equal(brought[0].bytes(), brought[1].bytes())
    return bool(brought)


def in_bytes(size: str) -> int:
    """ "4GB" -> 4,000,000,000"""
    return int(size[:-2]) * UNITS[size[-2:]]


def in_shards(weights: Sequence[Weight], limit: int) -> tuple[Shard, ...]:
    """In order, as many a file as the limit allows; a weight larger than the limit has a file of its own."""
    groups: list[list[Weight]] = [[]]
    room = limit
    for weight in weights:
        if groups[-1] and weight.size > room:
            groups.append([])
            room = limit
        groups[-1].append(weight)
        room -= weight.size
    if len(groups) == 1:
        return (Shard(SINGLE_FILE, aligned(groups[0])),)
    return tuple(
        Shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", aligned(group))
        for number, group in enumerate(groups, 1)
    )


def aligned(weights: Sequence[Weight]) -> tuple[Weight, ...]:
    """Wide types first, so that each tensor begins at a multiple of its item's size."""
    return tuple(sorted(weights, key=lambda weight: -ITEM_BYTES[weight.dtype]))


def make_index(plan: Plan) -> dict[str, object]:
    """Content of INDEX_FILE; transformers wants it where there are several shards."""
    return {
        "metadata": {"total_size": plan.size},
        "weight_map": {weight.name: shard.file for shard in plan.shards for weight in shard.weights},
    }


__all__ = ["INDEX_FILE", "Plan", "Shard", "Weight", "make_index", "make_plan"]
