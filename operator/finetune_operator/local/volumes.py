"""Where a job's PersistentVolumeClaims lie on this machine."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from finetune_jobs.contract import Request, Source
from finetune_operator.local.events import refuse


def claims(requests: Iterable[Request]) -> set[str]:
    """Claims that these requests read."""
    return {source.volume.claim_name for request in requests for source in volume_sources(request) if source.volume}


def volume_sources(request: Request) -> Iterator[Source]:
    fields = (getattr(request, name) for name in type(request).model_fields)
    return (field for field in fields if isinstance(field, Source) and field.volume is not None)


def written_after(source: Source, folders: Mapping[str, Path], when: datetime) -> Path | None:
    """A file of the volume that was written after `when`; None when there is none or the claim lies nowhere here."""
    volume = source.volume
    root = folders.get(volume.claim_name) if volume is not None else None
    if volume is None or root is None:
        return None
    path = root / volume.path
    files = (file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    return next((file for file in files if datetime.fromtimestamp(file.stat().st_mtime, UTC) > when), None)


def parse_volume(text: str) -> tuple[str, Path]:
    """CLAIM=FOLDER; ValueError with a sentence."""
    claim, equals, folder = text.partition("=")
    if not (claim and equals and folder):
        raise ValueError(f"{text!r} is not CLAIM=FOLDER; write a claim's name and its folder, such as data=/srv/data")
    return claim, Path(folder).expanduser()


def check_given(given: Mapping[str, Path], named: Iterable[str]) -> None:
    """CannotRun when a --volume is no folder or is for a claim that the job does not name."""
    names = sorted(named)
    for claim, folder in given.items():
        if claim not in names:
            raise refuse(
                "VolumeUnused",
                f"--volume {claim}: the job names no such claim.",
                f"It names {', '.join(names) or 'none'}.",
            )
        if not folder.is_dir():
            raise refuse("VolumeMissing", f"--volume {claim}: {folder} is no folder.", "Give a folder that is there.")


def known_volumes(given: Mapping[str, Path], beside: Path, wanted: Iterable[str]) -> dict[str, Path]:
    """Folders by claim: those given, else the folder of the claim's name in `beside`; CannotRun without either."""
    found = {claim: folder.resolve() for claim, folder in given.items()}
    for claim in sorted(wanted):
        if not found.setdefault(claim, (beside / claim).resolve()).is_dir():
            raise refuse(
                "VolumeUnknown",
                f"Nothing says where the claim {claim!r} lies on this machine.",
                f"Add --volume {claim}=FOLDER, or put the folder {claim} beside the job's file.",
            )
    return found
