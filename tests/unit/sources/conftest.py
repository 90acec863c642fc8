"""A room for a fetch, and a small source to fetch."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune_jobs.contract import ModelRequest, Source, VolumeSource
from finetune_jobs.room import Room
from finetune_jobs.sources import Fetched, fetch

Fetch = Callable[..., Fetched]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT interrupts this process, also where a shell began the tests in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """The claim `models`: a folder with two files, and one beside it."""
    root = tmp_path / "volume"
    (root / "small" / "deep").mkdir(parents=True)
    (root / "small" / "config.json").write_text("{}")
    (root / "small" / "deep" / "notes.txt").write_text("notes")
    (root / "alone.bin").write_bytes(b"alone")
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace" / "model" / "0123456789ab"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def bring(out: Path, volume: Path) -> Fetch:
    """Fetch a source into the room, as a stage does."""

    def call(source: Source, **options: object) -> Fetched:
        asked = ModelRequest(source=Source(volume=VolumeSource(claim_name="models")))
        room = Room(out.parent.parent, asked, out, {"models": volume})
        return fetch(source, room, out / "download", **options)  # type: ignore[arg-type]

    return call
