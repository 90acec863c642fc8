"""What is written by rename, beside others that write in the same folder."""

import os
from pathlib import Path

import pytest

from finetune_jobs import room


def test_two_pods_with_the_same_process_id_write_one_file_at_once(tmp_path, monkeypatch):
    """The second one begins and ends while the first is between writing and renaming."""
    path, flush = tmp_path / "config.py", os.fsync

    def meanwhile(descriptor):
        monkeypatch.setattr(os, "fsync", flush)
        room.write_atomically(path, "second")

    monkeypatch.setattr(os, "fsync", meanwhile)
    room.write_atomically(path, "first")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_no_draft(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        room.write_atomically(tmp_path / "config.py", "text")
    assert list(tmp_path.iterdir()) == []


def drafts_of_two_nodes(folder: Path, monkeypatch) -> list[Path]:
    monkeypatch.setenv("NNODES", "2")
    drafts = []
    for rank in ("0", "1"):
        monkeypatch.setenv("NODE_RANK", rank)
        drafts.append(room.draft_of(folder / "config.py"))
        drafts[-1].touch()
    return drafts


@pytest.mark.parametrize("rank", [0, 1])
def test_a_node_clears_what_it_left_itself_and_nothing_of_a_living_peer(tmp_path, monkeypatch, rank):
    drafts = drafts_of_two_nodes(tmp_path, monkeypatch)
    monkeypatch.setenv("NODE_RANK", str(rank))
    room.clear_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == [drafts[1 - rank]]
