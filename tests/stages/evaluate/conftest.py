"""A workspace in which a base and a merged model lie complete, whatever they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_jobs.contract import (
    MERGED_FOLDER,
    MODEL_FOLDER,
    RESULT_FILE,
    EvaluateRequest,
    MergeRequest,
    MergeResult,
    ModelRequest,
    ModelResult,
    Prompt,
    Record,
    Request,
    Source,
    Stage,
    VolumeSource,
)
from finetune_jobs.room import Room, stage_folder

SEARCH = "ArxivSearch.get_arxiv_article_information"
PROMPTS = (
    Prompt(question="Find papers on bees.", tool=SEARCH, arguments={"query": "bees"}),
    Prompt(question="What is 2 + 3?", tool="Calculator", arguments={"expression": "2 + 3"}),
    Prompt(question="Hello!"),
)
DIGEST = "0" * 12
MODEL = ModelRequest(source=Source(volume=VolumeSource(claim_name="here")))
RESULTS: dict[Stage, Any] = {
    Stage.MODEL: (MODEL, ModelResult(parameters=1, architecture="A", dtype="x", bytes=1, sha256="", source="here")),
    Stage.MERGE: (MergeRequest(), MergeResult(dtype="x", shards=1, bytes=1, sha256="", merged_tensors=1)),
}


def complete(workspace: Path, stage: Stage, folder: str, model: Path) -> None:
    place = stage_folder(workspace, stage, DIGEST)
    place.mkdir(parents=True)
    (place / folder).symlink_to(model)
    record = Record.of(*RESULTS[stage]).model_copy(update={"digest": DIGEST})
    (place / RESULT_FILE).write_text(record.to_json(), encoding="utf-8")


@pytest.fixture
def workspace(tmp_path: Path) -> Callable[[Path, Path], Path]:
    """The workspace that holds these two model folders as base and merged."""

    def make(base: Path, merged: Path) -> Path:
        complete(tmp_path / "workspace", Stage.MODEL, MODEL_FOLDER, base)
        complete(tmp_path / "workspace", Stage.MERGE, MERGED_FOLDER, merged)
        return tmp_path / "workspace"

    return make


def request(**more: Any) -> EvaluateRequest:
    asked = {"prompts": PROMPTS, "template": "qwen_chat", "max_new_tokens": 16} | more
    return EvaluateRequest(needs={Stage.MODEL: DIGEST, Stage.MERGE: DIGEST}, **asked)


def room(workspace: Path, asked: Request) -> Room:
    out = stage_folder(workspace, Stage.EVALUATE, asked.digest())
    out.mkdir(parents=True, exist_ok=True)
    return Room(workspace, asked, out)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    """Random weights behind the real tokenizer: a model that knows nothing, in a second."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=49152, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=2048, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder)
    AutoTokenizer.from_pretrained(smollm2).save_pretrained(folder)
    return folder
