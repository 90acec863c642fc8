"""Brings the files that a `Source` names to a folder; called by the model, dataset and export stages.

Each kind of source has a module with ``bring(source, room, into, selection) -> Fetched``. What they
share is here: a fetch that was completed is not done again, and the source's own SHA-256 is checked
last, so that whatever `fetch` returns is whole.
"""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from finetune_jobs.contract import Source
from finetune_jobs.errors import UserMistake
from finetune_jobs.room import Room
from finetune_jobs.sources import git, hugging_face, pypi, volume
from finetune_jobs.sources.digests import Meter, folder_sha256, sha256_of_file
from finetune_jobs.sources.fetched import Fetched, read_note, write_note
from finetune_jobs.sources.files import Selection, walk

__all__ = ["Fetched", "fetch"]

log = logging.getLogger(__name__)

KINDS: dict[str, Callable[[Source, Room, Path, Selection], Fetched]] = {
    "hugging_face": hugging_face.bring,
    "git": git.bring,
    "volume": volume.bring,
    "pypi": pypi.bring,
}


def fetch(
    source: Source,
    room: Room,
    into: Path,
    *,
    patterns: Sequence[str] = (),
    accept: Callable[[Sequence[str], Sequence[str]], None] | None = None,
    narrow: Callable[[Sequence[str]], list[str]] = list,
) -> Fetched:
    """Bring the source's files to the folder `into` and return what came.

    `patterns` are globs relative to the source's root ("*.json", "data/**/*.jsonl"; `*` stops at a
    slash, `**` does not); none means all files. A source that is one file brings that file whatever
    the patterns say. A fetch that an earlier run completed in `into` is taken as it is; one that was
    interrupted goes on where it stopped. Bytes are reported as progress in MB.

    `accept` gets the wanted names and the other names of a folder before its first byte is brought,
    and raises to refuse them. `narrow` gets the names that fit the patterns and gives back those that are needed.
    Where the source says its SHA-256, which is that of all its files, all are brought.

    Raises UserMistake (what the source names isn't there, may not be read, or has another SHA-256)
    and MachineTrouble (network, disk space).
    """
    into.mkdir(parents=True, exist_ok=True)
    if source.sha256 is not None:
        patterns, narrow = (), list
    known = read_note(source, into, patterns)
    if known is not None:
        log.info("taken from an earlier run: %s", known.description)
        return known
    kind = next(name for name in Source.KINDS if getattr(source, name) is not None)
    fetched = KINDS[kind](source, room, into, Selection(tuple(patterns), accept, narrow))
    keep_only(into, fetched.names)
    if source.sha256 is not None:
        check_sha256(source.sha256, fetched, room)
    write_note(source, into, patterns, fetched)
    return fetched


def keep_only(into: Path, names: Sequence[str]) -> None:
    """Remove what else an earlier attempt brought: of an older commit, before a branch moved on."""
    known = set(names)
    for parent, folders, files in os.walk(into):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for path in (Path(parent) / name for name in (*files, *links)):
            if str(path.relative_to(into)) not in known:
                path.unlink()


def check_sha256(expected: str, fetched: Fetched, room: Room) -> None:
    """Compare with the digest that the source gives, as `Source.sha256` defines it."""
    if fetched.path.is_file():
        found = sha256_of_file(fetched.path, Meter(room, fetched.path.stat().st_size, "checking"))
    else:
        files = walk(fetched.path)
        meter = Meter(room, sum((fetched.path / name).stat().st_size for name in files), "checking")
        found = folder_sha256({name: sha256_of_file(fetched.path / name, meter) for name in files})
    if found != expected:
        raise UserMistake(
            "WrongSha256",
            f"{fetched.description} has the SHA-256 {found}, but the source expects {expected}.",
            "If the new files are the ones you want, write their SHA-256 into the source; "
            "else name the revision or file that has the expected one.",
        )
