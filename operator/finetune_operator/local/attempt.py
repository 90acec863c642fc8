"""One attempt of a stage from its start to its end, with Ctrl-C handed on and progress shown."""

from collections.abc import Callable
from dataclasses import dataclass

from finetune_jobs.contract import Progress, Stage
from finetune_operator.local.events import Display
from finetune_operator.local.interruption import Interruption
from finetune_operator.local.process import Ended, StageProcess

TICK = 0.1
"""Seconds between two looks at a running stage."""
SAVING = "Stopping: the {stage} stage saves what it has, which can take a moment."
STILL_SAVING = (
    "Still saving. A third Ctrl-C kills the {stage} stage, and what it made since it last saved is lost; "
    "either way this goes on: {again}"
)


@dataclass
class Watch:
    """Looks at one stage process until it ends."""

    process: StageProcess
    stage: Stage
    display: Display
    interruption: Interruption
    again: str
    on_progress: Callable[[Progress], None]
    on_tick: Callable[[], None]
    _told: int = 0
    _last: Progress | None = None

    def to_the_end(self) -> Ended:
        while self.process.runs(TICK):
            self._look()
            self.on_tick()
            while self._told < self.interruption.count:
                self._told += 1
                self._pass_on(self._told)
        self._look()
        return self.process.finish()

    def _look(self) -> None:
        progress = self.process.folder.progress(since=self.process.started)
        if progress is not None and progress != self._last:
            self.on_progress(progress)
            self._last = progress

    def _pass_on(self, count: int) -> None:
        """Hand the run's Ctrl-C number `count` to the stage."""
        if count == 1:
            self.process.ask_to_save()
            self.display.say(SAVING.format(stage=self.stage))
        elif count == 2:  # noqa: PLR2004 - the second of three
            self.display.say(STILL_SAVING.format(stage=self.stage, again=self.again))
        else:
            self.process.kill()
