"""The estimate of what a training needs, beside what was measured for Llama 3 8B."""

import pytest

from finetune_jobs.contract import Lora, TrainRequest
from finetune_jobs.errors import MachineTrouble, UserMistake
from finetune_jobs.hardware import Gpu, Machine
from finetune_jobs.train import preflight
from finetune_jobs.train.memory import RUNTIME_BYTES, checkpoint_bytes, estimate, shape_of
from finetune_jobs.train.world import make_world

LLAMA3_8B = shape_of({
    "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128256, "num_attention_heads": 32,
    "num_key_value_heads": 8, "num_hidden_layers": 32, "tie_word_embeddings": False,
})  # fmt: skip


def request(**changes):
    defaults = {"template": "llama3_chat", "epochs": 1, "max_length": 4096, "batch_size": 1,
                "gradient_accumulation": 16, "learning_rate": "2e-4"}  # fmt: skip
    return TrainRequest(**{**defaults, **changes})


def gpus(gigabytes):
    return Machine((Gpu("GPU", int(gigabytes * 1e9), int(gigabytes * 1e9), 8.0),), 8)


def test_the_models_own_numbers_come_out():
    assert LLAMA3_8B.linear + LLAMA3_8B.embeddings == pytest.approx(8.03e9, rel=0.001)
    assert LLAMA3_8B.lora(64) == 167_772_160


def test_an_unknown_family_has_no_shape():
    assert shape_of({"d_model": 4096}) is None


def test_more_rows_need_more_memory_and_recomputing_needs_less():
    kept = estimate(request(), LLAMA3_8B, "bfloat16", 1, recompute=False)
    assert estimate(request(batch_size=2), LLAMA3_8B, "bfloat16", 1, recompute=False).total > kept.total
    assert estimate(request(), LLAMA3_8B, "bfloat16", 1, recompute=True).total < kept.total
    assert estimate(request(quantization="none"), LLAMA3_8B, "bfloat16", 1, recompute=False).weights > 2 * kept.weights


def test_zero3_spreads_the_weights_over_the_processes():
    alone = estimate(request(quantization="none"), LLAMA3_8B, "bfloat16", 8, recompute=True)
    spread = estimate(request(quantization="none", deepspeed="zero3"), LLAMA3_8B, "bfloat16", 8, recompute=True)
    assert spread.weights == pytest.approx(alone.weights / 8)


@pytest.mark.parametrize(
    ("said", "held"), [({}, 87.35), ({"quantization": "none", "deepspeed": "zero3"}, 107.96)], ids=["nf4", "zero3"]
)
def test_the_estimate_is_what_one_h200_held(said, held):
    """GiB of `plain-1` and `zero3-1` in benchmarks/results/h200-plain.json."""
    measured = request(batch_size=2, lora=Lora(rank=64, alpha=16, dropout="0.1"), **{"quantization": "nf4", **said})
    planned = estimate(measured, LLAMA3_8B, "bfloat16", 1, recompute=False).total + RUNTIME_BYTES
    assert planned / 2**30 == pytest.approx(held, rel=0.02)


@pytest.mark.parametrize(("gigabytes", "recompute"), [(141, False), (24, True)])
def test_activations_are_recomputed_only_where_they_do_not_fit(gigabytes, recompute):
    machine = gpus(gigabytes)
    world = make_world(request(), machine, {})
    assert preflight.choose_recompute(request(), LLAMA3_8B, machine, world, "bfloat16") is recompute


def test_a_gpu_that_is_too_small_is_refused_before_anything_starts():
    machine = gpus(8)
    big = request(batch_size=4)
    with pytest.raises(UserMistake, match=r"needs about .* GB .*8.0 GB are free.*batchSize: 1") as caught:
        preflight.choose_recompute(big, LLAMA3_8B, machine, make_world(big, machine, {}), "bfloat16")
    assert caught.value.failure.reason == "GpuTooSmall"


def test_a_disk_that_can_not_hold_the_checkpoints_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**9})())
    assert checkpoint_bytes(request(), LLAMA3_8B) == 16 * LLAMA3_8B.lora(64)
    with pytest.raises(MachineTrouble, match=r"to come \(3\) need about 8\.05 GB; 1\.00 GB are free"):
        preflight.check_disk(request(), LLAMA3_8B, tmp_path)
    preflight.check_disk(request(lora=Lora(rank=1)), LLAMA3_8B, tmp_path)
