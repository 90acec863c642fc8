"""A conversion that can't fit on the disk is refused before its first byte: its size is known before."""

from pathlib import Path

import pytest

from finetune_jobs.contract import ModelRequest, Source, VolumeSource
from finetune_jobs.errors import MachineTrouble
from finetune_jobs.model import convert_gguf, convert_pickle
from finetune_jobs.room import Room
from finetune_jobs.sources import space


@pytest.fixture
def room(tmp_path, monkeypatch) -> Room:
    """On a disk with a gigabyte free."""
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: space.shutil._ntuple_diskusage(2e9, 1e9, 1e9))
    return Room(tmp_path, ModelRequest(source=Source(volume=VolumeSource(claim_name="any"))), tmp_path)


def refused(call) -> str:
    with pytest.raises(MachineTrouble) as caught:
        call()
    assert caught.value.failure.reason == "DiskFull"
    return caught.value.failure.message


def test_a_gguf_needs_two_bytes_a_parameter(room, monkeypatch):
    gguf = convert_gguf.Gguf(room.out / "a.gguf", {}, {"w": 400_000_000, "v": 200_000_000})
    monkeypatch.setattr(convert_gguf, "read", lambda _: gguf)
    monkeypatch.setattr(convert_gguf, "refuse_unknown", lambda _: None)
    monkeypatch.setattr(convert_gguf, "write", lambda *_: pytest.fail("it was written"))
    said = refused(lambda: convert_gguf.convert(gguf.path, room.out / "model", room))
    assert said.startswith("The converted model needs 1,204 MB")
    assert not (room.out / "model").exists()


def test_pickles_need_as_much_again(room, monkeypatch):
    with Path(room.out / "pytorch_model.bin").open("wb") as file:
        file.truncate(1_200_000_000)  # a sparse file
    monkeypatch.setattr(convert_pickle, "load", lambda _: pytest.fail("it was loaded"))
    assert "Converting to safetensors needs 1,204 MB" in refused(lambda: convert_pickle.convert(room.out, room))
