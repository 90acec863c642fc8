"""The questions that a model is judged by: built-in sets by name, and the check that any set can be judged."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from finetune_jobs.contract import Prompt
from finetune_jobs.errors import UserMistake

FOLDER = Path(__file__).parent / "prompts"
FILES: dict[str, tuple[str, str] | None] = {
    "arxiv": ("ArxivSearch.get_arxiv_article_information", "query"),
    "calculator": ("Calculator", "expression"),
    "plain": None,
}
"""By file: the API that its questions need and the API's parameter; a row is [question, that argument]."""
SETS = {
    "arxiv-react": ("arxiv", "plain"),
    "two-tools-react": ("arxiv", "calculator", "plain"),
}
DEFAULT_TOOL = "ArxivSearch"
"""Offered when no question needs a tool."""


def questions(asked: tuple[Prompt, ...] | str) -> tuple[Prompt, ...]:
    """The prompts themselves, or the built-in set of that name; UserMistake naming the nearest set."""
    if not isinstance(asked, str):
        return asked
    if asked not in SETS:
        near = get_close_matches(asked, SETS, n=1, cutoff=0.3)
        write = f"Write prompts: {near[0]}, or" if near else "Write"
        raise UserMistake(
            "PromptsUnknown",
            f"There is no built-in set of prompts {asked!r}.",
            f"{write} one of: {', '.join(sorted(SETS))}; your own go to spec.evaluation.promptsFrom.",
        )
    return tuple(prompt for name in SETS[asked] for prompt in _read(name))


def _read(name: str) -> list[Prompt]:
    rows = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    needed = FILES[name]
    if needed is None:
        return [Prompt(question=question) for (question,) in rows]
    tool, parameter = needed
    return [Prompt(question=question, tool=tool, arguments={parameter: value}) for question, value in rows]


def tools_of(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """Names of the tools that these prompts need, in the order of their first use."""
    named = [prompt.tool.partition(".")[0] for prompt in prompts if prompt.tool]
    return tuple(dict.fromkeys(named)) or (DEFAULT_TOOL,)


def check(prompts: Sequence[Prompt], described: Sequence[Mapping[str, Any]]) -> None:
    """UserMistake for a prompt that no answer could satisfy. `described` is lagent's ``get_actions_info()``."""
    parameters = {api["name"]: {p["name"] for p in api["parameters"]} for api in described}
    if not any(prompt.tool for prompt in prompts):
        raise UserMistake(
            "PromptsWithoutTool",
            "None of the prompts needs a tool, so the rate of well-formed calls can't be told.",
            f"Give some prompts a tool, such as tool: {next(iter(parameters))}.",
        )
    for number, prompt in enumerate(prompts, start=1):
        _check_one(f"Prompt {number}, {prompt.question!r}:", prompt, parameters)


def _check_one(which: str, prompt: Prompt, parameters: Mapping[str, set[str]]) -> None:
    if prompt.tool is None:
        if prompt.arguments:
            raise UserMistake("PromptInvalid", f"{which} arguments without a tool.", "Add tool, or drop arguments.")
        return
    if prompt.tool not in parameters:
        near = get_close_matches(prompt.tool, parameters, n=1, cutoff=0.0)[0]
        raise UserMistake("PromptInvalid", f"{which} there is no API {prompt.tool!r}.", f"Write tool: {near}.")
    unknown = sorted(set(prompt.arguments or {}) - parameters[prompt.tool])
    if unknown:
        known = ", ".join(sorted(parameters[prompt.tool]))
        raise UserMistake(
            "PromptInvalid", f"{which} {prompt.tool} takes no argument {unknown[0]!r}.", f"It takes {known}."
        )
