"""The train stage: XTuner QLoRA under torchrun and DeepSpeed; called by ``python -m finetune_jobs train``.

check, write the config, launch, sum up. Interrupted at any line, the next run goes on from the newest complete
checkpoint.
"""

import json
import logging
from pathlib import Path

from finetune_jobs.contract import (
    CONFIG_FILE,
    CURVE_FILE,
    MESSAGES_FOLDER,
    MODEL_FOLDER,
    PACKED_FOLDER,
    Stage,
    TrainRequest,
    TrainResult,
)
from finetune_jobs.errors import MachineTrouble, UserMistake
from finetune_jobs.hardware import Machine, survey
from finetune_jobs.processor import cpu_dtype
from finetune_jobs.room import Room, write_atomically
from finetune_jobs.train import checkpoints, curve, own_rows, own_values, preflight
from finetune_jobs.train.config import Setting, config_text
from finetune_jobs.train.launch import launch
from finetune_jobs.train.layout import DEEPSPEED_FILE
from finetune_jobs.train.memory import shape_of
from finetune_jobs.train.own_config import Here, load, own_config_text
from finetune_jobs.train.schedule import Schedule
from finetune_jobs.train.world import World, make_world
from finetune_jobs.train.zero import custom_deepspeed_config, deepspeed_config

log = logging.getLogger(__name__)


def run(request: TrainRequest, room: Room) -> TrainResult:
    """Train the adapter, or go on with it; the checkpoint, the config and the curve stay in the room.

    Raises UserMistake (the request or the data can't be trained, the loss is NaN or diverges), MachineTrouble (memory,
    disk, a killed process) and Interrupted (asked to stop; a checkpoint is saved).
    """
    room.progress(0, 1, force=True, message="checking")
    machine = survey()
    world = make_world(request, machine)
    if world.node_rank == 0:  # whose first rank writes: a node that comes later must not take what is being written
        tidy(room.out, request.checkpoint_keep)
    prepare(request, room, machine, world)
    resume = resumable(room.out, world)
    if resume is None or not is_last(resume):
        launch(room.out, world, machine, resume)
    return finished(room.out, world)


def tidy(out: Path, keep: int) -> None:
    """Give back the disk that earlier runs took and this one has no use for; before its disk is looked at."""
    for left in checkpoints.clear_drafts(out):
        log.info("%s was being written when an earlier run ended; it is not used", left.name)
    checkpoints.prune(out, keep)


def prepare(request: TrainRequest, room: Room, machine: Machine, world: World) -> None:
    """Check what can be checked on CPU, and write both configs."""
    model = room.input(Stage.MODEL) / MODEL_FOLDER
    dtype = compute_dtype(request, room.out, machine, world)
    write_atomically(room.out / DEEPSPEED_FILE, deepspeed_text(request, dtype, world))
    if request.config is not None:
        write_atomically(room.out / CONFIG_FILE, checked_own_config(request, room, machine, world, dtype))
        if checkpoints.newest(room.out) is None:  # a training that goes on has made its batches before
            own_rows.check_batch(room.out / CONFIG_FILE)
        return
    preflight.check_disk(request, shape_of(preflight.read_model_config(model)), room.out)
    text = config_text(request, checked_setting(request, room, machine, world, dtype))
    write_atomically(room.out / CONFIG_FILE, text)


def checked_own_config(request: TrainRequest, room: Room, machine: Machine, world: World, dtype: str) -> str:
    """The user's own config with this machine's paths; what it says is checked as a recipe is."""
    model = room.input(Stage.MODEL) / MODEL_FOLDER
    here = Here(model, room.input(Stage.DATASET) / MESSAGES_FOLDER, world.backend, machine.cores)
    preflight.check_messages(preflight.open_rows(here.messages))
    written = request.config or ""
    config = load(written)
    text = own_config_text(request, config, here)
    known = preflight.read_model_config(model)
    shape = shape_of(known)
    with own_values.in_words_of(written):
        values = own_values.values_of(config, request)
        preflight.check_learning_rate(values)
        if own_values.at(config, own_values.TEMPLATE) is not None:
            preflight.check_template(values.template, model, own_values.own_template(config))
        preflight.check_positions(values, known)
        preflight.check_nf4_on_cpu(values, shape, world)
        preflight.choose_recompute(values, shape, machine, world, dtype, choices=[own_values.recomputes(config)])
        preflight.check_disk(values, shape, room.out)
    return text


def deepspeed_text(request: TrainRequest, dtype: str, world: World) -> str:
    if request.deepspeed == "custom":
        config = custom_deepspeed_config(request.deepspeed_config, dtype)
    else:
        config = deepspeed_config(request.deepspeed, dtype, gpu=world.gpu)
    return json.dumps(config, indent=2) + "\n"


def compute_dtype(request: TrainRequest, out: Path, machine: Machine, world: World) -> str:
    """On CPU what the training began in, on another machine perhaps; the user's own config is in float32 there."""
    if world.gpu:
        return machine.dtype
    if request.config is not None:
        return "float32"
    begun = checkpoints.newest(out)
    return checkpoints.read_marker(begun).dtype if begun else cpu_dtype()


def checked_setting(request: TrainRequest, room: Room, machine: Machine, world: World, dtype: str) -> Setting:
    model = room.input(Stage.MODEL) / MODEL_FOLDER
    packed = room.input(Stage.DATASET) / PACKED_FOLDER
    config = preflight.read_model_config(model)
    preflight.check_learning_rate(request)
    preflight.check_template(request.template, model)
    rows = preflight.open_rows(packed)
    preflight.check_rows(rows, request, config)
    preflight.check_nf4_on_cpu(request, shape_of(config), world)
    choice = preflight.choose_path(request, config, machine, world, dtype)
    recompute = choice is None and preflight.choose_recompute(request, shape_of(config), machine, world, dtype)
    schedule = Schedule(
        rows=len(rows),
        world_size=world.size,
        batch_size=request.batch_size,
        accumulation=request.gradient_accumulation,
        epochs=request.epochs,
        warmup_ratio=float(request.warmup_ratio),
    )
    return Setting(model, packed, schedule, dtype, world.backend, recompute, choice)


def is_last(checkpoint: Path) -> bool:
    marker = checkpoints.read_marker(checkpoint)
    return marker.step == marker.total_steps


def resumable(out: Path, world: World) -> Path | None:
    """The newest complete checkpoint; UserMistake where other processes than now wrote it."""
    newest = checkpoints.newest(out)
    if newest is None:
        return None
    marker = checkpoints.read_marker(newest)
    if marker.world_size != world.size:
        raise UserMistake(
            "WorldSizeChanged",
            f"{newest} was written by {marker.world_size} processes; {world.size} can't read it (DeepSpeed ZeRO).",
            f"Train with {marker.world_size} processes as before, or delete {newest.parent} to begin anew.",
        )
    log.info("going on from step %d of %d", marker.step, marker.total_steps)
    return newest


def finished(out: Path, world: World) -> TrainResult:
    """Sum up; that the last checkpoint holds a sound adapter was checked before it got its name (`verify`)."""
    last = checkpoints.newest(out)
    if last is None:
        raise MachineTrouble("CheckpointMissing", f"Training ended, but {out} holds no checkpoint.", "Run again.")
    marker = checkpoints.read_marker(last)
    points = curve.read(out / CURVE_FILE)
    seconds = marker.tally.seconds
    return TrainResult(
        checkpoint=str(last.relative_to(out)),
        steps=marker.step,
        final_loss=curve.final_loss(points),
        peak_learning_rate=marker.tally.peak_learning_rate,
        tokens_per_second=marker.tally.tokens / seconds,
        gpu_seconds=seconds * world.size if world.gpu else 0.0,
        world_size=marker.world_size,
        resumed=marker.tally.resumed,
        curve=curve.thin(points),
    )
