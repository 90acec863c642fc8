"""Three ways to show a run: JSON lines for scripts, plain lines for logs, bars for a terminal."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, TextIO

from finetune_jobs.contract import Progress, Stage, State
from finetune_operator.local.events import Event, log_hint
from finetune_operator.local.summary import progress_line, result_line

if TYPE_CHECKING:
    import rich.progress

PLAIN_EVERY = 10.0
"""Seconds between two plain lines of progress of a stage."""


@dataclass
class JsonLines:
    """One object a line on `out`; sentences for a person go to `err`."""

    out: TextIO
    err: TextIO

    def show(self, event: Event) -> None:
        print(event.to_json(), file=self.out, flush=True)

    def say(self, sentence: str) -> None:
        print(sentence, file=self.err, flush=True)

    def close(self) -> None:
        """Nothing is held."""


def lines_of(event: Event) -> list[str]:
    """An event as lines of text; the first begins with the stage and its state."""
    head = f"{event.stage}: {event.state}"
    if event.failure is not None:
        lines = [f"{head}: {event.failure.reason}: {event.failure.message}", f"  {event.failure.cure}"]
        return [*lines, f"  {log_hint(event.log)}"] if event.log else lines
    if event.message is not None:
        return [f"{head}: {event.message}"]
    if event.progress is not None:
        return [f"{head}: {progress_line(event.progress)}"]
    if event.result is not None:
        return [f"{head}: {result_line(event.stage, event.result)}"]
    return [head]


@dataclass
class PlainLines:
    """Lines for a log file: progress now and then, everything else at once."""

    out: TextIO
    clock: Callable[[], float] = monotonic
    _last: float = field(default=float("-inf"), init=False)

    def show(self, event: Event) -> None:
        if event.progress is not None and event.message is None and not self._due(event.progress):
            return
        for line in lines_of(event):
            self.say(line)

    def _due(self, progress: Progress) -> bool:
        now = self.clock()
        if now - self._last < PLAIN_EVERY and progress.step < progress.total_steps:
            return False
        self._last = now
        return True

    def say(self, sentence: str) -> None:
        print(sentence, file=self.out, flush=True)

    def close(self) -> None:
        """Nothing is held."""


class Bars:
    """One bar per stage with step, loss, tokens per second and time left."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = Console(file=out, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[said]}"),
            console=self._console,
        )
        self._tasks: dict[Stage, rich.progress.TaskID] = {}
        self._live = True
        self._bars.start()

    def show(self, event: Event) -> None:
        if event.failure is not None or not self._live:
            for line in lines_of(event):
                self.say(line)
        if not self._live:
            return
        self._update(event)
        if event.stage is Stage.DEMO and event.state is State.SUCCEEDED:
            self.close()  # it may stay open for days; nothing moves any more

    def _update(self, event: Event) -> None:
        task = self._tasks.get(event.stage)
        if task is None:
            task = self._tasks[event.stage] = self._bars.add_task(event.stage.value, total=None, said="")
        said = lines_of(event)[0].partition(": ")[2]
        if event.state in {State.REUSED, State.SUCCEEDED}:
            self._bars.update(task, total=1, completed=1, said=said)
        elif event.progress is not None:
            total = event.progress.total_steps or None
            said = event.message or progress_line(event.progress)
            self._bars.update(task, total=total, completed=event.progress.step, said=said)
        else:
            self._bars.update(task, said=event.state.value if event.failure else said)

    def say(self, sentence: str) -> None:
        self._console.print(sentence, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._live = False
        self._bars.stop()


def display_for(out: TextIO, err: TextIO, *, as_json: bool) -> JsonLines | PlainLines | Bars:
    """What suits the reader: `as_json` wins, a terminal gets bars, everything else plain lines."""
    if as_json:
        return JsonLines(out, err)
    return Bars(out) if out.isatty() else PlainLines(out)
