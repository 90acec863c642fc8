"""Why ranks failed, told by what they left behind: real messages of torch, DeepSpeed and torchrun."""

import pytest

from finetune_jobs.errors import MachineTrouble, UserMistake
from finetune_jobs.train.failures import TABLE, explain

MESSAGES = [
    ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", UserMistake, "GpuOutOfMemory"),
    ("RuntimeError: [enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0", MachineTrouble, "DiskFull"),
    ("OSError: [Errno 28] No space left on device", MachineTrouble, "DiskFull"),
    ("RuntimeError: PytorchStreamWriter failed writing file data/3: file write failed", MachineTrouble, "DiskFull"),
    ("[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=4)", MachineTrouble, "GpusDisconnected"),
    ("RuntimeError: [gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]:2",
     MachineTrouble, "RanksDisconnected"),
    ("RuntimeError: [enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory",
     MachineTrouble, "OutOfMemory"),
    ("DeepSpeedConfigError: zero_optimization stage 9 is not valid", UserMistake, "DeepSpeedConfigInvalid"),
    ("KeyError: 'FancyHook is not in the mmengine::hook registry.'", UserMistake, "ConfigInvalid"),
    ("TypeError: LoraConfig.__init__() got an unexpected keyword argument 'rankk'", UserMistake, "ConfigInvalid"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "kind", "reason"), MESSAGES, ids=[row[2] for row in MESSAGES])
def test_a_ranks_last_words_are_explained(said, kind, reason):
    failure = explain([said], [])
    assert (type(failure), failure.failure.reason) == (kind, reason)
    assert said[:40] in failure.failure.message


def test_a_rank_that_was_killed_is_told_from_torchruns_report():
    failure = explain([], ["  exitcode  : -9 (pid: 4711)", "  traceback : Signal 9 (SIGKILL) received by PID 4711"])
    assert failure.failure.reason == "RankKilled"


def test_a_killed_rank_is_the_cause_and_what_the_others_said_a_symptom():
    said = "RuntimeError: [gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]:2"
    killed = "  exitcode  : -9 (pid: 4711)"
    assert explain([said], [said, killed]).failure.reason == "RankKilled"
    assert explain(["CUDA out of memory"], [killed]).failure.reason == "GpuOutOfMemory"


def test_a_kill_by_the_kernel_for_memory_is_told_as_such():
    assert explain([], ["exitcode  : -9 (pid: 1)"], oom_kills=1).failure.reason == "OutOfMemory"


def test_what_the_first_rank_said_counts_more_than_the_echo_in_the_log():
    failure = explain(["OSError: [Errno 28] No space left on device"], ["CUDA out of memory in an earlier line"])
    assert failure.failure.reason == "DiskFull"


def test_the_unknown_is_the_machines_trouble_and_shows_its_error():
    failure = explain(["ZeroDivisionError: division by zero"], [])
    assert isinstance(failure, MachineTrouble)
    assert "ZeroDivisionError" in failure.failure.message


def test_every_reason_has_a_cure():
    assert all(row.cure and row.message.endswith(".") for row in TABLE)
