"""Names, scales and shards are worked out from headers alone."""

from pathlib import Path

import numpy as np
import pytest

from finetune_jobs.merge.adapter import rank_of, scale_of
from finetune_jobs.merge.files import merged_config
from finetune_jobs.merge.plan import Weight, in_bytes, in_shards, tied_pair
from finetune_jobs.merge.tensors import StoredTensor


def stored(name: str, *shape: int, dtype: str = "BF16") -> StoredTensor:
    return StoredTensor(name, dtype, shape, Path("x.safetensors"), 0, 2 * int(np.prod(shape)))


def weights(*sizes: int) -> list[Weight]:
    return [Weight(f"w{number}", stored(f"w{number}", size // 2), "BF16") for number, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"r": 64, "lora_alpha": 16}, 0.25),
        ({"r": 64, "lora_alpha": 16, "use_rslora": True}, 2.0),
        ({"r": 64, "lora_alpha": 16, "rank_pattern": {"q_proj": 4}}, 4.0),
        ({"r": 64, "lora_alpha": 16, "alpha_pattern": {r"layers\.[0-3]\.q_proj": 32}}, 0.5),
        ({"r": 64, "lora_alpha": 16, "alpha_pattern": {"proj": 32}}, 0.25),
    ],
)
def test_scale(config, scale):
    assert scale_of(config, "model.layers.2.q_proj") == scale


def test_pattern_fits_whole_names_only():
    assert rank_of({"r": 8, "rank_pattern": {"q_proj": 4}}, "layers.0.kq_proj") == 8


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ((40, 40, 40), [2, 1]),
        ((100,), [1]),
        ((200, 10), [1, 1]),
        ((10, 200, 10), [1, 1, 1]),
        ((50, 50, 50, 50), [2, 2]),
    ],
)
def test_shards_are_filled_in_order(sizes, groups):
    assert [len(shard.weights) for shard in in_shards(weights(*sizes), 100)] == groups


def test_wide_types_lie_first():
    """So that every tensor begins at a multiple of its item's size."""
    narrow, wide = weights(10)[0], Weight("wide", stored("wide", 5, dtype="I64"), "I64")
    (shard,) = in_shards([narrow, wide], 1000)
    assert [weight.name for weight in shard.weights] == ["wide", "w0"]


def test_sizes_are_powers_of_ten():
    assert (in_bytes("500MB"), in_bytes("4GB")) == (500_000_000, 4_000_000_000)


@pytest.mark.parametrize(
    ("names", "config", "pair"),
    [
        (["model.embed_tokens.weight"], {}, ("model.embed_tokens.weight", "lm_head.weight")),
        (["model.embed_tokens.weight", "lm_head.weight"], {}, None),
        (
            ["model.embed_tokens.weight", "lm_head.weight"],
            {"tie_word_embeddings": True},
            ("model.embed_tokens.weight", "lm_head.weight"),
        ),
        (["gpt_neox.embed_in.weight", "embed_out.weight"], {"tie_word_embeddings": False}, None),
        (["model.norm.weight"], {"tie_word_embeddings": True}, None),
    ],
)
def test_tied_pair(names, config, pair):
    assert tied_pair({name: stored(name, 4, 4) for name in names}, config) == pair


def test_config_says_the_new_type():
    base = {"dtype": "float32", "model_type": "llama", "tie_word_embeddings": True}
    assert merged_config(base, "bfloat16", untied=False) == {
        "torch_dtype": "bfloat16",
        "model_type": "llama",
        "tie_word_embeddings": True,
    }
    assert merged_config(base, "bfloat16", untied=True)["tie_word_embeddings"] is False
