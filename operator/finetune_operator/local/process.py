"""One attempt of one stage as a process of its own."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from pydantic import ValidationError

from finetune_jobs.contract import ExitCode, Failure, Outcome, Request
from finetune_operator.local import launcher, leftovers
from finetune_operator.local.workspace import StageFolder

STAGE_COMMAND = (sys.executable, "-m", "finetune_jobs")
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}
"""Given to stages where the user's own environment says nothing. Threads that spin make everything beside
them several times slower (docs: the measured traps)."""
OUTCOME_PIPE = 65536
"""Bytes read from the outcome's pipe: more than an outcome can have."""
KILLED = Failure(
    reason="Killed",
    message="The stage was killed by {signal}.",
    cure="If this machine ran out of memory, close other programs or ask for less (batchSize, maxLength); "
    "then run the same job again.",
)
UNFORESEEN = Failure(
    reason="Unforeseen",
    message="The stage ended with the exit code {code} and said nothing.",
    cure="See the end of the stage's log; if it is not of your making, please report it.",
)


@dataclass(frozen=True)
class Surroundings:
    """What stage processes are started with."""

    command: Sequence[str] = STAGE_COMMAND
    volumes: Mapping[str, Path] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside, and before, the caller's own environment."""


class StageProcess:
    """Starts at once; end it by `ask_to_save` or `kill`, then read `code` and `failure`."""

    def __init__(self, folder: StageFolder, request: Request, surroundings: Surroundings, attempt: int) -> None:
        self.folder = folder
        self.started = datetime.now(UTC)
        self._mark = uuid4().hex
        self._outcome_end, outcome = os.pipe()  # not a file: the disk may be full
        try:
            command = self._command(folder.write_request(request), surroundings, outcome)
            with folder.log.open("ab") as log:
                log.write(f"--- attempt {attempt}, {self.started:%Y-%m-%d %H:%M:%S} UTC: {command}\n".encode())
                log.flush()
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**ENVIRONMENT, **os.environ, **surroundings.environment, leftovers.MARK: self._mark},
                    pass_fds=(outcome,),
                    start_new_session=True,  # the terminal's Ctrl-C is the runner's alone
                )
        except BaseException:
            os.close(self._outcome_end)
            raise
        finally:
            os.close(outcome)

    def _command(self, request: Path, surroundings: Surroundings, outcome: int) -> "Command":
        stage = self.folder.stage.value
        command = [*surroundings.command, stage, "--request", str(request), "--workspace", str(self.folder.workspace)]
        for claim, folder in surroundings.volumes.items():
            command += ["--volume", f"{claim}={folder}"]
        return Command([*command, "--outcome", f"/dev/fd/{outcome}"])

    def runs(self, seconds: float) -> bool:
        """Whether it still runs after waiting for it so long."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def ask_to_save(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill()

    def finish(self) -> "Ended":
        """What came of it, once it runs no more; nothing of it is left running."""
        said = self._read_outcome()
        leftovers.end_all(self._mark)
        return Ended(self._process.returncode, said)

    def _read_outcome(self) -> Outcome | None:
        os.set_blocking(self._outcome_end, False)
        try:
            return Outcome.model_validate_json(os.read(self._outcome_end, OUTCOME_PIPE))
        except (BlockingIOError, ValidationError):  # it was killed before it said anything
            return None
        finally:
            os.close(self._outcome_end)


class Command(list[str]):
    """Arguments that print as a shell would take them."""

    def __str__(self) -> str:
        return shlex.join(self)


@dataclass(frozen=True)
class Ended:
    """How an attempt ended. `code` below zero is the signal that killed it."""

    code: int
    outcome: Outcome | None

    @property
    def done(self) -> bool:
        return self.code == ExitCode.DONE

    @property
    def stopped(self) -> bool:
        """Saved and stopped, or killed before it could."""
        return self.code in {ExitCode.INTERRUPTED, -signal.SIGTERM, -signal.SIGINT, -signal.SIGKILL}

    @property
    def failure(self) -> Failure:
        if self.outcome is not None and self.outcome.failure is not None:
            return self.outcome.failure
        if self.code < 0:
            name = signal.Signals(-self.code).name
            return KILLED.model_copy(update={"message": KILLED.message.format(signal=name)})
        return UNFORESEEN.model_copy(update={"message": UNFORESEEN.message.format(code=self.code)})
