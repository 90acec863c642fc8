"""Weights from safetensors to their device, each read once and quantised as it arrives."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
HEAD = "lm_head"


def load(folder: str, *, nf4: bool, keep_nf4: bool, dtype: torch.dtype, device: torch.device) -> Any:
    """A causal language model with frozen weights on `device`.

    With `nf4` each linear layer but the head holds what bitsandbytes' nf4 (blocks of 64, double quantisation) makes
    of its weight: as 4-bit layers with `keep_nf4`, else expanded again to `dtype`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, torch_dtype=dtype, attn_implementation="sdpa")
    model.requires_grad_(requires_grad=False)
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != HEAD}
    for name, stored in tensors(Path(folder), device):
        owner, _, kind = name.rpartition(".")
        weight = stored.to(dtype)
        if nf4 and owner in linear and kind == "weight":
            weight = put_nf4(model, owner, weight, keep=keep_nf4)
        if weight is not None:
            put(model, name, weight)
    model.tie_weights()
    settle_buffers(model, device)
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise ValueError(f"{folder} has no weight named {missing[0]} ({len(missing)} are missing).")
    return model


def tensors(folder: Path, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the model's safetensors files by name, on `device`."""
    from safetensors import safe_open

    index = folder / INDEX_FILE
    shards = {SINGLE_FILE}
    if index.exists():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    for shard in sorted(shards):
        with safe_open(folder / shard, framework="pt", device=str(device)) as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                yield name, file.get_tensor(name)


def put(model: Any, name: str, weight: Tensor) -> None:
    owner, _, kind = name.rpartition(".")
    module = model.get_submodule(owner)
    if kind not in module._parameters:  # noqa: SLF001 - stored buffers such as inv_freq are made anew
        return
    setattr(module, kind, nn.Parameter(weight, requires_grad=False))


def put_nf4(model: Any, owner: str, weight: Tensor, *, keep: bool) -> Tensor | None:
    """Round a linear weight to nf4. Kept, the layer becomes a 4-bit one and None is returned."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    from bitsandbytes.nn import Linear4bit, Params4bit

    packed, state = quantize_4bit(weight.contiguous(), quant_type="nf4", compress_statistics=True)
    if not keep:
        return dequantize_4bit(packed, state)
    old = model.get_submodule(owner)
    new = Linear4bit(
        old.in_features, old.out_features, bias=old.bias is not None, compute_dtype=weight.dtype,
        compress_statistics=True, quant_type="nf4", device="meta",
    )  # fmt: skip
    new.weight = Params4bit(
        packed, requires_grad=False, quant_state=state, compress_statistics=True, quant_type="nf4",
        quant_storage=torch.uint8, module=new, bnb_quantized=True,
    )  # fmt: skip
    new.quant_state = state
    new.bias = old.bias
    parent, _, child = owner.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
    model.is_loaded_in_4bit = True
    return None


def settle_buffers(model: Any, device: torch.device) -> None:
    """Rotary frequencies are computed, not stored: make them on the device."""
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config=model.config).to(device)
