"""How a stage fails.

- StageError
  - UserMistake: the request can't succeed as written (exit code 64, never retried)
  - MachineTrouble: this machine failed (exit code 75, retried)
  - Interrupted: asked to stop, progress saved (exit code 80, resumed)

Each carries a stable CamelCase reason, a sentence that says what is wrong and a cure that says what
to write or do instead.
"""

from collections.abc import Mapping

from finetune_jobs.contract import ExitCode, Failure

FIRST_LINE = 300
"""Characters."""


def first_line(said: object) -> str:
    """What another program's error says first, cut to a line's length; its class where it says nothing."""
    return next(iter(str(said).strip().splitlines()), type(said).__name__)[:FIRST_LINE]


class StageError(Exception):
    """Base of all foreseen ends of a stage that are not success."""

    exit_code: ExitCode

    def __init__(self, reason: str, message: str, cure: str) -> None:
        super().__init__(f"{message} {cure}")
        self.failure = Failure(reason=reason, message=message, cure=cure)


class UserMistake(StageError):
    exit_code = ExitCode.USER_MISTAKE


class MachineTrouble(StageError):
    exit_code = ExitCode.MACHINE_TROUBLE


class Interrupted(StageError):
    exit_code = ExitCode.INTERRUPTED

    def __init__(self, message: str = "Asked to stop.", cure: str = "Run the same job again to go on.") -> None:
        super().__init__("Interrupted", message, cure)


def as_told(error: StageError) -> dict[str, object]:
    """What a process leaves for the stage that started it; `of_told` reads it."""
    return {"exitCode": int(error.exit_code), "failure": error.failure.model_dump(mode="json", by_alias=True)}


def of_told(told: Mapping[str, object]) -> StageError:
    failure = Failure.model_validate(told["failure"])
    kind = UserMistake if told["exitCode"] == ExitCode.USER_MISTAKE else MachineTrouble
    return kind(failure.reason, failure.message, failure.cure)
