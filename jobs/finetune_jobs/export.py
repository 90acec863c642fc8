"""The export stage: a checkpoint becomes a Hugging Face adapter, or a ready adapter is brought and checked.

Called by ``python -m finetune_jobs export``. The checkpoint's float32 weights are read straight from DeepSpeed's files:
XTuner's pth_to_hf loads the whole base model for the same tensors, and by default rounds them to float16.
"""

import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from finetune_jobs.contract import ADAPTER_FOLDER, MODEL_FOLDER, ExportRequest, ExportResult, Stage
from finetune_jobs.errors import MachineTrouble, UserMistake, first_line
from finetune_jobs.room import Room
from finetune_jobs.sources import fetch
from finetune_jobs.sources.files import walk
from finetune_jobs.trouble import trouble_in

log = logging.getLogger(__name__)

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
MODES = {"file": 0o644, "folder": 0o755}
"""Readable by whoever merges and serves, whatever umask wrote them."""


def run(request: ExportRequest, room: Room) -> ExportResult:
    """Write `ADAPTER_FOLDER` and open it again with peft.

    Raises UserMistake AdapterUnfit (naming the first key that differs), AdapterUnreadable, AdapterNotFinite.
    """
    base = room.input(Stage.MODEL) / MODEL_FOLDER
    draft = room.out / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    room.progress(0, 2, unit="step", force=True, message="reading")
    source = from_checkpoint(room, draft) if request.adapter is None else from_source(request, room, draft)
    room.progress(1, 2, unit="step", force=True, message="checking")
    config = read_config(draft)
    weights = check(base, draft)
    publish(draft, room.out / ADAPTER_FOLDER)
    room.progress(2, 2, unit="step", message="checked")
    return ExportResult(
        rank=config["r"],
        alpha=config["lora_alpha"],
        target_modules=tuple(sorted(target_names(weights))),
        tensors=len(weights),
        bytes=(room.out / ADAPTER_FOLDER / WEIGHTS_FILE).stat().st_size,
        source=source,
    )


# --- From a checkpoint ---------------------------------------------------------------------------


def from_checkpoint(room: Room, into: Path) -> str:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    train = room.input(Stage.TRAIN)
    result = room.needed_record(Stage.TRAIN).result
    checkpoint = train / str(result["checkpoint"])
    try:
        state = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
        config = json.loads((checkpoint / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise MachineTrouble(
            "CheckpointUnreadable", f"{checkpoint} can't be read: {error}.", f"Delete {train} and run again."
        ) from error
    config["base_model_name_or_path"] = str(room.input(Stage.MODEL) / MODEL_FOLDER)
    config["inference_mode"] = True
    (into / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save({peft_key(name): tensor for name, tensor in state.items()}, into)
    return f"checkpoint {checkpoint.name} of training {train.name}"


def peft_key(name: str) -> str:
    """XTuner's ``llm.base_model...lora_A.default.weight`` as peft saves it."""
    return name.removeprefix("module.").removeprefix("llm.").replace(".default.", ".")


def save(weights: Mapping[str, Any], into: Path) -> None:
    from safetensors.torch import save_file

    whole = {name: tensor.detach().float().contiguous().clone() for name, tensor in weights.items()}
    save_file(whole, into / WEIGHTS_FILE, metadata={"format": "pt"})


# --- A ready one ---------------------------------------------------------------------------------


def from_source(request: ExportRequest, room: Room, into: Path) -> str:
    if request.adapter is None:
        raise AssertionError("called for a ready adapter")
    patterns = ("adapter_*", "*/adapter_*", "*.md")
    fetched = fetch(request.adapter, room, room.out / "fetched", patterns=patterns, narrow=of_one_adapter)
    folder = fetched.path / folder_of(walk(fetched.path))
    shutil.copyfile(folder / CONFIG_FILE, into / CONFIG_FILE)
    if (folder / WEIGHTS_FILE).exists():
        shutil.copyfile(folder / WEIGHTS_FILE, into / WEIGHTS_FILE)
    elif (folder / PICKLE_FILE).exists():
        save(unpickle(folder / PICKLE_FILE, allowed=request.allow_pickle), into)
    else:
        raise UserMistake(
            "AdapterUnreadable",
            f"{fetched.description} has {CONFIG_FILE}, but no {WEIGHTS_FILE}.",
            "Name a folder that peft saved: adapter_config.json and adapter_model.safetensors.",
        )
    return fetched.description


def folder_of(names: Sequence[str]) -> str:
    """The folder that holds the adapter: the root where that has one, with checkpoints below; else the one that has."""
    found = sorted(str(PurePosixPath(name).parent) for name in names if PurePosixPath(name).name == CONFIG_FILE)
    if len(found) == 1 or "." in found:
        return "." if "." in found else found[0]
    said = f"{len(found)} adapters and none at its root: {', '.join(found[:10])}" if found else f"no {CONFIG_FILE}"
    raise UserMistake(
        "AdapterUnreadable",
        f"The adapter's source has {said}.",
        "Name a folder that holds adapter_config.json and adapter_model.safetensors: by path in a volume or package, "
        "or by a repository that has them at its root.",
    )


def of_one_adapter(names: Sequence[str]) -> list[str]:
    """The names of that folder's files, and of the cards."""
    folder = folder_of(names)
    return [name for name in names if name.endswith(".md") or str(PurePosixPath(name).parent) == folder]


def unpickle(path: Path, *, allowed: bool) -> Mapping[str, Any]:
    if not allowed:
        raise UserMistake(
            "PickleRefused",
            f"{path.name} is a pickle, which can run code of whoever made it.",
            "Use an adapter in safetensors, or write allowPickle: true if you trust its author.",
        )
    import torch

    weights: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


# --- Checks --------------------------------------------------------------------------------------


def read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserMistake("AdapterUnreadable", f"{CONFIG_FILE} is not JSON: {error}.", "Bring it again.") from None
    if config.get("peft_type") != "LORA" or not isinstance(config.get("r"), int):
        raise UserMistake(
            "AdapterUnfit",
            f"{CONFIG_FILE} is of type {config.get('peft_type')}; only LoRA can be merged here.",
            "Use a LoRA adapter.",
        )
    return config


def check(base: Path, folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by key, after a comparison with what peft makes of this config on the base model's skeleton."""
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                tensor = file.get_tensor(name)
                refuse_broken(name, tensor)
                shapes[name] = tuple(tensor.shape)
    except (OSError, SafetensorError) as error:
        raise trouble_in(error) or UserMistake(
            "AdapterUnreadable", f"{WEIGHTS_FILE} can't be read: {error}.", "Bring it again."
        ) from error
    compare(shapes, expected_shapes(base, folder))
    return shapes


def refuse_broken(name: str, tensor: Any) -> None:
    if not tensor.isfinite().all():
        raise UserMistake(
            "AdapterNotFinite", f"{name} has NaN or infinite values.", "Train again with a smaller learningRate."
        )


def expected_shapes(base: Path, folder: Path) -> dict[str, tuple[int, ...]]:
    """What peft would save for this adapter_config.json on this base model; no weight is loaded."""
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = LoraConfig.from_pretrained(str(folder))
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
            model = get_peft_model(skeleton, config)
    except (ValueError, TypeError) as error:
        raise UserMistake(
            "AdapterUnfit",
            f"The adapter does not fit the base model: {first_line(error)}",
            "Use the base model that the adapter was trained on (adapter_config.json: base_model_name_or_path).",
        ) from error
    saved = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in saved.items()}


def compare(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    for name in in_layer_order({*found, *expected}):
        if found.get(name) == expected.get(name):
            continue
        if name not in expected:
            what = f"{name} of the adapter has no place in the base model"
        elif name not in found:
            what = f"the adapter lacks {name}"
        else:
            what = f"{name} is {list(found[name])} in the adapter, {list(expected[name])} on the base model"
        raise UserMistake(
            "AdapterUnfit",
            f"The adapter does not fit the base model: {what}.",
            "Use the base model that the adapter was trained on (adapter_config.json: base_model_name_or_path).",
        )


def in_layer_order(names: Iterable[str]) -> list[str]:
    """layers.2 before layers.10."""
    return sorted(names, key=lambda name: [(part.isdigit(), int(part) if part.isdigit() else 0, part)
                                           for part in name.split(".")])  # fmt: skip


def target_names(shapes: Iterable[str]) -> set[str]:
    """q_proj of base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight."""
    return {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in shapes if ".lora_" in name}


def publish(draft: Path, final: Path) -> None:
    """Give the checked draft its name."""
    draft.chmod(MODES["folder"])
    for path in draft.iterdir():
        path.chmod(MODES["file"])
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
