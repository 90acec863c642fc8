"""When the page opens in a pod, and when its server ends instead; without Streamlit and without weights."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import pytest
import streamlit.web.cli

from finetune_jobs.agent import engine
from finetune_jobs.contract import DEMO_LOAD_FIRST_VARIABLE, ExitCode
from finetune_jobs.demo import server
from finetune_jobs.demo.models import Shelf
from finetune_jobs.demo.settings import Side
from finetune_jobs.errors import UserMistake, of_told


class Ended(Exception):
    """In place of the process's end."""


@pytest.fixture
def told() -> Iterator[IO[bytes]]:
    with TemporaryFile() as file:
        yield file


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a server does that loads first, in order: the models that it loads, and the page that opens."""
    happened: list[str] = []
    shelf = Shelf({side: Path(side.value) for side in Side}, "qwen_chat")

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(engine, "Engine", lambda folder, _template: happened.append(folder.name))
    monkeypatch.setattr(server, "shelf", lambda: shelf)
    monkeypatch.setattr(streamlit.web.cli, "main", lambda: happened.append("open"))
    monkeypatch.setattr(server.os, "_exit", end)
    monkeypatch.setattr(server, "end_with", lambda *_: None)
    monkeypatch.setattr(server.faulthandler, "register", lambda *_: None)
    monkeypatch.setattr(server.sys, "argv", [])
    monkeypatch.setattr(server, "HIDDEN", {})
    monkeypatch.setenv(DEMO_LOAD_FIRST_VARIABLE, "1")
    return happened


def serve(told: IO[bytes]) -> None:
    server.main("127.0.0.1", "8501", str(os.getppid()), str(told.fileno()))


def test_the_page_opens_after_all_weights_are_loaded(happened: list[str], told: IO[bytes]):
    serve(told)
    assert happened == ["base", "tuned", "open"]


def failing(error: Exception) -> Callable[..., None]:
    def load(folder: Path, _template: str) -> None:
        if folder.name == Side.TUNED:
            raise error

    return load


ENDS = [
    (OSError("no file named model.safetensors"), (ExitCode.MACHINE_TROUBLE, "ModelNotLoaded")),
    (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), (ExitCode.MACHINE_TROUBLE, "GpuOutOfMemory")),
    (UserMistake("TemplateUnknown", "There is none.", "Write another."), (ExitCode.USER_MISTAKE, "TemplateUnknown")),
]


@pytest.mark.parametrize(("error", "ends"), ENDS, ids=[ends[1] for _, ends in ENDS])
def test_weights_that_can_not_be_loaded_end_the_server_and_its_stage_hears_why(
    happened: list[str], told: IO[bytes], monkeypatch: pytest.MonkeyPatch, error: Exception, ends: tuple[int, str]
):
    monkeypatch.setattr(engine, "Engine", failing(error))
    with pytest.raises(Ended) as ended:
        serve(told)
    assert "open" not in happened
    told.seek(0)
    failure = of_told(json.load(told)).failure
    assert (*ended.value.args, failure.reason) == ends
    assert failure.cure
