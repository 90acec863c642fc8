"""What a fetch brought, and the note that says it was completed."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_jobs.contract import Source
from finetune_jobs.room import write_atomically
from finetune_jobs.sources.files import walk

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    path: Path
    """The one file that the source names, or the folder with its files."""
    description: str
    """One line that a person can read: huggingFace owner/name at 5f0b02c."""
    names: tuple[str, ...] = ()
    """What came, by its path in the folder that it was brought to; not told of an earlier fetch."""
    revision: str | None = None
    """The commit or version that the source meant."""
    license: str | None = None
    """As the source's own metadata tells it, where it has any."""
    linked: bool = False
    """The files are symbolic links to a volume; nothing was copied."""
    left_out: tuple[str, ...] = ()
    """Files of the source that no pattern wanted."""


def note_path(into: Path) -> Path:
    return into.with_name(f".{into.name}.fetched.json")


def sizes(path: Path) -> dict[str, int]:
    """Bytes of each file, by its path inside `path`; a single file has the name ""."""
    if path.is_file():
        return {"": path.stat().st_size}
    return {name: (path / name).stat().st_size for name in walk(path)}


def write_note(source: Source, into: Path, patterns: Sequence[str], fetched: Fetched) -> None:
    """Record, by rename, that `into` holds all that was asked for."""
    note = {
        "source": json.loads(source.to_json()),
        "patterns": list(patterns),
        "path": str(fetched.path.relative_to(into)),
        "description": fetched.description,
        "revision": fetched.revision,
        "license": fetched.license,
        "linked": fetched.linked,
        "left_out": fetched.left_out,
        "sizes": sizes(fetched.path),
    }
    write_atomically(note_path(into), json.dumps(note, indent=1))


def read_note(source: Source, into: Path, patterns: Sequence[str]) -> Fetched | None:
    """What an earlier run brought to `into`, if it was the same source and all its files are still there."""
    try:
        note = json.loads(note_path(into).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    path = into / note["path"]
    asked = (note["source"], note["patterns"]) == (json.loads(source.to_json()), list(patterns))
    if not asked or not path.exists() or sizes(path) != note["sizes"]:
        log.info("%s is not what the earlier run left; fetching again", into)
        return None
    told = {name: note[name] for name in ("description", "revision", "license", "linked")}
    return Fetched(path, left_out=tuple(note["left_out"]), **told)
