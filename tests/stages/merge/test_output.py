"""What lies in the merged folder, and who can use it."""

import json
import os
import subprocess
from datetime import UTC, datetime

import pytest

from finetune_jobs.contract import (
    CurvePoint,
    DatasetFormat,
    DatasetRequest,
    DatasetResult,
    ExportRequest,
    MergeRequest,
    Stage,
    TrainRequest,
    TrainResult,
)
from finetune_jobs.errors import MachineTrouble

pytestmark = pytest.mark.stage


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_transformers_opens_it(llama, dtype):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, merged = llama.merge(llama.request(dtype=dtype))
    model, report = AutoModelForCausalLM.from_pretrained(merged, torch_dtype="auto", output_loading_info=True)
    assert model.dtype == getattr(torch, dtype)
    assert [keys for keys in report.values() if keys] == []
    tokenizer = AutoTokenizer.from_pretrained(merged)
    talk = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    assert talk == "user: a\n"


def test_shards_and_index(llama):
    """A limit of 1 MB cuts a larger model; each file stays below it, and the index names every tensor."""
    llama.make_llama(layers=20)
    llama.make_adapter()
    result, merged = llama.merge(llama.request(shard="1MB"))
    files = sorted(merged.glob("*.safetensors"))
    assert [path.name for path in files] == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in (1, 2, 3)]
    assert result.shards == len(files)
    assert max(path.stat().st_size for path in files) < 1_050_000
    index = json.loads((merged / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == result.bytes
    assert set(index["weight_map"].values()) == {path.name for path in files}


def test_linked_inputs_become_files_that_everyone_can_read(llama):
    elsewhere = llama.workspace / "share"
    llama.base.rename(elsewhere)
    llama.base.mkdir()
    for path in elsewhere.iterdir():
        (llama.base / path.name).symlink_to(path)
        path.chmod(0o600)
    before = os.umask(0o077)
    try:
        _, merged = llama.merge()
    finally:
        os.umask(before)
    assert {path.stat(follow_symlinks=False).st_mode for path in merged.iterdir()} == {0o100644}
    assert merged.stat().st_mode & 0o777 == 0o755
    assert {"tokenizer.json", "chat_template.jinja", "generation_config.json"} <= {p.name for p in merged.iterdir()}


def test_sha256_is_what_sha256sum_says(llama):
    result, merged = llama.merge()
    command = "find -L . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    said = subprocess.run(["sh", "-c", command], cwd=merged, check=True, capture_output=True, text=True).stdout
    assert said.split()[0] == result.sha256


def test_file_system_without_direct_writes(llama, monkeypatch):
    """The ordinary way gives the same bytes."""
    from finetune_jobs.merge import blocks

    direct, _ = llama.merge()
    monkeypatch.setattr(blocks.os, "O_DIRECT", 0)
    ordinary, _ = llama.merge()
    assert ordinary.sha256 == direct.sha256


def test_bytes_changed_after_the_write_are_noticed(llama, monkeypatch):
    """The check reads the disk: a weight that is not the sum ends the stage."""
    from finetune_jobs import merge

    write = merge.write_weights

    def write_and_spoil(plan, folder, room):
        sha256s = write(plan, folder, room)
        spoiled = next(weight for weight in plan.weights if weight.lora is not None)
        with (folder / plan.shards[0].file).open("r+b") as file:
            file.seek(-plan.shards[0].size, os.SEEK_END)
            file.seek(sum(w.size for w in plan.weights[: plan.weights.index(spoiled)]), os.SEEK_CUR)
            file.write(b"\x00\x00\x80\x40" * 64)
        return sha256s

    monkeypatch.setattr(merge, "write_weights", write_and_spoil)
    with pytest.raises(MachineTrouble, match="is not the sum"):
        llama.merge()


def trained(workshop) -> MergeRequest:
    """Records of a dataset and a training behind the adapter."""
    dataset = DatasetRequest(
        source=workshop.SOURCE, format=DatasetFormat.AGENT_FLAN, template="qwen_chat", max_length=64
    )
    report = DatasetResult(
        rows_read=100, rows_kept=97, rows_dropped={"no assistant turn": 3}, tokens=12345, supervised_tokens=999,
        packs=7, fill=0.9876,
    )  # fmt: skip
    data = workshop.record(dataset, report.model_dump(by_alias=True), {"datasets": "5.0.1"})
    train = TrainRequest(
        needs={Stage.DATASET: data}, template="qwen_chat", epochs=3, max_length=64, batch_size=1,
        gradient_accumulation=16, learning_rate="2e-4",
    )  # fmt: skip
    curve = tuple(CurvePoint(step=10 * n, loss=2 / n, learning_rate=1e-4) for n in (1, 2, 4))
    learned = TrainResult(
        checkpoint="checkpoints/40", steps=40, final_loss=0.5, peak_learning_rate=2e-4, tokens_per_second=1500,
        gpu_seconds=0, world_size=1, curve=curve,
    )  # fmt: skip
    made = workshop.record(train, learned.model_dump(by_alias=True), {"xtuner": "0.2.0"})
    export = ExportRequest(needs={Stage.TRAIN: made})
    from_folder, to_folder = workshop.adapter, workshop.workspace / Stage.EXPORT / export.digest()
    from .conftest import export_result

    workshop.record(export, export_result())
    from_folder.rename(to_folder / "adapter")
    needs = {Stage.MODEL: workshop.MODEL.digest(), Stage.EXPORT: export.digest()}
    return MergeRequest(needs=needs, title="Little agent")


def test_card_tells_the_whole_way(llama):
    request = trained(llama)
    _, merged = llama.merge(request)
    card = (merged / "README.md").read_text()
    for said in (
        'license: "apache-2.0"', "# Little agent", "pypi tiny-model==1.0", f"sha256 `{'ab' * 32}`",
        llama.MODEL.digest(), *request.needs.values(), "| learning rate | 2e-4 |", "| rows read | 100 |",
        "3 no assistant turn", "| template | qwen_chat |", "| xtuner | 0.2.0 |", "| datasets | 5.0.1 |", "| numpy |",
        "rounded once, to bfloat16", "| final loss | 0.5000 |",
    ):  # fmt: skip
        assert said in card
    bars = [line.count("#") for line in card.splitlines() if line.strip().startswith(("10 ", "20 ", "40 "))]
    assert bars == [40, 20, 10]
    assert str(llama.workspace) not in card
    assert str(datetime.now(UTC).year) not in card


def test_card_of_a_ready_adapter(llama):
    _, merged = llama.merge()
    card = (merged / "README.md").read_text()
    assert "pypi tiny-adapter==2.0" in card
    assert "## Training" not in card
    assert "## Data" not in card


def test_same_inputs_same_bytes(llama):
    assert llama.merge()[0] == llama.merge()[0]


def test_the_real_small_model(workshop, smollm2):
    """A random adapter on a real model: the merged one answers as the model with the adapter on."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    workshop.base.parent.mkdir(parents=True)
    workshop.base.symlink_to(smollm2)
    workshop.make_records()
    workshop.make_adapter()
    workshop.edit_adapter(lambda tensors: [tensor.mul_(0.1) for tensor in tensors.values()])
    result, merged = workshop.merge()
    assert result.merged_tensors == 30 * 7
    tokens = AutoTokenizer.from_pretrained(merged)("Attention is all you need.", return_tensors="pt").input_ids
    base = AutoModelForCausalLM.from_pretrained(smollm2, torch_dtype=torch.float32)
    with torch.no_grad():
        unchanged = base(tokens).logits
        expected = PeftModel.from_pretrained(base, workshop.adapter)(tokens).logits
        found = AutoModelForCausalLM.from_pretrained(merged)(tokens).logits
    assert (expected - unchanged).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
