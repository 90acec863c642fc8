"""One raw row -> a `Conversation` that XTuner's templates can express without losing or inventing a word.

``xtuner.dataset.map_fns.openai_map_fn`` (0.2.0) turns messages into turns of (system, input, output). Where it keeps
every word in its order, the turns here are the same. Where it silently harms a row (a system message that becomes an
empty user turn, texts joined without a separator, a missing `loss` that is read as False, ...), the row is repaired
and the report names it; a row that can't be read in one way only is `NotUnderstood`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from finetune_jobs.contract import DatasetFormat

ROLES = ("system", "user", "assistant")
JOINT = "\n"
"""Stands between two texts that must become one."""
COLUMN = {
    DatasetFormat.AGENT_FLAN: "conversation",
    DatasetFormat.MESSAGES: "messages",
    DatasetFormat.XTUNER: "messages",
}
"""Where a row keeps its messages."""

REPAIRS = {
    "missing_loss": "An assistant message without `loss` among ones that should have it: trained, as XTuner's default "
    "says. XTuner itself reads the None that Arrow fills in as False and trains nothing.",
    "loss_as_text": "`loss` was 'true' or 'false' as text: read as such.",
    "loss_as_number": "`loss` was 0 or 1: read as false or true. XTuner would not train either.",
    "loss_outside_assistant": "`loss` was true on a system or user message: XTuner can't train those, nor is it done.",
    "system_turned_user": "A system message that no user message follows: its text became part of the user turn. "
    "XTuner makes it an empty user turn, or moves it before the user's words.",
    "system_messages_joined": "Several system messages in a row: joined by a line break. XTuner keeps the last only.",
    "user_turns_joined": "Several user messages in a row: joined by a line break. XTuner joins them without one.",
    "assistant_turns_joined": "Several assistant messages in a row: joined by a line break. XTuner puts an empty user "
    "turn between them.",
    "leading_assistant_dropped": "Assistant messages before any user message: left out, as XTuner does.",
    "trailing_turns_dropped": "Messages after the last assistant message: left out, as XTuner does.",
}
NOTES = {
    "loss_false": "At least one assistant turn is marked `loss: false` and is not trained, as the row says.",
    "system_in_conversation": "A system message stands before a later user message: kept as a system turn.",
}
DROPS = {
    "broken_json": "The line is not JSON.",
    "not_utf8": "The text is not UTF-8, or holds half of a surrogate pair.",
    "not_a_row": "The line is JSON, but no object.",
    "no_messages": "The row has no list of messages where its format keeps it.",
    "not_a_message": "A message is no object, or has no role.",
    "unknown_role": "A role other than system, user and assistant.",
    "content_not_text": "A message's content is no text.",
    "tool_calls": "A message calls tools in fields of its own, which no template expresses.",
    "bad_loss": "`loss` or `weight` is neither true nor false.",
    "assistant_turns_disagree": "Assistant messages in a row of which only some are to be trained.",
    "no_assistant_turn": "No assistant message follows a user message.",
    "nothing_supervised": "Every assistant turn is marked `loss: false`.",
    "too_long": "The first trained turn does not fit into max_length.",
    "bad_tokens": "input_ids and labels do not belong together, or not to this tokenizer.",
}


class NotUnderstood(Exception):
    """The row is dropped; `reason` is a key of DROPS."""

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(why)
        self.reason = reason
        self.why = why


class Turn(NamedTuple):
    """What XTuner's map function calls a single-turn conversation."""

    system: str
    """Empty: no system text."""
    input: str
    output: str
    loss: bool


class Conversation(NamedTuple):
    turns: tuple[Turn, ...]
    repaired: frozenset[str] = frozenset()
    """Keys of REPAIRS."""
    noted: frozenset[str] = frozenset()
    """Keys of NOTES."""

    def messages(self) -> list[dict[str, str | bool]]:
        """As messages with every `loss` filled: XTuner's own functions make the same turns of them."""
        made: list[dict[str, str | bool]] = []
        for turn in self.turns:
            if turn.system:
                made.append({"role": "system", "content": turn.system, "loss": False})
            made.append({"role": "user", "content": turn.input, "loss": False})
            made.append({"role": "assistant", "content": turn.output, "loss": turn.loss})
        return made


class Message(NamedTuple):
    role: str
    content: str
    loss: bool


def conversation(row: object, form: DatasetFormat) -> Conversation:
    """Read a decoded row; NotUnderstood if it can't be read in one way only."""
    found: set[str] = set()
    raw = messages_of(row, form)
    check_all_are_messages(raw)
    expected = form is DatasetFormat.AGENT_FLAN or any(
        "loss" in message or "weight" in message for message in raw if message["role"] == "assistant"
    )
    messages = [read_message(message, place, found, expected=expected) for place, message in enumerate(raw, start=1)]
    noted: set[str] = set()
    turns = Turns(found, noted)
    for message in messages:
        turns.take(message)
    made = turns.finish()
    if any(not turn.loss for turn in made):
        noted.add("loss_false")
    return Conversation(tuple(made), frozenset(found), frozenset(noted))


def messages_of(row: object, form: DatasetFormat) -> Sequence[Any]:
    if not isinstance(row, Mapping):
        raise NotUnderstood("not_a_row", f"a JSON {type(row).__name__} stands where an object should")
    column = COLUMN[form]
    messages = row.get(column)
    if isinstance(messages, list) and messages:
        return messages
    if column in row:
        raise NotUnderstood("no_messages", f"{column!r} is not a list of messages")
    keys = ", ".join(sorted(map(str, row))[:8]) or "none"
    raise NotUnderstood("no_messages", f"there is no {column!r}; the row's keys: {keys}")


def check_all_are_messages(raw: Sequence[Any]) -> None:
    for place, message in enumerate(raw, start=1):
        if not isinstance(message, Mapping):
            raise NotUnderstood("not_a_message", f"message {place} is a {type(message).__name__}, not an object")
        if "role" not in message:
            raise NotUnderstood("not_a_message", f"message {place} has no role; its keys: {', '.join(message)}")
        if message["role"] not in ROLES:
            raise NotUnderstood("unknown_role", f"message {place} has the role {message['role']!r}, not {ROLES}")


def read_message(raw: Mapping[str, Any], place: int, found: set[str], *, expected: bool) -> Message:
    """`expected`: a missing loss is worth a word in the report."""
    role = raw["role"]
    content = text_of(raw, place)
    loss = loss_of(raw, place, found)
    if role != "assistant":
        if loss:
            found.add("loss_outside_assistant")
        return Message(role, content, loss=False)
    if loss is None and expected:
        found.add("missing_loss")
    return Message(role, content, loss=loss is not False)


def text_of(raw: Mapping[str, Any], place: int) -> str:
    if raw.get("tool_calls") or raw.get("function_call"):
        raise NotUnderstood("tool_calls", f"message {place} calls tools in a field; write the call into its content")
    content = raw.get("content")
    if isinstance(content, list) and content and all(is_text_part(part) for part in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        kind = "missing" if content is None else f"a {type(content).__name__}"
        raise NotUnderstood("content_not_text", f"the content of message {place} is {kind}")
    if not content.isascii():
        check_encodes(content, place)
    return content


def is_text_part(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def check_encodes(content: str, place: int) -> None:
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise NotUnderstood("not_utf8", f"message {place} holds half of a surrogate pair: {error.reason}") from None


def loss_of(raw: Mapping[str, Any], place: int, found: set[str]) -> bool | None:
    """The message's `loss`, or the `weight` of OpenAI's fine-tuning files; None if it has neither."""
    value = raw.get("loss")
    if value is None:
        weight = raw.get("weight")
        if weight is None:
            return None
        if weight in (0, 1):
            return bool(weight)
        raise NotUnderstood("bad_loss", f"the weight of message {place} is {weight!r}, not 0 or 1")
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        found.add("loss_as_text")
        return value.lower() == "true"
    if isinstance(value, int | float) and value in (0, 1):
        found.add("loss_as_number")
        return bool(value)
    raise NotUnderstood("bad_loss", f"the loss of message {place} is {value!r}, not true or false")


class Turns:
    """Collects turns from messages in order; what was repaired and noted goes to the two sets."""

    def __init__(self, repaired: set[str], noted: set[str]) -> None:
        self.repaired = repaired
        self.noted = noted
        self.made: list[Turn] = []
        self.waiting: list[Message] = []
        """System and user messages since the last assistant message."""

    def take(self, message: Message) -> None:
        if message.role != "assistant":
            self.waiting.append(message)
        elif not self.made and not any(one.role == "user" for one in self.waiting):
            self.repaired.add("leading_assistant_dropped")
        elif not self.waiting:
            self.lengthen(message)
        else:
            self.close(message)

    def lengthen(self, message: Message) -> None:
        """An assistant message right after another."""
        last = self.made[-1]
        if last.loss != message.loss:
            raise NotUnderstood("assistant_turns_disagree", "assistant messages in a row have different `loss`")
        self.repaired.add("assistant_turns_joined")
        self.made[-1] = last._replace(output=last.output + JOINT + message.content)

    def close(self, answer: Message) -> None:
        first_user = next((i for i, one in enumerate(self.waiting) if one.role == "user"), 0)
        systems, said = self.waiting[:first_user], self.waiting[first_user:]
        if len(systems) > 1:
            self.repaired.add("system_messages_joined")
        if systems and self.made:
            self.noted.add("system_in_conversation")
        if any(one.role == "system" for one in said):
            self.repaired.add("system_turned_user")
        if sum(one.role == "user" for one in said) > 1:
            self.repaired.add("user_turns_joined")
        self.made.append(Turn(joined(systems), joined(said), answer.content, answer.loss))
        self.waiting = []

    def finish(self) -> list[Turn]:
        if not self.made:
            raise NotUnderstood("no_assistant_turn", "no assistant message follows a user message")
        if not any(turn.loss for turn in self.made):
            raise NotUnderstood("nothing_supervised", "every assistant turn is marked `loss: false`")
        if self.waiting:
            self.repaired.add("trailing_turns_dropped")
        return self.made


def joined(messages: Iterable[Message]) -> str:
    return JOINT.join(message.content for message in messages)
