"""One .gguf to Hugging Face files: bfloat16 safetensors, tokenizer, chat template.

transformers reads the weights (its `gguf_file`). What its tokenizer reader loses (eos, pad, how text is
split, which it takes from the architecture) is set from the file's own metadata; what can't be known from
there is refused, not guessed at.
"""

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_jobs.errors import UserMistake
from finetune_jobs.model import tokenizer as tokenizers_room
from finetune_jobs.room import Room
from finetune_jobs.sources.space import require_space
from finetune_jobs.splits import LLAMA3_SPLIT, QWEN2_SPLIT

log = logging.getLogger(__name__)

BYTES_A_PARAMETER = 2  # bfloat16
SAFETENSORS = "Use the model's safetensors instead."


@dataclass(frozen=True)
class Gguf:
    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, int]
    """Elements by name."""

    @property
    def tokens(self) -> list[str]:
        return list(self.metadata["tokenizer.ggml.tokens"])

    def token_id(self, *roles: str) -> int | None:
        """The first of tokenizer.ggml.<role>_token_id that the file has."""
        for role in roles:
            found = self.metadata.get(f"tokenizer.ggml.{role}_token_id")
            if found is not None and 0 <= int(found) < len(self.tokens):
                return int(found)
        return None


def convert(path: Path, folder: Path, room: Room) -> str | None:
    """Write the model folder, by rename; return the licence that the file names."""
    gguf = read(path)
    refuse_unknown(gguf)
    licence = gguf.metadata.get("general.license")
    if not folder.exists():
        draft = folder.with_name(f".{folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        require_space(draft, sum(gguf.tensors.values()) * BYTES_A_PARAMETER, "The converted model")
        room.progress(0, 1, unit="file", message="converting", force=True)
        write(gguf, draft)
        draft.chmod(0o755)
        draft.rename(folder)
    return str(licence) if licence else None


def read(path: Path) -> Gguf:
    """Metadata and the tensors' sizes; UserMistake for a file that is cut or no GGUF."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)  # type: ignore[no-untyped-call]
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: int(tensor.n_elements) for tensor in reader.tensors}
    except (ValueError, IndexError, OverflowError) as error:
        raise UserMistake(
            "GgufBroken",
            f"{path.name} ({path.stat().st_size:,} bytes) is not a whole GGUF file: {error}",
            "It looks like an interrupted download: bring the file anew, and compare its SHA-256 with the source's.",
        ) from None
    return Gguf(path, metadata, tensors)


def refuse_unknown(gguf: Gguf) -> None:
    """Raise UserMistake for what transformers would read wrongly or not at all."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    architecture = gguf.metadata.get("general.architecture")
    reasons = (
        (
            architecture not in GGUF_SUPPORTED_ARCHITECTURES,
            f"has the architecture {architecture}, unknown to transformers",
        ),
        (int(gguf.metadata.get("split.count", 1)) > 1, "is one of several parts"),
        ("tokenizer.ggml.tokens" not in gguf.metadata, "has no tokenizer"),
        ("rope_freqs.weight" in gguf.tensors, "stretches its rotary positions by a table that transformers drops"),
        (
            unknown_split(gguf),
            f"splits text in the way {gguf.metadata.get('tokenizer.ggml.pre')!r}, which is not known here",
        ),
    )
    for fits, what in reasons:
        if fits:
            raise UserMistake("GgufUnsupported", f"{gguf.path.name} {what}.", SAFETENSORS)


def unknown_split(gguf: Gguf) -> bool:
    bytewise = gguf.metadata.get("tokenizer.ggml.model") == "gpt2"
    return bytewise and gguf.metadata.get("tokenizer.ggml.pre", "gpt-2") not in SPLITS


def gpt2_split() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def digits_split() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2_split()])


def regex_split(pattern: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


SPLITS: dict[str, Callable[[], Any]] = {
    "gpt-2": gpt2_split,
    "smollm": digits_split,
    "llama-bpe": lambda: regex_split(LLAMA3_SPLIT),
    "qwen2": lambda: regex_split(QWEN2_SPLIT),
}
"""tokenizer.ggml.pre -> the pre-tokenizer of the model's own tokenizer.json."""
CONTROL = 3
"""The type of a special token in tokenizer.ggml.token_type."""


def write(gguf: Gguf, folder: Path) -> None:
    from transformers import AutoConfig

    # alone in a folder: transformers would read tokenizer files that lie beside it
    alone = folder.with_name(f".{folder.name}.gguf")
    shutil.rmtree(alone, ignore_errors=True)
    alone.mkdir()
    (alone / "model.gguf").symlink_to(gguf.path.resolve())
    config = AutoConfig.from_pretrained(alone, gguf_file="model.gguf", local_files_only=True)
    tokenizer = write_tokenizer(gguf, alone, folder, config)
    write_weights(gguf, alone, folder, config, tokenizer)
    shutil.rmtree(alone)
    # the slow tokenizer's "vocabulary" is a copy of the whole GGUF
    (folder / "tokenizer.model").unlink(missing_ok=True)
    for file in folder.iterdir():
        file.chmod(0o644)


def write_tokenizer(gguf: Gguf, alone: Path, folder: Path, config: Any) -> Any:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(alone, gguf_file="model.gguf", config=config, local_files_only=True)
    tokenizer.add_special_tokens({role: gguf.tokens[number] for role, number in special(gguf).items()})
    split = gguf.metadata.get("tokenizer.ggml.pre")
    if gguf.metadata.get("tokenizer.ggml.model") == "gpt2" and split in SPLITS:
        tokenizer.backend_tokenizer.pre_tokenizer = SPLITS[split]()
    tokenizer.chat_template = gguf.metadata.get("tokenizer.chat_template")
    tokenizer.add_bos_token = bool(gguf.metadata.get("tokenizer.ggml.add_bos_token", tokenizer.add_bos_token))
    tokenizer.clean_up_tokenization_spaces = False  # it would drop spaces of an answer, in JSON too
    tokenizer.save_pretrained(folder)
    return tokenizer


def special(gguf: Gguf) -> dict[str, int]:
    """Role -> token id, as the file says; pad falls back to eos, which the loss leaves out where it pads."""
    eos = gguf.token_id("eos", "eot")
    if eos is None:
        raise UserMistake("GgufUnsupported", f"{gguf.path.name} names no eos token.", SAFETENSORS)
    roles = {
        "bos_token": gguf.token_id("bos"),
        "eos_token": eos,
        "unk_token": gguf.token_id("unknown"),
        "pad_token": gguf.token_id("padding"),
    }
    if roles["pad_token"] in {None, roles["bos_token"]}:
        roles["pad_token"] = eos
    return {role: number for role, number in roles.items() if number is not None}


def write_weights(gguf: Gguf, alone: Path, folder: Path, config: Any, tokenizer: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(
        alone, gguf_file="model.gguf", config=config, dtype=torch.bfloat16, local_files_only=True
    )
    roles = special(gguf)
    stops = sorted({roles["eos_token"], *turn_ends(gguf, tokenizer)})
    model.config.bos_token_id = roles.get("bos_token")
    model.config.eos_token_id = roles["eos_token"]
    model.config.pad_token_id = roles["pad_token"]
    model.generation_config = GenerationConfig(
        bos_token_id=roles.get("bos_token"),
        eos_token_id=stops if len(stops) > 1 else stops[0],
        pad_token_id=roles["pad_token"],
    )
    model.save_pretrained(folder, max_shard_size="4GB")


def turn_ends(gguf: Gguf, tokenizer: Any) -> list[int]:
    """Tokens that end a turn: the file's eot, and what the chat template writes after an answer."""
    ends = [number for role in ("eot", "eom") if (number := gguf.token_id(role)) is not None]
    rendered = tokenizers_room.render(tokenizer)
    if rendered is not None:
        answer = tokenizers_room.CONVERSATION[1]["content"]
        after = tokenizer.encode(rendered.partition(answer)[2], add_special_tokens=False)
        types = gguf.metadata["tokenizer.ggml.token_type"]
        ends += [after[0]] if after and types[after[0]] == CONTROL else []
    return ends
