"""Nodes that train together in one folder: none takes what another is writing, or tells what another met."""

import json
import sys
from collections import deque
from importlib import import_module
from pathlib import Path

import pytest

from finetune_jobs import train
from finetune_jobs.contract import CHECKPOINTS_FOLDER, TrainRequest
from finetune_jobs.errors import MachineTrouble, UserMistake
from finetune_jobs.hardware import Machine
from finetune_jobs.room import Room
from finetune_jobs.train import checkpoints
from finetune_jobs.train.world import World

launch = import_module("finetune_jobs.train.launch")  # the package has its function under this name
MACHINE = Machine(gpus=(), cores=2)


def node(rank: int) -> World:
    return World(nodes=2, node_rank=rank, per_node=1, gpu=False, address="127.0.0.1", port=1)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A train folder in which the first node's first rank is writing a checkpoint."""
    checkpoints.draft(tmp_path, 4).mkdir(parents=True)
    return tmp_path


def drafts(out: Path) -> list[str]:
    return [folder.name for folder in (out / CHECKPOINTS_FOLDER).iterdir()]


@pytest.mark.parametrize(("rank", "left"), [(0, []), (1, ["writing-4"])])
def test_a_node_that_fails_leaves_the_checkpoint_that_the_first_one_writes(out, rank, left):
    with pytest.raises(MachineTrouble):
        launch.conclude(out, node(rank), 1, deque(), asked=False, oom=0)
    assert drafts(out) == left


@pytest.mark.parametrize(("rank", "left"), [(0, []), (1, ["writing-4"])])
def test_a_node_that_begins_leaves_it_too(out, monkeypatch, rank, left):
    monkeypatch.setattr(train, "make_world", lambda *_: node(rank))
    for step in ("survey", "prepare", "launch", "finished"):
        monkeypatch.setattr(train, step, lambda *_: None)
    request = TrainRequest(
        template="default", epochs=1, max_length=64, batch_size=1, gradient_accumulation=1, learning_rate="2e-4"
    )
    train.run(request, Room(out, request, out))
    assert drafts(out) == left


def start(out: Path, rank: int, monkeypatch, says: str | None = None) -> None:
    """The node's ranks end with 1, after saying why."""
    told = f"open(os.environ['FINETUNE_RANKS_FOLDER'] + '/{rank}.json', 'w').write({json.dumps({'error': says})!r})"
    program = f"import os, sys; {told if says else 'os'}; sys.exit(1)"
    monkeypatch.setattr(launch, "command", lambda *_: [sys.executable, "-c", program])
    launch.launch(out, node(rank), MACHINE, None)


def test_a_node_tells_what_its_own_ranks_met_and_keeps_what_the_others_told(out, monkeypatch):
    with pytest.raises(UserMistake, match="CUDA out of memory"):
        start(out, 0, monkeypatch, "OutOfMemoryError: CUDA out of memory.")
    with pytest.raises(MachineTrouble, match="A training process failed"):
        start(out, 1, monkeypatch)
    assert len(list(out.rglob("0.json"))) == 1


def test_a_node_that_begins_again_does_not_tell_what_its_ranks_met_before(out, monkeypatch):
    with pytest.raises(UserMistake, match="CUDA out of memory"):
        start(out, 1, monkeypatch, "OutOfMemoryError: CUDA out of memory.")
    with pytest.raises(MachineTrouble, match="A training process failed"):
        start(out, 1, monkeypatch)
