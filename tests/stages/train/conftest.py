"""A workspace with a tiny random Llama and packed rows that can be learned, so that a training takes seconds."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from finetune_jobs.contract import (
    CHECKPOINTS_FOLDER,
    MESSAGES_FOLDER,
    MODEL_FOLDER,
    PACKED_FOLDER,
    REQUEST_FILE,
    RESULT_FILE,
    DatasetFormat,
    DatasetRequest,
    DatasetResult,
    Lora,
    ModelRequest,
    ModelResult,
    Record,
    Request,
    Source,
    Stage,
    TrainRequest,
    VolumeSource,
)
from finetune_jobs.room import Room, stage_folder

WORDS = 64
ROW_LENGTH = 32
SOURCE = Source(volume=VolumeSource(claim_name="here"))
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


def write_model(folder: Path, seed: int = 0) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {"<s>": 0, "</s>": 1, "<|im_start|>": 2, "<|im_end|>": 3}
    vocabulary |= {f"w{number}": number for number in range(len(vocabulary), WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<|im_start|>", "<|im_end|>"]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>",
        additional_special_tokens=special,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(seed)
    shape = LlamaConfig(
        vocab_size=WORDS, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder)


def write_packed(folder: Path, rows: int) -> None:
    """Two documents a row; in each the next word is the one before plus three, so that there is something to learn."""
    from datasets import Dataset

    half = ROW_LENGTH // 2
    made: dict[str, list[Any]] = {"input_ids": [], "labels": [], "position_ids": [], "cumulative_len": []}
    for number in range(rows):
        documents = [[4 + (start + 3 * place) % (WORDS - 4) for place in range(half)] for start in (number, 7 * number)]
        ids = [*documents[0], *documents[1]]
        made["input_ids"].append(ids)
        made["labels"].append([-100 if place % half == 0 else token for place, token in enumerate(ids)])
        made["position_ids"].append([*range(half), *range(half)])
        made["cumulative_len"].append([0, half, ROW_LENGTH])
    Dataset.from_dict(made).save_to_disk(str(folder))


def write_messages(folder: Path, rows: int) -> None:
    from datasets import Dataset

    made = []
    for number in range(rows):
        words = [f"w{4 + (number + 3 * place) % (WORDS - 4)}" for place in range(16)]
        made.append([
            {"role": "user", "content": " ".join(words[:8]), "loss": False},
            {"role": "assistant", "content": " ".join(words[8:]), "loss": True},
        ])  # fmt: skip
    Dataset.from_dict({"messages": made}).save_to_disk(str(folder))


@dataclass
class Training:
    """One job's train stage in a workspace, driven as a runner drives it."""

    workspace: Path
    needs: dict[Stage, str]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def request(self) -> TrainRequest:
        defaults = {
            "template": "qwen_chat", "epochs": 1, "max_length": ROW_LENGTH, "batch_size": 1,
            "gradient_accumulation": 1, "learning_rate": "5e-3", "warmup_ratio": "0.2", "quantization": "none",
            "lora": Lora(rank=4, alpha=8, dropout="0.1"), "checkpoint_every": 4, "checkpoint_keep": 2,
        }  # fmt: skip
        return TrainRequest(needs=self.needs, **{**defaults, **self.settings})

    @property
    def out(self) -> Path:
        return stage_folder(self.workspace, Stage.TRAIN, self.request.digest())

    def input(self, stage: Stage) -> Path:
        return stage_folder(self.workspace, stage, self.needs[stage])

    @property
    def outcome_file(self) -> Path:
        return self.workspace / "outcome.json"

    def room(self) -> Room:
        self.out.mkdir(parents=True, exist_ok=True)
        return Room(self.workspace, self.request, self.out)

    def start(self, **environ: str) -> "subprocess.Popen[str]":
        request = self.workspace / REQUEST_FILE
        request.write_text(self.request.to_json(), encoding="utf-8")
        command = [sys.executable, "-m", "finetune_jobs", "train", "--request", str(request), "--workspace",
                   str(self.workspace), "--outcome", str(self.outcome_file)]  # fmt: skip
        self.outcome_file.unlink(missing_ok=True)
        log = (self.workspace / "log").open("w", encoding="utf-8")
        return subprocess.Popen(
            command, env={**os.environ, **ENVIRONMENT, **environ}, stderr=log, stdout=log, text=True
        )

    def run(self, **environ: str) -> dict[str, Any]:
        """The outcome, its log shown where it did not go well."""
        process = self.start(**environ)
        try:
            process.wait()
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
        return self.outcome()

    def outcome(self) -> dict[str, Any]:
        outcome: dict[str, Any] = json.loads(self.outcome_file.read_text(encoding="utf-8"))
        if outcome["state"] == "Failed":
            sys.stdout.write((self.workspace / "log").read_text(encoding="utf-8")[-6000:])  # shown if the test fails
        return outcome

    def sabotage(self, what: str) -> dict[str, str]:
        """Environment that breaks the training, see saboteur/sitecustomize.py."""
        self.pids_file.unlink(missing_ok=True)
        return {"SABOTAGE": what, "PYTHONPATH": str(SABOTEUR), "SABOTAGE_PIDS": str(self.pids_file)}

    @property
    def pids_file(self) -> Path:
        return self.workspace / "pids.json"

    def pids(self) -> dict[str, int]:
        """Of rank, torchrun and stage, where the sabotage noted them."""
        found: dict[str, int] = json.loads(self.pids_file.read_text()) if self.pids_file.exists() else {}
        return found

    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in (self.out / CHECKPOINTS_FOLDER).glob("*") if path.is_dir())


def run_ranks(folders: Mapping[Path, int]) -> None:
    """Train by the configs in each folder with so many processes, see ranks.py."""
    given = [f"{folder}={processes}" for folder, processes in folders.items()]
    on_cpu = {"CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [sys.executable, "-m", "tests.stages.train.ranks", *given],
        check=True,
        env={**os.environ, **ENVIRONMENT, **on_cpu},
    )


def write_record(workspace: Path, request: Request, result: Any) -> str:
    record = Record.of(request, result)
    folder = stage_folder(workspace, request.stage, record.digest)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT_FILE).write_text(record.to_json(), encoding="utf-8")
    return record.digest


def add_model(workspace: Path) -> str:
    result = ModelResult(parameters=1, architecture="LlamaForCausalLM", dtype="float32", bytes=1, sha256="0" * 64,
                         source="made by the test")  # fmt: skip
    digest = write_record(workspace, ModelRequest(source=SOURCE), result)
    write_model(stage_folder(workspace, Stage.MODEL, digest) / MODEL_FOLDER)
    return digest


def add_dataset(workspace: Path, model: str, rows: int, **settings: Any) -> str:
    """Packed rows, or with output="messages" conversations."""
    defaults = {"source": SOURCE, "format": DatasetFormat.MESSAGES, "template": "qwen_chat", "max_length": ROW_LENGTH}
    request = DatasetRequest(needs={Stage.MODEL: model}, seed=rows, **{**defaults, **settings})
    result = DatasetResult(rows_read=rows, rows_kept=rows, rows_dropped={}, tokens=rows * ROW_LENGTH,
                           supervised_tokens=rows * ROW_LENGTH, packs=rows, fill=1.0)  # fmt: skip
    digest = write_record(workspace, request, result)
    folder = stage_folder(workspace, Stage.DATASET, digest)
    if request.output == "messages":
        write_messages(folder / MESSAGES_FOLDER, rows)
    else:
        write_packed(folder / PACKED_FOLDER, rows)
    return digest


SABOTEUR = Path(__file__).with_name("saboteur")


@pytest.fixture(scope="session")
def make_training(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Training]:
    def make(name: str, rows: int, output: str = "packed", **settings: Any) -> Training:
        workspace = tmp_path_factory.mktemp(name)
        model = add_model(workspace)
        needs = {Stage.MODEL: model, Stage.DATASET: add_dataset(workspace, model, rows, output=output)}
        return Training(workspace, needs, settings)

    return make
