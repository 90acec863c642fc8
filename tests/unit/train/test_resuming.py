"""Which checkpoint a training goes on from, and what it can't go on from."""

from pathlib import Path

import pytest

from finetune_jobs.errors import UserMistake
from finetune_jobs.train import checkpoints, resumable
from finetune_jobs.train.checkpoints import Marker, Tally
from finetune_jobs.train.world import World


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
