"""The model stage on tiny real models: what it takes, what it refuses and with which sentence."""

import json
import os
import shutil
import struct
import subprocess

import pytest

from finetune_jobs.errors import UserMistake
from finetune_jobs.sources.digests import folder_sha256, sha256_of_file
from finetune_jobs.sources.files import walk


def refused(run, reason: str, **options: object) -> str:
    """The sentence with which the stage refuses."""
    with pytest.raises(UserMistake) as caught:
        run(**options)
    assert caught.value.failure.reason == reason, caught.value
    return str(caught.value)


def test_a_linked_model_is_counted_and_described_without_a_copy(run, tiny, shards):
    result, folder = run()
    assert result.parameters == 259 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128 + 2 * 64) + 64
    assert (result.architecture, result.dtype, result.license) == ("LlamaForCausalLM", "bfloat16", "mit")
    assert all((folder / shard).readlink() == tiny / shard for shard in shards)


def test_the_sums_are_what_sha256sum_says(run, tiny):
    result, folder = run()
    subprocess.run(["sha256sum", "--check", "--quiet", "../SHA256SUMS"], cwd=folder, check=True)
    listed = subprocess.run(["sha256sum", "../SHA256SUMS"], cwd=folder, check=True, capture_output=True, text=True)
    assert listed.stdout.split()[0] == result.sha256


def test_a_copied_model_loads_where_the_volume_is_gone(run, tiny):
    from transformers import AutoModelForCausalLM

    _, folder = run(mode="copy")
    tiny.rename(tiny.with_name("gone"))
    AutoModelForCausalLM.from_pretrained(folder)
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in folder.iterdir())


def test_a_kill_after_the_fetch_costs_nothing_but_the_rest(run, tiny, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("finetune_jobs.model.sha256sums", killed)
        with pytest.raises(KeyboardInterrupt):
            run(mode="copy")
    tiny.rename(tiny.with_name("gone"))
    assert run(mode="copy")[0].parameters > 0


def test_bos_that_opens_every_message_is_not_written_twice_by_xtuner(run, tiny):
    from transformers import AutoTokenizer
    from xtuner.dataset.utils import get_bos_eos_token_ids

    before = AutoTokenizer.from_pretrained(tiny)
    assert get_bos_eos_token_ids(before)[0] == [1]
    _, folder = run()
    after = AutoTokenizer.from_pretrained(folder)
    assert get_bos_eos_token_ids(after)[0] == []
    text = "Grüße 12345 <|im_start|>"
    assert after.encode(text) == before.encode(text, add_special_tokens=False)
    assert not (folder / "tokenizer_config.json").is_symlink()
    assert "Qwen2" not in (tiny / "tokenizer_config.json").read_text()


def test_bos_that_opens_a_text_once_stays(run, tiny):
    (tiny / "chat_template.jinja").write_text("{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}")
    _, folder = run()
    assert (folder / "tokenizer_config.json").is_symlink()


def test_a_half_downloaded_shard_is_named(run, tiny, shards):
    size = (tiny / shards[1]).stat().st_size
    os.truncate(tiny / shards[1], size // 2)
    assert f"{shards[1]} has {size // 2:,} bytes, but its header speaks of {size:,}" in refused(run, "ShardBroken")


def test_a_shard_cut_inside_its_header_is_named(run, tiny, shards):
    os.truncate(tiny / shards[0], 5)
    assert f"{shards[0]} has 5 bytes and no readable safetensors header" in refused(run, "ShardBroken")


def test_a_shard_whose_header_lies_about_a_tensor_is_named(run, tiny, shards):
    raw = (tiny / shards[0]).read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = raw[8 : 8 + length].replace(b"BF16", b"F32 ", 1).replace(b'"F32 "', b'"F32" ')
    (tiny / shards[0]).write_bytes(raw[:8] + header + raw[8 + length :])
    assert "wrong length" in refused(run, "ShardBroken")


def test_a_missing_shard_is_named(run, tiny, shards):
    (tiny / shards[0]).unlink()
    assert f"names {shards[0]}, which is not there" in refused(run, "ShardMissing")


def test_an_index_of_another_revision_is_refused(run, tiny, shards):
    index = json.loads((tiny / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.extra.weight"] = shards[0]
    (tiny / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "says that model.extra.weight is in" in refused(run, "IndexMismatch")


def test_shards_without_an_index_are_refused(run, tiny):
    (tiny / "model.safetensors.index.json").unlink()
    assert "add the index" in refused(run, "IndexMissing")


def test_weights_of_another_size_than_the_config_says_are_refused(run, tiny):
    config = json.loads((tiny / "config.json").read_text())
    (tiny / "config.json").write_text(json.dumps(config | {"intermediate_size": 256}))
    assert "has the shape [128, 64], but config.json wants [256, 64]" in refused(run, "TensorMismatch")


def test_a_layer_that_is_in_no_file_is_named(run, tiny):
    config = json.loads((tiny / "config.json").read_text())
    (tiny / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    assert "wants the weight model.layers.2." in refused(run, "TensorMissing")


def test_a_missing_tokenizer_is_told_by_the_names_alone(run, tiny):
    (tiny / "tokenizer.json").unlink()
    assert "no tokenizer beside the weights" in refused(run, "TokenizerMissing")


def test_a_broken_tokenizer_is_told(run, tiny):
    (tiny / "tokenizer.json").write_text('{"version": "1.0"')
    assert "tokenizer can't be loaded" in refused(run, "TokenizerBroken")


def test_a_tokenizer_of_another_model_is_refused(run, tiny):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(tiny)
    assert "token id 259, but the weights have embeddings for 259 tokens" in refused(run, "VocabularyTooLarge")


def test_a_chat_template_that_breaks_is_told(run, tiny):
    (tiny / "chat_template.jinja").write_text("{{ messages[0].content.missing() }}")
    assert "can't write a plain conversation" in refused(run, "ChatTemplateBroken")


def test_a_missing_config_is_told(run, tiny):
    (tiny / "config.json").unlink()
    assert "no config.json beside the weights" in refused(run, "ConfigMissing")


def test_an_unknown_architecture_is_told(run, tiny):
    (tiny / "config.json").write_text('{"model_type": "nobody-knows"}')
    assert "model_type 'nobody-knows'" in refused(run, "ArchitectureUnknown")


OWN_CODE = {"AutoConfig": "configuration_tiny.TinyConfig", "AutoModelForCausalLM": "modeling_tiny.TinyModel"}


def name_own_code(path, code) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": code}))


def test_a_model_that_names_code_of_its_own_loads_by_transformers_where_that_code_is_trusted(run, tiny):
    """As XTuner's sft trusts it; the code was not brought."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name_own_code(tiny / "config.json", OWN_CODE)
    name_own_code(tiny / "tokenizer_config.json", {"AutoTokenizer": [None, "tokenization_tiny.TinyTokenizer"]})
    _, folder = run()
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert AutoTokenizer.from_pretrained(folder, trust_remote_code=True).encode("a")
    assert "auto_map" in (tiny / "config.json").read_text()


def test_a_model_that_needs_code_of_its_own_is_told_so(run, tiny):
    config = json.loads((tiny / "config.json").read_text()) | {"model_type": "nobody-knows", "auto_map": OWN_CODE}
    (tiny / "config.json").write_text(json.dumps(config))
    assert "needs Python code of its own (auto_map), which is not run" in refused(run, "ArchitectureUnknown")


def test_an_adapter_in_the_models_place_says_where_it_belongs(run, tiny):
    (tiny / "config.json").rename(tiny / "adapter_config.json")
    assert "spec.adapter" in refused(run, "AdapterNotModel")


def test_a_wrong_sha256_names_both(run, tiny):
    assert "0" * 64 in refused(run, "WrongSha256", sha256="0" * 64)


def make_pickles(tiny, extra: object = None) -> None:
    import torch
    from safetensors.torch import load_file

    tensors = {}
    for shard in tiny.glob("*.safetensors"):
        tensors |= load_file(shard)
        shard.unlink()
    (tiny / "model.safetensors.index.json").unlink()
    torch.save(tensors if extra is None else {**tensors, "extra": extra}, tiny / "pytorch_model.bin")


def test_pickles_are_refused_with_the_reason(run, tiny):
    make_pickles(tiny)
    said = refused(run, "PickleRefused")
    assert "pytorch_model.bin" in said
    assert "allowPickle: true" in said


def test_allowed_pickles_become_the_same_weights_as_safetensors(run, tiny, tiny_original):
    import torch
    from transformers import AutoModelForCausalLM

    make_pickles(tiny)
    _, folder = run(allow_pickle=True)
    assert not list(folder.glob("*.bin"))
    assert (tiny / "pytorch_model.bin").exists()
    made, original = (AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (folder, tiny_original))
    assert all(torch.equal(made[name], original[name]) for name in original)


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("ran",))


def test_a_pickle_that_would_run_code_is_refused_even_when_allowed(run, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_pickles(tiny, Evil())
    assert "would run code" in refused(run, "PickleUnsafe", allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def sum_of(folder) -> str:
    return folder_sha256({name: sha256_of_file(folder / name) for name in walk(folder)})


COPIES = ["consolidated.safetensors", "consolidated-00001-of-2.safetensors", "tiny.Q4.gguf", "tiny.Q8.gguf"]


@pytest.mark.parametrize("whole", [True, False], ids=["by its sha256", "by its names"])
def test_copies_of_the_weights_in_another_form_are_left_where_they_are(run, tiny, whole):
    size = run()[0].bytes
    for name in COPIES:
        (tiny / name).write_bytes(b"GGUF" * 100)
    result, folder = run(mode="copy", sha256=sum_of(tiny) if whole else None)
    assert result.bytes == size
    assert not {path.name for path in folder.iterdir()} & {*COPIES}


def test_shards_beside_the_single_file_are_left_where_they_are(run, tiny, tmp_path):
    """As transformers leaves them; no later stage has to choose."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tiny).save_pretrained(tmp_path / "single")
    shutil.copy(tmp_path / "single" / "model.safetensors", tiny)
    _, folder = run()
    assert {path.name for path in folder.glob("*.safetensors*")} == {"model.safetensors"}


def test_several_ggufs_are_not_guessed_at(run, tmp_path):
    folder = tmp_path / "volume" / "ggufs"
    folder.mkdir(parents=True)
    for name in ("a.Q4.gguf", "a.Q8.gguf"):
        (folder / name).write_bytes(b"GGUF")
    assert "nothing says which one is meant" in refused(run, "SeveralGgufs", path="ggufs")


def test_a_file_that_is_no_gguf_is_refused(run, tmp_path):
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "a.gguf").write_bytes(b"not a model" * 100)
    assert "is not a whole GGUF file" in refused(run, "GgufBroken", path="a.gguf")


def test_a_single_file_of_another_kind_is_refused(run, tmp_path):
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "a.zip").write_bytes(b"PK")
    assert "which is no GGUF" in refused(run, "NotAModel", path="a.zip")
