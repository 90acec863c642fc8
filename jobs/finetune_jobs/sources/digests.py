"""SHA-256 of files and folders, streamed, with progress."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finetune_jobs.room import Room

CHUNK = 4 << 20  # bytes
MEGABYTE = 1_000_000  # bytes


@dataclass
class Meter:
    """Adds up bytes and reports them as the stage's progress."""

    room: Room
    total: int
    """Bytes in all; 0 where nobody knows."""
    message: str
    done: int = field(default=0, init=False)

    def add(self, count: int) -> None:
        self.reach(self.done + count)

    def reach(self, done: int) -> None:
        self.done = done
        total = max(self.total, done)
        self.room.progress(round(done / MEGABYTE), max(1, round(total / MEGABYTE)), unit="MB", message=self.message)


def sha256_of_file(path: Path, meter: Meter | None = None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            if meter is not None:
                meter.add(len(chunk))
    return digest.hexdigest()


def folder_sha256(sha256s: Mapping[str, str]) -> str:
    """SHA-256 of the list that `sha256sum` prints for a folder's files, sorted by the bytes of their paths.

    By hand, in the folder: ``find -L . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum``
    """
    lines = [f"{sha256s[name]}  {name}\n" for name in sorted(sha256s, key=str.encode)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
