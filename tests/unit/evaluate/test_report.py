"""The table and the transcripts."""

import json

from finetune_jobs.contract import Prompt
from finetune_jobs.evaluate.report import table, transcripts
from finetune_jobs.evaluate.verdict import Verdict

SEARCH = Prompt(question="s", tool="ArxivSearch.get_arxiv_article_information")
SUM = Prompt(question="c", tool="Calculator", arguments={"expression": "1"})
HELLO = Prompt(question="h")
JUDGED = {
    "base": [Verdict(SEARCH, "?", valid=False), Verdict(SUM, "?", valid=False, exact=False), Verdict(HELLO, "Hi")],
    "tuned": [
        Verdict(SEARCH, "x", valid=True, finished=True, steps=({"role": "assistant", "content": "x"},)),
        Verdict(SUM, "y", valid=True, exact=False),
        Verdict(HELLO, "Hi", direct=True),
    ],
}


def test_the_table_counts_each_measure_and_splits_it_by_tool():
    assert table(JUDGED).splitlines() == [
        "| | base | tuned |",
        "|---|---|---|",
        "| well-formed calls | 0 of 2 (0%) | 2 of 2 (100%) |",
        "| - ArxivSearch.get_arxiv_article_information | 0 of 1 (0%) | 1 of 1 (100%) |",
        "| - Calculator | 0 of 1 (0%) | 1 of 1 (100%) |",
        "| exact arguments | 0 of 1 (0%) | 0 of 1 (0%) |",
        "| - ArxivSearch.get_arxiv_article_information | - | - |",
        "| - Calculator | 0 of 1 (0%) | 0 of 1 (0%) |",
        "| finished turns | - | 1 of 1 (100%) |",
        "| - ArxivSearch.get_arxiv_article_information | - | 1 of 1 (100%) |",
        "| - Calculator | - | - |",
        "| answered without a tool where none is needed | - | 1 of 1 (100%) |",
    ]


def test_transcripts_show_what_was_asked_said_and_counted():
    lines = [json.loads(line) for line in transcripts(JUDGED).splitlines()]
    assert [(line["model"], line["question"]) for line in lines] == [
        (model, question) for question in "sch" for model in ("base", "tuned")
    ]
    assert lines[0]["steps"] == [{"role": "assistant", "content": "?"}]
    assert lines[1]["finishedTurn"] is True
    assert "noToolAnswer" not in lines[1]
    assert lines[3]["exactArguments"] is False
