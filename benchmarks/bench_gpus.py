"""QLoRA of a random-weight Llama-3-8B by `python -m finetune_jobs train`, on several GPUs and on one.

    python benchmarks/bench_gpus.py [--runs NAME ...] [--layers 32] [--steps 50] [--folder DIR] [--output FILE]

Every run reads the same packed documents (the length mix of Agent-FLAN) and takes 8 rows of 4,096 tokens an optimizer
step, whatever the number of GPUs. Told of each: tokens/s (median of the stage's own figures after 3 steps), seconds
from the start of the program to the end of its first step, the most memory that PyTorch held on each GPU beside what
the plan expected, and the losses. `profile-...` runs the config that the stage wrote by hand, with a hook that takes
one step apart; `whole` exports and merges what `fast-1` trained. A run with `killed` loses a rank to SIGKILL after that
many steps, and is started again. `small-1` has 23.5 GiB of the GPU: what a card of 24 GB gives.

CUDA_VISIBLE_DEVICES says which GPUs are used. Prints one JSON line last.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench_gpu import LENGTH, VOCABULARY, device_name, document_positions, versions

from finetune_jobs.contract import (
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    CURVE_FILE,
    MODEL_FOLDER,
    PACKED_FOLDER,
    RESULT_FILE,
    DatasetFormat,
    DatasetRequest,
    DatasetResult,
    ExportRequest,
    Lora,
    MergeRequest,
    ModelRequest,
    ModelResult,
    Record,
    Request,
    Source,
    Stage,
    TrainRequest,
    VolumeSource,
)
from finetune_jobs.room import stage_folder
from finetune_jobs.train import curve
from finetune_jobs.train.layout import DEEPSPEED_FILE

STEP_ROWS = 8
WARMUP = 3
WORDS = 1000
"""Different tokens in the rows: few, so that 50 steps can learn something."""
TEMPLATE = "llama3_chat"
PROFILED_STEP = 6
PATIENCE = 600
"""Seconds that a run may take."""


@dataclass(frozen=True)
class Run:
    gpus: int
    fast: bool = True
    batch: int = 4
    seed: int = 42
    steps: int | None = None
    """Stopped after so many, by SIGINT as Ctrl-C does; None: all."""
    killed: int | None = None
    warmup: str = "0.1"
    """0.10 is the same training under another digest, so in a folder of its own."""
    deepspeed: str = "zero2"
    quantization: str = "nf4"
    fp8: bool = False
    room: float | None = None
    """GiB of the GPU that another process leaves free; None: all."""


RUNS = {
    "fast-1": Run(1),
    "fast-1-seed": Run(1, seed=43),
    "fp8-1": Run(1, fp8=True),
    "fast-2": Run(2),
    "fast-4": Run(4, batch=2),
    "fast-8": Run(8, batch=1),
    "plain-1": Run(1, fast=False, batch=2, steps=15),
    "plain-2": Run(2, fast=False, batch=2, steps=15),
    "unbroken-2": Run(2, steps=30),
    "killed-2": Run(2, steps=30, killed=12, warmup="0.10"),
    "small-1": Run(1, batch=1, steps=15, room=23.5),
    "zero3-1": Run(1, fast=False, batch=2, steps=5, deepspeed="zero3", quantization="none"),
    "zero3-2": Run(2, fast=False, batch=2, steps=5, deepspeed="zero3", quantization="none"),
    "profile-fast-1": Run(1),
    "profile-fast-2": Run(2),
    "profile-plain-1": Run(1, fast=False, batch=2),
    "profile-plain-2": Run(2, fast=False, batch=2),
    "whole": Run(1),
}
DEFAULT = ("fast-1", "fast-1-seed", "fast-2", "plain-1", "plain-2", "killed-2", "profile-fast-2", "whole")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="*", default=list(DEFAULT), choices=list(RUNS))
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--steps", type=int, default=50, help="optimizer steps that the data gives")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "bench-gpu")
    parser.add_argument("--output", type=Path, help="write every run's figures here too")
    options = parser.parse_args()
    needs = make_workspace(options.folder / "workspace", options)
    summary: dict[str, Any] = {"device": device_name(), "versions": versions(), "layers": options.layers, "runs": []}
    for name in options.runs:
        measured = {"run": name, **asdict(RUNS[name]), **attempt(name, needs, options)}
        summary["runs"].append(measured)
        print(json.dumps({key: value for key, value in measured.items() if key != "losses"}), flush=True)
        if options.output:
            options.output.write_text(json.dumps(summary, indent=1))
    print(json.dumps(summary))


def attempt(name: str, needs: dict[Stage, str], options: argparse.Namespace) -> dict[str, Any]:
    """The run's figures, or what went wrong: the runs after it are worth having all the same."""
    kinds: dict[str, Callable[..., dict[str, Any]]] = {"profile": profiled, "whole": whole}
    try:
        return kinds.get(name.partition("-")[0], trained)(name, needs, options)
    except Exception as error:  # noqa: BLE001 - told, whatever it is
        return {"error": f"{type(error).__name__}: {error}"[-600:]}


# --- A workspace in which a training can begin


def make_workspace(workspace: Path, options: argparse.Namespace) -> dict[Stage, str]:
    """A model of random weights and packed rows, made once; their digests."""
    source = Source(volume=VolumeSource(claim_name="random"))
    asked = ModelRequest(source=source)
    model = ModelResult(parameters=1, architecture="LlamaForCausalLM", dtype="bfloat16", bytes=1, sha256="0" * 64,
                        source="random weights")  # fmt: skip
    rows = options.steps * STEP_ROWS
    packed = DatasetRequest(needs={Stage.MODEL: asked.digest()}, source=source, format=DatasetFormat.MESSAGES,
                            template=TEMPLATE, max_length=LENGTH, seed=rows)  # fmt: skip
    data = DatasetResult(rows_read=rows, rows_kept=rows, rows_dropped={}, tokens=rows * LENGTH,
                         supervised_tokens=rows * LENGTH, packs=rows, fill=1.0)  # fmt: skip
    folder = stage_folder(workspace, Stage.MODEL, asked.digest())
    if not (folder / RESULT_FILE).exists():
        write_model(folder / MODEL_FOLDER, options)
        (folder / RESULT_FILE).write_text(Record.of(asked, model).to_json())
    folder = stage_folder(workspace, Stage.DATASET, packed.digest())
    if not (folder / RESULT_FILE).exists():
        write_rows(folder / PACKED_FOLDER, rows)
        (folder / RESULT_FILE).write_text(Record.of(packed, data).to_json())
    return {Stage.MODEL: asked.digest(), Stage.DATASET: packed.digest()}


def write_model(folder: Path, options: argparse.Namespace) -> None:
    """The weights and the tokenizer of `bench_gpu`'s XTuner rows."""
    from gpu_xtuner import build_folder

    built = build_folder(options.folder, options.layers)
    folder.mkdir(parents=True, exist_ok=True)
    for path in built.iterdir():
        (folder / path.name).unlink(missing_ok=True)
        (folder / path.name).symlink_to(path)


def write_rows(folder: Path, rows: int) -> None:
    """Documents in which each token is the one before plus a step, which differs from document to document."""
    import numpy as np
    from datasets import Dataset

    draw = np.random.default_rng(0)
    first = VOCABULARY // 2
    made: dict[str, list[Any]] = {"input_ids": [], "labels": [], "position_ids": [], "cumulative_len": []}
    for positions in document_positions(rows):
        starts = [index for index, position in enumerate(positions) if position == 0]
        tokens = np.empty(LENGTH, np.int64)
        labels = np.empty(LENGTH, np.int64)
        for start, end in zip(starts, [*starts[1:], LENGTH], strict=True):
            tokens[start:end] = first + (draw.integers(WORDS) + draw.integers(1, 8) * np.arange(end - start)) % WORDS
            labels[start:end] = tokens[start:end]
            labels[start] = -100
        made["input_ids"].append(tokens)
        made["labels"].append(labels)
        made["position_ids"].append(positions)
        made["cumulative_len"].append([*starts, LENGTH])
    Dataset.from_dict(made).save_to_disk(str(folder))


# --- Runs


def request_of(run: Run, needs: dict[Stage, str]) -> TrainRequest:
    return TrainRequest(
        needs=needs, template=TEMPLATE, epochs=1, max_length=LENGTH, batch_size=run.batch,
        gradient_accumulation=STEP_ROWS // run.batch // run.gpus, learning_rate="3e-4", warmup_ratio=run.warmup,
        lora=Lora(rank=64, alpha=16, dropout="0.1"), quantization=run.quantization, deepspeed=run.deepspeed,
        gpus=run.gpus, seed=run.seed, fast=run.fast, fp8=run.fp8 or None, checkpoint_every=10,
    )  # fmt: skip


@dataclass(frozen=True)
class Ended:
    code: int
    seconds: float
    first_step: float | None
    """Seconds to the end of the first step."""
    killed_for: float | None
    """Seconds from a rank's SIGKILL to the end of the program."""
    outcome: dict[str, Any]
    log: str


def start(workspace: Path, request: Request, name: str) -> tuple["subprocess.Popen[bytes]", Path, Path]:
    asked, outcome, log = (workspace / f"{name}.{kind}" for kind in ("request.json", "outcome.json", "log"))
    asked.write_text(request.to_json())
    outcome.unlink(missing_ok=True)
    stage = request.model_dump(mode="json")["stage"]
    command = [sys.executable, "-m", "finetune_jobs", stage, "--request", str(asked), "--workspace", str(workspace),
               "--outcome", str(outcome)]  # fmt: skip
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file), outcome, log


def train(request: TrainRequest, run: Run, name: str, workspace: Path, *, kill: bool = False) -> Ended:
    """One start of the train stage, watched until it ends."""
    out = stage_folder(workspace, Stage.TRAIN, request.digest())
    before = len(curve.read(out / CURVE_FILE))
    began = time.monotonic()
    process, outcome, log = start(workspace, request, name)
    first: float | None = None
    struck: float | None = None
    stopped = False
    while process.poll() is None:
        time.sleep(0.2)
        points = len(curve.read(out / CURVE_FILE))
        if first is None and points and (points != before or before == 0):
            first = time.monotonic() - began
        if kill and struck is None and points >= (run.killed or 0):
            os.kill(rank_process(out, run.gpus - 1), signal.SIGKILL)
            struck = time.monotonic()
        if not kill and not stopped and run.steps is not None and points >= run.steps:
            process.send_signal(signal.SIGINT)
            stopped = True
        if time.monotonic() - began > PATIENCE:
            process.kill()
    ended = time.monotonic()
    told = json.loads(outcome.read_text()) if outcome.exists() else {}
    text = log.read_text(errors="replace")
    return Ended(process.returncode, ended - began, first, None if struck is None else ended - struck, told, text)


@contextmanager
def taken(room: float | None) -> Iterator[None]:
    """Another process holds all of the GPU but `room` GiB, as a smaller card would have it; None: nothing."""
    if room is None:
        yield
        return
    hold = (
        "import torch; free = torch.cuda.mem_get_info()[0]; "
        f"held = torch.empty(int(free - {room} * 2**30), dtype=torch.uint8, device='cuda'); "
        "print(torch.cuda.mem_get_info()[0] / 2**30, flush=True); input()"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        left = float(holder.stdout.readline())
        if abs(left - room) > 0.1:
            raise RuntimeError(f"{left:.2f} GiB are free, not {room}")
        yield
    finally:
        holder.communicate("\n")


def rank_process(out: Path, rank: int) -> int:
    """The process id of a rank of the training in `out`."""
    wanted = {f"RANK={rank}", f"FINETUNE_TRAIN_FOLDER={out}"}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = set((folder / "environ").read_bytes().decode(errors="replace").split("\0"))
            program = (folder / "cmdline").read_bytes()
        except OSError:  # it has ended, or is another user's
            continue
        if wanted <= environment and b"finetune_jobs.train.rank" in program:
            return int(folder.name)
    raise ProcessLookupError(f"no rank {rank} of {out}")


def trained(name: str, needs: dict[Stage, str], options: argparse.Namespace) -> dict[str, Any]:
    run, workspace = RUNS[name], options.folder / "workspace"
    request = request_of(run, needs)
    told: dict[str, Any] = {}
    if run.killed is not None:
        broken = train(request, run, f"{name}-broken", workspace, kill=True)
        out = stage_folder(workspace, Stage.TRAIN, request.digest())
        told["broken"] = {
            "exitCode": broken.code, "secondsToTheEnd": broken.killed_for, "failure": broken.outcome.get("failure"),
            "checkpoints": sorted(path.name for path in (out / CHECKPOINTS_FOLDER).glob("step-*")),
            "losses": [point.loss for point in curve.read(out / CURVE_FILE)],
        }  # fmt: skip
    with taken(run.room):
        ended = train(request, run, name, workspace)
    points = curve.read(stage_folder(workspace, Stage.TRAIN, request.digest()) / CURVE_FILE)
    told |= {"state": ended.outcome.get("state"), "seconds": round(ended.seconds, 1), **read_log(ended.log)}
    if not points:
        return {**told, "failure": ended.outcome.get("failure"), "error": ended.log[-600:]}
    speeds = [point.tokens_per_second or 0.0 for point in points]
    return {
        **told,
        "tokensPerSecond": round(statistics.median(speeds[WARMUP:] or speeds)),
        "secondsToFirstStep": ended.first_step and round(ended.first_step, 1),
        "losses": [point.loss for point in points],
    }


def read_log(text: str) -> dict[str, Any]:
    """Memory that was expected and held, GiB, and where the training went on from."""
    expected = re.search(r"should take ([0-9.]+) GiB", text)
    held = re.search(r"held at most ([0-9., ]+) GiB", text)
    again = re.search(r"going on from step (\d+)", text)
    return {
        "plannedGiB": float(expected[1]) if expected else None,
        "heldGiB": [float(one) for one in held[1].split(",")] if held else None,
        "wentOnFrom": int(again[1]) if again else None,
    }


def profiled(name: str, needs: dict[Stage, str], options: argparse.Namespace) -> dict[str, Any]:
    """One step, rank by rank, of the config that the stage has written."""
    run = RUNS[name]
    out = stage_folder(options.folder / "workspace", Stage.TRAIN, request_of(run, needs).digest())
    scratch = Path(tempfile.mkdtemp(dir=options.folder))
    accumulation = STEP_ROWS // run.batch // run.gpus
    hook = f"dict(type=StepProfile, step={PROFILED_STEP}, accumulation={accumulation}, folder={str(scratch)!r})"
    config = (out / CONFIG_FILE).read_text()
    (scratch / CONFIG_FILE).write_text(
        config.replace("import torch\n", "import torch\nfrom gpu_profile import StepProfile\n", 1)
        + f"\ncustom_hooks = [*custom_hooks, {hook}]\n"
    )
    here = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(run.gpus),
        "-m", "finetune_jobs.train.rank", str(scratch / CONFIG_FILE), "--work-dir", str(scratch),
        "--deepspeed", str(out / DEEPSPEED_FILE), "--launcher", "pytorch",
    ]  # fmt: skip
    wanted = [scratch / f"profile-{rank}.json" for rank in range(run.gpus)]
    with (options.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": here, "HF_HUB_OFFLINE": "1"}, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        until = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < until and not all(path.exists() for path in wanted):
            time.sleep(0.5)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return {"ranks": [json.loads(path.read_text()) for path in wanted]}


def whole(_: str, needs: dict[Stage, str], options: argparse.Namespace) -> dict[str, Any]:
    """Export and merge of what `fast-1` has trained."""
    workspace = options.folder / "workspace"
    digest = request_of(RUNS["fast-1"], needs).digest()
    export = ExportRequest(needs={Stage.MODEL: needs[Stage.MODEL], Stage.TRAIN: digest})
    merge = MergeRequest(needs={Stage.MODEL: needs[Stage.MODEL], Stage.EXPORT: export.digest()})
    told = {}
    for request in (export, merge):
        began = time.monotonic()
        process, outcome, log = start(workspace, request, request.stage)
        process.wait()
        ended = json.loads(outcome.read_text()) if outcome.exists() else {"log": log.read_text()[-600:]}
        told[request.stage.value] = {"seconds": round(time.monotonic() - began, 1), **ended}
    return told


if __name__ == "__main__":
    main()
