"""What is wrong with a spec, in sentences that say what to write instead."""

import difflib
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from finetune_operator.api.forms import FORMS

KEY_OF_MAP = "[key]"
"""pydantic's word, behind the key itself, for a map's key that is refused."""
FIELDS_TOLD = 4
"""Of an object that is written as a word."""


class SpecError(Exception):
    """A job that can't be taken; `problems` are sentences, one each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def nearest(word: str, known: Iterable[str]) -> str:
    """'did you mean ...?' or the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"write one of {', '.join(names)}"


def problems_of(
    error: ValidationError, root: type[BaseModel], which: Callable[[ErrorDetails], bool] = lambda _: True
) -> tuple[str, ...]:
    """One sentence per problem: ``spec.training.learningRate: ...``."""
    found = (detail for detail in error.errors() if which(detail) and not follows(detail))
    return tuple(f"{path_of(detail['loc'])}: {sentence(detail, root)}" for detail in found)


def follows(detail: ErrorDetails) -> bool:
    """Whether a list is only called too short because its items, told before, are refused."""
    return detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]


def path_of(loc: tuple[int | str, ...]) -> str:
    path = ""
    for part in (part for part in loc if part != KEY_OF_MAP):
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".") or "the job"


def sentence(detail: ErrorDetails, root: type[BaseModel]) -> str:
    say = SENTENCES.get(detail["type"])
    return (say and say(detail, root)) or detail["msg"].removeprefix("Value error, ")


def unknown_field(detail: ErrorDetails, root: type[BaseModel]) -> str:
    owner = model_at(root, detail["loc"][:-1])
    fields = [f.alias or n for n, f in owner.model_fields.items()] if owner else []
    return f"there is no such field; {nearest(str(detail['loc'][-1]), fields)}"


def unknown_name(detail: ErrorDetails, _: type[BaseModel]) -> str:
    expected = str(detail.get("ctx", {}).get("expected", ""))
    return f"{detail['input']!r} is not known; {nearest(str(detail['input']), choices(expected))}"


def not_a_string(detail: ErrorDetails, _: type[BaseModel]) -> str:
    given = detail["input"]
    if isinstance(given, bool):
        return f"is {str(given).lower()} to YAML, and strings are expected here; write it in quotes"
    if not isinstance(given, int | float):
        return "is no text; write it in quotes, or below a | where it has several lines"
    return f'{given} is a number, and strings are expected here; write it in quotes: "{given}"'


def not_an_object(detail: ErrorDetails, root: type[BaseModel]) -> str:
    """Without what was given: where a Secret is to be named, it may be the secret."""
    owner = model_at(root, detail["loc"])
    fields = [f.alias or n for n, f in owner.model_fields.items()] if owner else []
    more = ", ..." if len(fields) > FIELDS_TOLD else ""
    return f"has fields of its own; write them below it: {', '.join(fields[:FIELDS_TOLD]) or 'key: value'}{more}"


def not_a_list(detail: ErrorDetails, _: type[BaseModel]) -> str:
    given = detail["input"]
    return f"is a list; write [{given}]" if isinstance(given, str) else "is a list; write each item behind a '-'"


def form(detail: ErrorDetails) -> str:
    return FORMS[detail["ctx"]["pattern"]]


SENTENCES: dict[str, Callable[[ErrorDetails, type[BaseModel]], str | None]] = {
    "extra_forbidden": unknown_field,
    "missing": lambda detail, root: f"is required{described(root, detail['loc'])}",
    "enum": unknown_name,
    "literal_error": unknown_name,
    "string_type": not_a_string,
    "string_pattern_mismatch": lambda d, _: f"{d['input']!r} is not of the right form; {form(d)}",
    "int_type": lambda d, _: f"{d['input']!r} is not a whole number; write it without quotes and without a fraction",
    "model_type": not_an_object,
    "dict_type": not_an_object,
    "tuple_type": not_a_list,
    "greater_than_equal": lambda d, _: f"{d['input']} is too small; write {d['ctx']['ge']} or more",
    "less_than_equal": lambda d, _: f"{d['input']} is too large; write {d['ctx']['le']} or less",
    "string_too_short": lambda d, _: f"is too short; write at least {d['ctx']['min_length']} characters",
    "string_too_long": lambda d, _: f"has {len(d['input'])} characters; write at most {d['ctx']['max_length']}",
    "too_short": lambda d, _: f"has {len(d['input'])} items; write at least {d['ctx']['min_length']}",
    "too_long": lambda d, _: f"has {len(d['input'])} items; write at most {d['ctx']['max_length']}",
    "bool_type": lambda d, _: f"{d['input']!r} is neither true nor false; write one of them",
}
"""pydantic's error type -> what to say; None falls back to pydantic's own message."""


def choices(expected: str) -> list[str]:
    """pydantic's "'a', 'b' or 'c'" as names."""
    return [name.strip(" '") for name in expected.replace(" or ", ",").split(",") if name.strip()]


def described(root: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    owner = model_at(root, loc[:-1])
    for name, field in (owner.model_fields if owner else {}).items():
        if (field.alias or name) == loc[-1] and field.description:
            return f" ({field.description[0].lower()}{field.description[1:].rstrip('.')})"
    return ""


def model_at(root: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The model that holds the field at `loc`."""
    current: type[BaseModel] | None = root
    for part in loc:
        if isinstance(part, int) or current is None:
            continue
        annotations = {f.alias or n: f.annotation for n, f in current.model_fields.items()}
        current = model_in(annotations.get(part))
    return current


def model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    found = (model_in(part) for part in typing.get_args(annotation))
    return next((model for model in found if model is not None), None)
