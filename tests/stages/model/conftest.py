"""A tiny real model, and the stage run on it as the frame runs it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_jobs.__main__ import run_stage
from finetune_jobs.contract import MODEL_FOLDER, ModelRequest, ModelResult, Source, Stage, VolumeSource
from finetune_jobs.room import stage_folder

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def make_tokenizer(folder: Path) -> int:
    """A byte-level BPE without merges: 256 bytes and three special tokens. Returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=SPECIAL[1], eos_token=SPECIAL[2], pad_token=SPECIAL[2], unk_token=SPECIAL[0]
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    return len(vocabulary)


@pytest.fixture(scope="session")
def tiny_original(tmp_path_factory) -> Path:
    """LlamaForCausalLM with 2 layers of width 64, in several shards."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    size = make_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=size, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="100KB")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    return folder


@pytest.fixture
def tiny(tiny_original, tmp_path) -> Path:
    """A copy of the tiny model on the volume `models`, to be broken at will."""
    return Path(shutil.copytree(tiny_original, tmp_path / "volume" / "tiny"))


RunStage = Callable[..., tuple[ModelResult, Path]]


@pytest.fixture
def run(tmp_path) -> RunStage:
    """Run the stage on a path of the volume; returns its result and its model folder."""

    def call(path: str = "tiny", mode: str = "link", sha256: str | None = None, allow_pickle: bool = False):
        source = Source(volume=VolumeSource(claim_name="models", path=path, mode=mode), sha256=sha256)
        request = ModelRequest(source=source, allow_pickle=allow_pickle)
        workspace = tmp_path / "workspace"
        _, record = run_stage(request, workspace, {"models": tmp_path / "volume"})
        folder = stage_folder(workspace, Stage.MODEL, request.digest()) / MODEL_FOLDER
        return ModelResult.model_validate(record.result), folder

    return call


@pytest.fixture
def shards(tiny) -> list[str]:
    return sorted(set(json.loads((tiny / "model.safetensors.index.json").read_text())["weight_map"].values()))
