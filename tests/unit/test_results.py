"""A result that is there is read only when it is whole."""

from pathlib import Path

import pytest

from finetune_jobs import room
from finetune_jobs.contract import RESULT_FILE, GitSource, ModelRequest, ModelResult, Record, Source, Stage
from finetune_jobs.errors import UserMistake

REQUEST = ModelRequest(source=Source(git=GitSource(url="https://example.com/model")))
RESULT = ModelResult(parameters=1, architecture="A", dtype="bfloat16", bytes=2, sha256="0" * 64, source="a test")
WHOLE = Record.of(REQUEST, RESULT).to_json()


def broken_result(folder: Path, body: bytes | None) -> Path:
    path = folder / RESULT_FILE
    folder.mkdir(parents=True)
    path.mkdir() if body is None else path.write_bytes(body)
    return path


BROKEN = {
    "cut": WHOLE[:-20].encode(),
    "empty": b"",
    "not JSON": b"done",
    "not UTF-8": b"\xff\xfe",
    "not a result": b"[1]",
    "of another shape": WHOLE.replace("startedAt", "begunAt").encode(),
    "a folder": None,
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_a_broken_result_is_named_with_what_to_do_and_left_alone(tmp_path, body):
    path = broken_result(room.stage_folder(tmp_path, Stage.MODEL, REQUEST.digest()), body)
    with pytest.raises(UserMistake) as caught:
        room.read_record(tmp_path, Stage.MODEL, REQUEST.digest())
    assert caught.value.failure.reason == "ResultUnreadable"
    assert str(path) in caught.value.failure.message
    assert caught.value.failure.cure.startswith(f"Move {path} away or delete it")
    assert path.is_dir() if body is None else path.read_bytes() == body


def test_a_broken_result_of_a_needed_stage_is_named(tmp_path):
    digest = REQUEST.digest()
    path = broken_result(room.stage_folder(tmp_path, Stage.MODEL, digest), b"")
    with pytest.raises(UserMistake, match=str(path)) as caught:
        room.Room(tmp_path, REQUEST.model_copy(update={"needs": {Stage.MODEL: digest}}), tmp_path).input(Stage.MODEL)
    assert caught.value.failure.reason == "ResultUnreadable"
