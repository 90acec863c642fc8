"""Makes one chunk of one merged weight: read, add in fp32, round once.

Every worker has a slot of buffers that it uses again and again: fresh memory costs more than the arithmetic.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from finetune_jobs.errors import UserMistake
from finetune_jobs.merge.adapter import Lora
from finetune_jobs.merge.plan import Weight
from finetune_jobs.merge.tensors import EXPONENT_BITS, ITEM_BYTES, StoredTensor, all_finite, read_into

CHUNK = 1 << 20
"""Elements; a chunk in fp32 then fits a core's cache."""
TORCH_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Slot:
    """Buffers for one chunk of up to `elements` elements."""

    def __init__(self, elements: int, descriptors: Mapping[Path, int]) -> None:
        self._descriptors = descriptors
        self._read = np.empty(elements * max(ITEM_BYTES.values()), np.uint8)
        self._sum = torch.empty(elements, dtype=torch.float32)
        self._rounded = np.empty(elements * 4, np.uint8)

    def make(self, weight: Weight, start: int, stop: int) -> memoryview:
        """Bytes of elements `start` to `stop` (whole rows where a change is added); valid until the next call."""
        item = ITEM_BYTES[weight.source.dtype]
        source = self._read[: (stop - start) * item]
        read_into(self._descriptors[weight.source.file], source, weight.source.start + start * item)
        made = source if weight.copied else self._merge(weight, source, start, stop)
        if weight.dtype in EXPONENT_BITS and not all_finite(made, weight.dtype):
            raise not_finite(weight)
        return memoryview(made)

    def _merge(self, weight: Weight, source: np.ndarray, start: int, stop: int) -> np.ndarray:
        total = self._sum[: stop - start]
        total.copy_(torch.from_numpy(source).view(TORCH_TYPES[weight.source.dtype]))
        if weight.lora is not None:
            columns = weight.shape[1]
            left, right = factors(weight.lora)
            rows = total.view(-1, columns)
            torch.addmm(rows, left[start // columns : stop // columns], right, alpha=weight.lora.scale, out=rows)
        made = self._rounded[: (stop - start) * ITEM_BYTES[weight.dtype]]
        torch.from_numpy(made).view(TORCH_TYPES[weight.dtype]).copy_(total)
        return made


def chunks(weight: Weight) -> list[tuple[int, int]]:
    """The weight's elements in pieces of about CHUNK; in whole rows where a change is added."""
    step = CHUNK
    if weight.lora is not None:
        columns = weight.shape[1]
        step = max(1, CHUNK // columns) * columns
    return [(start, min(start + step, weight.source.elements)) for start in range(0, weight.source.elements, step)]


def largest_chunk(weights: list[Weight]) -> int:
    return max((stop - start for weight in weights for start, stop in chunks(weight)), default=0)


@lru_cache(maxsize=4)
def factors(lora: Lora) -> tuple[torch.Tensor, torch.Tensor]:
    """Two fp32 matrices whose product has the weight's shape: (rows, rank) and (rank, columns)."""
    a, b = as_float(lora.a), as_float(lora.b)
    return (a.T.contiguous(), b.T.contiguous()) if lora.transposed else (b, a)


def as_float(tensor: StoredTensor) -> torch.Tensor:
    return torch.from_numpy(tensor.bytes()).view(TORCH_TYPES[tensor.dtype]).float().view(tensor.shape)


@contextmanager
def opened(weights: Iterable[Weight]) -> Iterator[dict[Path, int]]:
    """Descriptors of all files that the weights are read from; positioned reads let the threads share them."""
    descriptors: dict[Path, int] = {}
    try:
        for path in {weight.source.file for weight in weights}:
            descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            os.posix_fadvise(descriptors[path], 0, 0, os.POSIX_FADV_SEQUENTIAL)
        yield descriptors
    finally:
        for number in descriptors.values():
            os.close(number)


def not_finite(weight: Weight) -> UserMistake:
    largest = torch.finfo(TORCH_TYPES[weight.dtype]).max
    return UserMistake(
        "MergedNotFinite",
        f"The merged {weight.name} holds NaN, infinity or a value beyond {largest:g}, the largest of {weight.dtype}.",
        "Write bfloat16 as spec.merge.dtype if it is float16 now; else the base model or the training is broken: "
        "check the base model's files and train with a lower learning rate.",
    )
