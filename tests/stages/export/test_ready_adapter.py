"""A ready adapter is brought as it is, or refused with the first key that differs."""

import json
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_jobs.contract import ADAPTER_FOLDER
from finetune_jobs.errors import UserMistake
from finetune_jobs.export import run

pytestmark = pytest.mark.stage
WEIGHTS = "adapter_model.safetensors"


def export(bench, **settings):
    request = bench.request(**settings)
    room = bench.room(request)
    return run(request, room), room.out / ADAPTER_FOLDER


def refusal(bench, **settings):
    with pytest.raises(UserMistake) as caught:
        export(bench, **settings)
    return caught.value.failure


def change(folder, what):
    weights = load_file(folder / WEIGHTS)
    what(weights)
    save_file(weights, folder / WEIGHTS)


def test_a_fitting_adapter_comes_out_bit_for_bit(bench, adapter):
    ready = adapter()
    result, out = export(bench)
    assert (result.rank, result.alpha, result.tensors) == (4, 8, 72)
    assert result.target_modules == ("down_proj", "q_proj", "v_proj")
    assert (out / WEIGHTS).read_bytes() == (ready / WEIGHTS).read_bytes()


def test_peft_loads_what_comes_out(bench, adapter):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter()
    _, out = export(bench)
    base = AutoModelForCausalLM.from_pretrained(bench.base)
    ids = torch.arange(5)[None]
    plain = base(ids).logits.detach().clone()
    assert not torch.allclose(PeftModel.from_pretrained(base, out)(ids).logits, plain)


def test_everyone_may_read_what_comes_out(bench, adapter):
    ready = adapter()
    for path in ready.iterdir():
        path.chmod(0o600)
    _, out = export(bench)
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o644}
    assert stat.S_IMODE(out.stat().st_mode) == 0o755


def test_an_adapter_one_folder_below_is_found(bench, adapter):
    adapter(name="repository/iter_2316_hf")
    result, _ = export(bench, path="repository")
    assert result.tensors == 72


def test_the_adapter_at_the_root_is_taken_and_its_checkpoints_are_not_brought(bench, adapter):
    ready = adapter()
    adapter(name="iter_2316_hf/checkpoint-10")
    _, out = export(bench)
    assert (out / WEIGHTS).read_bytes() == (ready / WEIGHTS).read_bytes()
    assert not (out.parent / "fetched" / "checkpoint-10").exists()


def test_several_adapters_and_none_at_the_root_are_named(bench, adapter):
    for name in ("checkpoint-10", "checkpoint-20"):
        adapter(name=f"iter_2316_hf/{name}")
    said = refusal(bench)
    assert "none at its root: checkpoint-10, checkpoint-20." in said.message
    assert "by a repository that has them at its root" in said.cure


def test_an_adapter_of_a_wider_model_is_refused_with_the_first_key(bench, adapter):
    adapter(hidden=64)
    failure = refusal(bench)
    assert failure.reason == "AdapterUnfit"
    assert (
        "layers.0.mlp.down_proj.lora_B.weight is [64, 4] in the adapter, [32, 4] on the base model" in failure.message
    )
    assert "base model that the adapter was trained on" in failure.cure


def test_an_adapter_of_a_deeper_model_is_refused_with_the_first_key(bench, adapter):
    adapter(layers=14)
    message = refusal(bench).message
    assert "layers.12.mlp.down_proj.lora_A.weight of the adapter has no place in the base model" in message


def test_keys_are_compared_in_the_order_of_layers(bench, adapter):
    def without_two(weights):
        for layer in (2, 10):
            del weights[f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_A.weight"]

    change(adapter(), without_two)
    assert "the adapter lacks base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight" in refusal(bench).message


def test_a_rank_other_than_the_configs_is_refused(bench, adapter):
    folder = adapter()
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 8}))
    assert "lora_A.weight is [4, 48] in the adapter, [8, 48] on the base model" in refusal(bench).message


def test_target_modules_that_the_base_model_lacks_are_refused(bench, adapter):
    folder = adapter()
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["query_key_value"]}))
    failure = refusal(bench)
    assert (failure.reason, "query_key_value" in failure.message) == ("AdapterUnfit", True)


def test_values_that_are_no_numbers_are_refused(bench, adapter):
    key = "base_model.model.model.layers.3.self_attn.v_proj.lora_B.weight"
    change(adapter(), lambda weights: weights[key].fill_(float("nan")))
    failure = refusal(bench)
    assert (failure.reason, key in failure.message) == ("AdapterNotFinite", True)


def test_a_truncated_file_is_refused(bench, adapter):
    path = adapter() / WEIGHTS
    path.write_bytes(path.read_bytes()[:1000])
    assert refusal(bench).reason == "AdapterUnreadable"


def test_a_pickle_is_refused_unless_it_is_allowed(bench, adapter):
    folder = adapter()
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()
    failure = refusal(bench)
    assert (failure.reason, "allowPickle: true" in failure.cure) == ("PickleRefused", True)
    result, out = export(bench, allow_pickle=True)
    assert result.tensors == len(load_file(out / WEIGHTS))


def test_an_adapter_that_is_no_lora_is_refused(bench, adapter):
    (adapter() / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    assert "only LoRA can be merged" in refusal(bench).message


def test_a_folder_without_an_adapter_is_refused(bench):
    (bench.ready / "iter_2316_hf").mkdir()
    (bench.ready / "iter_2316_hf" / "README.md").write_text("nothing here")
    assert "adapter_config.json" in refusal(bench).cure


def test_what_an_interrupted_run_left_does_no_harm(bench, adapter):
    adapter()
    out = bench.room(bench.request()).out
    for left in ("draft", ADAPTER_FOLDER):
        (out / left).mkdir()
        (out / left / "half").write_text("x")
    _, folder = export(bench)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", WEIGHTS]
