"""lagent's loop as events: good calls, broken calls, no call, and an end that is always reached."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from lagent.actions import ActionExecutor, ArxivSearch
from lagent.agents.react import CALL_PROTOCOL_CN, ReActProtocol
from lagent.schema import ActionReturn

from finetune_jobs.agent.react import Agent, Answer, Call, NoAction, Observation, Text, Waiting
from finetune_jobs.agent.tools import BoundedArxivSearch
from finetune_jobs.errors import UserMistake

API = "ArxivSearch.get_arxiv_article_information"
FINAL = "Thought:I know.\nFinal Answer:你好, done."


class Script:
    """An engine that says what it is told to, and keeps what it was given."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.given: list[list[dict[str, str]]] = []

    def stream(self, messages: Any, sampling: Any, stop: threading.Event, waiting: Any) -> Iterator[str]:
        self.given.append(list(messages))
        waiting(0)
        text = self.texts.pop(0)
        yield text[:5]
        yield text[5:]


def call(arguments: str, api: str = API) -> str:
    return f"Thought:I search.\nAction:{api}\nAction Input:{arguments}"


@pytest.fixture(autouse=True)
def arxiv(monkeypatch):
    """ArxivSearch answers what was asked, without a network."""
    monkeypatch.setattr(
        BoundedArxivSearch, "get_arxiv_article_information", lambda self, query: {"content": f"found {query}"}
    )


def run(*texts: str, question: str = "q", **options: Any) -> tuple[list[Any], Script]:
    script = Script(*texts)
    return list(Agent(script, ("ArxivSearch", "Calculator"), **options).turn(question)), script


def test_a_good_turn_is_call_observation_answer():
    events, script = run(call('{"query": "a"}'), FINAL)
    assert [type(event) for event in events] == [Waiting, Text, Text, Call, Observation, Waiting, Text, Text, Answer]
    assert events[3] == Call("I search.", API, '{"query": "a"}', {"query": "a"}, None)
    assert events[4] == Observation('{"content": "found a"}', failed=False)
    assert events[-1].text == "你好, done."
    assert events[-1].finished
    assert [step["role"] for step in events[-1].steps] == ["assistant", "user", "assistant"]
    assert script.given[1][-1] == {"role": "user", "content": 'Response:{"content": "found a"}\n'}


def test_the_system_prompt_is_lagents_own():
    _, script = run(FINAL)
    agent = Agent(script, ("ArxivSearch",))
    theirs = ReActProtocol().format([], [], ActionExecutor(actions=[ArxivSearch()]))
    assert agent.messages("q")[0] == theirs[0]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (call("query=a"), "invalid json format: query=a"),
        (call("5"), "not a JSON object: 5"),
        (call("null"), "not a JSON object: null"),
        (call('{"topic": "a"}'), "unknown arguments: {'topic'}"),
        (call("{}"), "missing required arguments: {'query'}"),
        (call('{"query": "a"}', "Search"), "there is no tool 'Search'"),
        (call('{"query": "a"}', "ArxivSearch.a.b"), "ArxivSearch has no function 'a.b'"),
        (call('{"query": "a"}', "ArxivSearch.description"), "ArxivSearch has no function 'description'"),
        (call('{"query": "a"}', "ArxivSearch"), "ArxivSearch has no function ''"),
    ],
)
def test_a_broken_call_is_told_and_the_turn_goes_on(text: str, error: str):
    events, _ = run(text, FINAL)
    told = next(event for event in events if isinstance(event, Call))
    assert told.error == error
    assert next(event for event in events if isinstance(event, Observation)).failed
    assert events[-1].finished


def test_a_tool_that_raises_is_an_observation(monkeypatch):
    monkeypatch.setattr(BoundedArxivSearch, "get_arxiv_article_information", lambda self, query: 1 / 0)
    events, _ = run(call('{"query": "a"}'), FINAL)
    assert Observation("division by zero", failed=True) in events
    assert events[-1].finished


def test_prose_is_no_action_and_the_last_turn_ends_with_the_apology():
    events, script = run("I can't.", "Really.", max_turn=2)
    assert [event.reply for event in events if isinstance(event, NoAction)] == ["Please follow the format"] * 2
    assert not events[-1].finished
    assert events[-1].text == "Sorry that I cannot answer your question."
    assert script.given[1][-1]["content"].startswith("You should directly give results")


def test_reading_a_text_needs_no_turn():
    agent = Agent(Script(), ("ArxivSearch",))
    assert agent.read(call('{"query": "a"}')) == Call("I search.", API, '{"query": "a"}', {"query": "a"}, None)
    assert agent.read(FINAL).text == "你好, done."
    assert agent.read("prose").reply == "Please follow the format"


def test_history_stands_before_the_question():
    script = Script(FINAL)
    history = [{"role": "user", "content": "before"}, {"role": "assistant", "content": FINAL}]
    list(Agent(script).turn("now", history))
    assert [message["content"] for message in script.given[0][1:]] == ["before", FINAL, "now"]


def test_stop_ends_the_turn_without_an_answer():
    stop, seen = threading.Event(), []
    for event in Agent(Script(call('{"query": "a"}'), FINAL)).turn("q", stop=stop):
        seen.append(event)
        if isinstance(event, Call):
            stop.set()
    assert isinstance(seen[-1], Call)


def test_a_failing_engine_reaches_the_reader():
    with pytest.raises(IndexError):
        run()


def test_own_prompts_are_used():
    script = Script(FINAL)
    list(Agent(script, call_protocol=CALL_PROTOCOL_CN, max_turn=1, force_stop="现在回答").turn("q"))
    assert script.given[0][0]["content"].startswith("你是一个可以调用外部工具的助手")
    assert script.given[0][-1]["content"] == "现在回答"


@pytest.mark.parametrize(
    "protocol",
    ["{nothing}", "{", "}", "{}", "{0}", '{"a": 1}', "{thought:>150000000}", "{thought!r}", "{tool_description.nope}",
     "{tool_description[0]}", "{finish:{thought}}"],
)  # fmt: skip
def test_a_call_protocol_that_cannot_be_filled_in_is_refused(protocol: str):
    with pytest.raises(UserMistake) as caught:
        Agent(Script(), call_protocol=protocol)
    assert caught.value.failure.reason == "CallProtocolInvalid"
    assert "write {{ and }} for braces" in caught.value.failure.cure


def test_an_observation_keeps_its_error_state():
    done = ActionReturn(errmsg="no network", state=-1000)
    agent = Agent(Script())
    assert agent.protocol.format_response(done) == {"role": "user", "content": "Response:no network\n"}
