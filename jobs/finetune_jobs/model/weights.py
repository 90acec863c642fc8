"""What the weights say of themselves: every safetensors header read, compared with index and config.

The format: 8 bytes little-endian length n, n bytes of JSON (tensor -> dtype, shape, data_offsets),
then the tensors' bytes without gaps (github.com/huggingface/safetensors, "Format").
"""

import json
import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_jobs.errors import UserMistake, first_line
from finetune_jobs.model.own_code import NAMED_BY

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
LONGEST_HEADER = 100_000_000  # bytes, the format's own limit
BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32,
    "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8,
}  # fmt: skip
OWN_CODE = f"the model needs Python code of its own ({NAMED_BY}), which is not run."
TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "tok_embeddings.weight")


@dataclass(frozen=True)
class Tensor:
    dtype: str
    """As safetensors names it, such as BF16."""
    shape: tuple[int, ...]


Shards = dict[str, dict[str, Tensor]]
"""File -> its tensors."""


def broken(file: str, what: str) -> UserMistake:
    return UserMistake(
        "ShardBroken",
        f"{file} {what}.",
        "It looks like an interrupted download: bring this file anew, and compare its SHA-256 with the source's.",
    )


def read_config(folder: Path) -> dict[str, Any]:
    """config.json; UserMistake if it is no JSON object that names a model type."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserMistake("ConfigMissing", "There is no config.json.", "Add the model's config.json.") from None
    except ValueError as error:
        raise UserMistake("ConfigBroken", f"config.json is no JSON: {error}.", "Bring the file anew.") from None
    if not isinstance(config, dict) or not config.get("model_type"):
        raise UserMistake(
            "ConfigBroken", "config.json names no model_type.", "Use the config.json that belongs to the weights."
        )
    return config


def read_shards(folder: Path) -> Shards:
    """The headers of the files that transformers would load, each checked against its length and the index."""
    if (folder / SINGLE).exists():
        return {SINGLE: read_header(folder / SINGLE)}
    if not (folder / INDEX).exists():
        files = sorted(path.name for path in folder.glob("*.safetensors"))
        raise UserMistake(
            "IndexMissing",
            f"There is neither {SINGLE} nor {INDEX}; there is: {', '.join(files)}.",
            f"Rename a single file to {SINGLE}, or add the index that belongs to the shards.",
        )
    index = read_index(folder / INDEX)
    shards = {}
    for file in sorted(set(index.values())):
        if not (folder / file).is_file():
            raise UserMistake(
                "ShardMissing", f"{INDEX} names {file}, which is not there.", "Add the file, or bring the model anew."
            )
        shards[file] = read_header(folder / file)
    for tensor, file in index.items():
        if tensor not in shards[file]:
            raise UserMistake(
                "IndexMismatch",
                f"{INDEX} says that {tensor} is in {file}, but it is not.",
                "Use index and shards of one revision.",
            )
    return shards


def read_index(path: Path) -> dict[str, str]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError):
        raise UserMistake("IndexBroken", f"{path.name} has no readable weight_map.", "Bring the file anew.") from None
    outside = next((file for file in index.values() if "/" in file), None)
    if outside is not None:
        raise UserMistake(
            "IndexBroken", f"{path.name} names {outside}, in another folder.", "Put all shards in one folder."
        )
    return dict(index)


def read_header(path: Path) -> dict[str, Tensor]:
    """Tensors of one file; UserMistake naming the file if its length is not what its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else LONGEST_HEADER + 1  # noqa: PLR2004 (the format)
        if length > min(LONGEST_HEADER, size - 8):
            raise broken(path.name, f"has {size:,} bytes and no readable safetensors header")
        try:
            header = json.loads(file.read(length))
        except ValueError:
            raise broken(path.name, "has a safetensors header that is no JSON") from None
    header.pop("__metadata__", None)
    return check_extent(path.name, header, 8 + length, size)


def check_extent(name: str, header: Mapping[str, Any], start: int, size: int) -> dict[str, Tensor]:
    tensors, end = {}, 0
    for tensor, about in sorted(header.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        begin, stop = about["data_offsets"]
        bits = BITS.get(about["dtype"])
        if begin != end or (bits is not None and stop - begin != math.prod(about["shape"]) * bits // 8):
            raise broken(name, f"has a header in which {tensor} has the wrong length")
        tensors[tensor], end = Tensor(about["dtype"], tuple(about["shape"])), stop
    if start + end != size:
        raise broken(name, f"has {size:,} bytes, but its header speaks of {start + end:,}")
    return tensors


def all_tensors(shards: Shards) -> dict[str, Tensor]:
    return {name: tensor for tensors in shards.values() for name, tensor in tensors.items()}


def count(shards: Shards) -> int:
    return sum(math.prod(tensor.shape) for tensor in all_tensors(shards).values())


def dtype(shards: Shards) -> str:
    """The dtype of most parameters, by torch's name where it has one."""
    totals: Counter[str] = Counter()
    for tensor in all_tensors(shards).values():
        totals[tensor.dtype] += math.prod(tensor.shape)
    most = totals.most_common(1)[0][0]
    return TORCH_NAMES.get(most, most)


def embedding_rows(shards: Shards, config: Mapping[str, Any]) -> int:
    """Tokens that the model has an embedding for."""
    for name, tensor in all_tensors(shards).items():
        if name.endswith(EMBEDDINGS):
            return tensor.shape[0]
    return int(config["vocab_size"])


def check_architecture(folder: Path, config: Mapping[str, Any], shards: Shards) -> str:
    """Compare with the model that transformers builds from config.json, without memory for its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        parsed = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(parsed, trust_remote_code=False)
    except (ValueError, KeyError, TypeError) as error:
        raise UserMistake(
            "ArchitectureUnknown",
            f"transformers builds no chat model from config.json (model_type {config['model_type']!r}): "
            + (OWN_CODE if NAMED_BY in config else first_line(error)),
            "Use a causal language model that transformers knows without code of the model's own.",
        ) from None
    compare(model, all_tensors(shards))
    return str((config.get("architectures") or [type(model).__name__])[0])


def compare(model: Any, found: Mapping[str, Tensor]) -> None:
    """Raise UserMistake for the first weight that is missing or has another shape."""
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()
    prefix = f"{model.base_model_prefix}."
    for name, parameter in model.named_parameters(remove_duplicate=False):
        tensor = found.get(name) or found.get(name.removeprefix(prefix))
        if tensor is None and name in tied:
            continue
        if tensor is None:
            raise UserMistake(
                "TensorMissing",
                f"config.json wants the weight {name}, which is in no file.",
                "Use weights and config.json of one revision.",
            )
        if tensor.shape != tuple(parameter.shape) and tensor.dtype in TORCH_NAMES:
            raise UserMistake(
                "TensorMismatch",
                f"{name} has the shape {list(tensor.shape)}, but config.json wants {list(parameter.shape)}.",
                "Use weights and config.json of one revision.",
            )
