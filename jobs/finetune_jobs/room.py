"""What a stage program may touch: its own output folder, the results it needs, the mounted volumes."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from uuid import uuid4

from pydantic import ValidationError

from finetune_jobs.contract import INPUT_MISSING, PROGRESS_FILE, RESULT_FILE, Progress, Record, Request, Stage
from finetune_jobs.errors import UserMistake

DRAFT_SUFFIX = ".draft"


def node_rank() -> int:
    """Which of the nodes that train together this is, from 0; the first one alone records the result."""
    if int(os.environ.get("NNODES", "1")) == 1:
        return 0
    return int(os.environ.get("NODE_RANK", os.environ.get("JOB_COMPLETION_INDEX", "0")))


def draft_of(path: Path) -> Path:
    """A name of its own for what becomes `path` by rename: pods that share a volume have the same process ids."""
    return path.with_name(f".{path.name}.{node_rank()}-{uuid4().hex}{DRAFT_SUFFIX}")


def clear_drafts(folder: Path) -> None:
    """Remove what killed runs of this node left in the folder; nodes that run beside it have drafts of their own."""
    for left in folder.glob(f".*.{node_rank()}-*{DRAFT_SUFFIX}"):
        left.unlink()


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by rename, so that a reader sees the old text or the new one, never a part."""
    draft = draft_of(path)
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Bring all that lies in the folder to the disk, and its own name; what links lead to is somebody else's."""
    for inner, _, names in os.walk(folder, topdown=False):
        files = [path for path in map(Path(inner).joinpath, names) if path.is_file() and not path.is_symlink()]
        for path in [*files, Path(inner)]:
            # a draft of a node that trains with this one
            with suppress(FileNotFoundError):
                flush(path)
    flush(folder.parent)


def stage_folder(workspace: Path, stage: Stage, digest: str) -> Path:
    return workspace / stage.value / digest


def read_record(workspace: Path, stage: Stage, digest: str) -> Record | None:
    """The result of a stage that is complete in this workspace, or None; UserMistake ResultUnreadable for a broken one.

    Nothing is removed here: whoever cut or edited the file may want it back.
    """
    path = stage_folder(workspace, stage, digest) / RESULT_FILE
    try:
        return Record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        why = "it is a folder"
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        why = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
    raise UserMistake(
        "ResultUnreadable",
        f"{path} is not what the {stage} stage wrote when it ended: {why}.",
        f"Move {path} away or delete it, then run the same job again: it makes what is missing.",
    )


@dataclass
class Reporter:
    """Writes `Progress` for whoever watches, at most twice a second."""

    path: Path
    every: float = 0.5
    _last: float = field(default=-1e9, init=False)

    def __call__(self, step: int, total_steps: int, *, force: bool = False, **more: object) -> None:
        """`more` are the other fields of `Progress`; the last step is always written."""
        now = monotonic()
        if not force and step < total_steps and now - self._last < self.every:
            return
        self._last = now
        progress = Progress.model_validate(
            {"step": step, "total_steps": total_steps, "updated_at": datetime.now(UTC), **more}
        )
        write_atomically(self.path, progress.to_json())


@dataclass
class Room:
    """One run of one stage.

    `out` is `<workspace>/<stage>/<digest>/`; it exists, is locked by this process, and may hold what an
    interrupted run left.
    """

    workspace: Path
    request: Request
    out: Path
    volumes: Mapping[str, Path] = field(default_factory=dict)

    @property
    def progress(self) -> Reporter:
        if not hasattr(self, "_reporter"):
            self._reporter = Reporter(self.out / PROGRESS_FILE)
        return self._reporter

    def input(self, stage: Stage) -> Path:
        """Folder of a needed stage, complete; UserMistake when it is not there."""
        digest = self.request.needs.get(stage)
        if digest is None or read_record(self.workspace, stage, digest) is None:
            raise UserMistake(
                INPUT_MISSING,
                f"The {stage} stage's result {digest} is not in {self.workspace}.",
                "Edit the spec (suspend: true, then false), or `finetune run` again: what is missing is made again.",
            )
        return stage_folder(self.workspace, stage, digest)

    def needed_record(self, stage: Stage) -> Record:
        """The result of a needed stage, complete; UserMistake when it is not there."""
        found = read_record(self.workspace, stage, self.input(stage).name)
        if found is None:
            raise AssertionError("input has read it")
        return found

    def volume(self, claim: str) -> Path:
        """Where a PersistentVolumeClaim lies on this machine."""
        path = self.volumes.get(claim)
        if path is None:
            known = ", ".join(sorted(self.volumes)) or "none"
            raise UserMistake(
                "VolumeUnknown",
                f"Nothing says where the claim {claim!r} lies on this machine (known: {known}).",
                f"Add --volume {claim}=FOLDER.",
            )
        if not path.exists():
            raise UserMistake(
                "VolumeMissing", f"{path}, given for the claim {claim!r}, does not exist.", "Give an existing folder."
            )
        return path
