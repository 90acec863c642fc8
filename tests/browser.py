"""Drives the demo's page in headless Chromium: what a visitor does, as functions."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, expect, sync_playwright

CHROMIUM = "chromium"
"""Debian's program, found on PATH."""
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SEARCH = "ArxivSearch.get_arxiv_article_information"
WINDOW = {"width": 1360, "height": 900}
PATIENCE = 240_000
"""Milliseconds for whatever a model on a busy CPU takes; nothing waits longer than it has to."""
SCROLLED = '[data-testid="stMain"], [data-testid="stAppScrollToBottomContainer"]'
"""What scrolls: the second is in the first's place on a page with a chat's input."""
ENDED = re.compile("done|stopped|failed")


@contextmanager
def browser(hosts: Mapping[str, str] | None = None) -> Iterator[Page]:
    """A new, empty browser with one page; `hosts` are names with the addresses that it takes them for."""
    program = shutil.which(CHROMIUM)
    assert program, "install Debian's package chromium"
    rules = ",".join(f"MAP {name} {address}" for name, address in (hosts or {}).items())
    names = [f"--host-resolver-rules={rules}"] if rules else []
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, headless=True, args=[*FLAGS, *names])
        page = running.new_page(viewport=WINDOW)
        page.set_default_timeout(PATIENCE)
        yield page
        running.close()


def open_demo(page: Page, url: str, title: str) -> None:
    page.goto(url)
    expect(page.get_by_role("heading", name=title)).to_be_visible(timeout=PATIENCE)


def ask(page: Page, question: str) -> None:
    """Type a question; the answers may take their time."""
    box = page.get_by_test_id("stChatInputTextArea")
    expect(box).to_be_enabled(timeout=PATIENCE)
    before = replies(page).count()
    box.fill(question)
    box.press("Enter")
    expect(replies(page).nth(before)).to_be_visible(timeout=PATIENCE)


def replies(page: Page, side: str | None = None) -> Locator:
    """All replies, or one side's ("base", "tuned"), the latest last."""
    return page.locator(f'.reply[data-side="{side}"]' if side else ".reply")


def wait_for_answer(page: Page, side: str) -> str:
    """The text of that side's latest reply, once it has ended."""
    reply = replies(page, side).last
    expect(reply).to_have_attribute("data-state", ENDED, timeout=PATIENCE)
    return reply.inner_text()


def wait_for_text(page: Page, side: str) -> str:
    """What that side has written as soon as there is something."""
    said = replies(page, side).last.locator(".said, .card, .final").first
    expect(said).to_have_text(re.compile(r"\w"), timeout=PATIENCE)
    return said.inner_text()


def both_answers(page: Page, url: str, title: str, *, question: str, topic: str, picture: Path) -> tuple[str, str]:
    """Tuned and base model's answers to a question about papers on a topic, seen side by side and kept as a picture.

    The tuned model calls the search by a JSON object about the topic, the base model doesn't.
    """
    open_demo(page, url, title)
    ask(page, question)
    tuned, base = wait_for_answer(page, "tuned"), wait_for_answer(page, "base")
    picture.parent.mkdir(exist_ok=True)
    screenshot(page, picture)
    call = replies(page, "tuned").last.locator(".card.good").first
    assert call.locator("code").inner_text() == SEARCH
    assert topic in json.loads(call.locator("pre").inner_text())["query"]
    assert base.strip()
    assert SEARCH not in base
    left, right = (replies(page, side).last.bounding_box() for side in ("base", "tuned"))
    assert left is not None
    assert right is not None
    assert left["x"] + left["width"] <= right["x"], "before stands left of after"
    return tuned, base


def press_stop(page: Page) -> None:
    page.get_by_role("button", name="Stop").click()


def clear(page: Page) -> None:
    page.get_by_role("button", name="Clear the conversation").click()
    expect(replies(page)).to_have_count(0, timeout=PATIENCE)


def another_visitor(page: Page) -> Page:
    """A page that shares no cookie and no session with this one."""
    running = page.context.browser
    assert running is not None
    other = running.new_page(viewport=WINDOW)
    other.set_default_timeout(PATIENCE)
    return other


def open_training(page: Page) -> None:
    page.get_by_role("link", name="Training").click()
    expect(page.get_by_role("heading", name="Before and after")).to_be_visible(timeout=PATIENCE)


def screenshot(page: Page, path: Path) -> None:
    """The page as wide as the window and as long as it is: what scrolls is inside Streamlit's own frame."""
    height = page.locator(SCROLLED).evaluate("element => element.scrollHeight")
    page.set_viewport_size({**WINDOW, "height": max(int(height), WINDOW["height"])})
    page.screenshot(path=path)
    page.set_viewport_size(WINDOW)


def set_call_protocol(page: Page, text: str) -> None:
    """As a visitor edits it in the sidebar."""
    page.get_by_text("Prompts", exact=True).click()
    box = page.get_by_label("Call protocol")
    box.fill(text)
    box.press("Control+Enter")


def leave_out_tool(page: Page, name: str) -> None:
    """Take a tool out of those that the models may call."""
    remove = page.get_by_test_id("stMultiSelect").get_by_label(f"Remove {name}")
    remove.click()
    expect(remove).to_have_count(0, timeout=PATIENCE)


def set_lowest(page: Page, label: str) -> None:
    """Draw a slider of the sidebar to its left end."""
    page.get_by_role("slider", name=label).press("Home")
