"""QLoRA of a random-weight Llama-3-8B on one GPU: ours and what a user could pick instead, side by side.

    python benchmarks/bench_gpu.py [--rows NAME ...] [--layers 32] [--steps 8] [--folder DIR] [--output FILE]

Every row trains the same shape (rank 64 on all seven linear layers, AdamW) on the same rows of 4,096 random tokens, all
of them supervised where the name does not say otherwise: 3 steps, then the median of the next ones, each between two
waits for the GPU. Rows of one sort share a process. Rows whose packages are not installed say so. `limit` is not a
training: the large matrix products of a step alone; `limit-attention` has its attention too. Of these and of ours the
power and the clock are told, read by nvidia-smi during two steps more.

XTuner's rows load the weights from a folder that is built once (16 GB, under --folder). Their speed is that of an
optimizer step of 16 rows, everything included. XTUNER_PYTHONPATH and UNSLOTH_PYTHONPATH are where these and the
versions that they need lie, if not where the other rows' packages do; each row tells its versions. Prints a table, and
one JSON line last.
"""

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LENGTH = 4096
RANK, ALPHA = 64, 16
WARMUP = 3
VOCABULARY = 128256
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHAPE = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": VOCABULARY, "max_position_embeddings": 8192, "rope_theta": 500000.0, "tie_word_embeddings": False,
    "use_cache": False,
}  # fmt: skip
PACKAGES = ("torch", "triton", "transformers", "peft", "bitsandbytes", "liger_kernel", "xtuner", "deepspeed", "unsloth",
            "flash-attn-4", "quack-kernels", "nvidia-cutlass-dsl")  # fmt: skip
ROWS: dict[str, dict[str, Any]] = {
    "ours": {"kind": "ours", "batch": 6, "dropout": 0.0},
    "ours-dropout": {"kind": "ours", "batch": 5, "dropout": 0.1},
    "ours-torch": {"kind": "ours", "batch": 6, "dropout": 0.0, "hopper": False},
    "ours-torch-dropout": {"kind": "ours", "batch": 5, "dropout": 0.1, "hopper": False},
    "ours-torch-documents": {"kind": "ours", "batch": 5, "dropout": 0.1, "documents": True, "hopper": False},
    "ours-fp8": {"kind": "ours", "batch": 6, "dropout": 0.0, "store": "fp8"},
    "ours-documents": {"kind": "ours", "batch": 5, "dropout": 0.1, "documents": True},
    "ours-conversations": {"kind": "ours", "batch": 5, "dropout": 0.1, "documents": True, "supervised": 0.4},
    "ours-nf4": {"kind": "ours", "batch": 4, "dropout": 0.1, "store": "nf4"},
    "ours-nf4-24gb": {"kind": "ours", "batch": 1, "dropout": 0.1, "store": "nf4", "recomputed": 32},
    "xtuner-ours": {"kind": "xtuner", "batch": 4, "dtype": "bfloat16", "recompute": False, "fast": True},
    "xtuner-tutorial": {"kind": "xtuner", "batch": 1, "dtype": "float16", "recompute": True},
    "xtuner-configured": {"kind": "xtuner", "batch": 2, "dtype": "bfloat16", "recompute": False},
    "peft-liger": {"kind": "peft", "batch": 4, "dropout": 0.0, "nf4": True},
    "peft-liger-compiled": {"kind": "peft", "batch": 4, "dropout": 0.0, "nf4": False, "compiled": True},
    "unsloth": {"kind": "unsloth", "batch": 8, "checkpointing": "unsloth"},
    "unsloth-best": {"kind": "unsloth", "batch": 4, "checkpointing": False},
    "limit": {"kind": "limit", "attention": False},
    "limit-attention": {"kind": "limit", "attention": True},
}
"""`supervised` is the part at the end of each document whose tokens have labels; without it all have. `hopper` False
leaves out the kernels of flash-attn-4 and quack, where these are installed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8, help="timed, after 3 that are not")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "bench-gpu")
    parser.add_argument("--output", type=Path, help="write every row's figures here too")
    parser.add_argument(
        "--profile", action="store_true", help="keep where a step's time goes, for our rows, in --folder"
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        for name in options.rows:
            print(json.dumps(run_row(name, options)), flush=True)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {"device": device_name(), "versions": versions(), "rows": []}
    for names in processes(options.rows):
        for result in child(names, options):
            summary["rows"].append(result)
            print(json.dumps(result), flush=True)
            if options.output:
                options.output.write_text(json.dumps(summary, indent=1))
    print_table(summary["rows"])
    print(json.dumps(summary))


def processes(names: list[str]) -> list[list[str]]:
    """Rows that share a process; a sort that patches its libraries is never in one with another."""
    shared: dict[Any, list[str]] = {}
    for name in names:
        kind = ROWS[name]["kind"]
        shared.setdefault((kind, "hopper" in ROWS[name]) if kind in ("ours", "peft") else name, []).append(name)
    return list(shared.values())


def child(names: list[str], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows' figures as they come; what went wrong is part of them."""
    command = [sys.executable, __file__, "--here", "--layers", str(options.layers), "--steps", str(options.steps),
               "--folder", str(options.folder), *(["--profile"] if options.profile else []),
               "--rows", *names]  # fmt: skip
    log = options.folder / f"{names[0]}.log"
    left = list(names)
    elsewhere = os.environ.get("UNSLOTH_PYTHONPATH") if ROWS[names[0]]["kind"] == "unsloth" else None
    paths = os.pathsep.join(filter(None, (elsewhere, os.environ.get("PYTHONPATH"))))
    surroundings = {**os.environ, "PYTHONPATH": paths}
    if not ROWS[names[0]].get("hopper", True):
        surroundings["FINETUNE_HOPPER"] = "0"
    with log.open("w") as errors:
        ran = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=surroundings)
        for line in ran.stdout or ():
            if line.startswith('{"row"'):
                result = json.loads(line)
                left.remove(result["row"])
                yield result
        ran.wait()
    lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
    for name in left:
        yield {"row": name, "error": lines[-1][:300]}


def run_row(name: str, options: argparse.Namespace) -> dict[str, Any]:
    setting = {"row": name, **ROWS[name]}
    kinds: dict[str, Callable[..., dict[str, Any]]] = {
        "limit": limit, "ours": ours, "peft": peft_liger, "unsloth": unsloth, "xtuner": xtuner,
    }  # fmt: skip
    result = {"row": name, "versions": versions(), **kinds[setting["kind"]](setting, options), **setting}
    free()
    return result


def free() -> None:
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def device_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def print_table(results: list[dict[str, Any]]) -> None:
    print(f"{'row':22}{'tokens/s':>10}{'ms a step':>11}{'peak GiB':>10}{'loss':>9}")
    for r in results:
        if "error" in r:
            print(f"{r['row']:22}  {r['error']}")
        else:
            cells = [r.get(key) for key in ("tokensPerSecond", "milliseconds", "peakGiB", "loss")]
            widths = (10, 11, 10, 9)
            told = (f"{'' if cell is None else cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
            print(f"{r['row']:22}" + "".join(told))


# --- Rows in this process


def random_weights(layers: int, *, nf4: bool, keep_nf4: bool = False) -> Any:
    """A Llama-3-8B of so many layers with the same random weights in every row."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from finetune_jobs.train.fast.loading import put, put_nf4, settle_buffers

    device = torch.device("cuda")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            LlamaConfig(num_hidden_layers=layers, **SHAPE), torch_dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    model.requires_grad_(requires_grad=False)
    torch.manual_seed(0)
    for name, parameter in list(model.named_parameters()):
        weight = torch.empty(parameter.shape, device=device, dtype=torch.bfloat16)
        weight = weight.fill_(1) if "norm" in name else weight.normal_(std=0.02)
        if nf4 and "_proj" in name:
            weight = put_nf4(model, name.removesuffix(".weight"), weight, keep=keep_nf4)
        if weight is not None:
            put(model, name, weight)
    settle_buffers(model, device)
    return model


def adapted(model: Any, dropout: float) -> Any:
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=dropout, task_type="CAUSAL_LM", target_modules=LINEAR)
    model = get_peft_model(model, lora).train()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float().cuda()
    return model


def random_rows(count: int, seed: int) -> Any:
    """(count, LENGTH) tokens; the same for a seed in every row."""
    import numpy as np

    return np.random.default_rng(seed).integers(0, VOCABULARY - 256, (count, LENGTH))


def document_positions(rows: int, seed: int = 0) -> list[list[int]]:
    """Positions of packed documents as long as Agent-FLAN's conversations: log-normal, 734 tokens in the mean."""
    draw = random.Random(seed)
    packed = []
    for _ in range(rows):
        positions: list[int] = []
        while len(positions) < LENGTH:
            room = LENGTH - len(positions)
            length = min(max(64, int(draw.lognormvariate(6.3, 0.7))), room)
            positions += range(room if room - length < 64 else length)
        packed.append(positions)
    return packed


def mask_prompts(row: dict[str, Any], supervised: float) -> None:
    """Leave labels on the last part of each document alone."""
    starts = [index for index, position in enumerate(row["position_ids"]) if position == 0]
    for start, end in zip(starts, [*starts[1:], LENGTH], strict=True):
        row["labels"][start : end - round((end - start) * supervised)] = -100


def measure(step: Callable[[int], Any], batch: int, steps: int) -> dict[str, Any]:
    """Median seconds of `step(number)`, which returns the loss."""
    import torch

    torch.cuda.reset_peak_memory_stats()
    times: list[float] = []
    for number in range(WARMUP + steps):
        torch.cuda.synchronize()
        began = time.perf_counter()
        loss = step(number)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    timed = times[WARMUP:]
    return {
        "tokensPerSecond": round(batch * LENGTH / statistics.median(timed)),
        "milliseconds": round(statistics.median(timed) * 1e3, 1),
        "fastest": round(min(timed) * 1e3, 1),
        "slowest": round(max(timed) * 1e3, 1),
        "firstStepSeconds": round(times[0], 1),
        "peakGiB": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "loss": round(float(loss), 4),
    }


def power(step: Callable[[int], Any]) -> dict[str, Any]:
    """Medians of what nvidia-smi reads during two steps more; nothing of the card is changed."""
    import torch

    fields = "power.draw,clocks.sm"
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    command = ["nvidia-smi", "-i", card, f"--query-gpu={fields}", "--format=csv,noheader,nounits", "-lms", "100"]
    with tempfile.TemporaryFile("w+") as told:
        reader = subprocess.Popen(command, stdout=told)
        for number in range(2):
            step(number)
        torch.cuda.synchronize()
        reader.terminate()
        reader.wait()
        told.seek(0)
        lines = [line.split(",") for line in told.read().splitlines() if line.count(",") == 1]
    late = [[float(value) for value in line] for line in lines[len(lines) // 3 :]]
    if not late:
        return {}
    return {"watts": statistics.median(line[0] for line in late),
            "megahertz": statistics.median(line[1] for line in late)}  # fmt: skip


def profile(step: Callable[[int], Any], path: Path) -> None:
    """One more step, kernel by kernel, into a file."""
    import torch

    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as taken:
        step(0)
        torch.cuda.synchronize()
    path.write_text(taken.key_averages().table(sort_by="self_device_time_total", row_limit=60))


def trainer(model: Any, rate: float = 2e-4) -> Callable[[Any], Any]:
    """Forward, backward, clip and AdamW on what `model(**batch)` returns."""
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0, fused=True)

    def step(batch: dict[str, Any]) -> Any:
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def ours(setting: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from finetune_jobs.train.fast.batches import collate
    from finetune_jobs.train.fast.choice import Load, Shape, expected
    from finetune_jobs.train.fast.model import Mode, hasten

    store, rows, dropout = setting.get("store", "resident"), setting["batch"], setting["dropout"]
    again = min(setting.get("recomputed", 0), options.layers)
    model = random_weights(options.layers, nf4=True, keep_nf4=store == "nf4")
    step = trainer(adapted(hasten(model, Mode(store, again, dropout)), dropout=0.0))
    positions = document_positions(rows) if setting.get("documents") else None

    def one(number: int) -> Any:
        made = [{"input_ids": row, "labels": row.copy()} for row in random_rows(rows, number)]
        if positions is not None:
            made = [{**row, "position_ids": p} for row, p in zip(made, positions, strict=True)]
            for row in made:
                mask_prompts(row, setting.get("supervised", 1.0))
        batch = collate(made)["data"]
        return step({k: v.cuda() if torch.is_tensor(v) else v for k, v in batch.items()})

    shape = Shape.of({**SHAPE, "num_hidden_layers": options.layers})
    estimate = expected(Load(shape, rows * LENGTH, RANK, dropout, optimizer=12), store, again)
    result = measure(one, rows, options.steps)
    if options.profile:
        profile(one, options.folder / f"{setting['row']}.profile.txt")
    return {**result, **power(one), "expectedGiB": round(estimate / 2**30, 2)}


def peft_liger(setting: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    apply_liger_kernel_to_llama(rope=True, swiglu=True, rms_norm=True, fused_linear_cross_entropy=True)
    base = random_weights(options.layers, nf4=setting["nf4"], keep_nf4=True)
    model = adapted(base, setting["dropout"])
    model.enable_input_require_grads()
    if setting.get("compiled"):
        for layer in base.model.layers:
            layer.compile()
    step = trainer(model)

    def one(number: int) -> Any:
        ids = torch.from_numpy(random_rows(setting["batch"], number)).cuda()
        with torch.autocast("cuda", torch.bfloat16):
            return step({"input_ids": ids, "labels": ids})

    return measure(one, setting["batch"], options.steps)


def limit(setting: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """A step's large matrix products on 16,384 tokens, forward and back, and at most attention beside them."""
    import torch

    from finetune_jobs.train.fast.attention import attend

    rows, hidden, inner = 4, SHAPE["hidden_size"], SHAPE["intermediate_size"]
    tokens = rows * LENGTH

    def random(*size: int) -> Any:
        return torch.randn(size, device="cuda", dtype=torch.bfloat16)

    layer = [(6144, hidden), (hidden, hidden), (2 * inner, hidden), (hidden, inner)]
    operands = [(random(n, k), random(tokens, k), random(tokens, n)) for n, k in layer]
    head = (random(VOCABULARY, hidden), random(LENGTH, hidden), random(LENGTH, VOCABULARY))
    heads = [random(rows, LENGTH, count, 128).requires_grad_() for count in (32, 8, 8)]
    dy = random(rows, LENGTH, 32, 128)

    def both(weight: Any, x: Any, dy: Any) -> None:
        torch.mm(x, weight.t())
        torch.mm(dy, weight)

    def one(_: int) -> float:
        for _ in range(options.layers):
            for triple in operands:
                both(*triple)
            if setting["attention"]:
                torch.autograd.grad(attend(*heads, None), heads, dy)
        for _ in range(rows):
            both(*head)
        return 0.0

    result = {**measure(one, rows, options.steps), **power(one), "loss": None}
    flops = 4 * tokens * (options.layers * sum(n * k for n, k in layer) + VOCABULARY * hidden)
    return result if setting["attention"] else {**result, "teraflops": round(flops / result["milliseconds"] / 1e9)}


def unsloth(setting: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    os.environ |= {"UNSLOTH_DISABLE_STATISTICS": "1", "HF_HUB_OFFLINE": "1"}
    import unsloth  # patches what is imported after it
    import torch  # isort: skip
    from gpu_xtuner import build_folder

    FastLanguageModel = unsloth.FastLanguageModel  # noqa: N806 - a class

    folder = build_folder(options.folder, options.layers)
    model, _ = FastLanguageModel.from_pretrained(
        str(folder), max_seq_length=LENGTH, dtype=torch.bfloat16, load_in_4bit=True
    )
    model = FastLanguageModel.get_peft_model(
        model, r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", target_modules=LINEAR,
        use_gradient_checkpointing=setting["checkpointing"], random_state=0,
    )  # fmt: skip
    FastLanguageModel.for_training(model, use_gradient_checkpointing=bool(setting["checkpointing"]))
    step = trainer(model)

    def one(number: int) -> Any:
        ids = torch.from_numpy(random_rows(setting["batch"], number)).cuda()
        with torch.autocast("cuda", torch.bfloat16):
            return step({"input_ids": ids, "labels": ids})

    return measure(one, setting["batch"], options.steps)


def xtuner(setting: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    import gpu_xtuner

    return gpu_xtuner.run(setting, gpu_xtuner.build_folder(options.folder, options.layers), options.folder)


if __name__ == "__main__":
    main()
