"""The page in a real browser, with a real base model and one that was taught to call the tool."""

import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect
from tests import browser
from tests.stages.demo.conftest import TITLE, Demo, Workspace
from tests.stages.demo.teach import QUESTION

from finetune_jobs.contract import MERGED_FOLDER, ExitCode, Outcome, Stage
from finetune_jobs.room import stage_folder

pytestmark = pytest.mark.stage


@pytest.fixture
def page():
    with browser.browser() as page:
        yield page


def test_one_question_two_answers_side_by_side(start: Callable[..., Demo], fake_arxiv: str, page, tmp_path: Path):
    demo = start(arxiv=fake_arxiv)
    demo.wait_until_open()
    asked = {"question": QUESTION, "topic": "InternLM2 Technical Report", "picture": tmp_path / "page.png"}
    tuned, base = browser.both_answers(page, demo.url, TITLE, **asked)
    assert "✓ called ArxivSearch" in tuned
    assert "Authors: Zheng Cai, 曹茂松" in tuned
    assert "A report <b>served by the test</b>." in tuned
    assert "I found the report." in tuned
    assert "✗ no tool call" in base
    assert "Sorry that I cannot answer your question." in base
    browser.clear(page)


def test_without_internet_the_tool_says_so_and_the_page_goes_on(start: Callable[..., Demo], workspace: Workspace, page):
    demo = start(workspace.request(compare_with_base=False))
    demo.wait_until_open()
    browser.open_demo(page, demo.url, TITLE)
    browser.ask(page, QUESTION)
    assert "arXiv can't be reached from this machine" in browser.wait_for_answer(page, "tuned")
    expect(browser.replies(page, "base")).to_have_count(0)
    browser.ask(page, "请用中文介绍一下你自己")
    browser.wait_for_answer(page, "tuned")
    expect(browser.replies(page)).to_have_count(2)
    expect(page.get_by_text("请用中文介绍一下你自己")).to_be_visible()


def test_stop_keeps_what_was_written_and_another_question_can_be_asked(start: Callable[..., Demo], page):
    demo = start()
    demo.wait_until_open()
    browser.open_demo(page, demo.url, TITLE)
    browser.ask(page, "Tell me a very long story.")
    browser.wait_for_text(page, "base")
    browser.press_stop(page)
    assert "Stopped." in browser.wait_for_answer(page, "base")
    browser.wait_for_answer(page, "tuned")
    expect(page.get_by_test_id("stChatInputTextArea")).to_be_enabled(timeout=browser.PATIENCE)


def test_own_prompts_reach_the_model_and_a_broken_one_is_told(start: Callable[..., Demo], workspace: Workspace, page):
    demo = start(workspace.request(compare_with_base=False))
    demo.wait_until_open()
    browser.open_demo(page, demo.url, TITLE)
    browser.set_call_protocol(page, "{nothing}")
    browser.ask(page, QUESTION)
    answer = browser.wait_for_answer(page, "tuned")
    assert "The call protocol has a place that nothing fills: 'nothing'." in answer


def test_two_visitors_take_turns_and_see_only_their_own(start: Callable[..., Demo], page):
    demo = start()
    demo.wait_until_open()
    other = browser.another_visitor(page)
    for visitor in (page, other):
        browser.open_demo(visitor, demo.url, TITLE)
    browser.ask(page, "Tell me a very long story.")
    browser.wait_for_text(page, "base")
    browser.ask(other, QUESTION)
    expect(browser.replies(other, "base")).to_have_attribute("data-state", "waiting", timeout=browser.PATIENCE)
    assert "waiting, 1 ahead" in browser.replies(other, "base").inner_text()
    browser.press_stop(page)
    browser.wait_for_answer(page, "base")
    browser.wait_for_answer(other, "base")
    expect(browser.replies(other, "base")).to_have_count(1)
    expect(page.get_by_text(QUESTION)).to_have_count(0)


def test_tools_and_sampling_are_the_visitors_to_choose(start: Callable[..., Demo], workspace: Workspace, page):
    demo = start(workspace.request(compare_with_base=False))
    demo.wait_until_open()
    browser.open_demo(page, demo.url, TITLE)
    browser.ask(page, QUESTION)
    assert "✓ called ArxivSearch" in browser.wait_for_answer(page, "tuned")
    browser.leave_out_tool(page, "ArxivSearch")
    browser.ask(page, QUESTION)
    assert "✓ called ArxivSearch" not in browser.wait_for_answer(page, "tuned")
    browser.set_lowest(page, "Most new tokens a model call")
    browser.set_lowest(page, "Most model calls for one question")
    browser.ask(page, "Tell me a very long story.")
    browser.wait_for_answer(page, "tuned")
    said = browser.replies(page, "tuned").last.locator("pre, .final").first.inner_text()
    assert len(said.split()) <= 16


def test_the_second_page_tells_how_the_model_was_made(start: Callable[..., Demo], workspace: Workspace, page):
    demo = start(workspace.request(workspace.trained()))
    demo.wait_until_open()
    browser.open_demo(page, demo.url, TITLE)
    browser.open_training(page)
    for text in ("98 %", "72", "Rows read", "Final loss", "0.0500"):
        expect(page.get_by_text(text, exact=True).first).to_be_visible(timeout=browser.PATIENCE)
    expect(page.locator("[data-testid=stVegaLiteChart]")).to_have_count(2, timeout=browser.PATIENCE)
    page.get_by_text("Transcripts (1)").click()
    expect(page.get_by_text("I can't search.")).to_be_visible(timeout=browser.PATIENCE)


def test_the_second_page_of_a_ready_adapter_says_that_nothing_was_trained(start: Callable[..., Demo], page):
    demo = start()
    demo.wait_until_open()
    browser.open_demo(page, demo.url, TITLE)
    browser.open_training(page)
    expect(page.get_by_text("Nothing was trained in this job: it merges a ready adapter.")).to_be_visible()
    expect(page.get_by_text("This job judged no prompts")).to_be_visible()


def test_sigterm_ends_it_cleanly_with_nothing_left_behind(start: Callable[..., Demo], workspace: Workspace):
    demo = start()
    demo.wait_until_open()
    demo.process.send_signal(signal.SIGTERM)
    assert demo.process.wait(60) == ExitCode.DONE
    assert not demo.is_open()
    assert not list((workspace.root / "demo").rglob("result.json"))


def test_in_a_pod_the_page_opens_when_its_weights_are_loaded(start: Callable[..., Demo], workspace: Workspace, page):
    demo = start(workspace.request(compare_with_base=False), load_first=True)
    demo.wait_until_open()
    browser.open_demo(page, demo.url, TITLE)
    assert page.get_by_text("Loading the weights").count() == 0


def test_in_a_pod_weights_that_can_not_be_loaded_end_the_demo_with_a_sentence(
    start: Callable[..., Demo], workspace: Workspace
):
    merged = stage_folder(workspace.root, Stage.MERGE, workspace.merge) / MERGED_FOLDER
    weights = merged / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    demo = start(load_first=True)
    assert demo.process.wait(300) == ExitCode.MACHINE_TROUBLE
    failure = Outcome.model_validate_json(demo.outcome.read_text()).failure
    assert failure is not None
    assert failure.reason == "ModelNotLoaded"
    assert "The model can't be loaded" in failure.message


def test_a_kill_leaves_no_server_behind(start: Callable[..., Demo]):
    demo = start()
    demo.wait_until_open()
    children = demo.children()
    assert children
    demo.process.kill()
    demo.process.wait(60)
    wait = threading.Event()
    while any(alive(pid) for pid in children):
        wait.wait(0.1)
    assert not demo.is_open()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return status.exists() and not re.search(r"^State:\s+Z", status.read_text(), re.MULTILINE)


def test_a_port_in_use_is_refused_and_two_demos_share_a_workspace(start: Callable[..., Demo]):
    first = start()
    first.wait_until_open()
    port = int(first.url.rpartition(":")[2])
    second = start(port=port)
    _, said = second.process.communicate(timeout=120)
    assert second.process.returncode == ExitCode.USER_MISTAKE
    assert f"PortInUse: The demo can't listen at port {port} of 127.0.0.1" in said
    assert f"--port {port + 1}" in said
    third = start()
    third.wait_until_open()
    assert first.is_open()
