"""Opens what was written, as any reader would, and compares it with what should be there."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from finetune_jobs.errors import MachineTrouble
from finetune_jobs.merge.arithmetic import floats, nf4_values, unscaled_factors
from finetune_jobs.merge.conversion import EPSILON
from finetune_jobs.merge.files import CONFIG_FILE
from finetune_jobs.merge.plan import Plan, Shard, Weight
from finetune_jobs.merge.tensors import StoredTensor, read_weights

SAMPLES = 4
"""Merged weights that are computed once more, in fp64 and another way."""
ROWS = 2
"""First and last rows of each of them."""
TOKENIZER_FILE = "tokenizer.json"


def check_merged(plan: Plan, folder: Path, base_folder: Path) -> None:
    """Raise MachineTrouble(OutputBroken) where the folder is not what the plan says."""
    try:
        for shard in plan.shards:
            check_shard(shard, folder)
        written = read_weights(folder)
        if written.keys() != {weight.name for weight in plan.weights}:
            raise broken("the index and the shards differ")
        changed = [weight for weight in plan.weights if weight.lora is not None]
        for weight in changed[:: max(1, len(changed) // SAMPLES)]:
            check_sum(weight, written[weight.name])
        json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        check_tokenizer(folder, base_folder)
    except (SafetensorError, OSError, ValueError) as error:
        raise broken(str(error)) from error


def check_shard(shard: Shard, folder: Path) -> None:
    """The reference implementation opens it and finds names, shapes and types as planned."""
    with safe_open(folder / shard.file, framework="np") as file:
        if set(file.keys()) != {weight.name for weight in shard.weights}:
            raise broken(f"{shard.file} holds other tensors than planned")
        for weight in shard.weights:
            found = file.get_slice(weight.name)
            if tuple(found.get_shape()) != weight.shape or found.get_dtype() != weight.dtype:
                raise broken(f"{weight.name} has another shape or type than planned")


def check_sum(weight: Weight, written: StoredTensor) -> None:
    """Some rows read back from the disk and computed once more, in fp64."""
    if weight.lora is None:
        raise ValueError(f"{weight.name} has no change")
    left, right = (factor.astype(np.float64) for factor in unscaled_factors(weight.lora))
    for first in {0, max(0, weight.shape[0] - ROWS)}:
        rows = slice(first, first + ROWS)
        expected = base_rows(weight, rows) + weight.lora.scale * (left[rows] @ right)
        # fp32 sums of terms that cancel are off by about their largest term's rounding
        slack = 1e-5 * float(np.abs(expected).max())
        if not np.allclose(read_rows(written, rows), expected, rtol=EPSILON[weight.dtype], atol=slack):
            raise broken(f"{weight.name} is not the sum of base and adapter in rows {first} to {first + ROWS - 1}")


def base_rows(weight: Weight, rows: slice) -> np.ndarray:
    """(rows, columns) in fp64, of what the change is added to."""
    return read_rows(weight.source, rows, nf4_values if weight.nf4 else floats)


def read_rows(
    tensor: StoredTensor, rows: slice, read: Callable[[StoredTensor, int, int], np.ndarray] = floats
) -> np.ndarray:
    """(rows, columns) in fp64, of a matrix on the disk."""
    columns, last = tensor.shape[1], min(rows.stop, tensor.shape[0])
    return read(tensor, rows.start * columns, last * columns).reshape(-1, columns).astype(np.float64)


def check_tokenizer(folder: Path, base_folder: Path) -> None:
    """The tokenizer that was copied loads; the model stage has tried the base's on text."""
    if (folder / TOKENIZER_FILE).exists():
        # The library itself: importing transformers takes longer than many a merge
        from tokenizers import Tokenizer

        Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    elif (base_folder / "tokenizer_config.json").exists():
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(folder)


def broken(what: str) -> MachineTrouble:
    return MachineTrouble(
        "OutputBroken",
        f"The merged model was read back and is not what was written: {what}.",
        "Run again; if it comes back, check this machine's disk and memory.",
    )
