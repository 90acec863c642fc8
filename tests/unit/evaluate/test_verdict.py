"""What counts: a well-formed call, exact arguments, a direct answer, a finished turn, as lagent's parser sees it."""

from typing import Any

import pytest

from finetune_jobs.agent.react import Agent, Answer, Call, Observation
from finetune_jobs.contract import Prompt
from finetune_jobs.evaluate.verdict import Verdict, is_finished, judge, rates

API = "ArxivSearch.get_arxiv_article_information"
SEARCH = Prompt(question="Find papers on bees.", tool=API, arguments={"query": "bees"})
HELLO = Prompt(question="Hello!")


def judged(prompt: Prompt, text: str) -> Verdict:
    nobody: Any = None
    agent = Agent(nobody, ["ArxivSearch", "Calculator"])
    return judge(prompt, text, agent.read(text))


def call(arguments: str, name: str = API) -> str:
    return f"Thought:t\nAction:{name}\nAction Input:{arguments}"


@pytest.mark.parametrize(
    ("text", "valid", "exact"),
    [
        (call('{"query": "bees"}'), True, True),
        (call('{"query": " Bees "}'), True, True),
        (call('{"query": "wasps"}'), True, False),
        (call('{"topic": "bees"}'), False, False),
        (call('{"query": "bees", "year": 1}'), False, False),
        (call("query=bees"), False, False),
        (call('["bees"]'), False, False),
        (call('"bees"'), False, False),
        (call('{"query": "bees"}', "ArxivSearch"), False, False),
        (call('{"expression": "1"}', "Calculator"), False, False),
        ("Bees are insects.", False, False),
        ("Thought:t\nFinal Answer:Bees are insects.", False, False),
        ("", False, False),
    ],
)
def test_a_call_is_judged_by_tool_object_and_keys(text, valid, exact):
    verdict = judged(SEARCH, text)
    assert (verdict.valid, verdict.exact, verdict.direct) == (valid, exact, None)


def test_without_arguments_in_the_prompt_any_well_formed_call_will_do():
    verdict = judged(Prompt(question="q", tool=API), call('{"query": "whatever"}'))
    assert (verdict.valid, verdict.exact) == (True, None)


@pytest.mark.parametrize(
    ("text", "direct"),
    [
        ("Thought:t\nFinal Answer:Hello!", True),
        ("Thought:t\nFinal Answer:", False),
        (call('{"query": "hello"}'), False),
        ("Hello!", False),
    ],
)
def test_a_question_that_needs_no_tool_wants_a_final_answer_at_once(text, direct):
    verdict = judged(HELLO, text)
    assert (verdict.valid, verdict.exact, verdict.direct) == (None, None, direct)


GOOD = Call("t", API, '{"query": "bees"}', {"query": "bees"}, None)
BAD = Call("t", API, "bees", None, "invalid json format")
OTHER = Call("t", "Calculator", '{"expression": "1"}', {"expression": "1"}, None)
SEEN = Observation("Response:{}", failed=False)
FAILED = Observation("Response:can't calculate", failed=True)
END = Answer("I found it.", finished=True, steps=())


@pytest.mark.parametrize(
    ("events", "finished"),
    [
        ([GOOD, SEEN, END], True),
        ([BAD, SEEN, GOOD, SEEN, END], True),
        ([END], False),
        ([BAD, SEEN, END], False),
        ([GOOD, SEEN, Answer("Sorry that I cannot answer your question.", finished=False, steps=())], False),
        ([GOOD, SEEN, Answer("", finished=True, steps=())], False),
        ([GOOD, SEEN, GOOD, SEEN], False),
        ([OTHER, FAILED, END], False),
        ([OTHER, SEEN, END], False),
        ([GOOD, FAILED, END], False),
        ([GOOD, FAILED, OTHER, SEEN, END], False),
        ([GOOD, FAILED, GOOD, SEEN, END], True),
        ([], False),
    ],
)
def test_a_turn_is_finished_by_what_the_right_tool_found_and_an_answer(events, finished):
    assert is_finished(SEARCH, events) is finished


def test_each_rate_counts_the_questions_that_it_is_asked_of():
    search, hello = SEARCH, HELLO
    found = rates(
        [
            Verdict(search, "", valid=True, exact=True, finished=True),
            Verdict(search, "", valid=True, exact=False, finished=False),
            Verdict(search, "", valid=True),
            Verdict(search, "", valid=False, exact=False),
            Verdict(hello, "", direct=True),
        ]
    )
    assert found.valid_calls == 0.75
    assert found.exact_arguments == pytest.approx(1 / 3)
    assert found.finished_turns == 0.5
    assert found.no_tool_answers == 1.0


def test_a_rate_of_nothing_is_not_told():
    assert rates([Verdict(SEARCH, "", valid=False)]).no_tool_answers is None
