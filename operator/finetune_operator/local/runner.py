"""Walks a plan's stages on this machine: takes what is there, starts what is missing, serves the demo."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from finetune_jobs.contract import ExitCode, Failure, Progress, Stage, State
from finetune_operator.lifecycle.attempts import pause_before_next, tried_again
from finetune_operator.lifecycle.gate import below_gate
from finetune_operator.local.attempt import TICK, Watch
from finetune_operator.local.demo import Address
from finetune_operator.local.disk import disk_failure
from finetune_operator.local.events import CannotRun, Display, Event, RunEnded
from finetune_operator.local.interruption import Interruption
from finetune_operator.local.process import Ended, StageProcess, Surroundings
from finetune_operator.local.workspace import ADDRESS_FILE, StageFolder
from finetune_operator.plan import Plan, PlannedStage

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells have it."""
NO_RESULT = Failure(
    reason="NoResult",
    message="The stage ended well but left no result.",
    cure="Run the same job again; if it happens again, please report it with the stage's log.",
)
LEFT_RUNNING = "waiting until the stage of an earlier run has saved and ended"
DEMO_ENDED = Failure(
    reason="DemoEnded", message="The demo ended by itself.", cure="See the end of its log, then run the same job again."
)


def nothing() -> None:
    """What most stages do at a tick."""


@dataclass
class Runner:
    """One run of one job; call `run` once, in the main thread, with `interruption` entered."""

    plan: Plan
    workspace: Path
    display: Display
    interruption: Interruption
    until: Stage = Stage.DEMO
    surroundings: Surroundings = field(default_factory=Surroundings)
    environments: Mapping[Stage, Mapping[str, str]] = field(default_factory=dict)
    """What the job says for its stages."""
    address: Address = field(default_factory=Address)
    again: str = "finetune run"
    """The command that goes on with this run."""
    pause: Callable[[int], float] = pause_before_next
    """Seconds to wait after attempt number n."""
    _results: dict[Stage, Mapping[str, object]] = field(default_factory=dict, init=False)

    @property
    def wanted(self) -> tuple[PlannedStage, ...]:
        """The plan's stages as far as `until`."""
        order = list(Stage)
        return tuple(p for p in self.plan.stages if order.index(p.stage) <= order.index(self.until))

    def folder(self, planned: PlannedStage) -> StageFolder:
        return StageFolder(self.workspace, planned.stage, planned.digest)

    def missing(self) -> tuple[PlannedStage, ...]:
        """Wanted stages that would start a process."""
        return tuple(planned for planned in self.wanted if self.folder(planned).record() is None)

    def run(self) -> int:
        """Make or take everything that is wanted; the command line's exit code."""
        try:
            for planned in self.wanted:
                with self._disk_errors_told(planned):
                    self._serve(planned) if planned.stage is Stage.DEMO else self._make(planned)
        except RunEnded as end:
            return end.code
        return ExitCode.DONE

    def _make(self, planned: PlannedStage) -> None:
        folder, state = self.folder(planned), State.REUSED
        record = folder.record()
        if record is None:
            with self._turn(planned):
                record = folder.record()
                if record is None:
                    self._attempts(planned)
                    state, record = State.SUCCEEDED, folder.record()
        if record is None:
            self._fail(planned, NO_RESULT, ExitCode.MACHINE_TROUBLE)
        self._results[planned.stage] = record.result
        self._show(planned, state, result=record.result)

    def _attempts(self, planned: PlannedStage) -> None:
        """Until one ends well."""
        attempt = 1
        while not (ended := self._attempt(planned, attempt, {})).done:
            self._after_failure(planned, ended.code, ended, attempt)
            attempt += 1

    def _serve(self, planned: PlannedStage) -> None:
        self._check_gate(planned)
        with self._turn(planned):
            attempt = 1
            while True:
                self._check_port(planned)
                door = Door(self, planned, attempt)
                ended = self._attempt(planned, attempt, self.address.environment, door.look)
                if self.interruption.requested and door.open:
                    self.display.say("The demo is stopped.")
                    return
                self._after_failure(planned, ended.code or ExitCode.MACHINE_TROUBLE, ended, attempt)
                attempt += 1

    def _attempt(
        self,
        planned: PlannedStage,
        attempt: int,
        environment: Mapping[str, str],
        on_tick: Callable[[], None] = nothing,
    ) -> Ended:
        self._end_if_interrupted(planned)
        said = {**self.environments.get(planned.stage, {}), **environment}
        process = StageProcess(
            self.folder(planned), planned.request, replace(self.surroundings, environment=said), attempt
        )
        self._show(planned, State.RUNNING, attempt=attempt)

        def on_progress(progress: Progress) -> None:
            self._show(planned, State.RUNNING, attempt=attempt, progress=progress)

        watch = Watch(process, planned.stage, self.display, self.interruption, self.again, on_progress, on_tick)
        return watch.to_the_end()

    @contextmanager
    def _turn(self, planned: PlannedStage) -> Iterator[None]:
        """Wait until no other run works on the stage, and keep them waiting."""
        folder, last = self.folder(planned), None
        while (turn := folder.take_turn()) is None:
            last = self._wait(planned, waiting_message(folder), last)
        with turn:
            while folder.is_left_running():
                last = self._wait(planned, LEFT_RUNNING, last)
            yield

    def _wait(self, planned: PlannedStage, message: str, last: Event | None) -> Event:
        """One look's time; tells when something has changed since `last`."""
        event = event_of(planned, State.RUNNING, progress=self.folder(planned).progress(), message=message)
        if event != last:
            self.display.show(event)
        self.interruption.pause(TICK)
        self._end_if_interrupted(planned)
        return event

    def _check_gate(self, planned: PlannedStage) -> None:
        evaluation = self._results.get(Stage.EVALUATE)
        failure = below_gate(evaluation, self.plan.gate) if evaluation is not None else None
        if failure is not None:
            self._fail(planned, failure, ExitCode.USER_MISTAKE)

    def _check_port(self, planned: PlannedStage) -> None:
        try:
            self.address.check_free()
        except CannotRun as error:
            self._fail(planned, error.failure, ExitCode.USER_MISTAKE)

    def _after_failure(self, planned: PlannedStage, code: int, ended: Ended, attempt: int) -> None:
        """Return when the stage is to be started again; end the run otherwise."""
        if ended.stopped or ended.done:
            self._end_if_interrupted(planned)
        failure = DEMO_ENDED if ended.done else ended.failure
        if self.interruption.requested or not tried_again(code, failure.reason, attempt):
            self._fail(planned, failure, code)
        seconds = self.pause(attempt)
        message = f"attempt {attempt} ended: {failure.message} Trying again in {seconds:g} s."
        self._show(planned, State.RUNNING, attempt=attempt, message=message)
        self.interruption.pause(seconds)

    def _end_if_interrupted(self, planned: PlannedStage) -> None:
        if self.interruption.requested:
            self._show(planned, State.INTERRUPTED, message=f"to go on: {self.again}")
            raise RunEnded(INTERRUPTED)

    @contextmanager
    def _disk_errors_told(self, planned: PlannedStage) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # nobody reads what this run says
            raise
        except OSError as error:
            code, failure = disk_failure(error)
            self._fail(planned, failure, code)

    def _fail(self, planned: PlannedStage, failure: Failure, code: int) -> NoReturn:
        log = self.folder(planned).log_if_there()
        self._show(planned, State.FAILED, failure=failure, log=str(log) if log else None)
        raise RunEnded(ExitCode.USER_MISTAKE if code == ExitCode.USER_MISTAKE else ExitCode.MACHINE_TROUBLE)

    def _show(self, planned: PlannedStage, state: State, **more: object) -> None:
        self.display.show(event_of(planned, state, **more))


def event_of(planned: PlannedStage, state: State, **more: object) -> Event:
    return Event.model_validate({"stage": planned.stage, "state": state, "digest": planned.digest, **more})


def waiting_message(folder: StageFolder) -> str:
    address = folder.address() if folder.stage is Stage.DEMO else None
    return f"waiting for another run, which serves the demo at {address}" if address else "waiting for another run"


@dataclass
class Door:
    """Looks, tick by tick, whether the demo's page has opened, and tells it once."""

    runner: Runner
    planned: PlannedStage
    attempt: int
    open: bool = False

    def look(self) -> None:
        address = self.runner.address
        if self.open or self.runner.interruption.requested or not address.is_open():
            return
        self.open = True
        (self.runner.folder(self.planned).path / ADDRESS_FILE).write_text(address.url, encoding="utf-8")
        event = event_of(self.planned, State.SUCCEEDED, attempt=self.attempt, result=address.result)
        self.runner.display.show(event)
