"""flash-attn-4 is used where it can be had and computes what PyTorch computes; shown without a GPU, by stand-ins."""

import json
import logging
import subprocess
import sys
from functools import partial

import pytest
import torch

from finetune_jobs.train.fast import attention, hopper, model

CPU = torch.device("cpu")
HEADS, GROUPS = 4, 2


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, caplog):
    monkeypatch.setattr(hopper, "keep_compiled", lambda: None)
    caplog.set_level(logging.INFO, "finetune_jobs")


def neighbours_seen(q, k, v, _documents):
    """Attention that never heard of documents."""
    flat = [t.reshape(1, -1, *t.shape[2:]) for t in (q, k, v)]
    return attention.by_torch(*flat, None).view(q.shape)


def not_a_number(q, k, v, documents):
    return attention.by_torch(q, k, v, documents) * torch.nan


def wrong_gradient(q, k, v, documents):
    return attention.by_torch(q, k.detach() + (k - k.detach()) * 1.1, v, documents)


def judged(way):
    return hopper.trusted(lambda: way, partial(attention._differs, device=CPU, heads=HEADS, groups=GROUPS))


def test_what_computes_the_same_is_used(caplog):
    assert judged(attention.by_torch) is attention.by_torch
    assert caplog.messages == ["Attention by flash-attn-4."]


@pytest.mark.parametrize("way", [neighbours_seen, not_a_number, wrong_gradient])
def test_what_computes_something_else_is_not_used(way, caplog):
    assert judged(way) is None
    assert "away from it" in caplog.text


def test_a_failure_is_told_and_not_met_again(caplog):
    def fails(*_):
        raise RuntimeError("no kernel image is available")

    assert judged(fails) is None
    assert "RuntimeError: no kernel image is available" in caplog.text


def test_a_package_that_is_not_there_is_told(caplog):
    def load():
        raise ImportError("No module named 'flash_attn'")

    assert hopper.trusted(load, lambda _: 0.0) is None
    assert "flash-attn-4 is not installed" in caplog.text


@pytest.mark.parametrize(
    ("capability", "switch", "dtype", "wanted"),
    [
        ((9, 0), "", torch.bfloat16, True),
        ((9, 0), "0", torch.bfloat16, False),
        ((9, 0), "", torch.float16, False),
        ((8, 9), "", torch.bfloat16, False),
        ((10, 0), "", torch.bfloat16, False),
    ],
)
def test_only_hopper_in_bfloat16_unless_switched_off(capability, switch, dtype, wanted, monkeypatch):
    monkeypatch.setenv(hopper.SWITCH, switch)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert hopper.wanted.__wrapped__(torch.device("cuda:0"), dtype) is wanted


def test_without_a_gpu_there_is_nothing_to_prepare(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert attention.attention_for(CPU, torch.bfloat16, HEADS, GROUPS, hopper.WIDTH) is attention.by_torch
    assert hopper.prepare(HEADS, GROUPS) is None
    hopper.await_compiled(None)


@pytest.mark.parametrize(("rank", "asked"), [("0", [(32, 8)]), ("1", [])])
def test_one_rank_of_a_machine_has_the_models_heads_compiled(rank, asked, monkeypatch, tmp_path):
    sizes = {"num_hidden_layers": 2, "hidden_size": 4096, "intermediate_size": 64, "vocab_size": 9}
    config = sizes | {"num_attention_heads": 32, "num_key_value_heads": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("LOCAL_RANK", rank)
    calls = []
    monkeypatch.setattr(hopper, "prepare", lambda *heads: calls.append(heads))
    model.prepare_kernels(str(tmp_path))
    assert calls == asked


def test_a_compilation_that_takes_too_long_is_ended(monkeypatch):
    monkeypatch.setattr(hopper, "PATIENCE", 0.1)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        hopper.await_compiled(process)
        assert process.returncode != 0
