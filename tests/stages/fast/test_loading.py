"""Weights from safetensors: the same numbers as transformers with bitsandbytes makes of them, and sound errors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from finetune_jobs.train.fast.group import dequantised
from finetune_jobs.train.fast.model import build

SIZES = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 96,
}  # fmt: skip


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=request.param))
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    return tmp_path


def linear(model: Any) -> dict[str, Any]:
    return {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"}


@pytest.mark.parametrize("store", ["resident", "nf4"])
def test_nf4_weights_are_bitsandbytes_own(folder: Path, store: str) -> None:
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    wanted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=quantization)
    got = build(str(folder), store=store)
    assert linear(got).keys() == linear(wanted).keys()
    for name, layer in linear(wanted).items():
        assert torch.equal(dequantised(linear(got)[name]), dequantised(layer)), name


def test_without_quantisation_every_tensor_is_the_file_s(folder: Path) -> None:
    wanted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    got = build(str(folder), quantization="none").state_dict()
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_nothing_that_is_frozen_asks_for_a_gradient(folder: Path) -> None:
    assert not any(parameter.requires_grad for parameter in build(str(folder)).parameters())


def test_a_missing_weight_is_named(folder: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    for shard in folder.glob("*.safetensors"):
        held = load_file(shard)
        held.pop(name, None)
        save_file(held, shard, {"format": "pt"})
    with pytest.raises(ValueError, match=r"no weight named model\.layers\.1\.mlp\.up_proj\.weight"):
        build(str(folder))
