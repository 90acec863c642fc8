"""Starts torchrun with our rank program, watches it, and says how it ended."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from finetune_jobs.contract import CONFIG_FILE
from finetune_jobs.errors import Interrupted, of_told
from finetune_jobs.hardware import Machine
from finetune_jobs.lifeline import PARENT_VARIABLE
from finetune_jobs.train import checkpoints
from finetune_jobs.train.failures import explain
from finetune_jobs.train.layout import (
    DEEPSPEED_FILE,
    EXTENSIONS_FOLDER,
    FOLDER_VARIABLE,
    RANKS_FOLDER,
    RANKS_VARIABLE,
    STARTED_FILE,
    WORK_FOLDER,
)
from finetune_jobs.train.stop import STOP_FILE
from finetune_jobs.train.world import World

log = logging.getLogger(__name__)

KEPT_LINES = 400
"""Of the ranks' output, for `failures`."""
MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")


def launch(out: Path, world: World, machine: Machine, resume: Path | None) -> None:
    """Train until the last step; `resume` is a complete checkpoint.

    Raises Interrupted when asked to stop (KeyboardInterrupt here, or a signal to a rank), and UserMistake or
    MachineTrouble when a rank fails.
    """
    ranks = ranks_folder(out, world)
    shutil.rmtree(ranks, ignore_errors=True)
    ranks.mkdir(parents=True)
    killed_before = oom_kills()
    process = subprocess.Popen(
        command(out, world, resume),
        env=environment(out, world, machine, os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        close_fds=False,  # the stage's lock goes with it
        start_new_session=True,  # Ctrl-C reaches the stage alone, which asks the ranks to save
    )
    last: deque[str] = deque(maxlen=KEPT_LINES)
    asked = False
    try:
        relay(process, last)
    except KeyboardInterrupt:
        asked = True
        stop(process, ranks, last)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    conclude(out, world, process.returncode, last, asked=asked, oom=oom_kills() - killed_before)


def ranks_folder(out: Path, world: World) -> Path:
    """This node's own: others that train with it begin and end when they do."""
    return out / RANKS_FOLDER / str(world.node_rank)


def command(out: Path, world: World, resume: Path | None) -> list[str]:
    torchrun = [
        sys.executable, "-m", "finetune_jobs.train.elastic",
        f"--nnodes={world.nodes}", f"--node-rank={world.node_rank}", f"--nproc-per-node={world.per_node}",
        f"--master-addr={world.address}", f"--master-port={world.port}", "--max-restarts=0",
    ]  # fmt: skip
    training = [
        "-m", "finetune_jobs.train.rank", str(out / CONFIG_FILE), "--work-dir", str(out / WORK_FOLDER),
        "--deepspeed", str(out / DEEPSPEED_FILE), "--launcher", "pytorch",
    ]  # fmt: skip
    return [*torchrun, *training, *(["--resume", str(resume)] if resume else [])]


def environment(out: Path, world: World, machine: Machine, base: Mapping[str, str]) -> dict[str, str]:
    threads = base.get("OMP_NUM_THREADS") or str(max(1, machine.cores // world.per_node))
    own = {
        FOLDER_VARIABLE: str(out),
        RANKS_VARIABLE: str(ranks_folder(out, world)),
        PARENT_VARIABLE: str(os.getpid()),
        "TORCH_EXTENSIONS_DIR": str(out / EXTENSIONS_FOLDER),
        "PYTHONUNBUFFERED": "1",
    }
    # MKL's own count, or mmengine sets it to 1
    counts = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    hidden = {} if world.gpu else {"CUDA_VISIBLE_DEVICES": ""}
    return {**counts, **base, **own, **hidden}


def relay(process: "subprocess.Popen[str]", last: "deque[str]") -> None:
    """Pass the ranks' output on to this stage's log."""
    if process.stdout is None:
        raise AssertionError("torchrun is started with a pipe")
    for line in process.stdout:
        last.append(line.rstrip("\n"))
        sys.stderr.write(line)


def stop(process: "subprocess.Popen[str]", ranks: Path, last: "deque[str]") -> None:
    """Ask the ranks to save and end; those that have not begun are ended at once."""
    if not (ranks / STARTED_FILE).exists():
        return
    log.info("asked to stop: saving a checkpoint at the end of this step")
    (ranks / STOP_FILE).touch()
    try:
        relay(process, last)
        process.wait()
    except KeyboardInterrupt:
        log.warning("asked to stop again: ending without a new checkpoint")
        os.killpg(process.pid, signal.SIGKILL)


def conclude(out: Path, world: World, code: int, last: "deque[str]", *, asked: bool, oom: int) -> None:
    newest = checkpoints.newest(out)
    marker = checkpoints.read_marker(newest) if newest else None
    if marker is not None and marker.step == marker.total_steps:
        return
    if asked or code == 0:
        saved = (
            f"A checkpoint is saved at step {marker.step} of {marker.total_steps}."
            if marker
            else "Nothing was saved yet."
        )
        raise Interrupted(f"The training was asked to stop. {saved}", "Run the same job again to go on from there.")
    if world.node_rank == 0:  # whose first rank may be finishing a checkpoint while another node fails
        checkpoints.clear_drafts(out)
    told = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(ranks_folder(out, world).glob("*.json"))]
    for rank in told:
        if "failure" in rank:
            raise of_told(rank)
    output = [*last, f"torchrun ended with exitcode: {code}"]
    raise explain([rank["error"] for rank in told], output, oom_kills=oom)


def oom_kills(events: Path = MEMORY_EVENTS) -> int:
    """How many processes the kernel has killed in this container because its memory ran out."""
    if not events.exists():
        return 0
    counts = dict(line.split() for line in events.read_text(encoding="ascii").splitlines())
    return int(counts.get("oom_kill", 0))
