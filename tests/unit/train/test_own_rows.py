"""One batch of the user's own config, taken by a process of its own: how its end is told."""

import sys
from importlib import import_module

import pytest

from finetune_jobs.errors import MachineTrouble, UserMistake

own_rows = import_module("finetune_jobs.train.own_rows")


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


def test_what_the_process_refuses_is_the_users_mistake(child):
    with pytest.raises(UserMistake, match="No batch") as caught:
        child("""outcome.write('{"reason": "ConfigInvalid", "message": "No batch.", "cure": "Correct it."}')""")
    assert caught.value.failure.reason == "ConfigInvalid"


def test_a_process_that_was_killed_is_the_machines_trouble(child):
    with pytest.raises(MachineTrouble, match="ended with -9"):
        child("os.unlink(outcome.name); os.kill(os.getpid(), 9)")


def test_a_batch_that_was_taken_is_no_news(child):
    child("os.unlink(outcome.name)")


def test_the_process_sees_no_gpu_and_dies_with_the_stage(child):
    with pytest.raises(UserMistake, match="''"):
        child(
            'outcome.write(\'{"reason": "R", "message": "%r", "cure": "c"}\' % os.environ["CUDA_VISIBLE_DEVICES"])\n'
            'assert os.environ["FINETUNE_PARENT"] == str(os.getppid())'
        )
