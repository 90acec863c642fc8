"""What would fail later, found before anything large starts; nothing here touches a GPU."""

import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_jobs import templates
from finetune_jobs.contract import TrainRequest
from finetune_jobs.errors import MachineTrouble, UserMistake
from finetune_jobs.hardware import FP8_CAPABILITY, Machine, available_memory
from finetune_jobs.train import checkpoints, memory
from finetune_jobs.train.batches import IGNORE_INDEX, collate
from finetune_jobs.train.fast import Choice, choose
from finetune_jobs.train.memory import Shape
from finetune_jobs.train.world import World
from finetune_jobs.trouble import trouble_in

log = logging.getLogger(__name__)

SPECIAL_TOKEN = re.compile(r"<\|[^|<>\s]+\|>")
"""How templates write tokens that a tokenizer must know as one: <|im_start|>, <|start_header_id|>."""
COLUMNS = ("input_ids", "labels")


def read_model_config(model: Path) -> dict[str, Any]:
    path = model / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise UserMistake(
            "ModelUnreadable", f"{path} can't be read: {error}.", f"Delete {model.parent} and run again."
        ) from None
    return config


def check_learning_rate(request: TrainRequest) -> None:
    rate = float(request.learning_rate)
    if not 0 < rate < 1:
        raise UserMistake(
            "LearningRateUnlikely",
            f"learningRate is {request.learning_rate}; nothing is learned outside of 0 to 1.",
            'Write a learningRate such as "2e-4".',
        )


def check_template(name: str, model: Path, written: str | None = None) -> None:
    """Every special token that the template writes must be one token of the model's tokenizer.

    `written` is the text of a template that is none of XTuner's.
    """
    from tokenizers import Tokenizer

    path = model / "tokenizer.json"
    if not path.exists():
        log.info("%s has no tokenizer.json; the template is not compared with it", model)
        return
    known = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    missing = sorted((special_tokens(name) if written is None else tokens_in(written)) - set(known))
    if missing:
        fitting = [other for other in templates.template_names() if special_tokens(other) <= set(known)]
        fitting = [other for other in fitting if special_tokens(other)] or fitting
        raise UserMistake(
            "TemplateUnfit",
            f"The template {name} writes {missing[0]}, which this model's tokenizer does not know as one token.",
            f"Write template: {' or '.join(fitting)}." if fitting else "Use a model that was made for chat.",
        )


def special_tokens(name: str) -> set[str]:
    template = templates.template(name)
    return tokens_in(template.system + template.instruction + template.suffix + template.sep)


def tokens_in(text: str) -> set[str]:
    return set(SPECIAL_TOKEN.findall(text))


def open_rows(folder: Path) -> Any:
    from datasets import load_from_disk

    try:
        return load_from_disk(str(folder))
    except (ValueError, OSError) as error:
        raise trouble_in(error) or UserMistake(
            "DatasetUnreadable", f"{folder} can't be read: {error}.", f"Delete {folder.parent} and run again."
        ) from None


def check_rows(rows: Any, request: TrainRequest, config: Mapping[str, Any]) -> None:
    """One batch through the data pipeline, and what every row must have."""
    absent = [name for name in COLUMNS if name not in rows.column_names]
    if absent or len(rows) == 0:
        raise UserMistake(
            "DatasetUnfit",
            f"The data has no column {absent[0]}." if absent else "The data has no rows.",
            "Run the dataset stage with output: packed, on data with assistant turns.",
        )
    check_positions(request, config)
    check_tokens(rows, int(config["vocab_size"]))
    collate([rows[index] for index in range(min(request.batch_size, len(rows)))])


def check_positions(request: TrainRequest, config: Mapping[str, Any]) -> None:
    longest = int(config.get("max_position_embeddings", request.max_length))
    if request.max_length > longest:
        raise UserMistake(
            "RowsTooLong",
            f"maxLength is {request.max_length}, but the model knows only {longest} positions.",
            f"Write training.maxLength: {longest} or less.",
        )


def check_messages(rows: Any) -> None:
    if "messages" not in rows.column_names or len(rows) == 0:
        raise UserMistake(
            "DatasetUnfit",
            "The data for the XTuner config has no conversations in a column messages.",
            "Run the dataset stage with output: messages.",
        )


def check_tokens(rows: Any, vocabulary: int) -> None:
    """Every token is one of the model's, and every row has loss: the mean over no label at all is NaN."""
    import numpy as np
    import pyarrow.compute as pc

    number = 0
    for batch in rows.data.to_batches():
        largest = pc.max(batch.column("input_ids").flatten()).as_py() or 0
        if largest >= vocabulary:
            raise UserMistake(
                "TokenizerUnfit",
                f"The data has the token {largest}, but the model knows only {vocabulary}.",
                "Prepare the data with this model's own tokenizer.",
            )
        labels = batch.column("labels")
        offsets = labels.offsets.to_numpy()
        learned = np.concatenate([[0], np.cumsum(labels.values.to_numpy(zero_copy_only=False) != IGNORE_INDEX)])
        without = np.flatnonzero(learned[offsets[1:]] == learned[offsets[:-1]])
        if without.size:
            raise UserMistake(
                "RowWithoutLoss",
                f"Row {number + int(without[0])} of the data has no token with loss; its loss would be NaN.",
                "Leave it out: give each conversation an assistant turn within maxLength whose loss is not false.",
            )
        number += len(batch)


def check_nf4_on_cpu(request: TrainRequest, shape: Shape | None, world: World) -> None:
    """bitsandbytes 0.50.2 on CPUs expands the end of a row wrongly where its length is a multiple of 16, not of 64."""
    if world.gpu or request.quantization != "nf4" or shape is None:
        return
    for length in (shape.h, shape.i):
        if length % 16 == 0 and length % 64:
            raise UserMistake(
                "Nf4RowsUnfit",
                f"The model has weights with rows of {length}, which is no multiple of 64; bitsandbytes expands those "
                "from nf4 wrongly on a CPU.",
                "Write training.quantization: none, or train on a GPU.",
            )


def choose_path(
    request: TrainRequest, config: Mapping[str, Any], machine: Machine, world: World, dtype: str
) -> Choice | None:
    """The fast path where it takes this training, else None; says which in the log. fp8 is to be had or refused."""
    if request.fp8:
        check_fp8(machine, world)
    if not request.fast:
        _take_plain(request, "training.fast is false.")
        return None
    if world.gpu and (dtype != "bfloat16" or request.deepspeed in ("zero3", "custom")):
        wanted = "the fast path wants bfloat16 and zero1 or zero2"
        _take_plain(request, f"{wanted}; here are {dtype} and {request.deepspeed}.")
        return None
    choice = choose(
        config, min((gpu.free for gpu in machine.gpus), default=0) if world.gpu else 0, request.max_length,
        request.batch_size, request.lora.rank, float(request.lora.dropout), request.quantization,
        fp8=bool(request.fp8),
    )  # fmt: skip
    if not choice.fast:
        _take_plain(request, choice.reason.removeprefix("Plain XTuner: "))
        return None
    log.info(choice.reason)
    return choice


def _take_plain(request: TrainRequest, reason: str) -> None:
    if request.fp8:
        raise _without_fp8(reason)
    log.info("Plain XTuner: %s", reason)


def check_fp8(machine: Machine, world: World) -> None:
    if not world.gpu:
        raise _without_fp8("this machine has no GPU.")
    for gpu in machine.gpus:
        if gpu.capability < FP8_CAPABILITY:
            raise _without_fp8(
                f"it wants GPUs of compute capability {FP8_CAPABILITY} or newer (Ada, Hopper), and the {gpu.name} has "
                f"{gpu.capability}."
            )


def _without_fp8(reason: str) -> UserMistake:
    return UserMistake("Fp8Unfit", f"training.fp8 can't be had: {reason}", "Leave out training.fp8.")


def choose_recompute(
    request: TrainRequest, shape: Shape | None, machine: Machine, world: World, dtype: str,
    *, choices: Sequence[bool] = (False, True),
) -> bool:  # fmt: skip
    """Activation checkpointing only where it is needed, or as `choices` says; refuses what would not fit even so."""
    if shape is None:
        log.info("the model's shape is not one that the memory estimate knows; activations are recomputed")
        return True
    free = min(gpu.free for gpu in machine.gpus) if world.gpu else available_memory() / world.per_node
    runtime = memory.RUNTIME_BYTES if world.gpu else 0.0
    for recompute in choices:
        plan = memory.estimate(request, shape, dtype, world.size, recompute=recompute)
        log.info("%s activations: about %s a process of %.1f GB free",
                 "recomputed" if recompute else "kept", plan, free / 1e9)  # fmt: skip
        if plan.total + runtime <= memory.USABLE * free:
            return recompute
    raise _too_small(request, plan, free, gpu=world.gpu)


def _too_small(request: TrainRequest, plan: memory.Estimate, free: float, *, gpu: bool) -> Exception:
    message = f"The training needs about {plan} a process; {free / 1e9:.1f} GB are free."
    cures = ["training.batchSize: 1"] if request.batch_size > 1 else []
    cures += [f"training.maxLength: {request.max_length // 2}"]
    cures += ["training.quantization: nf4"] if request.quantization == "none" else []
    cure = f"Write {' or '.join(cures)}."
    if gpu:
        return UserMistake("GpuTooSmall", message, f"{cure} Or use a larger GPU.")
    return MachineTrouble("TooLittleMemory", message, f"{cure} Or give the stage more memory.")


def check_disk(request: TrainRequest, shape: Shape | None, out: Path) -> None:
    """Room for the checkpoints that are kept, and one being written beside them; those that are there have theirs."""
    if shape is None:
        return
    more = max(1, request.checkpoint_keep + 1 - len(checkpoints.complete(out)))
    needed = memory.checkpoint_bytes(request, shape) * more
    free = shutil.disk_usage(out).free
    if needed > free:
        raise MachineTrouble(
            "DiskFull",
            f"The checkpoints to come ({more}) need about {needed / 1e9:.2f} GB; {free / 1e9:.2f} GB are free.",
            "Free some space, use a larger volume, or write training.checkpoint.keep: 1.",
        )
