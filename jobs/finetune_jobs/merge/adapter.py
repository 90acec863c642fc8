"""What a peft LoRA adapter wants changed, and whether it fits the base model; nothing is loaded or written."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_jobs.errors import UserMistake
from finetune_jobs.merge.conversion import all_finite, all_zero
from finetune_jobs.merge.tensors import FLOATS, StoredTensor, read_header

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."

UNDERSTOOD = {
    "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out", "target_modules",
    "modules_to_save", "bias", "init_lora_weights", "layers_to_transform", "exclude_modules",
}  # fmt: skip
WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "task_type", "revision",
    "peft_version", "runtime_config", "layers_pattern", "megatron_core", "qalora_group_size", "eva_config",
}  # fmt: skip
"""Fields that matter in training only, or beside another field that is refused."""
INITIALISATIONS = (True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin that leave the base weights as they are; PiSSA, OLoRA, CorDA, LoftQ and others change them."""

LORA_KEY = re.compile(r"(?P<module>.+)\.(?:lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<embedding>[AB]))")

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Lora:
    """Adds ``scale * b @ a`` to a weight of shape (out, in), or its transpose where `transposed`."""

    a: StoredTensor
    """(rank, in)"""
    b: StoredTensor
    """(out, rank)"""
    scale: float
    transposed: bool
    """The weight lies as (in, out): embeddings, and linear layers with fan_in_fan_out."""


@dataclass(frozen=True)
class Adapter:
    loras: Mapping[str, Lora]
    """By name of the base weight."""
    replaced: Mapping[str, StoredTensor]
    """Whole weights that the adapter brings (peft's modules_to_save and saved embeddings), by name."""


def unsupported(what: str) -> UserMistake:
    return UserMistake(
        "AdapterUnsupported",
        f"The adapter {what}, which a merge of plain LoRA would get wrong.",
        "Give a plain LoRA adapter without it, or merge this one by peft's merge_and_unload and use the "
        "merged model as the base.",
    )


def mismatch(what: str, config: Json) -> UserMistake:
    named = config.get("base_model_name_or_path")
    trained_on = f"its {CONFIG_FILE} names {named}" if named else f"its {CONFIG_FILE} does not name it"
    return UserMistake(
        "AdapterMismatch",
        f"The adapter does not fit the base model: {what}.",
        f"Name as spec.model the model that the adapter was trained on ({trained_on}), or train on this one.",
    )


def read_config(folder: Path) -> Json:
    """The adapter's config, refused where plain LoRA isn't all that it asks for."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).exists():
            raise UserMistake(
                "AdapterIncomplete",
                f"The adapter's folder has no {name}.",
                "Give a folder as peft's save_pretrained writes it, with safetensors.",
            )
    config: Json = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        raise unsupported(f"is of peft_type {config.get('peft_type')}")
    if config.get("bias", "none") != "none":
        raise unsupported(f"has trained biases (bias: {config['bias']})")
    if config.get("init_lora_weights", True) not in INITIALISATIONS:
        raise unsupported(f"began from changed base weights (init_lora_weights: {config['init_lora_weights']})")
    for name, value in sorted(config.items()):
        if value and name not in UNDERSTOOD | WITHOUT_EFFECT:
            raise unsupported(f"sets {name}")
    return config


def by_pattern(patterns: Mapping[str, int], module: str, default: int) -> int:
    """A module's own rank or alpha (as peft.utils.other.get_pattern_key matches them)."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def rank_of(config: Json, module: str) -> int:
    return by_pattern(config.get("rank_pattern") or {}, module, config["r"])


def scale_of(config: Json, module: str) -> float:
    rank = rank_of(config, module)
    alpha = by_pattern(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def read_adapter(folder: Path, base: Mapping[str, StoredTensor]) -> Adapter:
    """The adapter, checked against the base weights (tied ones included). Raises UserMistake."""
    config = read_config(folder)
    halves: dict[str, dict[str, StoredTensor]] = {}
    replaced: dict[str, StoredTensor] = {}
    for tensor in sorted(read_header(folder / WEIGHTS_FILE), key=lambda t: t.name):
        found = LORA_KEY.fullmatch(tensor.name.removeprefix(PREFIX))
        if found is None:
            name = tensor.name.removeprefix(PREFIX).replace(".base_layer.", ".")
            replaced[name] = check_replaced(tensor, base.get(name), config)
            continue
        check_target(tensor, base.get(f"{found['module']}.weight"), config)
        halves.setdefault(found["module"], {})[str(found["linear"] or found["embedding"])] = tensor
    loras = {
        f"{module}.weight": make_lora(module, pair, base[f"{module}.weight"], config) for module, pair in halves.items()
    }
    check_complete(loras, base, config)
    adapter = Adapter(loras, replaced)
    check_values(adapter)
    return adapter


def check_replaced(tensor: StoredTensor, weight: StoredTensor | None, config: Json) -> StoredTensor:
    if weight is None:
        raise mismatch(f"its {tensor.name} (shape {list(tensor.shape)}) names no weight of the base model", config)
    if tensor.shape != weight.shape:
        raise mismatch(
            f"its {tensor.name} has the shape {list(tensor.shape)}, the base model's {weight.name} "
            f"{list(weight.shape)}",
            config,
        )
    return tensor


def check_target(tensor: StoredTensor, weight: StoredTensor | None, config: Json) -> None:
    if weight is None:
        raise mismatch(f"its {tensor.name} (shape {list(tensor.shape)}) names no weight of the base model", config)
    if weight.dtype not in FLOATS or tensor.dtype not in FLOATS:
        raise UserMistake(
            "BaseQuantized",
            f"The base model's {weight.name} is stored as {weight.dtype}; the adapter's {tensor.name} as "
            f"{tensor.dtype}. Only F16, BF16 and F32 can be added.",
            "Name the unquantised model as spec.model; training quantises it by itself.",
        )


def make_lora(module: str, pair: Mapping[str, StoredTensor], weight: StoredTensor, config: Json) -> Lora:
    """The two halves as one change; their shapes must be those that the weight needs."""
    for half in "AB":
        if half not in pair:
            (other,) = pair.values()
            raise mismatch(f"it has {other.name} but not the other half, {half}", config)
    embedding = "lora_embedding_" in pair["A"].name
    transposed = embedding or bool(config.get("fan_in_fan_out"))
    shape = weight.shape[::-1] if transposed else weight.shape  # (out, in)
    rank = rank_of(config, module)
    needed = {"A": (rank, *shape[1:]), "B": (*shape[:1], rank)}
    for half, tensor in sorted(pair.items()):
        if len(shape) != 2 or tensor.shape != needed[half]:  # noqa: PLR2004 (a matrix)
            raise mismatch(
                f"its {tensor.name} has the shape {list(tensor.shape)}, but with rank {rank} the base model's "
                f"{weight.name} of {list(weight.shape)} needs {list(needed[half])}",
                config,
            )
    return Lora(pair["A"], pair["B"], scale_of(config, module), transposed)


def check_complete(loras: Mapping[str, Lora], base: Mapping[str, StoredTensor], config: Json) -> None:
    """Every layer that the config names has its tensors: a shallower model's adapter has not."""
    targets = config.get("target_modules")
    if not isinstance(targets, list) or config.get("layers_to_transform") or config.get("exclude_modules"):
        return
    for name, weight in base.items():
        module = name.removesuffix(".weight")
        named = any(module == target or module.endswith(f".{target}") for target in targets)
        if named and name.endswith(".weight") and len(weight.shape) == 2 and name not in loras:  # noqa: PLR2004
            raise mismatch(
                f"the base model's {name} (shape {list(weight.shape)}) is among its target_modules, "
                f"but {PREFIX}{module}.lora_A.weight is missing",
                config,
            )


def check_values(adapter: Adapter) -> None:
    """No NaN or infinity anywhere, and at least one change: `b` starts at zero and training moves it."""
    changes = bool(adapter.replaced)
    halves = [tensor for lora in adapter.loras.values() for tensor in (lora.a, lora.b)]
    for tensor in [*halves, *adapter.replaced.values()]:
        found = tensor.bytes()
        if tensor.dtype in FLOATS and not all_finite(found, tensor.dtype):
            raise UserMistake(
                "AdapterNotFinite",
                f"The adapter's {tensor.name} holds NaN or infinity.",
                "Train again with a lower learning rate, or export an earlier checkpoint.",
            )
        changes = changes or (".lora_" in tensor.name and is_b(tensor.name) and not all_zero(found, tensor.dtype))
    if not changes:
        raise UserMistake(
            "AdapterUntrained",
            "The adapter changes nothing: every lora_B in it is zero, as before the first step of training.",
            "Give an adapter that was trained; if it was, its learning rate was too low to move a weight.",
        )


def is_b(name: str) -> bool:
    found = LORA_KEY.fullmatch(name)
    return found is not None and "B" in (found["linear"], found["embedding"])
