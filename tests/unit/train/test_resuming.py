"""Which checkpoint a training goes on from, what it can't go on from, and the disk that it needs to."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from finetune_jobs import train
from finetune_jobs.contract import TrainRequest
from finetune_jobs.errors import MachineTrouble, UserMistake
from finetune_jobs.hardware import Machine
from finetune_jobs.room import Room
from finetune_jobs.train import checkpoints, memory, preflight, resumable
from finetune_jobs.train.checkpoints import Marker, Tally
from finetune_jobs.train.world import World

SHAPE = memory.Shape(h=8, i=16, v=32, k=8, n=1, tied=True)
KEEP = 2
REQUEST = TrainRequest(
    template="llama3_chat", epochs=1, max_length=64, batch_size=1, gradient_accumulation=1, learning_rate="2e-4",
    checkpoint_keep=KEEP,
)  # fmt: skip
CHECKPOINT = memory.checkpoint_bytes(REQUEST, SHAPE)


def world(processes: int) -> World:
    return World(nodes=1, node_rank=0, per_node=processes, gpu=True, address="127.0.0.1", port=1)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A train folder with a complete checkpoint that two processes wrote."""
    folder = checkpoints.draft(tmp_path, 7)
    folder.mkdir(parents=True)
    checkpoints.finish(folder, Marker(step=7, total_steps=9, world_size=2, dtype="bfloat16", tally=Tally()))
    return tmp_path


def test_the_same_number_of_processes_goes_on(out: Path) -> None:
    found = resumable(out, world(2))
    assert found is not None
    assert found.name == "step-7"


@pytest.mark.parametrize("processes", [1, 4])
def test_another_number_of_processes_is_refused_with_what_to_do(out: Path, processes: int) -> None:
    with pytest.raises(UserMistake, match=f"written by 2 processes; {processes} can't read it") as refused:
        resumable(out, world(processes))
    assert refused.value.failure.reason == "WorldSizeChanged"
    assert "Train with 2 processes as before" in refused.value.failure.cure


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert resumable(tmp_path, world(2)) is None


class Usage(NamedTuple):
    """As much of `shutil.disk_usage`'s answer as is read."""

    free: int


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Starts a training, up to the check of its disk, on a volume for so many checkpoints."""

    def begin(checkpoints_fit: int) -> None:
        def usage(folder: Path) -> Usage:
            used = sum(file.stat().st_size for file in folder.rglob("weights"))
            return Usage(checkpoints_fit * CHECKPOINT - used)

        monkeypatch.setattr(shutil, "disk_usage", usage)
        train.run(REQUEST, Room(tmp_path, REQUEST, tmp_path))

    def prepare(request: TrainRequest, room: Room, *_: object) -> None:
        preflight.check_disk(request, SHAPE, room.out)
        raise Passed

    monkeypatch.setattr(train, "survey", lambda: Machine((), 1))
    monkeypatch.setattr(train, "prepare", prepare)
    return begin


class Passed(Exception):
    """The disk has room enough."""


def leave(out: Path, step: int, *, whole: bool = True) -> None:
    """What an earlier run left, as large as it was expected to be; half of it where a kill broke the write off."""
    folder = checkpoints.draft(out, step)
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(bytes(CHECKPOINT if whole else CHECKPOINT // 2))
    if whole:
        marker = Marker(step=step, total_steps=9, world_size=1, dtype="float32", tally=Tally())
        checkpoints.finish(folder, marker)


def test_a_training_goes_on_after_any_kill_on_the_volume_that_it_was_begun_on(
    tmp_path: Path, start: Callable[[int], None]
) -> None:
    for step in range(1, KEEP + 1):
        with pytest.raises(Passed):
            start(KEEP + 1)
        leave(tmp_path, step)
    leave(tmp_path, KEEP + 1, whole=False)
    with pytest.raises(Passed):
        start(KEEP + 1)
    leave(tmp_path, KEEP + 1)  # killed before it removed the oldest
    with pytest.raises(Passed):
        start(KEEP + 1)
    assert [folder.name for folder in checkpoints.complete(tmp_path)] == ["step-2", "step-3"]


def test_a_volume_without_room_for_the_next_checkpoint_is_told(tmp_path: Path, start: Callable[[int], None]) -> None:
    with pytest.raises(MachineTrouble, match=r"to come \(3\) need"):
        start(KEEP)
    for step in range(1, KEEP + 1):
        leave(tmp_path, step)
    with pytest.raises(MachineTrouble, match=r"to come \(1\) need"):
        start(KEEP)
