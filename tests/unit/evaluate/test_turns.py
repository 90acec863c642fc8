"""Many turns at once, each through lagent's own loop, the model being asked in batches."""

from collections.abc import Sequence
from typing import Any

import pytest

from finetune_jobs.agent.prompt import Message
from finetune_jobs.agent.react import Agent, Answer, Call
from finetune_jobs.evaluate.turns import Desk, Remembered, follow


class Model:
    """Calls the calculator with the question, then answers with what it saw."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, conversations: Sequence[Sequence[Message]]) -> list[str]:
        self.batches.append(len(conversations))
        return [self.one(conversation[-1]["content"]) for conversation in conversations]

    def one(self, last: str) -> str:
        if last.startswith("Response:"):
            return f"Thought:t\nFinal Answer:{last.removeprefix('Response:').strip()}"
        return f'Thought:t\nAction:Calculator\nAction Input:{{"expression": "{last}"}}'


def followed(model: Any, *asked: str, rounds: int = 3) -> list[list[Any]]:
    desk: Any = Desk()
    return follow(Agent(desk, ["Calculator"], max_turn=rounds), desk, asked, model, lambda: None)


def test_every_turn_gets_its_own_answer():
    found = followed(Model(), "1 + 1", "2 + 2", "3 + 3")
    assert [events[-1].text for events in found] == ['{"result": "2"}', '{"result": "4"}', '{"result": "6"}']
    assert all(isinstance(events[-1], Answer) and events[-1].finished for events in found)


def test_turns_that_wait_together_are_answered_in_one_batch():
    model = Model()
    followed(model, "1 + 1", "2 + 2", "3 + 3")
    assert model.batches == [3, 3]


def test_a_turn_without_an_end_is_given_up_after_the_rounds():
    def endless(conversations: Sequence[Sequence[Message]]) -> list[str]:
        return ['Thought:t\nAction:Calculator\nAction Input:{"expression": "1"}' for _ in conversations]

    [events] = followed(endless, "1", rounds=2)
    assert sum(isinstance(event, Call) for event in events) == 2
    assert not events[-1].finished


def test_what_the_model_raises_ends_all_turns():
    def broken(conversations: Sequence[Sequence[Message]]) -> list[str]:
        raise MemoryError

    with pytest.raises(MemoryError):
        followed(broken, "1 + 1", "2 + 2")


def asked(*texts: str) -> list[list[Message]]:
    return [[{"role": "user", "content": text}] for text in texts]


def test_an_answer_is_asked_for_once_even_by_the_next_run(tmp_path):
    first, second = Model(), Model()
    kept = tmp_path / "answers.jsonl"
    texts = Remembered(first, kept)(asked("a", "b", "a"))
    assert Remembered(second, kept)(asked("b", "c", "a")) == [texts[1], second.one("c"), texts[0]]
    assert (first.batches, second.batches) == ([2], [1])


BREAKS = "a\u2028b\u2029c\x85d\x1ce"
"""Where str.splitlines cuts, and JSON does not."""


def test_what_only_looks_like_the_end_of_a_line_is_remembered(tmp_path):
    kept, again = tmp_path / "answers.jsonl", Model()
    texts = Remembered(Model(), kept)(asked(BREAKS, "b"))
    assert Remembered(again, kept)(asked(BREAKS, "b")) == texts
    assert again.batches == []


def test_a_kill_in_the_midst_of_a_letter_is_a_cut_line(tmp_path):
    kept, again = tmp_path / "answers.jsonl", Model()
    texts = Remembered(Model(), kept)(asked("a", "\u2028"))
    kept.write_bytes(kept.read_bytes()[: kept.read_bytes().index("\u2028".encode()) + 1])
    assert Remembered(again, kept)(asked("a", "\u2028")) == texts
    assert again.batches == [1]


def test_a_line_that_a_kill_cut_off_is_asked_again(tmp_path):
    kept = tmp_path / "answers.jsonl"
    Remembered(Model(), kept)(asked("a", "b"))
    kept.write_text(kept.read_text()[:-7])
    again = Model()
    assert Remembered(again, kept)(asked("a", "b")) == [again.one("a"), again.one("b")]
    assert again.batches == [1]
    third = Model()
    Remembered(third, kept)(asked("a", "b"))
    assert third.batches == []
