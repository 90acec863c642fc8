"""One question through lagent's own ReAct loop, as a stream of events.

lagent's `ReAct`, `ReActProtocol` and `ActionExecutor` do the work; what is added is hung in where they let go: the
model behind `chat`, events around each call of a tool, and the observation as a user turn, because XTuner's
templates, and so the training data, know no system turn in mid-conversation.
"""

import json
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

from lagent.actions import ActionExecutor
from lagent.actions.parser import ParseError
from lagent.agents.react import CALL_PROTOCOL_EN, FORCE_STOP_PROMPT_EN, ReAct, ReActProtocol
from lagent.schema import ActionReturn, ActionStatusCode, ActionValidCode

from finetune_jobs.agent.engine import Engine, Sampling
from finetune_jobs.agent.prompt import Message
from finetune_jobs.agent.tools import make_executor
from finetune_jobs.errors import UserMistake, first_line

log = logging.getLogger(__name__)

MAX_TURN = 4
"""Model calls for one question, as lagent's own default."""
PLACES = ("tool_description", "action_names", "thought", "action", "action_input", "response", "finish")
"""What lagent fills into a call protocol."""


@dataclass(frozen=True)
class Waiting:
    """Others go first; 0: it is this question's turn."""

    ahead: int


@dataclass(frozen=True)
class Text:
    """The next piece of what the model writes."""

    text: str


@dataclass(frozen=True)
class Call:
    """The model called a tool, well or badly."""

    thought: str
    name: str
    """As the model wrote it, such as ArxivSearch.get_arxiv_article_information."""
    raw: str
    """The arguments as the model wrote them."""
    arguments: dict[str, Any] | None
    """The JSON object, when the tool's own parser takes it."""
    error: str | None
    """Why the tool can't take the call."""


@dataclass(frozen=True)
class Observation:
    """What the tool answered, as the model reads it."""

    text: str
    failed: bool


@dataclass(frozen=True)
class NoAction:
    """The model wrote neither a call nor a final answer."""

    text: str
    reply: str
    """What lagent answers it."""


@dataclass(frozen=True)
class Answer:
    """The end: the model's final answer, or lagent's apology when `finished` is False."""

    text: str
    finished: bool
    steps: tuple[Message, ...]
    """All messages after the question: the history for the next one."""


Event = Waiting | Text | Call | Observation | NoAction | Answer


class Protocol(ReActProtocol):  # type: ignore[misc]
    """lagent's own, with the observation as the user's message."""

    def format_response(self, action_return: ActionReturn) -> dict[str, str]:
        return dict(super().format_response(action_return), role="user")


def check_call_protocol(text: str) -> None:
    """Refuse what `str.format` does beyond filling in: a visitor's {thought:>150000000} would take 150 MB."""
    try:
        for _, name, spec, conversion in Formatter().parse(text):
            if name is not None and (name not in PLACES or spec or conversion):
                written = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                raise _unfit(repr(written))
    except ValueError as error:
        raise _unfit(str(error)) from None


def _unfit(place: str) -> UserMistake:
    *most, last = (f"{{{name}}}" for name in PLACES)
    return UserMistake(
        "CallProtocolInvalid",
        f"The call protocol has a place that nothing fills: {first_line(place)}.",
        f"Use only {', '.join(most)} and {last}; write {{{{ and }}}} for braces.",
    )


@dataclass
class Agent:
    """An engine with tools and prompts, for any number of questions.

    Raises UserMistake for an unknown tool and for a call protocol that can't be filled in.
    """

    engine: Engine
    tools: Sequence[str] = ("ArxivSearch",)
    max_turn: int = MAX_TURN
    call_protocol: str = CALL_PROTOCOL_EN
    force_stop: str = FORCE_STOP_PROMPT_EN
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        check_call_protocol(self.call_protocol)
        self.protocol = Protocol(call_protocol=self.call_protocol, force_stop=self.force_stop)
        self.executor = make_executor(self.tools)

    def messages(self, question: str, history: Sequence[Message] = ()) -> list[Message]:
        """What the model is given first: system prompt, history, question."""
        asked = [*history, Message(role="user", content=question)]
        return list(self.protocol.format(chat_history=[], inner_step=asked, action_executor=self.executor))

    def read(self, text: str) -> Call | NoAction | Answer:
        """What lagent's parser makes of one text of the model."""
        thought, name, argument = self.protocol.parse(text, self.executor)
        if name == self.executor.finish_action.name:
            return Answer(argument.strip(), finished=True, steps=())
        if name == self.executor.no_action.name:
            return NoAction(text, self.executor.no_action("").errmsg)
        return self.read_call(thought, name, argument)

    def read_call(self, thought: str, name: str, raw: str) -> Call:
        """The call with its arguments, judged by the tool's own parser."""
        tool_name, _, api = name.partition(".")
        try:
            if not self.executor.is_valid(tool_name):
                raise ParseError(f"there is no tool {tool_name!r}")
            action = self.executor.actions[tool_name]
            parser = action._parser  # noqa: SLF001  lagent offers no public way to it
            if (api or "run") not in parser._api2param:  # noqa: SLF001
                raise ParseError(f"{tool_name} has no function {api!r}")
            arguments = parser.parse_inputs(raw, api or "run")
        except ParseError as error:
            return Call(thought.strip(), name, raw, _json_object(raw), error.err_msg)
        except TypeError:  # lagent's parser takes set() of whatever JSON value it gets
            return Call(thought.strip(), name, raw, None, f"not a JSON object: {raw}")
        return Call(thought.strip(), name, raw, arguments, None)

    def turn(
        self, question: str, history: Sequence[Message] = (), stop: threading.Event | None = None
    ) -> Iterator[Event]:
        """Events up to an `Answer`. After `stop`, or when the iterator is closed, no more come and generation ends."""
        stop = stop or threading.Event()
        left = _Either(stop)
        events: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
        asked = [*history, Message(role="user", content=question)]
        threading.Thread(target=self._chat, args=(asked, events.put, left), name="react", daemon=True).start()
        try:
            while not stop.is_set():
                try:
                    event = events.get(timeout=0.1)
                except queue.Empty:
                    continue
                if event is None:
                    return
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            left.set()

    def _chat(
        self, asked: list[Message], emit: Callable[[Event | BaseException | None], None], stop: threading.Event
    ) -> None:
        """Runs lagent's loop in a thread of its own, since it returns only at the end."""
        try:
            model = _Model(self.engine, self.sampling, emit, stop)
            react = ReAct(
                llm=model,
                action_executor=_Executor(self, model, emit),
                protocol=self.protocol,
                max_turn=self.max_turn,
            )
            done = react.chat(asked)
            finished = bool(done.actions) and done.actions[-1].type == self.executor.finish_action.name
            emit(Answer(done.response.strip(), finished, tuple(done.inner_steps)))
        except _Stopped:
            log.info("stopped by the user")
        except BaseException as error:  # noqa: BLE001  carried to the reader of `turn`
            emit(error)
        finally:
            emit(None)


class _Stopped(Exception):
    """Leaves lagent's loop, which knows no other way out."""


class _Either(threading.Event):
    """Set when it is set itself or the other event is."""

    def __init__(self, other: threading.Event) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or self._other.is_set()


@dataclass
class _Model:
    """What lagent takes for a language model: it calls nothing but `chat`."""

    engine: Engine
    sampling: Sampling
    emit: Callable[[Event], None]
    stop: threading.Event
    latest: str = ""
    """What the model wrote last."""

    def chat(self, messages: list[Message]) -> str:
        self.latest = ""
        for piece in self.engine.stream(messages, self.sampling, self.stop, lambda n: self.emit(Waiting(n))):
            self.latest += piece
            self.emit(Text(piece))
        if self.stop.is_set():
            raise _Stopped
        return self.latest


class _Executor(ActionExecutor):  # type: ignore[misc]
    """The agent's actions, each call told as events, and no call ever breaking the loop."""

    def __init__(self, agent: Agent, model: _Model, emit: Callable[[Event], None]) -> None:
        super().__init__(actions=list(agent.executor.actions.values()))
        self._agent, self._model, self._emit = agent, model, emit

    def __call__(self, name: str, command: str) -> ActionReturn:
        meant = self._agent.read(self._model.latest)
        if isinstance(meant, Answer):
            return super().__call__(name, command)
        self._emit(meant)
        if isinstance(meant, NoAction):
            return super().__call__(name, command)
        done = self._run(meant, command)
        failed = done.state != ActionStatusCode.SUCCESS
        self._emit(Observation(done.errmsg if failed else done.format_result(), failed))
        return done

    def _run(self, call: Call, command: str) -> ActionReturn:
        try:
            return super().__call__(call.name, command)
        except Exception as error:  # noqa: BLE001  lagent breaks on a.b.c, on unknown functions and on JSON that is no object
            log.info("%s(%r): %s: %s", call.name, command, type(error).__name__, error)
            return ActionReturn(
                args={"inputs": command},
                type=call.name,
                errmsg=call.error or f"{type(error).__name__}: {error}",
                state=ActionStatusCode.API_ERROR,
                valid=ActionValidCode.INVALID,
            )


def _json_object(raw: str) -> dict[str, Any] | None:
    try:
        value = json.loads(raw)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
