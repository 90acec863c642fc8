"""The built-in sets, and what a set must be so that a model can be judged by it."""

import pytest

from finetune_jobs.agent.tools import make_executor
from finetune_jobs.contract import PROMPT_SETS, Prompt
from finetune_jobs.errors import UserMistake
from finetune_jobs.evaluate.questions import DEFAULT_TOOL, SETS, check, questions, tools_of

API = "ArxivSearch.get_arxiv_article_information"


@pytest.mark.parametrize("name", SETS)
def test_every_built_in_set_can_be_judged(name):
    prompts = questions(name)
    check(prompts, make_executor(tools_of(prompts)).get_actions_info())
    assert len({prompt.question for prompt in prompts}) == len(prompts)
    assert any(prompt.tool is None for prompt in prompts)


def test_the_contract_names_the_sets():
    assert tuple(SETS) == PROMPT_SETS


def test_the_sets_hold_the_tutorials_own_question():
    for name in SETS:
        assert questions(name)[0].question == "Please help me search the InternLM2 Technical Report."


def test_the_example_is_measured_on_at_least_fifty_calls():
    assert sum(prompt.tool is not None for prompt in questions("two-tools-react")) >= 50


def test_an_unknown_set_is_refused_with_the_nearest_name():
    with pytest.raises(UserMistake, match=r"no built-in set of prompts 'arxiv-raect'.*Write prompts: arxiv-react"):
        questions("arxiv-raect")


def test_prompts_of_ones_own_are_taken_as_they_are():
    own = (Prompt(question="What is 1 + 1?", tool="Calculator"),)
    assert questions(own) is own
    assert tools_of(own) == ("Calculator",)
    assert tools_of((Prompt(question="Hi"),)) == (DEFAULT_TOOL,)


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ({"question": "Hi"}, "None of the prompts needs a tool"),
        ({"question": "Hi", "tool": "ArxivSearch"}, f"no API 'ArxivSearch'.*Write tool: {API}"),
        ({"question": "Hi", "tool": API, "arguments": {"topic": "x"}}, "takes no argument 'topic'.*It takes query"),
    ],
)
def test_a_prompt_that_no_answer_could_satisfy_is_refused(prompt, sentence):
    with pytest.raises(UserMistake, match=sentence):
        check([Prompt(**prompt)], make_executor(["ArxivSearch"]).get_actions_info())


def test_arguments_need_a_tool():
    prompts = [Prompt(question="a", tool=API), Prompt(question="b", arguments={"query": "x"})]
    with pytest.raises(UserMistake, match="Prompt 2, 'b': arguments without a tool"):
        check(prompts, make_executor(["ArxivSearch"]).get_actions_info())
