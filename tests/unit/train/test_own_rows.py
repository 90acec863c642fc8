"""One batch of the user's own config, taken by a process of its own: how its end is told."""

import errno
import json
import sys
from importlib import import_module

import pytest

from finetune_jobs.errors import MachineTrouble, UserMistake, as_told, of_told

own_rows = import_module("finetune_jobs.train.own_rows")
own_config = import_module("finetune_jobs.train.own_config")
preflight = import_module("finetune_jobs.train.preflight")


class Rows(dict):
    """Columns, and as many rows as the first one has."""

    def __len__(self):
        return len(self["input_ids"])


def test_conversations_without_loss_are_told_before_the_loss_is_nan():
    with pytest.raises(UserMistake, match="the first 32 conversations have no token with loss"):
        own_rows.check_rows(Rows(input_ids=[]), 32, 10)


def test_a_tokenizer_that_is_not_the_models_is_told():
    with pytest.raises(UserMistake, match="gives the token 10, but the model knows only 10"):
        own_rows.check_rows(Rows(input_ids=[[1, 10], [2]]), 2, 10)
    own_rows.check_rows(Rows(input_ids=[[1, 9], [2]]), 2, 10)


def wrapped(error: Exception) -> Exception:
    """As `datasets` does: an error of its own, raised from the one that says why."""
    try:
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("An error occurred while generating the dataset") from inner
    except RuntimeError as outer:
        return outer


FULL = OSError(errno.ENOSPC, "No space left on device", "/tmp/cache")
LIBRARY = "libcudart.so.12: cannot open shared object file: No such file or directory"
WHOSE = [
    (FULL, MachineTrouble, "DiskFull"),
    (wrapped(FULL), MachineTrouble, "DiskFull"),
    (OSError(errno.EIO, "Input/output error"), MachineTrouble, "DiskFailed"),
    (MemoryError(), MachineTrouble, "OutOfMemory"),
    (ImportError(LIBRARY), MachineTrouble, "ImageIncomplete"),
    (KeyError("messages"), UserMistake, "ConfigInvalid"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "mine.json"), UserMistake, "ConfigInvalid"),
    (ModuleNotFoundError("No module named 'mine'"), UserMistake, "ConfigInvalid"),
    (UserMistake("TokenizerUnfit", "It gives 10.", "Use another."), UserMistake, "TokenizerUnfit"),
]


@pytest.mark.parametrize(("error", "kind", "reason"), WHOSE, ids=[repr(error)[:40] for error, _, _ in WHOSE])
def test_the_process_tells_this_machines_trouble_from_the_users_mistake(monkeypatch, tmp_path, error, kind, reason):
    monkeypatch.setattr(own_rows, "take_batch", failing(error))
    monkeypatch.setattr(own_rows, "die_with_parent", lambda: None)
    monkeypatch.setattr(own_rows.rank, "import_all", lambda: None)
    own_rows.main("config.py", str(tmp_path / "outcome.json"))
    told = of_told(json.loads((tmp_path / "outcome.json").read_bytes()))
    assert (type(told), told.failure.reason) == (kind, reason)


def failing(error: Exception):
    def fail(*_arguments, **_named):
        raise error

    return fail


def test_a_full_disk_while_the_config_is_read_is_no_mistake_in_it(monkeypatch):
    monkeypatch.setattr("mmengine.config.Config.fromfile", failing(FULL))
    with pytest.raises(MachineTrouble) as caught:
        own_config.load("lr = 1\n")
    assert caught.value.failure.reason == "DiskFull"


def test_conversations_that_the_disk_does_not_give_are_the_machines_trouble(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.load_from_disk", failing(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(MachineTrouble) as caught:
        preflight.open_rows(tmp_path)
    assert caught.value.failure.reason == "DiskFailed"


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Runs `check_batch` with a process that does this instead of taking a batch."""

    def check(program: str) -> None:
        script = tmp_path / "python"
        script.write_text(f'#!{sys.executable}\nimport os, sys\noutcome = open(sys.argv[-1], "w")\n{program}\n')
        script.chmod(0o755)
        monkeypatch.setattr(own_rows.sys, "executable", str(script))
        own_rows.check_batch(tmp_path / "config.py")

    return check


@pytest.mark.parametrize("error", [UserMistake("Reason", "No batch.", "Cure."), MachineTrouble("Reason", "No.", "C.")])
def test_whose_trouble_it_is_is_what_the_process_says(child, error):
    with pytest.raises(type(error)) as caught:
        child(f"outcome.write({json.dumps(as_told(error))!r})")
    assert caught.value.failure == error.failure


def test_a_process_that_was_killed_is_the_machines_trouble(child):
    with pytest.raises(MachineTrouble, match="ended with -9"):
        child("os.unlink(outcome.name); os.kill(os.getpid(), 9)")


def test_a_batch_that_was_taken_is_no_news(child):
    child("os.unlink(outcome.name)")


def test_the_process_sees_no_gpu_and_dies_with_the_stage(child):
    with pytest.raises(UserMistake, match="''"):
        child(
            "import json\n"
            'said = {"reason": "R", "message": repr(os.environ["CUDA_VISIBLE_DEVICES"]), "cure": "c"}\n'
            'outcome.write(json.dumps({"exitCode": 64, "failure": said}))\n'
            'assert os.environ["FINETUNE_PARENT"] == str(os.getppid())'
        )
