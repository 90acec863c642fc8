"""A workspace with a tiny random model and a peft adapter for it, as the model and export stages leave them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from finetune_jobs.contract import (
    ADAPTER_FOLDER,
    MERGED_FOLDER,
    MODEL_FOLDER,
    RESULT_FILE,
    ExportRequest,
    ExportResult,
    MergeRequest,
    MergeResult,
    ModelRequest,
    ModelResult,
    PyPISource,
    Record,
    Request,
    Source,
    Stage,
)
from finetune_jobs.room import Room, stage_folder

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"


@dataclass
class Workshop:
    """Builds the merge's inputs in a workspace and runs it."""

    workspace: Path

    SOURCE = Source(pypi=PyPISource(requirement="tiny-model==1.0", path="weights"))
    MODEL = ModelRequest(source=SOURCE)
    EXPORT = ExportRequest(adapter=Source(pypi=PyPISource(requirement="tiny-adapter==2.0")))

    @property
    def base(self) -> Path:
        return stage_folder(self.workspace, Stage.MODEL, self.MODEL.digest()) / MODEL_FOLDER

    @property
    def adapter(self) -> Path:
        return stage_folder(self.workspace, Stage.EXPORT, self.EXPORT.digest()) / ADAPTER_FOLDER

    def record(self, request: Request, result: dict[str, Any], versions: dict[str, str] | None = None) -> str:
        now = datetime.now(UTC)
        record = Record.model_validate(
            {
                "stage": request.stage,
                "digest": request.digest(),
                "request": request.model_dump(by_alias=True),
                "started_at": now,
                "finished_at": now,
                "result": result,
                "versions": versions or {},
            }
        )
        folder = stage_folder(self.workspace, request.stage, request.digest())
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT_FILE).write_text(record.to_json())
        return request.digest()

    def make_records(self) -> None:
        self.record(self.MODEL, model_result(), {"transformers": "4.57.6"})
        self.record(self.EXPORT, export_result(), {"peft": "0.21.2"})

    def make_llama(
        self, *, tied: bool = False, layers: int = 2, shard: str = "100KB", dtype: str = "bfloat16", width: int = 112
    ) -> None:
        """A random grouped-query Llama, sharded, and a tokenizer with a chat template."""
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=120, hidden_size=64, intermediate_size=width, num_hidden_layers=layers, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=tied, initializer_range=0.5,
        )  # fmt: skip
        LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(self.base, max_shard_size=shard)
        write_tokenizer(self.base)
        self.make_records()

    def make_adapter(self, seed: int = 1, *, dtype: str = "float32", **settings: Any) -> None:
        """A random adapter on the base model, saved by peft; `settings` are LoraConfig's."""
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(self.base, torch_dtype=torch.float32)
        config = LoraConfig(
            **{"r": 8, "lora_alpha": 20, "target_modules": LINEAR, "task_type": "CAUSAL_LM", **settings}
        )
        model = get_peft_model(base, config)
        generator = torch.Generator().manual_seed(seed)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = torch.randn(weight.shape, generator=generator) * 0.1
        model.to(getattr(torch, dtype)).save_pretrained(self.adapter)

    def peft_merged(self) -> dict[str, Any]:
        """Weights by name as peft's merge_and_unload makes them in float32."""
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(self.base, torch_dtype=torch.float32)
        return dict(PeftModel.from_pretrained(base, self.adapter).merge_and_unload().state_dict())

    def edit_adapter(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the adapter's tensors, by name, in place."""
        from safetensors.torch import load_file, save_file

        tensors = load_file(self.adapter / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, self.adapter / "adapter_model.safetensors")

    def edit_adapter_config(self, **fields: Any) -> None:
        edit_json(self.adapter / "adapter_config.json", **fields)

    def request(self, dtype: str = "float32", shard: str = "1MB", **more: Any) -> MergeRequest:
        needs = {Stage.MODEL: self.MODEL.digest(), Stage.EXPORT: self.EXPORT.digest()}
        return MergeRequest.model_validate({"needs": needs, "dtype": dtype, "max_shard_size": shard, **more})

    def room(self, request: MergeRequest) -> Room:
        out = stage_folder(self.workspace, Stage.MERGE, request.digest())
        out.mkdir(parents=True, exist_ok=True)
        return Room(self.workspace, request, out)

    def merge(self, request: MergeRequest | None = None) -> tuple[MergeResult, Path]:
        from finetune_jobs import merge

        request = request or self.request()
        room = self.room(request)
        return merge.run(request, room), room.out / MERGED_FOLDER


def model_result() -> dict[str, Any]:
    return ModelResult(
        parameters=1234, architecture="LlamaForCausalLM", dtype="bfloat16", bytes=2468, sha256="ab" * 32,
        license="apache-2.0", source="pypi tiny-model==1.0",
    ).model_dump(by_alias=True)  # fmt: skip


def export_result() -> dict[str, Any]:
    return ExportResult(
        rank=8, alpha=20, target_modules=tuple(LINEAR), tensors=28, bytes=1000, source="pypi tiny-adapter==2.0"
    ).model_dump(by_alias=True)


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["<unk>", "</s>", *"abcdefghij"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


def edit_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path / "workspace")


@pytest.fixture
def llama(workshop: Workshop) -> Workshop:
    """With a sharded Llama and an adapter on all its linear layers."""
    workshop.make_llama()
    workshop.make_adapter()
    return workshop
