"""The frame around every stage: one writer, one result, an exit code and a sentence for every end."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from finetune_jobs import __main__ as frame
from finetune_jobs.contract import (
    OUTCOME_BYTES,
    ExitCode,
    GitSource,
    HuggingFaceSource,
    ModelRequest,
    ModelResult,
    Outcome,
    SecretKeyRef,
    Source,
    Stage,
)
from finetune_jobs.errors import Interrupted, UserMistake

REQUEST = ModelRequest(source=Source(git=GitSource(url="https://example.com/model")))
RESULT = ModelResult(
    parameters=1, architecture="LlamaForCausalLM", dtype="bfloat16", bytes=2, sha256="0" * 64, source="a test"
)


@pytest.fixture
def stage(monkeypatch, tmp_path):
    """A stage program of the test's own, run through the frame: ``stage(function) -> (exit code, outcome)``."""

    def run(function):
        monkeypatch.setitem(sys.modules, "a_stage", types.SimpleNamespace(run=function))
        monkeypatch.setitem(frame.PROGRAMS, Stage.MODEL, "a_stage")
        (tmp_path / "request.json").write_text(REQUEST.to_json())
        outcome = tmp_path / "outcome.json"
        where = ["--request", str(tmp_path / "request.json"), "--workspace", str(tmp_path)]
        code = frame.main(["model", *where, "--outcome", str(outcome)])
        assert len(outcome.read_bytes()) <= OUTCOME_BYTES
        return code, Outcome.model_validate_json(outcome.read_bytes())

    return run


def failing(error):
    def run(request, room):
        raise error

    return run


ENDS = [
    (UserMistake("NoSuchThing", "It is not there.", "Write another."), ExitCode.USER_MISTAKE, "NoSuchThing"),
    (Interrupted(), ExitCode.INTERRUPTED, "Interrupted"),
    (KeyboardInterrupt(), ExitCode.INTERRUPTED, "Interrupted"),
    (OSError(errno.ENOSPC, "No space left on device", "file"), ExitCode.MACHINE_TROUBLE, "DiskFull"),
    (PermissionError(errno.EACCES, "Permission denied", "file"), ExitCode.USER_MISTAKE, "NoPermission"),
    (MemoryError(), ExitCode.MACHINE_TROUBLE, "OutOfMemory"),
    (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), ExitCode.MACHINE_TROUBLE, "GpuOutOfMemory"),
    (SystemExit(0), ExitCode.MACHINE_TROUBLE, "Unforeseen"),
    (ValueError("x" * 9000), ExitCode.MACHINE_TROUBLE, "Unforeseen"),
]


@pytest.mark.parametrize(("error", "code", "reason"), ENDS, ids=[repr(e[0])[:30] for e in ENDS])
def test_every_end_has_a_code_and_a_sentence(stage, tmp_path, error, code, reason):
    ended, outcome = stage(failing(error))
    assert (ended, outcome.failure.reason) == (code, reason)
    assert outcome.failure.cure
    assert not (tmp_path / "model" / REQUEST.digest() / "result.json").exists()


def test_a_wait_that_a_signal_breaks_off_is_an_interruption(stage, monkeypatch):
    """threading's own wait, stopped just after it gave its lock away: it ends in a RuntimeError about that lock."""

    def waits(request, room):
        done = threading.Event()

        def stopped():
            done._cond._lock.release()
            raise KeyboardInterrupt

        monkeypatch.setattr(done._cond, "_release_save", stopped)
        done.wait(1)

    code, outcome = stage(waits)
    assert (code, outcome.failure.reason) == (ExitCode.INTERRUPTED, "Interrupted")


def test_a_result_is_taken_and_not_made_again(stage):
    made = []

    def run(request, room):
        made.append(room.out)
        return RESULT

    assert [stage(run)[1].state, stage(run)[1].state] == ["Succeeded", "Reused"]
    assert len(made) == 1


def test_what_a_stage_wrote_is_on_the_disk_before_its_result(stage, tmp_path, monkeypatch):
    folder, flush = tmp_path / "model" / REQUEST.digest(), os.fsync
    flushed = set()

    def watched(descriptor):
        if not (folder / "result.json").exists():
            flushed.add(Path(f"/proc/self/fd/{descriptor}").readlink())
        flush(descriptor)

    def run(request, room):
        (room.out / "model").mkdir()
        (room.out / "model" / "weights").write_text("of a model")
        (room.out / "linked").symlink_to(tmp_path / "request.json")
        return RESULT

    monkeypatch.setattr(os, "fsync", watched)
    assert stage(run)[0] == 0
    assert {folder / "model" / "weights", folder / "model", folder, folder.parent} <= flushed
    assert tmp_path / "request.json" not in flushed


def test_a_result_too_long_for_a_termination_message_keeps_its_figures(stage):
    long = RESULT.model_copy(update={"source": "x"})
    record = Outcome(stage=Stage.MODEL, digest="d", state="Succeeded", result={"curve": ["x" * 100] * 100, "loss": 1.5})
    assert json.loads(frame.cut_to_fit(record))["result"] == {"loss": 1.5}
    assert stage(lambda request, room: long)[0] == ExitCode.DONE


def test_a_second_run_waits_for_the_lock(tmp_path):
    """Held by this test, as another run would; let go, the second one begins."""
    folder = tmp_path / "stage"
    enter = "from finetune_jobs.__main__ import locked\nwith locked(pathlib.Path(sys.argv[1])): print('in')"
    program = f"import sys, pathlib\n{enter}"
    with (tmp_path / "stage.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        second = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(1.5)
        fcntl.flock(file, fcntl.LOCK_UN)
    assert second.communicate(timeout=60)[0] == "in\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_workspace_that_may_not_be_written_is_the_users_to_mend(tmp_path):
    (tmp_path / "request.json").write_text(REQUEST.to_json())
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    arguments = ["model", "--request", str(tmp_path / "request.json"), "--workspace", str(locked)]
    as_nobody = "import os, sys; from finetune_jobs.__main__ import main; os.setgid(65534); os.setuid(65534)"
    source = f"{as_nobody}; sys.exit(main({arguments!r}))"
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert ended.returncode == ExitCode.USER_MISTAKE, ended.stderr
    assert "Give this user read and write permission" in ended.stderr


def test_another_secret_makes_nothing_anew():
    def digest(secret):
        ref = SecretKeyRef(name=secret) if secret else None
        return ModelRequest(source=Source(hugging_face=HuggingFaceSource(repo="a/b", token_secret_ref=ref))).digest()

    assert digest("one") == digest("two") == digest(None)
