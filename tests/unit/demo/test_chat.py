"""The first page as Streamlit runs it, without a browser and without weights."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from finetune_jobs.demo import chat
from finetune_jobs.demo.models import Shelf
from finetune_jobs.demo.settings import VARIABLE, Settings, Side


class JustNow(threading.Event):
    """Set while somebody looks: the first look misses it, all later ones see it."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: Iterator[bool] = iter(())

    def is_set(self) -> bool:
        return next(self.looks, super().is_set())

    def set_between_two_looks(self) -> None:
        self.looks = iter([False])
        self.set()


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> JustNow:
    """When the only model of the page's is loaded."""
    folders = {Side.TUNED: Path("tuned")}
    settings = Settings(title="An agent", template="qwen_chat", tools=("ArxivSearch",), models=folders)
    monkeypatch.setenv(VARIABLE, settings.model_dump_json())
    models, loaded = Shelf(folders, "qwen_chat"), JustNow()
    monkeypatch.setattr(models, "load", lambda: None)
    monkeypatch.setattr(chat, "shelf", lambda: models)
    models.slots[Side.TUNED].ready = loaded
    return loaded


@pytest.fixture
def page(ready: JustNow) -> AppTest:
    def script() -> None:
        from finetune_jobs.demo import chat

        chat.show()

    return AppTest.from_function(script, default_timeout=60).run()


def test_the_page_says_what_loads(page: AppTest, ready: JustNow):
    assert "Loading the weights (tuned)" in page.info[0].value
    ready.set()
    assert not page.run().info


def test_a_question_typed_just_before_the_weights_are_there_is_asked(page: AppTest, ready: JustNow):
    ready.set_between_two_looks()
    page.chat_input[0].set_value("What is a mean field game?").run()
    assert [asked.question for asked in page.session_state["conversation"].exchanges] == ["What is a mean field game?"]


def test_an_example_is_asked_by_its_button(page: AppTest, ready: JustNow):
    ready.set()
    page.button("example1").click().run()
    assert [asked.question for asked in page.session_state["conversation"].exchanges] == [chat.EXAMPLES[1]]
    assert not [button for button in page.button if button.key == "example0"]


def test_every_text_that_a_visitor_may_write_has_an_end(page: AppTest):
    texts = [page.text_area("call_protocol"), page.text_area("force_stop"), page.chat_input[0]]
    assert all(0 < text.proto.max_chars <= 4000 for text in texts)
