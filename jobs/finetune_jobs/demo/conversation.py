"""What one visitor asked and was answered, by both sides at once; without Streamlit.

Each side answers in a thread of its own and writes into its `Reply`; the page draws whatever stands there, as often
as it likes. So nothing is lost when the page is drawn anew, and a stop button needs no more than an event.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic
from typing import Protocol

from finetune_jobs.agent.prompt import Message
from finetune_jobs.agent.react import Answer, Call, Event, NoAction, Observation, Text, Waiting
from finetune_jobs.demo.models import Slot
from finetune_jobs.demo.settings import Side
from finetune_jobs.errors import StageError

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
"""Between two looks at the stop button while a model loads."""
GONE_SECONDS = 20.0
"""A visitor out of reach for so long has left: the cores are for the next one."""


class State(StrEnum):
    LOADING = "loading"
    WAITING = "waiting"
    WRITING = "writing"
    CALLING = "calling"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


ENDED = {State.DONE, State.STOPPED, State.FAILED}


@dataclass
class Step:
    """One text of the model and what came of it."""

    text: str = ""
    outcome: Call | NoAction | Answer | None = None
    """None while the model still writes."""
    observation: Observation | None = None


@dataclass
class Reply:
    """One side's answer, growing."""

    state: State = State.LOADING
    ahead: int = 0
    """Others who go first, while WAITING."""
    steps: list[Step] = field(default_factory=list)
    answer: Answer | None = None
    error: str = ""
    seconds: float = 0.0
    """From the question to the end."""

    def take(self, event: Event) -> None:
        """Write down what happened."""
        match event:
            case Waiting(ahead=0):
                self.state = State.WRITING
                self.steps.append(Step())
            case Waiting():
                self.state, self.ahead = State.WAITING, event.ahead
            case Text():
                self.steps[-1].text += event.text
            case Call():
                self.steps[-1].outcome, self.state = event, State.CALLING
            case Observation():
                self.steps[-1].observation = event
            case NoAction():
                self.steps[-1].outcome = event
            case Answer():
                self.answer, self.state = event, State.DONE
                if event.finished:
                    self.steps[-1].outcome = event

    @property
    def calls(self) -> list[Call]:
        return [step.outcome for step in self.steps if isinstance(step.outcome, Call)]


class Asks(Protocol):
    """An `Agent` over an engine, made once that is loaded; a protocol so that tests need no model."""

    def turn(self, question: str, history: Sequence[Message], stop: threading.Event) -> Iterator[Event]: ...


@dataclass
class Exchange:
    """One question and a reply a side."""

    question: str
    replies: dict[Side, Reply]
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def ended(self) -> bool:
        return all(reply.state in ENDED for reply in self.replies.values())


@dataclass
class Conversation:
    """A visitor's exchanges, the latest last."""

    slots: dict[Side, Slot]
    present: Callable[[], bool] = lambda: True
    """Whether the visitor is still there."""
    exchanges: list[Exchange] = field(default_factory=list)

    @property
    def running(self) -> bool:
        return bool(self.exchanges) and not self.exchanges[-1].ended

    def ask(self, question: str, agent: Callable[[Slot], Asks], *, remember: bool) -> Exchange:
        """Let every side answer; with `remember` they see the questions and answers before."""
        exchange = Exchange(question, {side: Reply() for side in self.slots})
        histories = {side: self.history(side) if remember else [] for side in self.slots}
        self.exchanges.append(exchange)
        for side, slot in self.slots.items():
            arguments = (exchange, side, slot, agent, histories[side])
            threading.Thread(target=self._answer, args=arguments, name=side.value, daemon=True).start()
        return exchange

    def stop(self) -> None:
        """Ends what is being written; what stands there stays."""
        if self.exchanges:
            self.exchanges[-1].stop.set()

    def clear(self) -> None:
        self.stop()
        self.exchanges.clear()

    def history(self, side: Side) -> list[Message]:
        """All finished exchanges as the model saw them; one that was stopped or failed is left out."""
        messages: list[Message] = []
        for exchange in self.exchanges:
            answer = exchange.replies[side].answer
            if answer is not None:
                messages += [Message(role="user", content=exchange.question), *answer.steps]
        return messages

    def _answer(
        self, exchange: Exchange, side: Side, slot: Slot, agent: Callable[[Slot], Asks], history: list[Message]
    ) -> None:
        reply, began = exchange.replies[side], monotonic()
        try:
            visitor = _Visitor(self.present, exchange.stop)
            while not slot.ready.wait(LOOK_SECONDS):
                visitor.look()
                if exchange.stop.is_set():
                    break
            if not exchange.stop.is_set():
                for event in agent(slot).turn(exchange.question, history, exchange.stop):
                    reply.take(event)
                    visitor.look()
            if reply.state not in ENDED:
                reply.state = State.STOPPED
        except StageError as error:
            reply.error, reply.state = str(error), State.FAILED
        except Exception as error:
            log.exception("%s could not answer", side)
            reply.error, reply.state = f"The model could not answer: {error}", State.FAILED
        finally:
            reply.seconds = monotonic() - began


class _Visitor:
    """Presses the stop button for one who has left."""

    def __init__(self, present: Callable[[], bool], stop: threading.Event) -> None:
        self._present, self._stop, self._seen = present, stop, monotonic()

    def look(self) -> None:
        if self._present():
            self._seen = monotonic()
        elif monotonic() - self._seen > GONE_SECONDS:
            log.info("the visitor has left")
            self._stop.set()
