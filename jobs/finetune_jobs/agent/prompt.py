"""A conversation as the very tokens that training showed the model.

XTuner encodes piece by piece (``xtuner.dataset.utils.encode_fn``): system and question, answer, separator. One
encoding of the whole text can cut differently at the seams, so the pieces are kept here.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from finetune_jobs.templates import Template, bos_before, special_ids


class Message(TypedDict):
    """One message, as OpenAI and lagent write it."""

    role: Literal["system", "user", "assistant"]
    content: str


class Turn(TypedDict):
    """What stands before one answer, and the answer, which is None where the model is to give it."""

    system: str
    question: str
    answer: str | None


def turns(messages: Sequence[Message]) -> list[Turn]:
    """The conversation by XTuner's ``openai_map_fn``: user messages in a row are one question.

    A system message inside the conversation, lagent's force-stop prompt, ends the question before it: no template
    has a place for it, and XTuner's own way would move it before the observation that it follows.
    """
    found: list[Turn] = []
    system, question = "", ""
    for message in messages:
        if message["role"] == "assistant":
            found.append({"system": system, "question": question, "answer": message["content"]})
            system, question = "", ""
        elif message["role"] == "system" and not found and not question:
            system = message["content"]
        elif message["role"] == "system":
            question += ("" if question.endswith("\n") or not question else "\n") + message["content"]
        else:
            question += message["content"]
    if question or system:
        found.append({"system": system, "question": question, "answer": None})
    return found


def prompt_text(template: Template, messages: Sequence[Message]) -> str:
    """The whole prompt as one text, for people to read."""
    return "".join("".join(_pieces(template, turn, number)) for number, turn in enumerate(turns(messages), start=1))


def prompt_tokens(tokenizer: Any, template: Template, messages: Sequence[Message]) -> list[int]:
    """Token ids up to where the model answers; the last message is the user's or the system's."""
    bos, eos = special_ids(tokenizer)
    end = () if template.suffix_as_eos else eos
    tokens: list[int] = []
    for number, turn in enumerate(turns(messages), start=1):
        before, answer, separator = _pieces(template, turn, number)
        given = tokenizer.encode(before, add_special_tokens=False)
        if number == 1 or end:  # as encode_fn does after each end-of-sequence token
            tokens += bos_before(bos, given)
        tokens += given
        if turn["answer"] is not None:
            tokens += [*tokenizer.encode(answer, add_special_tokens=False), *end]
            tokens += tokenizer.encode(separator, add_special_tokens=False) if separator else []
    return tokens


def _pieces(template: Template, turn: Turn, number: int) -> tuple[str, str, str]:
    """(system and question, answer, separator) as text; the last two are empty where the model is to answer."""
    system = template.render_system(turn["system"]) if turn["system"] else ""
    before = system + template.render_instruction(turn["question"], number)
    if turn["answer"] is None:
        return before, "", ""
    return before, turn["answer"] + template.suffix, template.sep
