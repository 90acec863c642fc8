"""Our merge against a plain copy of the same bytes, in the same run.

    python benchmarks/bench_merge.py [--gigabytes 8.4] [--rounds 3] [--folder DIR]

Makes a Llama-shaped model of random bf16 weights in shards of 1 GB and an adapter of rank 64 on every linear layer in a
temporary folder, then copies the model's files (shutil.copyfile) and merges (``python -m finetune_jobs merge``,
interpreter and imports included, SHA-256 of the output and its check too) in turns. Both begin with the inputs in the
page cache and nothing waiting to be written, and both end when files and folder are safe on the disk (fsync). Prints
medians, and one JSON line last. The folder is removed afterwards.

Memory is the child's ru_maxrss: everything resident, mapped libraries included; the merge reads weights by pread,
so that none of the page cache is in it. The goal: at most 1.3 times the copy; memory below one shard and 1 GB.

The limit is what the promises cost at the least on this machine: the SHA-256 of every byte and the fp32 products of
rank 64, each by all cores, with nothing read and nothing written; measured on a part of them and scaled.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune_jobs.contract import (
    ADAPTER_FOLDER,
    MODEL_FOLDER,
    RESULT_FILE,
    Contract,
    ExportRequest,
    ExportResult,
    MergeRequest,
    ModelRequest,
    ModelResult,
    Record,
    Source,
    Stage,
    VolumeSource,
)
from finetune_jobs.room import flush

RANK = 64
SHARD = 10**9  # bytes, of the input and of the output
BLOCK = 32 << 20  # random values that are repeated: making 4 GB of them would take longer than the rest
CORES = len(os.sched_getaffinity(0))
IMPORTS = "import finetune_jobs.__main__, finetune_jobs.merge"
GOAL_RATIO = 1.3
GOAL_MEMORY = 10**9  # bytes


@dataclass(frozen=True)
class Shape:
    """A Llama of as many layers as the size needs; the vocabulary grows with them as in Llama 3 8B."""

    hidden: int
    layers: int

    @classmethod
    def of(cls, size: float) -> "Shape":
        hidden = 4096 if size >= SHARD else 512
        return cls(hidden, max(1, round(size / (2 * 14.9 * hidden**2))))

    def linears(self) -> dict[str, tuple[int, int]]:
        """Names and shapes (out, in) of all layers that the adapter changes."""
        wide, narrow, inner = self.hidden, self.hidden // 4, self.hidden * 7 // 2
        one = {
            "self_attn.q_proj": (wide, wide),
            "self_attn.k_proj": (narrow, wide),
            "self_attn.v_proj": (narrow, wide),
            "self_attn.o_proj": (wide, wide),
            "mlp.gate_proj": (inner, wide),
            "mlp.up_proj": (inner, wide),
            "mlp.down_proj": (wide, inner),
        }
        return {f"model.layers.{n}.{name}": shape for n in range(self.layers) for name, shape in one.items()}

    def weights(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (4008 * self.layers, self.hidden)}
        found |= {f"{name}.weight": shape for name, shape in self.linears().items()}
        for n in range(self.layers):
            found[f"model.layers.{n}.input_layernorm.weight"] = (self.hidden,)
            found[f"model.layers.{n}.post_attention_layernorm.weight"] = (self.hidden,)
        return found | {"model.norm.weight": (self.hidden,), "lm_head.weight": (4008 * self.layers, self.hidden)}

    def adapter(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for name, (out, into) in self.linears().items():
            found[f"base_model.model.{name}.lora_A.weight"] = (RANK, into)
            found[f"base_model.model.{name}.lora_B.weight"] = (out, RANK)
        return found


def random_bf16() -> bytes:
    values = np.random.default_rng(0).standard_normal(BLOCK // 2, np.float32) * 0.02
    return bytes((values.view(np.uint32) >> 16).astype(np.uint16))


def write_safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]], random: bytes) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, at, len(random)):
            file.write(memoryview(random)[: at - start])


def in_shards(shapes: Mapping[str, tuple[int, ...]]) -> list[dict[str, tuple[int, ...]]]:
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in shapes.items():
        more = 2 * int(np.prod(shape))
        if shards[-1] and size + more > SHARD:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += more
    return shards


def write_model(folder: Path, shape: Shape, random: bytes) -> None:
    folder.mkdir(parents=True)
    shards = in_shards(shape.weights())
    weight_map: dict[str, str] = {}
    for number, shapes in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / name, shapes, random)
        weight_map |= dict.fromkeys(shapes, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))


def write_adapter(folder: Path, shape: Shape, random: bytes) -> None:
    folder.mkdir(parents=True)
    write_safetensors(folder / "adapter_model.safetensors", shape.adapter(), random)
    targets = sorted({name.rpartition(".")[2] for name in shape.linears()})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "target_modules": targets, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def record(workspace: Path, request: ModelRequest | ExportRequest, result: Contract) -> Path:
    folder = workspace / request.stage / request.digest()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT_FILE).write_text(Record.of(request, result).to_json())
    return folder


def make_workspace(workspace: Path, shape: Shape) -> tuple[Path, Path]:
    """A workspace in which the merge can begin: the model's folder, and the merge's request."""
    random = random_bf16()
    source = Source(volume=VolumeSource(claim_name="random"))
    parameters = sum(int(np.prod(one)) for one in shape.weights().values())
    model = ModelRequest(source=source)
    made = ModelResult(
        parameters=parameters,
        architecture="LlamaForCausalLM",
        dtype="bfloat16",
        bytes=2 * parameters,
        sha256="0" * 64,
        source="random weights",
    )
    base = record(workspace, model, made) / MODEL_FOLDER
    write_model(base, shape, random)
    adapter = ExportRequest(adapter=source)
    brought = ExportResult(
        rank=RANK,
        alpha=16,
        target_modules=(),
        tensors=len(shape.adapter()),
        bytes=0,
        source="random",
    )
    write_adapter(record(workspace, adapter, brought) / ADAPTER_FOLDER, shape, random)
    needs = {Stage.MODEL: model.digest(), Stage.EXPORT: adapter.digest()}
    request = workspace / "merge.json"
    request.write_text(MergeRequest(needs=needs, max_shard_size="1GB").to_json())
    return base, request


def warm(folder: Path) -> None:
    """Every input in the page cache, nothing waiting to be written."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(BLOCK):
                    pass
    os.sync()


def time_copy(source: Path, target: Path) -> float:
    began = time.perf_counter()
    target.mkdir()
    for path in source.iterdir():
        shutil.copyfile(path, target / path.name)
        flush(target / path.name)
    flush(target)
    seconds = time.perf_counter() - began
    shutil.rmtree(target)
    return seconds


def run_measured(command: Sequence[str]) -> tuple[float, int]:
    """Seconds and ru_maxrss in bytes of a child that must end well."""
    began = time.perf_counter()
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {child.returncode}:\n{said}")
    return seconds, usage.ru_maxrss * 1024


def time_merge(request: Path, workspace: Path) -> tuple[float, int]:
    command = ["-m", "finetune_jobs", "merge", "--request", str(request), "--workspace", str(workspace)]
    seconds, memory = run_measured([sys.executable, *command])
    shutil.rmtree(workspace / Stage.MERGE)
    return seconds, memory


def hash_seconds(size: int) -> float:
    """Seconds of the SHA-256 of so many bytes, if all cores shared it evenly."""
    block, turns = bytes(BLOCK), 16
    digest = hashlib.sha256()
    began = time.perf_counter()
    for _ in range(turns):
        digest.update(block)
    return (time.perf_counter() - began) * size / (turns * BLOCK) / CORES


def product_seconds(shape: Shape) -> float:
    """Seconds of all changes, (out, rank) @ (rank, in) in fp32, by NumPy's BLAS with all cores."""
    random = np.random.default_rng(0)
    out = np.zeros(max(out * into for out, into in shape.linears().values()), np.float32)
    total = 0.0
    for rows, columns in list(shape.linears().values())[: len(shape.linears()) // shape.layers]:
        left, right = random.random((rows, RANK), np.float32), random.random((RANK, columns), np.float32)
        product = out[: rows * columns].reshape(rows, columns)
        np.matmul(left, right, out=product)  # its memory is there before the clock starts
        began = time.perf_counter()
        np.matmul(left, right, out=product)
        total += time.perf_counter() - began
    return total * shape.layers


def measure(folder: Path, gigabytes: float, rounds: int) -> dict[str, object]:
    load = os.getloadavg()[0]
    shape = Shape.of(gigabytes * 1e9)
    base, request = make_workspace(folder, shape)
    size = sum(path.stat().st_size for path in base.iterdir())
    print(f"model: {size / 1e9:.2f} GB in {len(list(base.glob('*.safetensors')))} shards, adapter of rank {RANK}")
    imports = statistics.median(run_measured([sys.executable, "-c", IMPORTS])[0] for _ in range(rounds))
    copies, merges, memory = [], [], 0
    for turn in range(rounds):
        warm(base)
        copies.append(time_copy(base, folder / "copy"))
        warm(base)
        seconds, peak = time_merge(request, folder)
        merges.append(seconds)
        memory = max(memory, peak)
        print(f"round {turn + 1}: copy {copies[-1]:.2f} s, merge {merges[-1]:.2f} s, peak {peak / 1e6:.0f} MB")
    copy, merge = statistics.median(copies), statistics.median(merges)
    shard = max(path.stat().st_size for path in base.glob("*.safetensors"))
    hashing, product = hash_seconds(size), product_seconds(shape)
    limit = hashing + product
    print(f"limit: {limit:.2f} s; SHA-256 {hashing:.2f} s and products {product:.2f} s, by all {CORES} cores")
    return {
        "bench": "merge",
        "bytes": size,
        "copySeconds": round(copy, 3),
        "mergeSeconds": round(merge, 3),
        "ratio": round(merge / copy, 3),
        "importSeconds": round(imports, 3),
        "peakMemoryBytes": memory,
        "largestShardBytes": shard,
        "hashSeconds": round(hashing, 3),
        "productSeconds": round(product, 3),
        "limitSeconds": round(limit, 3),
        "limitRatio": round(limit / copy, 3),
        "cores": CORES,
        "loadAverage": round(load, 2),
        "goalMet": merge <= GOAL_RATIO * copy and memory < min(shard, GOAL_MEMORY),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Our merge against a plain copy of the same bytes.")
    parser.add_argument("--gigabytes", type=float, default=8.4, help="size of the model (default: 8.4)")
    parser.add_argument("--rounds", type=int, default=3, help="times each is done, in turns (default: 3)")
    parser.add_argument("--folder", type=Path, help="where to work; twice the size must be free there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-merge-", dir=arguments.folder) as folder:
        print(json.dumps(measure(Path(folder), arguments.gigabytes, arguments.rounds)))


if __name__ == "__main__":
    main()
