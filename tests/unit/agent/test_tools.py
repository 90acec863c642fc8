"""Tools that always answer, and only those that can do no harm."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from lagent.actions import ActionExecutor, ArxivSearch

from finetune_jobs.agent import tools
from finetune_jobs.contract import TOOLS
from finetune_jobs.errors import UserMistake

QUERY = '{"query": "low-rank adaptation"}'
API = "ArxivSearch.get_arxiv_article_information"


@pytest.fixture
def point_arxiv_at(monkeypatch):
    import arxiv

    monkeypatch.setattr(arxiv.Client, "query_url_format", arxiv.Client.query_url_format)
    return lambda url: monkeypatch.setenv(tools.ARXIV_URL, url)


def test_the_tools_that_a_job_may_name_are_those_that_are_there():
    assert set(tools.TOOLS) == set(TOOLS)


def test_arxiv_search_is_described_as_lagents_own():
    ours, theirs = tools.make_executor(["ArxivSearch"]), ActionExecutor(actions=[ArxivSearch()])
    assert ours.get_actions_info() == theirs.get_actions_info()
    assert ours.action_names() == theirs.action_names()


def test_arxiv_out_of_reach_is_the_tools_answer(point_arxiv_at):
    point_arxiv_at("http://127.0.0.1:9/api/query")
    done = tools.make_executor(["ArxivSearch"])(API, QUERY)
    assert done.errmsg == "arXiv can't be reached from this machine: no internet connection, or arXiv is down."
    assert done.args == {"query": "low-rank adaptation"}


def test_an_arxiv_that_never_answers_is_given_up(point_arxiv_at, monkeypatch):
    monkeypatch.setattr(tools, "SEARCH_SECONDS", 0.2)
    released = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_GET(self):
            released.wait(60)

    server = HTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    point_arxiv_at(f"http://127.0.0.1:{server.server_port}/api/query")
    done = tools.make_executor(["ArxivSearch"])(API, QUERY)
    released.set()
    server.shutdown()
    assert done.errmsg == "arXiv did not answer within 0.2 seconds. Try again later."


def test_an_answer_that_is_no_feed_is_the_tools_answer(point_arxiv_at, monkeypatch):
    import arxiv

    monkeypatch.setattr(arxiv.Client, "results", lambda *_, **__: (1 / 0 for _ in "x"))
    done = tools.make_executor(["ArxivSearch"])(API, QUERY)
    assert done.errmsg == "arXiv's answer can't be used: division by zero"


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("2 + 3 * 4", "14"),
        ("2 ^ 10", "1024"),
        ("-(7 // 2) % 5", "2"),
        ("sqrt(2) ** 2", "2"),
        ("1 / 3", "0.333333333333"),
    ],
)
def test_the_calculator_calculates(expression: str, result: str):
    done = tools.make_executor(["Calculator"])("Calculator", f'{{"expression": "{expression}"}}')
    assert done.format_result() == f'{{"result": "{result}"}}'


@pytest.mark.parametrize(
    "expression", ["__import__('os')", "9 ** 9 ** 9", "1 / 0", "(", "a", "'x' * 9", "(1).real", "True", "sqrt(-1)", ""]
)
def test_the_calculator_executes_nothing_and_always_answers(expression: str):
    with pytest.raises(ValueError, match="can't calculate"):
        tools.Calculator().run(expression)


def test_a_tool_that_runs_code_is_refused_with_the_reason():
    with pytest.raises(UserMistake) as caught:
        tools.make_executor(["PythonInterpreter"])
    assert caught.value.failure.reason == "ToolRefused"
    assert "it runs whatever code the model writes" in caught.value.failure.message


def test_an_unknown_tool_is_refused_with_the_nearest_one():
    with pytest.raises(UserMistake) as caught:
        tools.make_executor(["ArxivSerch"])
    assert caught.value.failure.cure == "Write ArxivSearch, or choose from: ArxivSearch, Calculator."


def test_every_tool_of_lagent_is_offered_or_refused():
    from lagent.actions import list_tools

    theirs = {name for name, action in list_tools(with_class=True) if action.__module__.startswith("lagent.")}
    ends = {"FinishAction", "InvalidAction", "NoAction", "BaseAction"}
    assert theirs - ends == (set(tools.TOOLS) | set(tools.REFUSED)) - {"Calculator"}
