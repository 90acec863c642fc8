"""A folder or file on a PersistentVolumeClaim: linked where it is, or copied to the workspace."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from finetune_jobs.contract import Source
from finetune_jobs.errors import UserMistake
from finetune_jobs.room import Room
from finetune_jobs.sources.digests import CHUNK, Meter
from finetune_jobs.sources.fetched import Fetched
from finetune_jobs.sources.files import Selection, walk
from finetune_jobs.sources.space import require_space


def bring(source: Source, room: Room, into: Path, selection: Selection) -> Fetched:
    """Link or copy; the volume may be read-only."""
    asked = source.volume
    if asked is None:
        raise ValueError("not a volume source")
    description = f"volume {asked.claim_name}" + (f" {asked.path}" if asked.path else "")
    origin = existing(room.volume(asked.claim_name), asked.path, asked.claim_name)
    others: tuple[str, ...] = ()
    if origin.is_file():
        pairs = [(origin, into / origin.name)]
    else:
        names, others = selection.choose(walk(origin), description)
        pairs = [(origin / name, into / name) for name in names]
    for file, _ in pairs:
        check_readable(file, description)
    if asked.mode == "link":
        for file, target in pairs:
            link(file, target)
    else:
        copy_all(pairs, room, into, description)
    path = into / origin.name if origin.is_file() else into
    brought = tuple(str(target.relative_to(into)) for _, target in pairs)
    return Fetched(path, description, brought, linked=asked.mode == "link", left_out=others)


def existing(root: Path, path: str, claim: str) -> Path:
    origin = root / path
    if not origin.exists():
        there = ", ".join(sorted(child.name for child in root.iterdir())[:10]) or "nothing"
        raise UserMistake(
            "SourceMissing",
            f"The volume {claim} has no {path!r}; at its root: {there}.",
            "Correct source.volume.path.",
        )
    return origin


def check_readable(file: Path, description: str) -> None:
    if not file.exists():
        raise UserMistake(
            "SourceBroken",
            f"{file} of {description} is a link to a file that isn't there.",
            "Restore the file, or mount the folder that it lies in on the same volume.",
        )
    if not os.access(file, os.R_OK):
        raise UserMistake(
            "NoPermission",
            f"{file} of {description} may not be read by this user ({os.getuid()}).",
            "Give read permission to it, or run with a user or group that has it.",
        )


def link(file: Path, target: Path) -> None:
    """Make `target` a link to `file`, replacing what an earlier run left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(file.absolute())


def copy_all(pairs: Sequence[tuple[Path, Path]], room: Room, into: Path, description: str) -> None:
    total = sum(file.stat().st_size for file, _ in pairs)
    missing = [(file, target) for file, target in pairs if not is_copy(file, target)]
    require_space(into, sum(file.stat().st_size for file, _ in missing), f"A copy of {description}")
    meter = Meter(room, total, "copying")
    meter.reach(total - sum(file.stat().st_size for file, _ in missing))
    for file, target in missing:
        copy(file, target, meter)


def is_copy(file: Path, target: Path) -> bool:
    """A copy gets its name and its file's time only when it is whole."""
    if target.is_symlink() or not target.is_file():
        return False
    there, here = file.stat(), target.stat()
    return (there.st_size, there.st_mtime_ns) == (here.st_size, here.st_mtime_ns)


def copy(file: Path, target: Path, meter: Meter) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.part")
    with file.open("rb") as reader, draft.open("wb") as writer:
        while chunk := reader.read(CHUNK):
            writer.write(chunk)
            meter.add(len(chunk))
        writer.flush()
        os.fsync(writer.fileno())
    shutil.copystat(file, draft)
    draft.chmod(0o644)
    draft.replace(target)
