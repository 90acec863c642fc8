"""What a workspace folder says: results, progress, logs, and who works in it. Reads only what others wrote."""

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from finetune_jobs.contract import (
    CHECKPOINTS_FOLDER,
    LOCK_SUFFIX,
    LOG_FILE,
    PROGRESS_FILE,
    REQUEST_FILE,
    RESULT_FILE,
    Progress,
    Record,
    Request,
    Stage,
)

ADDRESS_FILE = "address"
"""In a demo's folder while it is open: its URL."""
TURN_SUFFIX = ".turn"
"""`<workspace>/<stage>/<digest>.turn` is held by flock by the runner whose turn it is; others wait."""
UNREADABLE = (FileNotFoundError, IsADirectoryError, ValueError)
"""What reading a file as JSON ends with where it is not there or broken; pydantic's ValidationError is a ValueError."""


def try_lock(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return not try_lock(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class StageFolder:
    """`<workspace>/<stage>/<digest>/`, which need not exist."""

    workspace: Path
    stage: Stage
    digest: str

    @property
    def path(self) -> Path:
        return self.workspace / self.stage.value / self.digest

    @property
    def log(self) -> Path:
        return self.path / LOG_FILE

    def log_if_there(self) -> Path | None:
        return self.log if os.path.exists(self.log) else None  # noqa: PTH110 - Path.exists raises without permission

    def record(self) -> Record | None:
        """The result, when it is complete. The demo has none: it is served, not made."""
        if self.stage is Stage.DEMO:
            return None
        try:
            return Record.model_validate_json((self.path / RESULT_FILE).read_bytes())
        except UNREADABLE:  # the stage program says what is wrong with a broken one
            return None

    def progress(self, since: datetime | None = None) -> Progress | None:
        """The latest progress, if it was written after `since`."""
        try:
            found = Progress.model_validate_json((self.path / PROGRESS_FILE).read_bytes())
        except UNREADABLE:
            return None
        return found if since is None or found.updated_at >= since else None

    def is_worked_on(self) -> bool:
        """Whether a runner has its turn, or a stage process lives, perhaps without its runner."""
        return is_locked(self._beside(TURN_SUFFIX)) or is_locked(self._beside(LOCK_SUFFIX))

    def take_turn(self) -> IO[bytes] | None:
        """The right to start this stage until the file is closed; None while another runner has it.

        The stage program's own lock would do, but is taken only once it has started: runners that wait here
        start no process and write nothing.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        turn = self._beside(TURN_SUFFIX).open("wb")
        if try_lock(turn, fcntl.LOCK_EX):
            return turn
        turn.close()
        return None

    def is_left_running(self) -> bool:
        """With the turn taken: whether the stage of a runner that died is still saving."""
        return is_locked(self._beside(LOCK_SUFFIX))

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.digest + suffix)

    def has_checkpoint(self) -> bool:
        folder = self.path / CHECKPOINTS_FOLDER
        return folder.is_dir() and any(folder.iterdir())

    def address(self) -> str | None:
        """URL at which a demo is open just now."""
        try:
            return (self.path / ADDRESS_FILE).read_text(encoding="utf-8") if self.is_worked_on() else None
        except FileNotFoundError:
            return None

    def write_request(self, request: Request) -> Path:
        """Put the request where the stage program reads it, by rename: two runs may do it at once."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / REQUEST_FILE
        # not by process id: runs on two machines that share the folder may have the same
        draft = path.with_name(f".{REQUEST_FILE}.{uuid4().hex}")
        try:
            draft.write_text(request.to_json(), encoding="utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        return path


def earlier_records(workspace: Path, stage: Stage) -> Iterator[dict[str, Any]]:
    """Every readable result.json of the stage as plain JSON: an older version's may not fit today's types."""
    for path in (workspace / stage.value).glob(f"*/{RESULT_FILE}"):
        try:
            record = json.loads(path.read_bytes())
        except UNREADABLE:
            continue
        if isinstance(record, dict) and "request" in record and "finishedAt" in record:
            yield record
