"""What the fast path chooses, and what it leaves to plain XTuner with a sentence."""

import subprocess
import sys

import pytest

from finetune_jobs.train.fast import Choice, choose
from finetune_jobs.train.fast import choice as choice_module
from finetune_jobs.train.fast.choice import Load, Shape, expected

GIB = 2**30
LLAMA3_8B = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip


def ask(config: dict = LLAMA3_8B, *, memory: int = 140 * GIB, length: int = 4096, batch: int = 4, rank: int = 64,
        dropout: float = 0.1, quantization: str = "nf4", **more) -> Choice:  # fmt: skip
    return choose(config, memory, length, batch, rank, dropout, quantization, **more)


def test_on_a_large_gpu_nothing_is_run_again() -> None:
    choice = ask()
    assert (choice.fast, choice.store, choice.recomputed_layers) == (True, "resident", 0)


def test_only_as_many_layers_are_run_again_as_the_memory_asks_for() -> None:
    choice = ask(memory=80 * GIB)
    assert 0 < choice.recomputed_layers < 32


def test_the_tutorial_s_job_fits_into_24_gb() -> None:
    choice = ask(memory=24 * 10**9, batch=1)
    assert choice.fast
    assert choice.store == "nf4"
    assert choice.expected_bytes < 24 * 10**9


def test_nothing_is_chosen_that_does_not_fit() -> None:
    for gibibytes in range(4, 150, 3):
        choice = ask(memory=gibibytes * GIB)
        assert not choice.fast or choice.expected_bytes < gibibytes * GIB


def test_what_does_not_fit_is_told_with_the_memory_it_needs() -> None:
    choice = ask(memory=8 * GIB)
    assert not choice.fast
    assert "smaller batchSize or maxLength" in choice.reason


def test_weights_that_are_not_quantised_are_never_kept_in_nf4() -> None:
    assert {ask(memory=m * GIB, quantization="none").store for m in (24, 48, 80, 140)} == {"resident"}


def test_fp8_is_chosen_only_when_asked_for() -> None:
    assert ask(fp8=True).store == "fp8"
    assert ask(fp8=False).store != "fp8"


@pytest.mark.parametrize(
    ("config", "more", "said"),
    [
        ({}, {"memory": 0}, "there is none"),
        ({"architectures": ["InternLM2ForCausalLM"]}, {}, "config.json says InternLM2ForCausalLM"),
        ({"architectures": None}, {}, "no architecture"),
        ({"hidden_act": "gelu"}, {}, "gelu"),
        ({"attention_bias": True}, {}, "biases"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 1024}, {}, "window of 1024"),
        ({}, {"rank": 512}, "up to 256, not 512"),
    ],
)
def test_what_it_does_not_know_falls_back_with_a_sentence(config: dict, more: dict, said: str) -> None:
    choice = ask({**LLAMA3_8B, **config}, **more)
    assert not choice.fast
    assert choice.reason.startswith("Plain XTuner: ")
    assert said in choice.reason


def test_a_window_that_is_off_or_wide_enough_is_no_obstacle() -> None:
    assert ask(
        {**LLAMA3_8B, "architectures": ["Qwen2ForCausalLM"], "sliding_window": 8, "use_sliding_window": False}
    ).fast
    assert ask({**LLAMA3_8B, "architectures": ["MistralForCausalLM"], "sliding_window": 4096}).fast


MEASURED = [
    # store, rows, dropout, layers run again, GiB: torch.cuda.max_memory_allocated on an H200 (docs/gpu.md)
    ("resident", 4, 0.0, 0, 87.69),
    ("resident", 6, 0.0, 0, 122.38),
    ("resident", 5, 0.1, 0, 109.68),
    ("resident", 1, 0.0, 0, 35.74),
    ("nf4", 4, 0.1, 0, 81.98),
    ("nf4", 1, 0.1, 32, 10.06),
    ("fp8", 6, 0.0, 0, 121.96),
]


@pytest.mark.parametrize(("store", "rows", "dropout", "again", "gibibytes"), MEASURED)
def test_the_estimate_is_within_a_tenth_of_what_was_measured(
    store: str, rows: int, dropout: float, again: int, gibibytes: float
) -> None:
    """The measurement's optimizer was PyTorch's AdamW in fp32: 12 bytes a parameter before the first gradient."""
    load = Load(Shape.of(LLAMA3_8B), 4096 * rows, 64, dropout, optimizer=12)
    assert expected(load, store, again) / GIB == pytest.approx(gibibytes, rel=0.1)


@pytest.mark.parametrize(("layers", "gibibytes"), [(32, 91.99), (4, 14.30)])
def test_the_estimate_under_deepspeed_is_too(layers: int, gibibytes: float) -> None:
    """What `python -m finetune_jobs train` told on an H200 (docs/gpu.md): 4 rows, dropout 0.1, zero2, one GPU; the 4
    layers on two."""
    load = Load(Shape.of({**LLAMA3_8B, "num_hidden_layers": layers}), 4096 * 4, 64, 0.1)
    assert expected(load, "resident", 0) / GIB == pytest.approx(gibibytes, rel=0.1)


def test_choosing_imports_nothing_heavy() -> None:
    code = f"import runpy, sys; runpy.run_path({choice_module.__file__!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
