"""What does not fit is refused with a sentence, before a byte is written."""

import json

import pytest

from finetune_jobs.contract import Stage
from finetune_jobs.errors import UserMistake

pytestmark = pytest.mark.stage

KEY = "base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight"


def refusal(workshop, **request):
    """The failure; nothing may be left in the stage's folder."""
    asked = workshop.request(**request)
    with pytest.raises(UserMistake) as caught:
        workshop.merge(asked)
    assert list(workshop.room(asked).out.glob("*erged*")) == []
    assert list((workshop.workspace / Stage.MERGE).rglob("*.safetensors")) == []
    return caught.value.failure


def test_adapter_of_a_wider_model_names_the_first_key_and_both_shapes(llama):
    llama.edit_adapter(lambda tensors: tensors.update({KEY: tensors[KEY].repeat(2, 1)}))
    failure = refusal(llama)
    assert failure.reason == "AdapterMismatch"
    assert KEY in failure.message
    assert "[64, 8]" in failure.message
    assert "[32, 8]" in failure.message
    assert "adapter_config.json names" in failure.cure


def test_first_of_several_differing_keys(llama):
    later = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"

    def widen(tensors):
        for key in (later, KEY):
            tensors[key] = tensors[key].repeat(1, 2)

    llama.edit_adapter(widen)
    assert KEY in refusal(llama).message


def test_adapter_of_a_deeper_model(workshop):
    workshop.make_llama(layers=3)
    workshop.make_adapter()
    for path in workshop.base.iterdir():
        path.unlink()
    workshop.make_llama(layers=2)
    failure = refusal(workshop)
    assert failure.reason == "AdapterMismatch"
    assert "base_model.model.model.layers.2.mlp.down_proj.lora_A.weight" in failure.message
    assert "names no weight" in failure.message


def test_adapter_of_a_shallower_model(workshop):
    workshop.make_llama(layers=1)
    workshop.make_adapter()
    for path in workshop.base.iterdir():
        path.unlink()
    workshop.make_llama(layers=2)
    failure = refusal(workshop)
    assert failure.reason == "AdapterMismatch"
    assert "model.layers.1." in failure.message
    assert "is missing" in failure.message


def test_half_of_a_pair_missing(llama):
    llama.edit_adapter(lambda tensors: tensors.pop(KEY))
    assert "not the other half, B" in refusal(llama).message


def test_saved_weight_of_another_vocabulary(workshop):
    workshop.make_llama()
    workshop.make_adapter(modules_to_save=["lm_head"])
    name = "base_model.model.lm_head.weight"
    workshop.edit_adapter(lambda tensors: tensors.update({name: tensors[name][:100].contiguous()}))
    failure = refusal(workshop)
    assert failure.reason == "AdapterMismatch"
    assert "[100, 64]" in failure.message
    assert "[120, 64]" in failure.message


def test_rank_that_the_config_does_not_have(llama):
    llama.edit_adapter_config(r=4)
    assert "with rank 4" in refusal(llama).message


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias: all"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"ensure_weight_tying": True}, "ensure_weight_tying"),
        ({"some_future_variant": {"x": 1}}, "some_future_variant"),
    ],
)
def test_more_than_plain_lora(llama, fields, said):
    llama.edit_adapter_config(**fields)
    failure = refusal(llama)
    assert failure.reason == "AdapterUnsupported"
    assert said in failure.message


def test_untrained_adapter(llama):
    llama.edit_adapter(lambda tensors: [tensor.zero_() for name, tensor in tensors.items() if "lora_B" in name])
    assert refusal(llama).reason == "AdapterUntrained"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_adapter_that_is_not_finite(llama, value):
    llama.edit_adapter(lambda tensors: tensors[KEY][0].fill_(value))
    failure = refusal(llama)
    assert failure.reason == "AdapterNotFinite"
    assert KEY in failure.message


def test_sum_beyond_float16(llama):
    llama.edit_adapter(lambda tensors: tensors[KEY].mul_(1e8))
    failure = refusal(llama, dtype="float16")
    assert failure.reason == "MergedNotFinite"
    assert "model.layers.0.self_attn.k_proj.weight" in failure.message
    assert "bfloat16" in failure.cure


def test_adapter_without_safetensors(llama):
    (llama.adapter / "adapter_model.safetensors").unlink()
    assert refusal(llama).reason == "AdapterIncomplete"


def test_quantised_base(llama):
    config = json.loads((llama.base / "config.json").read_text())
    (llama.base / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    assert refusal(llama).reason == "BaseQuantized"


def test_shard_cut_short(llama):
    shard = max(llama.base.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-10])
    failure = refusal(llama)
    assert failure.reason == "WeightsBroken"
    assert shard.name in failure.message


def test_shard_missing(llama):
    shard = max(llama.base.glob("*.safetensors"))
    shard.unlink()
    failure = refusal(llama)
    assert failure.reason == "WeightsMissing"
    assert shard.name in failure.message
