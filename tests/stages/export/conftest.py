"""A workspace with a tiny base model, and ready adapters for it beside."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_jobs.contract import (
    MODEL_FOLDER,
    RESULT_FILE,
    ExportRequest,
    ModelRequest,
    ModelResult,
    Record,
    Source,
    Stage,
    VolumeSource,
)
from finetune_jobs.room import Room, stage_folder


def make_base(layers: int = 12, hidden: int = 32) -> Any:
    """12 layers, so that layer 10 sorts before layer 2 where names are compared as text."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=40, hidden_size=hidden, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    return LlamaForCausalLM(shape)


def make_adapter(folder: Path, base: Any) -> None:
    """With B different from zero, as a trained one has it."""
    import torch
    from peft import LoraConfig, get_peft_model

    targets = ["q_proj", "v_proj", "down_proj"]
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)


@dataclass
class Bench:
    workspace: Path
    model: str
    ready: Path
    """Where ready adapters lie: the claim `adapters`."""

    @property
    def base(self) -> Path:
        return stage_folder(self.workspace, Stage.MODEL, self.model) / MODEL_FOLDER

    def request(self, path: str = "iter_2316_hf", **settings: Any) -> ExportRequest:
        source = Source(volume=VolumeSource(claim_name="adapters", path=path))
        return ExportRequest(needs={Stage.MODEL: self.model}, adapter=source, **settings)

    def room(self, request: ExportRequest) -> Room:
        out = stage_folder(self.workspace, Stage.EXPORT, request.digest())
        out.mkdir(parents=True, exist_ok=True)
        return Room(self.workspace, request, out, {"adapters": self.ready})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    request = ModelRequest(source=Source(volume=VolumeSource(claim_name="here")))
    result = ModelResult(
        parameters=1, architecture="LlamaForCausalLM", dtype="float32", bytes=1, sha256="0" * 64, source="a test"
    )
    folder = stage_folder(tmp_path, Stage.MODEL, request.digest())
    make_base().save_pretrained(folder / MODEL_FOLDER)
    (folder / RESULT_FILE).write_text(Record.of(request, result).to_json(), encoding="utf-8")
    ready = tmp_path / "ready"
    ready.mkdir()
    return Bench(tmp_path, request.digest(), ready)


@pytest.fixture
def adapter(bench: Bench) -> Callable[..., Path]:
    """Makes a ready adapter, by default one that fits."""

    def make(name: str = "iter_2316_hf", **base: int) -> Path:
        make_adapter(bench.ready / name, make_base(**base))
        return bench.ready / name

    return make
