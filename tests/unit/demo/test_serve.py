"""What is refused before anything is loaded."""

import socket

import pytest

from finetune_jobs.contract import DemoRequest, Stage
from finetune_jobs.demo import serve
from finetune_jobs.errors import UserMistake
from finetune_jobs.room import Room


@pytest.mark.parametrize("text", ["", "http", "0", "65536", "-1", "80.5"])
def test_a_port_that_is_none_is_refused(text: str):
    with pytest.raises(UserMistake) as caught:
        serve.port_of(text)
    assert caught.value.failure.reason == "PortInvalid"


def test_a_port_in_use_is_named_with_how_to_ask_for_another():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserMistake) as caught:
            serve.check_free("127.0.0.1", port)
    assert caught.value.failure.reason == "PortInUse"
    assert str(port) in caught.value.failure.message
    assert "--port" in caught.value.failure.cure
    serve.check_free("127.0.0.1", port)


def test_a_missing_merge_is_named(tmp_path):
    request = DemoRequest(template="qwen_chat", needs={Stage.MERGE: "0" * 12})
    with pytest.raises(UserMistake) as caught:
        serve.run(request, Room(tmp_path, request, tmp_path))
    assert caught.value.failure.reason == "InputMissing"
    assert "merge" in caught.value.failure.message


def test_two_models_share_the_cores_and_the_users_own_setting_wins(monkeypatch):
    monkeypatch.setattr(serve.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert serve.thread_settings(2)["OMP_NUM_THREADS"] == "4"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert serve.thread_settings(2)["OMP_NUM_THREADS"] == "3"
