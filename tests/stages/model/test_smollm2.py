"""A real model from a real package: SmolLM2-135M-Instruct, GGUF to safetensors."""

import json

import pytest
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_jobs.contract import ModelResult, Stage
from finetune_jobs.room import read_record

pytestmark = pytest.mark.stage

PARAMETERS = 134_515_008
"""Counted from the GGUF's own tensors as well: 272 of them, the embedding tied."""


def test_the_result_tells_what_it_is(smollm2_workspace):
    record = read_record(smollm2_workspace.workspace, Stage.MODEL, smollm2_workspace.digest)
    result = ModelResult.model_validate(record.result)
    assert (result.parameters, result.architecture, result.dtype) == (PARAMETERS, "LlamaForCausalLM", "bfloat16")
    assert (result.license, result.revision) == ("apache-2.0", "0.1.2")


def test_no_copy_of_the_gguf_is_left_and_everyone_may_read(smollm2):
    assert not (smollm2 / "tokenizer.model").exists()
    assert not list(smollm2.parent.rglob("*.gguf"))
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in smollm2.iterdir())


def test_eos_ends_a_turn_and_pad_is_not_bos(smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    generation = json.loads((smollm2 / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (2, 2)


def test_text_and_special_tokens_come_back_unchanged(smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    text = '<|im_start|>user\nWhat is 12345 , it \'s "x" ? Grüße, 你好, 🙂<|im_end|>\n'
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert tokenizer.encode("<|im_start|>user\n2024", add_special_tokens=False) == [1, 4093, 198, 34, 32, 34, 36]


def test_xtuner_writes_bos_once(smollm2):
    from xtuner.dataset.utils import encode_fn
    from xtuner.utils import PROMPT_TEMPLATE

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    asked = PROMPT_TEMPLATE.qwen_chat["INSTRUCTION"].format(input="hi")
    encoded = encode_fn({"conversation": [{"input": asked, "output": "ho"}]}, tokenizer, 64)
    assert encoded["input_ids"][0] == tokenizer.bos_token_id != encoded["input_ids"][1]


def test_the_model_answers_a_question_it_can_know(smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    asked = [{"role": "user", "content": "What is the capital of France? Answer with its name."}]
    tokens = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
    answer = model.generate(tokens, max_new_tokens=24, do_sample=False)[0, tokens.shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id


def test_every_weight_is_a_number(smollm2):
    with safe_open(smollm2 / "model.safetensors", "pt") as weights:
        assert all(bool(weights.get_tensor(name).isfinite().all()) for name in weights.keys())  # noqa: SIM118 (no mapping)
