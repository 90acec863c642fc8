"""All of a model folder that is not weights: the config with its new type, tokenizer, template, licence."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_jobs.errors import UserMistake
from finetune_jobs.merge.blocks import MODE
from finetune_jobs.trouble import trouble_in

CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
TEMPLATES_FOLDER = "additional_chat_templates"

WEIGHT_SUFFIXES = (
    ".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pth", ".pt", ".gguf", ".h5", ".msgpack",
    ".onnx", ".ot",
)  # fmt: skip


def read_model_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise trouble_in(error) or UserMistake(
            "ConfigBroken",
            f"The base model's {CONFIG_FILE} can't be read: {error}.",
            "Name as spec.model a folder with the model's own config.json.",
        ) from error
    return dict(config)


def merged_config(base: Mapping[str, Any], dtype: str, *, untied: bool) -> dict[str, Any]:
    """The base's config with the type that the weights have now; `dtype` as PyTorch writes it."""
    config = {name: value for name, value in base.items() if name not in {"dtype", "_name_or_path"}}
    config["torch_dtype"] = dtype
    if untied:
        config["tie_word_embeddings"] = False
    return config


def side_files(folder: Path) -> list[str]:
    """Files to copy, relative to the base model's folder; licences and notices are among them."""
    written_anew = {CONFIG_FILE, CARD_FILE}
    candidates = [*folder.iterdir(), *(folder / TEMPLATES_FOLDER).glob("*")]
    return sorted(
        path.relative_to(folder).as_posix()
        for path in candidates
        if path.is_file()
        and not path.name.startswith(".")
        and not path.name.endswith(WEIGHT_SUFFIXES)
        and path.name not in written_anew
    )


def copy_file(source: Path, target: Path) -> None:
    """The bytes behind a link too, readable by all."""
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(MODE)


def write_file(target: Path, text: str) -> None:
    target.write_text(text, encoding="utf-8")
    target.chmod(MODE)
