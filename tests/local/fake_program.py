"""A fake stage program: makes small files, and misbehaves as files in $FAKE_CONTROL ask it to.

- `<stage>.hold`: work on, step after step, until the file is gone
- `<stage>.ends`: lines, one an attempt: "user" or "machine" or "disk" or "kill" or "exit"
- `<stage>.rank`: start a process in a session of its own that never ends by itself
- `<stage>.slow-save`: when interrupted, save for as long as this file is there
- `<stage>.fill`: write until the disk is full
- `evaluate.valid`: the tuned model's rate of valid calls

It writes to `<stage>.runs` the process id of each start, and to `<stage>.steps` each step that it made.
"""

import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from finetune_jobs.contract import (
    DEMO_HOST_VARIABLE,
    DEMO_PORT_VARIABLE,
    Contract,
    DatasetResult,
    DemoResult,
    EvaluateResult,
    ExportResult,
    MergeResult,
    ModelResult,
    Rates,
    Request,
    Stage,
    TrainResult,
)
from finetune_jobs.errors import Interrupted, MachineTrouble, UserMistake
from finetune_jobs.room import Room

STEPS = 5
TICK = 0.01
"""Seconds; slept, since an Event's wait that a signal breaks off can end in an error of its own."""


def run(request: Request, room: Room) -> Contract:
    control = Control(Path(os.environ["FAKE_CONTROL"]), request.stage)
    control.append("runs", str(os.getpid()))
    control.append("environment", os.environ.get("OMP_WAIT_POLICY", ""))
    if control.has("rank"):
        start_rank(control)
    control.misbehave()
    if control.has("fill"):
        fill(room.out / "large")
    try:
        work(room, control)
        if request.stage is Stage.DEMO:
            serve()
    except KeyboardInterrupt:
        while control.has("slow-save"):
            time.sleep(TICK)
        control.append("saved", "yes")
        raise Interrupted from None
    return evaluation(control) if request.stage is Stage.EVALUATE else RESULTS[request.stage]


def start_rank(control: "Control") -> None:
    rank = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    control.append("ranks", str(rank.pid))


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while file.write(b"0" * 512):
            pass


def work(room: Room, control: "Control") -> None:
    """STEPS steps, each kept as a checkpoint; while held, the last one is made again and again."""
    checkpoints = room.out / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    for step in range(1 + len(list(checkpoints.iterdir())), STEPS + 1):
        (checkpoints / str(step)).touch()
        control.append("steps", str(step))
        room.progress(step, STEPS, force=True, loss=1 / step)
        while step >= STEPS // 2 and control.has("hold"):
            time.sleep(TICK)


def serve() -> None:
    address = os.environ[DEMO_HOST_VARIABLE], int(os.environ[DEMO_PORT_VARIABLE])
    ThreadingHTTPServer(address, Page).serve_forever(poll_interval=0.05)


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/_stcore/health" else 404)
        self.end_headers()


class Control:
    def __init__(self, folder: Path, stage: Stage) -> None:
        self.folder, self.stage = folder, stage

    def path(self, what: str) -> Path:
        return self.folder / f"{self.stage}.{what}"

    def has(self, what: str) -> bool:
        return self.path(what).exists()

    def append(self, what: str, line: str) -> None:
        with self.path(what).open("a") as file:
            file.write(line + "\n")

    def misbehave(self) -> None:
        ends = self.path("ends").read_text().split() if self.has("ends") else []
        if not ends:
            return
        self.path("ends").write_text("\n".join(ends[1:]))
        if ends[0] == "user":
            raise UserMistake("NoSuchThing", "There is no such thing.", "Write another.")
        if ends[0] == "machine":
            raise MachineTrouble("NetworkDown", "The network is down.", "Plug it in.")
        if ends[0] == "disk":
            raise MachineTrouble("DiskFull", "The disk is full.", "Free some space.")
        if ends[0] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(3)


def evaluation(control: Control) -> EvaluateResult:
    valid = float(control.path("valid").read_text()) if control.has("valid") else 0.94
    return EvaluateResult(base=Rates(valid_calls=0), tuned=Rates(valid_calls=valid), prompts=50, turns=20)


RESULTS: dict[Stage, Contract] = {
    Stage.MODEL: ModelResult(
        parameters=134_500_000, architecture="LlamaForCausalLM", dtype="bfloat16", bytes=9, sha256="0" * 64, source="x"
    ),
    Stage.DATASET: DatasetResult(
        rows_read=9, rows_kept=8, rows_dropped={"empty": 1}, tokens=99, supervised_tokens=9, packs=2, fill=0.9
    ),
    Stage.TRAIN: TrainResult(
        checkpoint="checkpoints/5",
        steps=STEPS,
        final_loss=0.2,
        peak_learning_rate=1e-3,
        tokens_per_second=130,
        gpu_seconds=0,
        world_size=1,
        curve=(),
    ),
    Stage.EXPORT: ExportResult(rank=16, alpha=32, target_modules=("q_proj",), tensors=420, bytes=9, source="training"),
    Stage.MERGE: MergeResult(dtype="bfloat16", shards=1, bytes=9, sha256="0" * 64, merged_tensors=210),
    Stage.DEMO: DemoResult(url="http://127.0.0.1"),
}
