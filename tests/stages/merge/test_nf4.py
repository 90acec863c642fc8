"""Merged onto nf4 values: the model is what training had, the quantised base with the adapter beside it."""

import json

import pytest

from finetune_jobs.errors import UserMistake

from .test_equals_peft import load

pytestmark = pytest.mark.stage


@pytest.fixture
def llama(workshop):
    """Each row whole blocks: bitsandbytes' kernel for CPUs gets some others wrong."""
    workshop.make_llama(width=128)
    workshop.make_adapter()
    return workshop


NOT_ROUNDED = ("embed_tokens", "lm_head", "norm")


def test_weights_are_bitsandbytes_own_with_the_change_added(llama):
    """Quantised whole, in one call, as training does it."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    _, merged = llama.merge(llama.request(base_weights="nf4"))
    base, plain, found = load(llama.base), llama.peft_merged(), load(merged)
    assert found.keys() == plain.keys()
    for name, weight in base.items():
        expected = plain[name]
        if not any(part in name for part in NOT_ROUNDED):
            packed, state = quantize_4bit(weight.float(), quant_type="nf4", compress_statistics=True)
            expected = dequantize_4bit(packed, state) + (expected - weight.float())
            assert not torch.allclose(found[name], plain[name], atol=1e-3)
        torch.testing.assert_close(found[name], expected, rtol=2e-6, atol=4e-6, msg=name)


def test_it_answers_as_the_adapter_did_in_training(llama):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    _, merged = llama.merge(llama.request(base_weights="nf4"))
    quantised = AutoModelForCausalLM.from_pretrained(
        llama.base,
        torch_dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
    )  # fmt: skip
    trained = PeftModel.from_pretrained(quantised, llama.adapter).train()  # not bitsandbytes' kernel for inference
    tokens = torch.arange(100)[None]
    with torch.no_grad():
        expected = trained(tokens).logits
        found = AutoModelForCausalLM.from_pretrained(merged, torch_dtype=torch.float32)(tokens).logits
        original = AutoModelForCausalLM.from_pretrained(llama.merge()[1], torch_dtype=torch.float32)(tokens).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert (original - expected).abs().max() > 100 * (found - expected).abs().max()


def test_the_card_says_so(llama):
    _, merged = llama.merge(llama.request(base_weights="nf4"))
    card = (merged / "README.md").read_text()
    assert "the values that the base weights have in nf4" in card
    assert "| bitsandbytes |" in card


def test_an_architecture_that_transformers_lacks(llama):
    config = llama.base / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "unheard-of"}))
    with pytest.raises(UserMistake, match="which of the base model's weights are linear.*Leave out spec.merge"):
        llama.merge(llama.request(base_weights="nf4"))
