"""Where an optimizer step's time goes, on each rank of a training: a hook for its XTuner config.

Times are unions of intervals on the GPU, in milliseconds: a kernel that runs beside another is not counted twice.
NCCL's kernels wait for the other ranks inside themselves, so `communication` is transfer and waiting together. `step`
is a step under the profiler by the host's clock; `data` is what lay between the iterations: reading and collating.
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import distributed

Interval = tuple[float, float]

ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
SORTS = {
    "communication": ("nccl",),
    "attention": ("flash", "fmha", "cudnn_generated", "attention", "sdpa"),
    "large products": ("gemm", "cutlass", "nvjet", "xmma", "cublas"),
}
"""Sorts by what a kernel's name holds, in lower case; the first that fits. The rest is `other`."""


class StepProfile(Hook):  # type: ignore[misc]
    """Profiles optimizer step number `step` (from 1) and writes `profile-<rank>.json` into `folder`."""

    priority = "LOWEST"

    def __init__(self, step: int, accumulation: int, folder: str) -> None:
        self.first, self.last = (step - 1) * accumulation, step * accumulation - 1
        self.folder = Path(folder)
        self.ended = 0.0
        self.waits: list[float] = []

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:  # noqa: ARG002 - mmengine's
        if self.first <= batch_idx <= self.last and self.ended:
            self.waits.append(time.perf_counter() - self.ended)
        if batch_idx == self.first:
            self.wait_for_all()
            self.profiler = torch.profiler.profile(activities=list(torch.profiler.supported_activities()))
            self.profiler.start()
            self.began = time.perf_counter()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:  # noqa: ARG002 - mmengine's
        self.ended = time.perf_counter()
        if batch_idx != self.last:
            return
        self.wait_for_all()
        milliseconds = (time.perf_counter() - self.began) * 1e3
        self.profiler.stop()
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        trace = self.folder / f"trace-{rank}.json"
        self.profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
        trace.unlink()
        told = {"step": round(milliseconds, 1), "data": round(sum(self.waits) * 1e3, 1), **summary(events)}
        draft = self.folder / f".profile-{rank}.json"
        draft.write_text(json.dumps(told))
        draft.rename(self.folder / f"profile-{rank}.json")

    def wait_for_all(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if distributed.is_initialized():
            distributed.barrier()


def sort_of(name: str) -> str:
    low = name.lower()
    return next((sort for sort, parts in SORTS.items() if any(part in low for part in parts)), "other")


def summary(events: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds by sort; `exposed` is communication beside which nothing else ran, `idle` is no kernel at all."""
    sorted_out: dict[str, list[Interval]] = {sort: [] for sort in (*SORTS, "other")}
    for event in events:
        if event.get("cat") in ON_GPU:
            sorted_out[sort_of(event["name"])].append((event["ts"], event["ts"] + event["dur"]))
    everything = [one for found in sorted_out.values() for one in found]
    computing = [one for sort, found in sorted_out.items() if sort != "communication" for one in found]
    span = max((end for _, end in everything), default=0.0) - min((start for start, _ in everything), default=0.0)
    lengths = {sort: covered(found) for sort, found in sorted_out.items()}
    lengths["exposed"] = covered(everything) - covered(computing)
    lengths["idle"] = span - covered(everything)
    return {sort: round(microseconds / 1e3, 2) for sort, microseconds in lengths.items()}


def covered(intervals: Iterable[Interval]) -> float:
    """Length of the intervals' union."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
