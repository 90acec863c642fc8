"""The XTuner config that is written: Python, with the request's values where a reader looks for them."""

import ast
from pathlib import Path

import pytest

from finetune_jobs.contract import Lora, TrainRequest
from finetune_jobs.train.config import Setting, config_text
from finetune_jobs.train.schedule import Schedule

LORA = Lora(rank=8, alpha=16, dropout="0.05")


def text(rows=100, **changes):
    defaults = {"template": "llama3_chat", "epochs": 3, "max_length": 4096, "batch_size": 2, "seed": 7,
                "gradient_accumulation": 4, "learning_rate": "2e-4", "lora": LORA}  # fmt: skip
    request = TrainRequest(**{**defaults, **changes})
    schedule = Schedule(rows, 1, request.batch_size, request.gradient_accumulation, request.epochs, 0.03)
    return config_text(
        request, Setting(Path("/it's/model"), Path("/packed"), schedule, "bfloat16", "nccl", recompute=True)
    )


def values(source):
    """Top-level names that are plain values."""
    found = {}
    for line in ast.parse(source).body:
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant):
            found[line.targets[0].id] = line.value.value
    return found


def test_the_requests_values_stand_at_the_top():
    found = values(text())
    assert found["pretrained_model_name_or_path"] == "/it's/model"
    assert (found["batch_size"], found["accumulative_counts"], found["lr"]) == (2, 4, 2e-4)
    assert (found["max_steps"], found["max_iters"], found["warmup_steps"]) == (38, 152, 2)


def test_values_inside_are_the_requests_too():
    source = text()
    for line in ("r=8,", "lora_alpha=16,", "lora_dropout=0.05,", "seed=7", "backend='nccl'", "torch.bfloat16",
                 "use_activation_checkpointing=True"):  # fmt: skip
        assert line in source


@pytest.mark.parametrize(("quantization", "there"), [("nf4", True), ("none", False)])
def test_quantisation_is_written_only_where_it_is_asked_for(quantization, there):
    assert ("BitsAndBytesConfig" in text(quantization=quantization)) is there


def test_a_warmup_that_is_too_short_is_left_out():
    assert "LinearLR" in text()
    assert "LinearLR" not in text(rows=8, epochs=1)


def test_no_import_is_unused():
    source = text(rows=8, epochs=1, quantization="none")
    imported = [name.name for line in ast.parse(source).body if isinstance(line, ast.ImportFrom) for name in line.names]
    used = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    assert set(imported) <= used
