"""Loss curves of the fast path beside plain Transformers and peft, on one GPU.

    python benchmarks/gpu_curves.py [--layers 8] [--steps 100] [--output FILE]

Random weights of Llama-3-8B's shape, nf4 rounding, the same adapters to begin with, rows of 1,024 tokens that can be
learned (each token is the one before plus a step that differs from row to row). `plain` computes in bfloat16 under
autocast, as XTuner does; `plain, other rows` sees other rows of the same kind: the noise that the others are judged by.
Prints the mean of the last ten losses and the largest distance to `plain`, over means of ten steps, and one JSON line
last.
"""

import argparse
import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_gpu import adapted, device_name, random_weights, trainer

from finetune_jobs.train.fast.batches import collate
from finetune_jobs.train.fast.model import Mode, hasten

LENGTH, ROWS = 1024, 4
WORDS = 1000
WINDOW = 10
RUNS: dict[str, tuple[Mode | None, int]] = {
    "plain": (None, 0),
    "plain, other rows": (None, 1),
    "ours": (Mode("resident"), 0),
    "ours, nf4": (Mode("nf4", 2), 0),
    "ours, fp8": (Mode("fp8"), 0),
}


def batch_of(number: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng([seed, number])
    first, step = draw.integers(0, WORDS, (ROWS, 1)), draw.integers(1, 8, (ROWS, 1))
    return (first + step * np.arange(LENGTH)) % WORDS


def curve(mode: Mode | None, seed: int, layers: int, steps: int) -> list[float]:
    model = random_weights(layers, nf4=True, keep_nf4=mode is None or mode.store == "nf4")
    torch.manual_seed(1)
    model = adapted(model if mode is None else hasten(model, mode), 0.0)
    step = trainer(model, rate=1e-3)
    losses = []
    for number in range(steps):
        tokens = batch_of(number, seed)
        data: dict[str, Any] = collate([{"input_ids": row, "labels": row} for row in tokens])["data"]
        batch = {k: v.cuda() if torch.is_tensor(v) else v for k, v in data.items()}
        if mode is None:
            batch = {"input_ids": batch["input_ids"], "labels": batch["labels"]}
        with torch.autocast("cuda", torch.bfloat16, enabled=mode is None):
            losses.append(step(batch))
    return torch.stack(losses).tolist()


def means(losses: list[float]) -> np.ndarray:
    return np.asarray(losses)[: len(losses) // WINDOW * WINDOW].reshape(-1, WINDOW).mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    curves: dict[str, list[float]] = {}
    told = {}
    for name, (mode, seed) in RUNS.items():
        curves[name] = curve(mode, seed, options.layers, options.steps)
        gc.collect()
        torch.cuda.empty_cache()
        plain = means(curves["plain"])
        apart = float(np.abs(means(curves[name]) / plain - 1).max())
        told[name] = {"last": round(float(means(curves[name])[-1]), 4), "apart": round(apart, 5)}
        first, last = curves[name][0], told[name]["last"]
        print(f"{name:20} first {first:.4f}  last ten {last:.4f}  at most {apart:.3%} from plain", flush=True)
    if options.output:
        options.output.write_text(json.dumps({"device": device_name(), "curves": curves}))
    print(json.dumps({"device": device_name(), "layers": options.layers, "steps": options.steps, "runs": told}))


if __name__ == "__main__":
    main()
