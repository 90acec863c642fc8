"""Files that a Python package ships: `pip download --no-deps`, then the wheel is unpacked, never installed.

pip's own configuration holds (index, proxy, certificates, cache). Source distributions are refused:
building one runs its code.
"""

import json
import logging
import os
import re
import shutil
import stat
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from finetune_jobs.contract import PyPISource, Source
from finetune_jobs.errors import MachineTrouble, StageError, UserMistake
from finetune_jobs.room import Room
from finetune_jobs.sources import programs
from finetune_jobs.sources.arrival import Watching
from finetune_jobs.sources.digests import CHUNK, Meter
from finetune_jobs.sources.fetched import Fetched
from finetune_jobs.sources.files import Selection
from finetune_jobs.sources.space import require_space
from finetune_jobs.sources.token import masked

log = logging.getLogger(__name__)

SAID = (
    (r"No space left", MachineTrouble, "DiskFull", "The disk is full.",
     "Free some space there, or use a larger volume."),
    (r"No matching distribution|Could not find a version", UserMistake, "PackageMissing",
     "pip finds no wheel of it for this Python.",
     "Check name and version on the package's page; packages without a wheel can't be used."),
    (r"NewConnectionError|Temporary failure|timed out|ConnectionError|Max retries|ProxyError|SSLError", MachineTrouble,
     "Network", "The package index could not be reached.", "Check this machine's network and proxy; then run again."),
    (r"No module named pip", MachineTrouble, "ToolMissing", "pip is not installed here.", "Install pip."),
)  # fmt: skip
"""What pip says, the error, its reason, what it means, what to do; the first that fits."""
NETWORK_WORDS = SAID[2][0]


def bring(source: Source, room: Room, into: Path, selection: Selection) -> Fetched:
    asked = source.pypi
    if asked is None:
        raise ValueError("not a pypi source")
    wheel = download(asked, into, room)
    with opened(wheel) as archive:
        members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        root = found_root(asked, sorted(members))
        description = f"pypi {asked.requirement}" + (f" {root}" if root else "")
        single = root in members
        others: tuple[str, ...] = ()
        if single:
            names = {PurePosixPath(root).name: root}
        else:
            under = below(root, sorted(members))
            chosen, others = selection.choose(list(under), description)
            names = {name: under[name] for name in chosen}
        unpack(archive, {name: members[member] for name, member in names.items()}, into, room)
        license_name = licence(archive, sorted(members))
    shutil.rmtree(wheel.parent)
    path = into / PurePosixPath(root).name if single else into
    version = asked.requirement.partition("==")[2]
    return Fetched(path, description, tuple(names), version, license_name, left_out=others)


def download(asked: PyPISource, into: Path, room: Room) -> Path:
    """The wheel, in a folder beside `into`; it gets its place there by rename, after pip has checked its hash."""
    folder = into.absolute().with_name(f".{into.name}.wheel")
    folder.mkdir(exist_ok=True)
    if not (wheels := sorted(folder.glob("*.whl"))):
        size = size_of_wheel(asked, folder)
        require_space(into, size, f"The wheel of {asked.requirement}")
        log.info("downloading %s", asked.requirement)
        with tempfile.TemporaryDirectory(dir=folder) as scratch, Watching(folder, Meter(room, size, "downloading")):
            arrived = Path(scratch) / "arrived"
            pip(asked, "download", "--dest", str(arrived), scratch=scratch)
            wheels = [wheel.replace(folder / wheel.name) for wheel in arrived.glob("*.whl")]
    return wheels[0]


def pip(asked: PyPISource, command: str, *options: str, scratch: str) -> None:
    arguments = [
        sys.executable, "-m", "pip", command, "--no-deps", "--only-binary=:all:", "--no-input", "--quiet",
        "--disable-pip-version-check", *options, asked.requirement,
    ]  # fmt: skip
    environment = {**os.environ, "TMPDIR": scratch, "PYTHONUTF8": "1"}
    done = programs.run(arguments, environment)
    if done.returncode != 0:
        raise as_sentence(asked, done.stderr.decode(errors="replace"))


def as_sentence(asked: PyPISource, said: str) -> StageError:
    """pip tells of a lost network, too, as of a package that isn't there; the network is asked for first."""
    for pattern, kind, reason, meaning, cure in sorted(SAID, key=lambda row: row[0] != NETWORK_WORDS):
        if re.search(pattern, said):
            return kind(reason, f"{asked.requirement}: {meaning}", cure)
    last = masked(" ".join(said.split()))[-300:]
    return MachineTrouble("PipFailed", f"{asked.requirement} could not be downloaded. pip said: {last}", "Run again.")


def size_of_wheel(asked: PyPISource, folder: Path) -> int:
    """Bytes of the wheel that pip would take; 0 where its index does not say."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        report = Path(scratch) / "report.json"
        pip(asked, "install", "--dry-run", "--ignore-installed", "--report", str(report), scratch=scratch)
        url = json.loads(report.read_text(encoding="utf-8"))["install"][0]["download_info"]["url"]
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(unquote(parts.path)).stat().st_size
    return content_length(url)


def content_length(url: str) -> int:
    import requests

    try:
        answer = requests.head(url, allow_redirects=True, timeout=30)
        return int(answer.headers.get("Content-Length", 0)) if answer.ok else 0
    except requests.RequestException:
        log.info("the package index does not tell the wheel's size")
        return 0


def opened(wheel: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(wheel)
    except zipfile.BadZipFile:
        wheel.unlink()
        raise MachineTrouble("DownloadCorrupt", f"{wheel.name} is broken.", "Run the same job again.") from None


def found_root(asked: PyPISource, members: Sequence[str]) -> str:
    """The path as it stands in the wheel: from the wheel's root, or inside its one top package."""
    path = asked.path.strip("/")
    tops = sorted({name.split("/")[0] for name in members if "/" in name})
    candidates = [path, *(f"{top}/{path}" for top in tops if not top.endswith((".dist-info", ".data")))]
    for candidate in candidates:
        if not candidate or any(name == candidate or name.startswith(f"{candidate}/") for name in members):
            return candidate
    shown = [name for name in members if ".dist-info/" not in name]
    raise UserMistake(
        "SourceMissing",
        f"{asked.requirement} has no {asked.path!r}; it has: {', '.join(shown[:10])}.",
        "Correct source.pypi.path.",
    )


def below(root: str, members: Sequence[str]) -> dict[str, str]:
    """The members under `root`: name there -> name in the wheel."""
    prefix = f"{root}/" if root else ""
    return {name.removeprefix(prefix): name for name in members if name.startswith(prefix)}


def unpack(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], into: Path, room: Room) -> None:
    """Write the members below `into` by the given names; zipfile checks each one's CRC while it reads."""
    targets = [(member, safe_target(member, name, into)) for name, member in members.items()]
    missing = [(m, target) for m, target in targets if not target.is_file() or target.stat().st_size != m.file_size]
    require_space(into, sum(member.file_size for member, _ in missing), "Unpacking the wheel")
    meter = Meter(room, sum(member.file_size for member, _ in missing), "unpacking")
    for member, target in missing:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.part")
        with archive.open(member) as reader, draft.open("wb") as writer:
            while chunk := reader.read(CHUNK):
                writer.write(chunk)
                meter.add(len(chunk))
        draft.replace(target)


def safe_target(member: zipfile.ZipInfo, name: str, into: Path) -> Path:
    """Where the member goes; refused if its name or its being a link would lead elsewhere."""
    link = stat.S_ISLNK(member.external_attr >> 16)
    if link or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise UserMistake(
            "PathOutside",
            f"The wheel holds {member.filename!r}, which would be written outside of its folder.",
            "Use another package; this one is broken or hostile.",
        )
    return into / name


def licence(archive: zipfile.ZipFile, members: Sequence[str]) -> str | None:
    """The licence that the package's metadata names."""
    metadata = next((name for name in members if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)), None)
    if metadata is None:
        return None
    headers = HeaderParser().parsestr(archive.read(metadata).decode(errors="replace"))
    named: str | None = headers.get("License-Expression") or headers.get("License")
    return named.strip().splitlines()[0] if named and named.strip() else None
