"""Many questions at once, each through lagent's own loop.

lagent answers one question at a time and calls the model in the midst of it. Here each question has its own loop in
its own thread, and all that ask the model meanwhile are answered in one batch: the loop is lagent's, the batch ours.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from finetune_jobs.agent.engine import Sampling
from finetune_jobs.agent.prompt import Message
from finetune_jobs.agent.react import Agent, Event
from finetune_jobs.json_lines import whole_lines

ASIDE = 0.05
"""Seconds between two looks at whether all loops wait for the model."""


class Answers(Protocol):
    """Greedy answers to several conversations, in their order."""

    def __call__(self, conversations: Sequence[Sequence[Message]]) -> list[str]: ...


class Remembered:
    """Answers that are written down as they come, so that a run that was killed takes up where it was."""

    def __init__(self, answers: Answers, path: Path) -> None:
        self._answers = answers
        self._path = path
        self._known = dict(self._read())

    def __call__(self, conversations: Sequence[Sequence[Message]]) -> list[str]:
        keys = [json.dumps(conversation, ensure_ascii=False) for conversation in conversations]
        new = {key: asked for key, asked in zip(keys, conversations, strict=True) if key not in self._known}
        if new:
            texts = dict(zip(new, self._answers(list(new.values())), strict=True))
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(pair, ensure_ascii=False) + "\n" for pair in texts.items())
            self._known.update(texts)
        return [self._known[key] for key in keys]

    def _read(self) -> Iterator[tuple[str, str]]:
        if not self._path.exists():
            return
        lines = whole_lines(self._path)
        os.truncate(self._path, sum(len(line) + 1 for line in lines))  # the rest is of a line that a kill cut
        for line in lines:
            key, text = json.loads(line)
            yield key, text


class Desk:
    """Stands in for an `Engine` in an `Agent`: questions wait here until they are answered together."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[int, list[Message]] = {}
        self._answered: dict[int, str] = {}

    def stream(
        self, messages: Sequence[Message], _sampling: Sampling, stop: threading.Event, _waiting: Callable[[int], None]
    ) -> Iterator[str]:
        """As `Engine.stream`, but the answer comes in one piece and is greedy whatever the sampling."""
        me = threading.get_ident()
        with self._changed:
            self._waiting[me] = list(messages)
            self._changed.notify_all()
            while me not in self._answered:
                if stop.is_set():
                    return
                self._changed.wait(ASIDE)
            answer = self._answered.pop(me)
        yield answer

    def serve(self, answers: Answers, loops: Sequence[threading.Thread]) -> None:
        """Answer, whenever all loops that live wait here, until all have ended."""
        while True:
            with self._changed:
                while len(self._waiting) < (alive := sum(loop.is_alive() for loop in loops)):
                    self._changed.wait(ASIDE)
                if not alive:
                    return
                asked = dict(sorted(self._waiting.items(), key=lambda item: json.dumps(item[1])))
                self._waiting = {}
            texts = answers(list(asked.values()))
            with self._changed:
                self._answered.update(zip(asked, texts, strict=True))
                self._changed.notify_all()


def follow(
    agent: Agent, desk: Desk, questions: Sequence[str], answers: Answers, done: Callable[[], None]
) -> list[list[Event]]:
    """All events of each question's turn, `agent`'s engine being `desk`; `done` is called as each turn ends."""
    found: list[list[Event]] = [[] for _ in questions]
    failures: list[BaseException] = []
    stop = threading.Event()
    one_at_a_time = threading.Lock()

    def go_round(number: int, question: str) -> None:
        try:
            found[number].extend(agent.turn(question, stop=stop))
            with one_at_a_time:
                if not stop.is_set():
                    done()
        except BaseException as error:  # noqa: BLE001  raised again below, in the stage's own thread
            failures.append(error)

    loops = [
        threading.Thread(target=go_round, args=(number, question), name=f"turn-{number}", daemon=True)
        for number, question in enumerate(questions)
    ]
    for loop in loops:
        loop.start()
    try:
        desk.serve(answers, loops)
    finally:  # whoever interrupts this finds no thread still at work in the stage's folder
        stop.set()
        for loop in loops:
            loop.join()
    if failures:
        raise failures[0]
    return found
