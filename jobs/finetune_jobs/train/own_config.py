"""The user's own XTuner config: kept word for word, with the paths of this machine set below it.

Besides paths only what this machine dictates is set (gloo without GPUs, as many data processes as cores), and the hooks
that report and save are added. What is learned, and how, stays as the user wrote it.
"""

import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_jobs.contract import TrainRequest
from finetune_jobs.errors import UserMistake, first_line
from finetune_jobs.trouble import trouble_in

MODEL_KEY = "pretrained_model_name_or_path"

ADDED = """

# What follows was written by finetune_jobs.train: where this machine has the model and the data, and how training
# reports and saves. All above is the user's own, unchanged.
from datasets import load_from_disk  # noqa: E402
from finetune_jobs.train.hooks import Checkpoints, Monitor  # noqa: E402

{assignments}
"""


@dataclass(frozen=True)
class Here:
    """What this machine dictates."""

    model: Path
    messages: Path
    backend: str
    cores: int


def own_config_text(request: TrainRequest, config: dict[str, Any], here: Here) -> str:
    """`config` as `load` gave it. Raises UserMistake for another shape than XTuner's fine-tuning configs have."""
    text = request.config or ""
    lines = [
        *(f"{path} = {str(here.model)!r}" for path in model_paths(config)),
        f"{data_path(config)} = dict(type=load_from_disk, dataset_path={str(here.messages)!r})",
        f"train_dataloader['dataset']['map_num_proc'] = {here.cores}",
        *(f"{name} = {value}" for name, value in machine_settings(config, here)),
        "custom_hooks = [*custom_hooks, dict(type=Monitor), "
        f"dict(type=Checkpoints, every={request.checkpoint_every}, keep={request.checkpoint_keep})]"
        if "custom_hooks" in config
        else "custom_hooks = [dict(type=Monitor), "
        f"dict(type=Checkpoints, every={request.checkpoint_every}, keep={request.checkpoint_keep})]",
        "default_hooks['checkpoint'] = None" if "default_hooks" in config else "default_hooks = dict(checkpoint=None)",
    ]
    if (config.get("randomness") or {}).get("seed") is None:
        lines.append(f"randomness = dict(seed={request.seed}, deterministic=False)")
    return text.rstrip("\n") + ADDED.format(assignments="\n".join(lines))


def load(text: str) -> dict[str, Any]:
    """The config as plain data, types as the names that they are imported by."""
    from mmengine.config import Config

    try:
        compile(text, "the config", "exec", dont_inherit=True)
    except SyntaxError as error:
        raise UserMistake(
            "ConfigInvalid",
            f"The XTuner config is not Python: {error.msg} in line {error.lineno}.",
            f"Correct line {error.lineno} of the config.",
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.py"
        path.write_text(text, encoding="utf-8")
        try:
            config: dict[str, Any] = Config.fromfile(str(path))._to_lazy_dict(keep_imported=False)  # noqa: SLF001 - to_dict drops the types
        except Exception as error:  # whatever the config's own lines raise
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
            line = f" in line {lines[-1]}" if lines else ""
            raise trouble_in(error) or UserMistake(
                "ConfigInvalid",
                f"The XTuner config can't be read: {type(error).__name__}: {first_line(error)}{line}.",
                f"Correct it{line}; `xtuner train` reads it by mmengine's Config.fromfile.",
            ) from error
    return config


def model_paths(config: dict[str, Any]) -> list[str]:
    """Every place that names the base model or its tokenizer, as Python writes it: model['llm']['...']."""
    model = config.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("llm"), dict) or not model.get("lora"):
        raise _unfit("it has no model with llm and lora", "model = dict(type=SupervisedFinetune, llm=..., lora=...)")
    return [path for name, value in config.items() for path in _paths(name, value)]


def _paths(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == MODEL_KEY:
                yield f"{path}[{key!r}]"
            else:
                yield from _paths(f"{path}[{key!r}]", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _paths(f"{path}[{index}]", inner)


def data_path(config: dict[str, Any]) -> str:
    loader = config.get("train_dataloader") or {}
    dataset = loader.get("dataset") or {}
    if not isinstance(dataset, dict) or "dataset" not in dataset:
        raise _unfit(
            "its train_dataloader has no dataset made by process_hf_dataset",
            "train_dataloader = dict(dataset=dict(type=process_hf_dataset, dataset=...), ...)",
        )
    return "train_dataloader['dataset']['dataset']"


def machine_settings(config: dict[str, Any], here: Here) -> Iterator[tuple[str, str]]:
    env = config.get("env_cfg") or {}
    if "dist_cfg" in env:
        yield "env_cfg['dist_cfg']['backend']", repr(here.backend)
    else:
        yield "env_cfg", f"dict(dist_cfg=dict(backend={here.backend!r}))"


def _unfit(what: str, write: str) -> UserMistake:
    return UserMistake("ConfigUnfit", f"The XTuner config can't be used: {what}.", f"Write {write}.")
