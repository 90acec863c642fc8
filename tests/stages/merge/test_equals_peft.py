"""The merged weights are those of peft's merge_and_unload in float32, rounded once."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.stage

ADAPTERS = {
    "all linear layers": {},
    "rank-stabilised scale": {"use_rslora": True},
    "own ranks and alphas": {
        "rank_pattern": {"q_proj": 4, "layers.1.mlp.up_proj": 16},
        "alpha_pattern": {"k_proj": 3, "layers.0.mlp.up_proj": 7},
    },
    "embedding too": {"target_modules": ["embed_tokens", "q_proj"]},
    "output layer too": {"target_modules": ["lm_head", "q_proj"]},
    "whole output layer": {"modules_to_save": ["lm_head"]},
    "one layer": {"layers_to_transform": [1]},
    "pattern of names": {"target_modules": r".*self_attn\.[qv]_proj"},
}


def load(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    import torch

    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        # The order of a sum of 16 products in fp32 is the libraries' own; nothing else may differ
        torch.testing.assert_close(tensor, expected[name], rtol=2e-6, atol=2e-6, msg=name)


@pytest.mark.parametrize("settings", ADAPTERS.values(), ids=ADAPTERS.keys())
def test_untied_model(workshop, settings):
    workshop.make_llama()
    workshop.make_adapter(**settings)
    result, merged = workshop.merge()
    expected = workshop.peft_merged()
    assert_close(load(merged), expected)
    base = load(workshop.base)
    assert result.merged_tensors == sum(not tensor.equal(base[name].float()) for name, tensor in expected.items())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_adapter_in_half_precision(workshop, dtype):
    workshop.make_llama()
    workshop.make_adapter(dtype=dtype)
    _, merged = workshop.merge()
    assert_close(load(merged), workshop.peft_merged())


def test_tied_model_stays_tied(workshop):
    workshop.make_llama(tied=True)
    workshop.make_adapter()
    _, merged = workshop.merge()
    expected = workshop.peft_merged()
    del expected["lm_head.weight"]
    assert_close(load(merged), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["lm_head", "q_proj"]},
        {"modules_to_save": ["lm_head"]},
    ],
    ids=["embedding", "output layer", "whole output layer"],
)
def test_tied_model_gives_what_the_adapter_gave(workshop, settings):
    """peft's own merge would change both ends of the tie; the model with the adapter on is the measure."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    workshop.make_llama(tied=True)
    workshop.make_adapter(**settings)
    _, merged = workshop.merge()
    tokens = torch.arange(100)[None]
    base = AutoModelForCausalLM.from_pretrained(workshop.base, torch_dtype=torch.float32)
    with torch.no_grad():
        expected = PeftModel.from_pretrained(base, workshop.adapter)(tokens).logits
        model = AutoModelForCausalLM.from_pretrained(merged)
        assert model.config.tie_word_embeddings is False
        torch.testing.assert_close(model(tokens).logits, expected, rtol=1e-4, atol=1e-4)


def test_fan_in_fan_out(workshop):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=96, n_positions=32, n_embd=64, n_layer=2, n_head=4)
    GPT2LMHeadModel(config).save_pretrained(workshop.base)
    workshop.make_records()
    workshop.make_adapter(target_modules=["c_attn", "c_fc", "attn.c_proj"], fan_in_fan_out=True)
    _, merged = workshop.merge()
    expected = workshop.peft_merged()
    del expected["lm_head.weight"]
    assert_close(load(merged), expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounded_once(llama, dtype):
    """The narrow weights are bit for bit the float32 ones rounded."""
    import torch

    _, wide = llama.merge()
    _, narrow = llama.merge(llama.request(dtype=dtype))
    rounded = {name: tensor.to(getattr(torch, dtype)) for name, tensor in load(wide).items()}
    found = load(narrow)
    assert found.keys() == rounded.keys()
    assert [name for name in found if not torch.equal(found[name], rounded[name])] == []


def test_base_in_float32_is_rounded_with_the_sum(workshop):
    """A base that is wider than the output isn't rounded before the addition."""
    import torch

    workshop.make_llama(dtype="float32")
    workshop.make_adapter()
    _, merged = workshop.merge(workshop.request(dtype="bfloat16"))
    expected = workshop.peft_merged()
    _, wide = workshop.merge()
    assert_close(load(wide), expected)
    assert [
        name for name, tensor in load(merged).items() if not tensor.equal(load(wide)[name].to(torch.bfloat16))
    ] == []


def test_weights_without_change_are_the_base_bytes(workshop):
    import torch

    workshop.make_llama()
    workshop.make_adapter(target_modules=["q_proj"])
    _, merged = workshop.merge(workshop.request(dtype="bfloat16"))
    base, found = load(workshop.base), load(merged)
    changed = {name for name in base if not torch.equal(base[name], found[name])}
    assert changed == {f"model.layers.{n}.self_attn.q_proj.weight" for n in (0, 1)}


@pytest.mark.parametrize("chunk", [1000, 50], ids=["of whole rows", "of parts of a row"])
def test_weight_made_in_pieces(llama, monkeypatch, chunk):
    """And in slices, and across the borders of blocks."""
    from finetune_jobs.merge import arithmetic, blocks

    monkeypatch.setattr(arithmetic, "CHUNK", chunk)
    monkeypatch.setattr(arithmetic, "SLICE", 96)
    monkeypatch.setattr(blocks, "BLOCK", 4096)
    _, merged = llama.merge()
    assert_close(load(merged), llama.peft_merged())


def test_torch_is_not_imported(llama):
    """It takes longer to import than a small model to merge."""
    request = llama.workspace / "merge.json"
    request.write_text(llama.request().to_json())
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "finetune_jobs", "merge", "--request", str(request),
         "--workspace", str(llama.workspace)],
        check=True, capture_output=True, text=True,
    ).stderr  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in said.splitlines() if line.startswith("import time:")}
    assert {"numpy", "safetensors", "tokenizers"} <= imported
    assert not {"torch", "transformers"} & imported
