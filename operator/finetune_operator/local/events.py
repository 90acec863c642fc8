"""What a run tells, one event at a time; with --json each is one line."""

from typing import Protocol

from finetune_jobs.contract import Contract, Failure, Progress, Stage, State


class Event(Contract):
    """Something that became known about one stage."""

    stage: Stage
    state: State
    digest: str
    attempt: int | None = None
    """From 1; absent where no process was started."""
    progress: Progress | None = None
    result: dict[str, object] | None = None
    """With Reused and Succeeded: the stage's result."""
    failure: Failure | None = None
    """With Failed."""
    message: str | None = None
    """A sentence for a person."""
    log: str | None = None
    """With Failed: path of the stage's log."""


class Display(Protocol):
    """Shows events to whoever started the run."""

    def show(self, event: Event) -> None: ...

    def say(self, sentence: str) -> None:
        """Tell the person something that belongs to no stage."""

    def close(self) -> None:
        """Give the terminal back."""


class RunEnded(Exception):
    """A run stops here with an exit code of the command line."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


class CannotRun(Exception):
    """The run is refused before anything starts."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.message} {failure.cure}")
        self.failure = failure


def refuse(reason: str, message: str, cure: str) -> CannotRun:
    return CannotRun(Failure(reason=reason, message=message, cure=cure))


def log_hint(log: str) -> str:
    return f"The stage's log: {log}"
