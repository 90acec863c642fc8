"""One batch as the user's own config makes it: ``python -m finetune_jobs.train.own_rows CONFIG OUTCOME``.

A process of its own, without GPUs: what XTuner and its libraries take of memory is free again when the ranks start.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from copy import deepcopy
from math import ceil
from pathlib import Path
from typing import Any

from finetune_jobs.errors import MachineTrouble, StageError, UserMistake, as_told, first_line, of_told
from finetune_jobs.lifeline import PARENT_VARIABLE, die_with_parent
from finetune_jobs.room import write_atomically
from finetune_jobs.train import rank
from finetune_jobs.train.preflight import read_model_config
from finetune_jobs.trouble import trouble_in

CONVERSATIONS = 32
"""Taken of the data, or a batch if that is more."""
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def check_batch(config: Path) -> None:
    """Raise UserMistake where the config, complete with this machine's paths, makes no batch of the data, and
    MachineTrouble where this machine is why."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = Path(folder) / "outcome.json"
        command = [sys.executable, "-m", "finetune_jobs.train.own_rows", str(config), str(outcome)]
        environment = {**os.environ, **ENVIRONMENT, PARENT_VARIABLE: str(os.getpid())}
        code = subprocess.run(command, stdout=sys.stderr, env=environment, check=False).returncode
        if outcome.exists():
            raise of_told(json.loads(outcome.read_bytes()))
    if code != 0:
        raise MachineTrouble(
            "PreflightFailed",
            f"The process that takes one batch of the data ended with {code}.",
            "See the stage's log; if it was killed, give the stage more memory.",
        )


def main(config: str, outcome: str) -> None:
    die_with_parent()
    rank.import_all()
    try:
        take_batch(Path(config))
    except Exception as error:  # noqa: BLE001 - whatever the config's own functions raise
        traceback.print_exc()
        # by rename: a killed process or a full disk leaves no half of it
        write_atomically(Path(outcome), json.dumps(as_told(as_stage_error(error))))


def as_stage_error(error: Exception) -> StageError:
    """Whose trouble it is that there is no batch: this machine's where anything behind the error says so."""
    if isinstance(error, StageError):
        return error
    return trouble_in(error) or UserMistake(
        "ConfigInvalid",
        f"The XTuner config makes no batch of the data: {type(error).__name__}: {first_line(error).removesuffix('.')}.",
        "Correct its train_dataloader; the stage's log has the whole error.",
    )


def take_batch(file: Path) -> None:
    """Read, tokenise, pack and collate as the config says, but a few conversations only."""
    from datasets import load_from_disk
    from mmengine.config import Config
    from mmengine.runner import Runner

    config = Config.fromfile(str(file))
    loader = config.train_dataloader
    messages = load_from_disk(loader.dataset.dataset.dataset_path)
    batch = int(loader.get("batch_size", 1))
    few = messages.select(range(min(max(CONVERSATIONS, batch), len(messages)))).to_list()
    plain = processed(loader.dataset, few, pack_to_max_length=False, use_varlen_attn=False)
    check_rows(plain, len(few), int(read_model_config(Path(model_of(config)))["vocab_size"]))
    enough = batch * (int(loader.dataset.max_length) if loader.dataset.get("pack_to_max_length", True) else 1)
    rows = processed(loader.dataset, few * (ceil(enough / sum(map(len, plain["input_ids"]))) + 1))
    settings = {**loader, "dataset": rows, "num_workers": 0, "persistent_workers": False}
    next(iter(Runner.build_dataloader(settings, seed=0)))


def processed(settings: Any, conversations: Sequence[Any], **changes: object) -> Any:
    """What the config's own process_hf_dataset makes of these conversations."""
    from datasets import Dataset
    from xtuner.registry import BUILDER

    changed = deepcopy(settings)
    changed.update(changes, map_num_proc=None, max_dataset_length=None)
    changed["dataset"] = Dataset.from_list(list(conversations))
    return BUILDER.build(changed)


def model_of(config: Any) -> str:
    return str(config.model.llm.pretrained_model_name_or_path)


def check_rows(rows: Any, read: int, vocabulary: int) -> None:
    if len(rows) == 0:
        raise UserMistake(
            "RowWithoutLoss",
            f"As the XTuner config reads them, the first {read} conversations have no token with loss.",
            "Look at its template, dataset_map_fn and max_length: an assistant's turn must begin within max_length.",
        )
    largest = max(map(max, rows["input_ids"]))
    if largest >= vocabulary:
        raise UserMistake(
            "TokenizerUnfit",
            f"The XTuner config's tokenizer gives the token {largest}, but the model knows only {vocabulary}.",
            "Use the model's own tokenizer in the config.",
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
