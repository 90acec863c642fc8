"""The papers that stand in for arXiv's."""

import json

import arxiv
import pytest

from finetune_jobs.agent.tools import make_executor
from finetune_jobs.evaluate.recorded import recorded

API = "ArxivSearch.get_arxiv_article_information"


def search(query: str) -> str:
    with recorded():
        done = make_executor(["ArxivSearch"])(API, json.dumps({"query": query}))
    content: str = json.loads(done.format_result())["content"]
    return content


@pytest.mark.parametrize("query", ["bees", "InternLM2 Technical Report", "{} and %s", "x" * 400])
def test_lagents_own_tool_writes_three_papers_down(query):
    papers = search(query).split("\n\n")
    assert len(papers) == 3
    assert [line.partition(":")[0] for line in papers[0].splitlines()] == ["Published", "Title", "Authors", "Summary"]
    assert len({paper.splitlines()[1] for paper in papers}) == 3


def test_the_same_question_finds_the_same_papers():
    assert search("bees") == search("bees") != search("wasps")


def test_arxiv_is_itself_again_afterwards():
    before = arxiv.Search
    search("bees")
    assert arxiv.Search is before
