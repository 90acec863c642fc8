"""What a visitor sees of two models that answer at once."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_jobs.agent.react import Answer, Call, NoAction, Observation, Text, Waiting
from finetune_jobs.demo import conversation as module
from finetune_jobs.demo.conversation import Conversation, State
from finetune_jobs.demo.look import reply_html, verdict
from finetune_jobs.demo.models import Slot
from finetune_jobs.demo.settings import Side
from finetune_jobs.errors import UserMistake

CALL = Call("I search.", "ArxivSearch.find", '{"query": "a"}', {"query": "a"}, None)
BROKEN = Call("I search.", "ArxivSearch.find", "query=a", None, "invalid json format: query=a")
DONE = Answer("It is <b>so</b>.", finished=True, steps=({"role": "assistant", "content": "t"},))
SORRY = Answer("Sorry.", finished=False, steps=())
GOOD = [Waiting(0), Text("Thought"), CALL, Observation('{"content": "one\\ntwo"}', failed=False), Waiting(0), DONE]


class Scripted:
    """An agent that tells prepared events, once it may."""

    def __init__(self, events: list[Any], gate: threading.Event | None = None) -> None:
        self.events, self.gate, self.histories = events, gate, []

    def turn(self, question: str, history: Any, stop: threading.Event) -> Iterator[Any]:
        self.histories.append(history)
        for event in self.events:
            if isinstance(event, Exception):
                raise event
            yield event
        while self.gate and not self.gate.wait(0.01) and not stop.is_set():
            yield Waiting(2)


def talk(*sides: Side, loaded: bool = True) -> Conversation:
    slots = {side: Slot(Path(side), "qwen_chat") for side in sides or (Side.TUNED,)}
    if loaded:
        for slot in slots.values():
            slot.ready.set()
    return Conversation(slots)


def until(condition: Callable[[], bool]) -> None:
    wait = threading.Event()
    for _ in range(3000):
        if condition():
            return
        wait.wait(0.01)
    pytest.fail("the condition was never met")


def answered(events: list[Any]) -> module.Reply:
    conversation = talk()
    exchange = conversation.ask("q", lambda slot: Scripted(events), remember=False)
    until(lambda: exchange.ended)
    return exchange.replies[Side.TUNED]


def test_both_sides_answer_the_same_question():
    conversation = talk(Side.BASE, Side.TUNED)
    agents = {
        Path("base"): Scripted([Waiting(0), Text("x"), NoAction("x", "no"), SORRY]),
        Path("tuned"): Scripted(GOOD),
    }
    exchange = conversation.ask("q", lambda slot: agents[slot.folder], remember=False)
    until(lambda: exchange.ended)
    assert verdict(exchange.replies[Side.BASE]) == ("bad", "✗ no tool call")
    assert verdict(exchange.replies[Side.TUNED]) == ("good", "✓ called ArxivSearch")
    assert not conversation.running


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (GOOD, ("good", "✓ called ArxivSearch")),
        ([Waiting(0), BROKEN, Observation("x", failed=True), SORRY], ("bad", "✗ broken tool call")),
        ([Waiting(0), DONE], ("plain", "answered without a tool")),
        ([Waiting(0), NoAction("x", "no"), SORRY], ("bad", "✗ no tool call")),
        ([Waiting(0), RuntimeError("boom")], ("bad", "failed")),
    ],
)
def test_a_reply_is_judged_at_a_glance(events: list[Any], expected: tuple[str, str]):
    assert verdict(answered(events)) == expected


def test_call_json_observation_and_answer_are_all_shown_and_escaped():
    html = reply_html(Side.TUNED, answered(GOOD))
    assert "&quot;query&quot;: &quot;a&quot;" in html
    assert "one\ntwo" in html
    assert "It is &lt;b&gt;so&lt;/b&gt;." in html
    assert 'data-side="tuned" data-state="done"' in html


def test_a_broken_call_is_shown_with_what_was_written_and_why_it_failed():
    html = reply_html(Side.BASE, answered([Waiting(0), BROKEN, Observation("no", failed=True), SORRY]))
    assert "<pre>query=a</pre>" in html
    assert '<div class="error">invalid json format: query=a</div>' in html


def test_a_failure_is_told_with_its_cure():
    reply = answered([Waiting(0), UserMistake("ConversationTooLong", "It is too long.", "Clear it.")])
    assert reply.state is State.FAILED
    assert "It is too long. Clear it." in reply_html(Side.TUNED, reply)


def test_the_place_in_the_queue_is_shown_and_stop_keeps_what_was_written():
    conversation = talk()
    scripted = Scripted([Waiting(0), Text("half")], threading.Event())
    exchange = conversation.ask("q", lambda slot: scripted, remember=False)
    reply = exchange.replies[Side.TUNED]
    until(lambda: reply.state is State.WAITING)
    assert verdict(reply) == ("busy", "waiting, 2 ahead")
    conversation.stop()
    until(lambda: exchange.ended)
    assert reply.state is State.STOPPED
    assert reply.steps[0].text == "half"


def test_a_question_waits_for_the_weights():
    conversation = talk(loaded=False)
    exchange = conversation.ask("q", lambda slot: Scripted(GOOD), remember=False)
    assert exchange.replies[Side.TUNED].state is State.LOADING
    conversation.slots[Side.TUNED].ready.set()
    until(lambda: exchange.ended)
    assert exchange.replies[Side.TUNED].state is State.DONE


def test_a_question_can_be_stopped_while_the_weights_load():
    conversation = talk(loaded=False)
    exchange = conversation.ask("q", lambda slot: Scripted(GOOD), remember=False)
    conversation.stop()
    until(lambda: exchange.ended)
    assert exchange.replies[Side.TUNED].state is State.STOPPED


def test_earlier_questions_are_remembered_only_when_asked_for():
    conversation, scripted = talk(), Scripted(GOOD)
    for remember in (False, False, True):
        exchange = conversation.ask("q", lambda slot: scripted, remember=remember)
        until(lambda: exchange.ended)  # noqa: B023  called at once
    once = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "t"}]
    assert scripted.histories == [[], [], once * 2]


def test_clear_stops_and_forgets():
    conversation = talk()
    exchange = conversation.ask("q", lambda slot: Scripted([Waiting(0)], threading.Event()), remember=False)
    conversation.clear()
    until(lambda: exchange.ended)
    assert conversation.exchanges == []


def test_who_left_does_not_keep_the_others_waiting(monkeypatch):
    monkeypatch.setattr(module, "GONE_SECONDS", 0.05)
    conversation = talk()
    conversation.present = lambda: False
    exchange = conversation.ask("q", lambda slot: Scripted([Waiting(0)], threading.Event()), remember=False)
    until(lambda: exchange.ended)
    assert exchange.stop.is_set()
