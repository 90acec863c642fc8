"""When the train stage takes the fast path, and the XTuner config that it writes then."""

import ast
import logging
from pathlib import Path

import pytest

from finetune_jobs.contract import Lora, TrainRequest
from finetune_jobs.errors import UserMistake
from finetune_jobs.hardware import Gpu, Machine
from finetune_jobs.train.config import Setting, config_text
from finetune_jobs.train.fast import Choice
from finetune_jobs.train.preflight import choose_path
from finetune_jobs.train.schedule import Schedule
from finetune_jobs.train.world import make_world

SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip
A10 = Gpu("A10", 24 * 10**9, 23 * 10**9, 8.6)
V100 = Gpu("V100", 32 * 10**9, 31 * 10**9, 7.0)
L4 = Gpu("L4", 24 * 10**9, 23 * 10**9, 8.9)


def request(**changes) -> TrainRequest:
    defaults = {"template": "qwen_chat", "epochs": 1, "max_length": 1024, "batch_size": 2, "gradient_accumulation": 2,
                "learning_rate": "2e-4", "lora": Lora(rank=16, alpha=32, dropout="0.1")}  # fmt: skip
    return TrainRequest(**{**defaults, **changes})


def chosen(asked: TrainRequest, *gpus: Gpu, config: dict = SMOLLM2) -> Choice | None:
    machine = Machine(gpus, 4)
    world = make_world(asked, machine, {})
    return choose_path(asked, config, machine, world, machine.dtype if world.gpu else "float32")


def test_a_gpu_that_computes_in_bfloat16_takes_the_fast_path_by_default(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    choice = chosen(request(), A10)
    assert choice is not None
    assert caplog.messages == [choice.reason]
    assert choice.reason.startswith("Fast path: frozen weights expanded to bfloat16 once, activations all kept")


@pytest.mark.parametrize(
    ("asked", "gpus", "config", "said"),
    [
        (request(fast=False), (A10,), SMOLLM2, "training.fast is false"),
        (request(), (), SMOLLM2, "for GPUs, and there is none"),
        (request(gpus=0), (A10,), SMOLLM2, "for GPUs, and there is none"),
        (request(), (V100,), SMOLLM2, "here are float16 and zero2"),
        (request(deepspeed="zero3"), (A10,), SMOLLM2, "here are bfloat16 and zero3"),
        (request(), (A10,), {**SMOLLM2, "architectures": ["GPT2LMHeadModel"]}, "says GPT2LMHeadModel"),
    ],
)
def test_plain_xtuner_is_told_with_its_reason(asked, gpus, config, said, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert chosen(asked, *gpus, config=config) is None
    (message,) = caplog.messages
    assert message.startswith("Plain XTuner: ")
    assert said in message


def test_the_config_builds_what_was_chosen() -> None:
    asked = request()
    schedule = Schedule(100, 1, asked.batch_size, asked.gradient_accumulation, asked.epochs, 0.03)
    choice = Choice(fast=True, reason="", store="nf4", recomputed_layers=7)
    text = config_text(
        asked, Setting(Path("/model"), Path("/packed"), schedule, "bfloat16", "nccl", recompute=False, fast=choice)
    )
    (model,) = (
        line.value for line in ast.parse(text).body if isinstance(line, ast.Assign) and line.targets[0].id == "model"
    )
    parts = {part.arg: part.value for part in model.keywords}
    llm = {part.arg: part.value for part in parts["llm"].keywords}
    assert (parts["type"].id, llm["type"].id) == ("FastFinetune", "build")
    told = {name: llm[name].value for name in ("quantization", "store", "recomputed_layers", "dropout")}
    assert told == {"quantization": "nf4", "store": "nf4", "recomputed_layers": 7, "dropout": 0.1}
    assert "from finetune_jobs.train.fast.batches import collate" in text
    assert "AutoModelForCausalLM" not in text


def test_fp8_is_taken_where_it_is_asked_for() -> None:
    choice = chosen(request(fp8=True), L4)
    assert choice is not None
    assert choice.store == "fp8"


@pytest.mark.parametrize(
    ("asked", "gpus", "config", "said"),
    [
        ({}, (), SMOLLM2, "this machine has no GPU"),
        ({}, (L4, A10), SMOLLM2, "8.9 or newer .* the A10 has 8.6"),
        ({}, (L4,), {**SMOLLM2, "architectures": ["GPT2LMHeadModel"]}, "says GPT2LMHeadModel"),
        ({}, (L4,), {**SMOLLM2, "intermediate_size": 1540}, "multiples of 16, and this model has 1540"),
        ({}, (L4,), {**SMOLLM2, "num_hidden_layers": 5000}, "with every layer run again"),
        ({"fast": False}, (L4,), SMOLLM2, "training.fast is false"),
        ({"deepspeed": "zero3"}, (L4,), SMOLLM2, "here are bfloat16 and zero3"),
    ],
)
def test_fp8_that_cannot_be_had_is_refused(asked, gpus, config, said) -> None:
    with pytest.raises(UserMistake, match=f"training.fp8 can't be had: .*{said}") as refused:
        chosen(request(fp8=True, **asked), *gpus, config=config)
    assert refused.value.failure.cure == "Leave out training.fp8."
