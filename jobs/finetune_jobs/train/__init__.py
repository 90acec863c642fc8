"""The train stage: XTuner QLoRA under torchrun and DeepSpeed; called by ``python -m finetune_jobs train``.

check, write the config, launch, verify. Interrupted at any line, the next run goes on from the newest complete
checkpoint.
"""

import json
import logging
from pathlib import Path

from finetune_jobs.contract import (
    CONFIG_FILE,
    CURVE_FILE,
    MODEL_FOLDER,
    PACKED_FOLDER,
    Stage,
    TrainRequest,
    TrainResult,
)
from finetune_jobs.errors import MachineTrouble, UserMistake
from finetune_jobs.room import Room, write_atomically
from finetune_jobs.train import checkpoints, curve
from finetune_jobs.train.config import Setting, config_text
from finetune_jobs.train.hardware import Machine, survey
from finetune_jobs.train.launch import launch
from finetune_jobs.train.layout import DEEPSPEED_FILE
from finetune_jobs.train.schedule import Schedule
from finetune_jobs.train.verify import verify
from finetune_jobs.train.world import World, make_world
from finetune_jobs.train.zero import custom_deepspeed_config, deepspeed_config

log = logging.getLogger(__name__)


def run(request: TrainRequest, room: Room) -> TrainResult:
    """Train the adapter, or go on with it; the checkpoint, the config and the curve stay in the room."""
    room.progress(0, 1, force=True, message="checking")
    machine = survey()
    world = make_world(request, machine)
    write_configs(request, room, machine, world)
    for left in checkpoints.clear_drafts(room.out):
        log.info("%s was being written when an earlier run ended; it is not used", left.name)
    resume = resumable(room.out, world)
    if resume is None or not is_last(resume):
        launch(room.out, world, machine, resume)
    return finished(room.out, world)


def write_configs(request: TrainRequest, room: Room, machine: Machine, world: World) -> None:
    dtype = machine.dtype if world.gpu else "float32"
    packed = room.input(Stage.DATASET) / PACKED_FOLDER
    schedule = Schedule(
        rows=count_rows(packed),
        world_size=world.size,
        batch_size=request.batch_size,
        accumulation=request.gradient_accumulation,
        epochs=request.epochs,
        warmup_ratio=float(request.warmup_ratio),
    )
    setting = Setting(
        model=room.input(Stage.MODEL) / MODEL_FOLDER,
        packed=packed,
        schedule=schedule,
        dtype=dtype,
        backend=world.backend,
        recompute=False,
    )
    custom = request.deepspeed == "custom"
    zero = (
        custom_deepspeed_config(request.deepspeed_config, dtype)
        if custom
        else deepspeed_config(request.deepspeed, dtype, gpu=world.gpu)
    )
    write_atomically(room.out / DEEPSPEED_FILE, json.dumps(zero, indent=2) + "\n")
    write_atomically(room.out / CONFIG_FILE, config_text(request, setting))


def count_rows(packed: Path) -> int:
    from datasets import load_from_disk

    return len(load_from_disk(str(packed)))


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
    """Open what was trained, and sum it up."""
    last = checkpoints.newest(out)
    if last is None:
        raise MachineTrouble("CheckpointMissing", f"Training ended, but {out} holds no checkpoint.", "Run again.")
    verify(last)
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
