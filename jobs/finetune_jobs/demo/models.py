"""The weights of both sides: loaded once, in the background, shared by all sessions."""

import logging
import threading
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_jobs.demo.settings import Side, read_settings
from finetune_jobs.errors import MachineTrouble, StageError, first_line
from finetune_jobs.trouble import trouble_in

if TYPE_CHECKING:  # torch comes with the first load, not with the page
    from finetune_jobs.agent.engine import Engine

log = logging.getLogger(__name__)


@dataclass
class Slot:
    """One side's model, sooner or later."""

    folder: Path
    template: str
    ready: threading.Event = field(default_factory=threading.Event)
    """Set when `engine` or `failure` is there."""
    engine: "Engine | None" = None
    failure: StageError | None = None

    def load(self) -> None:
        from finetune_jobs.agent.engine import Engine

        try:
            self.engine = Engine(self.folder, self.template)
        except Exception as error:
            log.exception("%s can't be loaded", self.folder)
            self.failure = not_loaded(error)
        self.ready.set()


def not_loaded(error: Exception) -> StageError:
    """Why a model that was merged and checked can't be loaded here."""
    if isinstance(error, StageError):
        return error
    return trouble_in(error) or MachineTrouble(
        "ModelNotLoaded",
        f"The model can't be loaded: {type(error).__name__}: {first_line(error).removesuffix('.')}.",
        "See the traceback in the demo's log.",
    )


class Shelf:
    """A slot a side; `load` may be called by many and works once."""

    def __init__(self, folders: dict[Side, Path], template: str) -> None:
        self.slots = {side: Slot(folder, template) for side, folder in folders.items()}
        self._begun = threading.Lock()

    def load(self) -> None:
        """Start loading in the background; the second call and later ones do nothing."""
        if self._begun.acquire(blocking=False):
            threading.Thread(target=self._load_all, name="load", daemon=True).start()

    def wait(self) -> StageError | None:
        """Until all are loaded, or the first can't be: why."""
        for slot in self.slots.values():
            slot.ready.wait()
            if slot.failure is not None:
                return slot.failure
        return None

    def _load_all(self) -> None:
        for slot in self.slots.values():
            slot.load()


@cache
def shelf() -> Shelf:
    """This process's only one."""
    settings = read_settings()
    return Shelf(settings.models, settings.template)
