"""The example's training rows: made by their generator, in the published format, apart from what measures them."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from finetune_jobs.agent.react import Agent, Answer, Call
from finetune_jobs.contract import Prompt
from finetune_jobs.evaluate.questions import questions

EXAMPLES = Path(__file__).parents[2] / "examples"
ROWS = EXAMPLES / "react-data"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_data", EXAMPLES / "smollm2-react" / "make_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def conversations() -> list[list[dict[str, Any]]]:
    lines = [line for path in sorted(ROWS.glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
    return [json.loads(line)["conversation"] for line in lines]


@pytest.fixture(scope="module")
def words() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((EXAMPLES / "smollm2-react" / "words.yaml").read_text(encoding="utf-8"))
    return found


def dev_prompts() -> list[Prompt]:
    rows = yaml.safe_load((EXAMPLES / "smollm2-react" / "dev-prompts.yaml").read_text(encoding="utf-8"))
    return [Prompt.model_validate(row) for row in rows]


def test_the_committed_rows_are_what_the_generator_makes(generator, tmp_path):
    generator.make(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {p.name: p.read_bytes() for p in ROWS.iterdir()}


def test_the_rows_are_small():
    assert sum(path.stat().st_size for path in ROWS.iterdir()) < 500_000


def test_every_message_says_whether_it_is_learned(conversations):
    for conversation in conversations:
        assert [message["loss"] for message in conversation] == [m["role"] == "assistant" for m in conversation]


def test_every_answer_is_read_by_lagent_as_it_is_meant(conversations):
    nobody: Any = None
    agent = Agent(nobody, ["ArxivSearch", "Calculator"])
    for conversation in conversations:
        for message, after in zip(conversation, [*conversation[1:], None], strict=True):
            if message["role"] != "assistant":
                continue
            read = agent.read(message["content"])
            observed = after is not None and after["content"].startswith("Response:")
            assert isinstance(read, Call if observed else Answer)
            assert not isinstance(read, Call) or read.error is None


def test_the_prompts_are_the_ones_that_the_demo_sends(conversations):
    nobody: Any = None
    sent = {
        Agent(nobody, tools).messages("")[0]["content"] for tools in (["ArxivSearch"], ["ArxivSearch", "Calculator"])
    }
    assert {conversation[0]["content"] for conversation in conversations} == sent


def wording(question: str, argument: str | None = None) -> str:
    """The question without its topic and its numbers, and without case and signs."""
    rest = question.replace(argument, " ") if argument else question
    return " ".join(re.findall(r"[^\W\d]+", rest.casefold()))


def trained_wordings(words: dict[str, Any]) -> set[str]:
    asked = [*words["questions"], *(q for q, _ in words["sums"]), *(q for q, _ in words["plain_pairs"])]
    return {wording(re.sub(r"\{\w*\}", " ", question)) for question in asked}


def held_out_wordings(prompts: list[Prompt]) -> dict[str, str]:
    return {wording(p.question, next(iter((p.arguments or {}).values()), None)): p.question for p in prompts}


MEASURING = {
    "the held-out set": lambda: list(questions("two-tools-react")),
    "the set of the recipe search": dev_prompts,
}


@pytest.mark.parametrize("name", MEASURING)
def test_no_wording_that_measures_is_trained(name, words):
    measuring = held_out_wordings(MEASURING[name]())
    assert {measuring[same] for same in measuring.keys() & trained_wordings(words) if same} == set()


@pytest.mark.parametrize("name", MEASURING)
def test_no_topic_that_measures_is_trained(name, conversations):
    everything = " ".join(message["content"] for c in conversations for message in c).casefold()
    topics = [p.arguments["query"] for p in MEASURING[name]() if p.arguments and "query" in p.arguments]
    assert [topic for topic in topics if re.search(rf"\b{re.escape(topic.casefold())}\b", everything)] == []


def test_the_two_measuring_sets_share_nothing():
    held_out, dev = list(questions("two-tools-react")), dev_prompts()
    assert held_out_wordings(held_out).keys() & held_out_wordings(dev).keys() <= {""}
    given = [{(p.arguments or {}).get("query", p.question).casefold() for p in prompts} for prompts in (held_out, dev)]
    assert given[0] & given[1] == set()
