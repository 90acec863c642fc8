"""pytorch_model*.bin to safetensors, for users who said that they trust the author (allowPickle)."""

import json
import pickle
from pathlib import Path
from typing import Any

from finetune_jobs.errors import UserMistake, first_line
from finetune_jobs.model.weights import INDEX, SINGLE
from finetune_jobs.room import Room
from finetune_jobs.sources.digests import Meter
from finetune_jobs.sources.space import require_space

OLD_SINGLE = "pytorch_model.bin"


def convert(folder: Path, room: Room) -> None:
    """Replace each .bin of the folder by a .safetensors with the same tensors; one file is in memory at a time."""
    from safetensors.torch import save_file

    files = sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise UserMistake(
            "WeightsMissing",
            "There is neither a .safetensors file nor a pytorch_model*.bin.",
            "Name the repository or folder with weights in Hugging Face's layout.",
        )
    total = sum(file.stat().st_size for file in files)
    require_space(folder, total, "Converting to safetensors")
    meter = Meter(room, total, "converting")
    placed: dict[str, str] = {}
    for number, file in enumerate(files, 1):
        target = SINGLE if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
        tensors = unshared(load(file))
        save_file(tensors, folder / target, metadata={"format": "pt"})
        (folder / target).chmod(0o644)
        placed |= dict.fromkeys(tensors, target)
        meter.add(file.stat().st_size)
    if len(files) > 1:
        index = {"metadata": {}, "weight_map": placed}
        (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
    for file in [*files, *folder.glob("pytorch_model*.index.json")]:
        file.unlink()


def load(file: Path) -> dict[str, Any]:
    """Tensors alone: torch refuses whatever else a pickle would build."""
    import torch

    try:
        loaded: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserMistake(
            "PickleUnsafe",
            f"{file.name} holds more than tensors, and loading it would run code.",
            "Name a revision with .safetensors.",
        ) from None
    except (RuntimeError, EOFError) as error:
        raise UserMistake(
            "ShardBroken", f"{file.name} can't be read: {first_line(error)}", "Bring this file anew."
        ) from None
    return loaded


def unshared(tensors: dict[str, Any]) -> dict[str, Any]:
    """Each tensor with memory of its own, as safetensors wants it."""
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
