"""Tiny models of the fast path's families, with adapters whose B is not zero, and packed rows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from finetune_jobs.train.fast.model import Mode, hasten

VOCABULARY = 97
SIZES = {
    "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 256, "use_cache": False,
}  # fmt: skip
LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama3": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, rope_theta=5e5, rope_scaling=LLAMA3_ROPE)),
    "smollm2": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None, head_dim=16)),
    "qwen2": lambda: with_biases(Qwen2ForCausalLM(Qwen2Config(**SIZES))),
}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def with_biases(model: Any) -> Any:
    """Qwen2's biases are made as zeros, and a test could not see them."""
    for layer in model.model.layers:
        for name in ("q_proj", "k_proj", "v_proj"):
            torch.nn.init.normal_(getattr(layer.self_attn, name).bias, std=0.1)
    return model


@pytest.fixture
def make() -> Callable[..., Any]:
    """A model in training mode, the same weights at each call; `mode` None is plain Transformers and peft."""

    def build(family: str, mode: Mode | None, rank: int = 8) -> Any:
        torch.manual_seed(0)
        model = FAMILIES[family]().requires_grad_(False)
        if mode is not None:
            hasten(model, mode)
        adapted = get_peft_model(
            model, LoraConfig(r=rank, lora_alpha=16, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=LINEAR)
        )
        torch.manual_seed(1)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn_like(parameter) * 0.05
        return adapted.train()

    return build


@pytest.fixture
def rows() -> list[dict[str, torch.Tensor]]:
    """Two rows of 48 tokens: three documents in the first, one and padding in the second."""
    torch.manual_seed(2)
    made = []
    for lengths, padding in (((20, 9, 19), 0), ((41,), 7)):
        ids = torch.randint(0, VOCABULARY, (48,))
        labels = ids.clone()
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
        for start in starts:
            labels[start : start + 3] = -100
        labels[48 - padding :] = -100
        positions = torch.cat([*(torch.arange(n) for n in lengths), torch.zeros(padding, dtype=torch.long)])
        made.append({"input_ids": ids, "labels": labels, "position_ids": positions})
    return made
