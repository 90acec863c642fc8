"""Killed, out of disk, short of memory: what is left, and how the next run goes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_jobs.__main__ import main
from finetune_jobs.contract import MERGED_FOLDER, RESULT_FILE, ExitCode

pytestmark = pytest.mark.stage

KILLED_IN_THE_SECOND_SHARD = """
import os, signal, sys
from finetune_jobs.__main__ import main
from finetune_jobs.merge import stream

name = sys.argv.pop()
append = stream.BlockFile.append
files = []

def append_until_killed(self, size, fill):
    if self not in files:
        files.append(self)
    append(self, size, fill)
    if len(files) == 2 and size > 10000:
        os.kill(os.getpid(), getattr(signal, name))

stream.BlockFile.append = append_until_killed
sys.exit(main(sys.argv[1:]))
"""


def arguments(workshop, request) -> list[str]:
    path = workshop.workspace / "merge.json"
    path.write_text(request.to_json())
    return ["merge", "--request", str(path), "--workspace", str(workshop.workspace)]


MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.fixture
def large(workshop):
    """Three shards."""
    workshop.make_llama(layers=20)
    workshop.make_adapter()
    return workshop


def run_until(workshop, request, name) -> int:
    command = [sys.executable, "-c", KILLED_IN_THE_SECOND_SHARD, *arguments(workshop, request), name]
    return subprocess.run(command, check=False, capture_output=True).returncode


def test_killed_in_the_middle_and_run_again(large):
    request = large.request()
    out = large.room(request).out
    assert run_until(large, request, "SIGKILL") == -signal.SIGKILL
    assert not (out / RESULT_FILE).exists()
    assert not (out / MERGED_FOLDER).exists()
    assert main(arguments(large, request)) == ExitCode.DONE
    sha256 = json.loads((out / RESULT_FILE).read_text())["result"]["sha256"]
    assert sha256 == large.merge(request)[0].sha256  # unbroken
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == [MERGED_FOLDER]


def test_asked_to_stop(large):
    """SIGTERM ends it as interrupted, and the half-written folder goes."""
    request = large.request()
    assert run_until(large, request, "SIGTERM") == ExitCode.INTERRUPTED
    assert [path for path in large.room(request).out.iterdir() if path.is_dir()] == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], check=False, capture_output=True, text=True
    )
    if mount.returncode != 0:
        pytest.skip(f"this user may not mount a tmpfs: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def outcome_on(disk: Path, workshop) -> tuple[int, dict]:
    """Merge with the output on the disk; how it ended."""
    (workshop.workspace / "merge").symlink_to(disk)
    outcome = workshop.workspace / "outcome.json"
    code = main([*arguments(workshop, workshop.request()), "--outcome", str(outcome)])
    return code, json.loads(outcome.read_text())["failure"]


def test_disk_that_is_too_small_is_seen_first(large, small_disk):
    code, failure = outcome_on(small_disk, large)
    assert code == ExitCode.MACHINE_TROUBLE
    assert failure["reason"] == "DiskFull"
    assert "The merged model needs" in failure["message"]
    assert list(small_disk.rglob("*.safetensors")) == []


def test_disk_that_fills_up_on_the_way(large, small_disk, monkeypatch):
    from finetune_jobs import merge

    monkeypatch.setattr(merge, "require_space", lambda *_: None)
    (small_disk / "ballast").write_bytes(b"\x00" * 1_500_000)
    code, failure = outcome_on(small_disk, large)
    assert code == ExitCode.MACHINE_TROUBLE
    assert failure["reason"] == "DiskFull"
    assert list(small_disk.rglob("*.safetensors")) == []


def peak(workshop, request) -> int:
    """Bytes of ru_maxrss of a merge in a process of its own.

    A small process starts it: what the starting one held before exec counts as the child's.
    """
    command = [sys.executable, "-S", "-c", MEASURED, sys.executable, "-m", "finetune_jobs"]
    said = subprocess.run([*command, *arguments(workshop, request)], check=True, capture_output=True, text=True).stdout
    return int(said) * 1024


def test_memory_does_not_grow_with_the_model(llama):
    """Nearly 600 MB more of weights, long rows and merged matrices, take less than half of that in memory."""
    import torch
    from safetensors.torch import save_file

    little = peak(llama, llama.request())
    llama.edit_adapter(lambda tensors: widen(tensors, torch))
    names = [f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up")]
    more = {name: torch.zeros(1_000_000, 64, dtype=torch.bfloat16) for name in names}
    index = json.loads((llama.base / "model.safetensors.index.json").read_text())
    save_file({**more, "extra": torch.zeros(160_000_000, dtype=torch.bfloat16)}, llama.base / "more.safetensors")
    index["weight_map"] |= dict.fromkeys([*more, "extra"], "more.safetensors")
    (llama.base / "model.safetensors.index.json").write_text(json.dumps(index))
    del more
    assert peak(llama, llama.request(dtype="bfloat16", shard="1GB")) - little < 250e6


def widen(tensors, torch):
    for name in ("gate", "up"):
        key = f"base_model.model.model.layers.0.mlp.{name}_proj.lora_B.weight"
        tensors[key] = torch.ones(1_000_000, 8, dtype=torch.bfloat16)
