"""What a workspace says: requests written by two runs at once, results and progress that are broken."""

from pathlib import Path

import pytest

from finetune_jobs.contract import PROGRESS_FILE, REQUEST_FILE, RESULT_FILE, GitSource, ModelRequest, Source, Stage
from finetune_operator.local.workspace import StageFolder, earlier_records

REQUEST = ModelRequest(source=Source(git=GitSource(url="https://example.com/model")))


@pytest.fixture
def folder(tmp_path) -> StageFolder:
    return StageFolder(tmp_path, Stage.MODEL, REQUEST.digest())


def test_two_runs_write_the_same_request_at_once(folder, monkeypatch):
    """The second one begins and ends while the first is between writing and renaming."""
    write = Path.write_text

    def meanwhile(path, *arguments, **options):
        written = write(path, *arguments, **options)
        monkeypatch.setattr(Path, "write_text", write)
        folder.write_request(REQUEST)
        return written

    monkeypatch.setattr(Path, "write_text", meanwhile)
    assert folder.write_request(REQUEST).read_text() == REQUEST.to_json()
    assert [path.name for path in folder.path.iterdir()] == [REQUEST_FILE]


@pytest.mark.parametrize("body", [b"", b"done", b"\xff\xfe", b"[1]", None], ids=repr)
@pytest.mark.parametrize("name", [RESULT_FILE, PROGRESS_FILE])
def test_what_is_broken_counts_as_not_there_until_its_stage_says_what_is_wrong(folder, name, body):
    folder.path.mkdir(parents=True)
    path = folder.path / name
    path.mkdir() if body is None else path.write_bytes(body)
    assert (folder.record(), folder.progress()) == (None, None)
    assert list(earlier_records(folder.workspace, Stage.MODEL)) == []
    assert path.exists()
