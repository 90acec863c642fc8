"""Makes one piece of one merged weight: read, add in fp32, round once.

By NumPy and its BLAS, which works in one thread here (`__main__` says so): the threads of stream.py share the cores.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from finetune_jobs.errors import UserMistake
from finetune_jobs.merge import nf4
from finetune_jobs.merge.adapter import Lora
from finetune_jobs.merge.conversion import LARGEST, all_finite, fits, narrow, widen
from finetune_jobs.merge.plan import Weight
from finetune_jobs.merge.tensors import FLOATS, ITEM_BYTES, StoredTensor, read_into

CHUNK = 1 << 20
"""Elements of a piece: as many rows as a matrix product needs to run at full speed."""
SLICE = 1 << 16
"""Elements of each step around the product: they stay in a core's own cache."""


@dataclass(frozen=True)
class Piece:
    """Elements `start` to `stop` of a weight: whole rows where a change is added, or a part of one long row."""

    weight: Weight
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Bytes, as written."""
        return (self.stop - self.start) * ITEM_BYTES[self.weight.dtype]


def pieces_of(weight: Weight) -> Iterator[Piece]:
    """The weight in pieces of at most CHUNK elements."""
    elements = weight.source.elements
    if elements == 0:
        return
    columns = weight.shape[1] if weight.lora is not None else 1
    line, step = (columns, CHUNK) if columns > CHUNK else (elements, CHUNK // columns * columns)
    for first in range(0, elements, line):
        for start in range(first, first + line, step):
            yield Piece(weight, start, min(start + step, first + line))


class Scratch(threading.local):
    """Each thread's own buffers: fresh memory costs more than the arithmetic."""

    def __init__(self) -> None:
        self.change = np.empty(CHUNK, np.float32)
        self.sum = np.empty(SLICE, np.float32)
        self.stored = np.empty(SLICE * ITEM_BYTES["F32"], np.uint8)


class Maker:
    """Makes pieces, in any thread."""

    def __init__(self, descriptors: Mapping[Path, int]) -> None:
        self._descriptors = descriptors
        self._scratch = Scratch()

    def make(self, piece: Piece, targets: Sequence[memoryview]) -> None:
        """Fill the targets, one after the other, with the piece's bytes. Raises UserMistake(MergedNotFinite)."""
        change = None if piece.weight.lora is None else self._product(piece, piece.weight.lora)
        base = nf4_values(piece.weight.source, piece.start, piece.stop) if piece.weight.nf4 else None
        start = piece.start
        for target in targets:
            made = np.frombuffer(target, np.uint8)
            stop = start + len(made) // ITEM_BYTES[piece.weight.dtype]
            if piece.weight.copied:
                self._copy(piece.weight, start, made)
            else:
                part = slice(start - piece.start, stop - piece.start)
                values = self._values(piece.weight, start, stop) if base is None else in_slices(base[part])
                self._merge(piece.weight, values, None if change is None else change[part], made)
            start = stop

    def _product(self, piece: Piece, lora: Lora) -> np.ndarray:
        """The change of the piece's elements, fp32 of shape (elements,)."""
        columns = piece.weight.shape[1]
        row, column = divmod(piece.start, columns)
        change = self._scratch.change[: piece.stop - piece.start]
        width = min(columns, len(change))
        left, right = factors(lora)
        rows = change.reshape(-1, width)
        np.matmul(left[row : row + len(rows)], right[:, column : column + width], out=rows)
        return change

    def _copy(self, weight: Weight, start: int, made: np.ndarray) -> None:
        self._read(weight, start, made)
        if weight.dtype in FLOATS and not all_finite(made, weight.dtype):
            raise not_finite(weight)

    def _values(self, weight: Weight, start: int, stop: int) -> Iterator[np.ndarray]:
        """Elements `start` to `stop` of the base in fp32, a slice at a time in the same memory."""
        item = ITEM_BYTES[weight.source.dtype]
        for first in range(start, stop, SLICE):
            count = min(SLICE, stop - first)
            stored, wide = self._scratch.stored[: count * item], self._scratch.sum[:count]
            self._read(weight, first, stored)
            widen(stored, weight.source.dtype, wide)
            yield wide

    def _merge(self, weight: Weight, values: Iterable[np.ndarray], change: np.ndarray | None, made: np.ndarray) -> None:
        """Add, check and round, each slice of the values all the way while it is in the cache; they are not kept."""
        item, at = ITEM_BYTES[weight.dtype], 0
        for total in values:
            stop = at + len(total)
            if change is not None:
                np.add(total, change[at:stop], out=total)
            if not fits(total, weight.dtype):
                raise not_finite(weight)
            narrow(total, weight.dtype, made[at * item : stop * item])
            at = stop

    def _read(self, weight: Weight, start: int, buffer: np.ndarray) -> None:
        source = weight.source
        read_into(self._descriptors[source.file], buffer, source.start + start * ITEM_BYTES[source.dtype])


def in_slices(values: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(values), SLICE):
        yield values[first : first + SLICE]


SCALES = threading.Lock()


def nf4_values(tensor: StoredTensor, start: int, stop: int) -> np.ndarray:
    """Elements `start` to `stop`, fp32, as nf4 holds them."""
    first = start // nf4.BLOCK
    last = -(-stop // nf4.BLOCK)
    with SCALES:  # as with the factors below
        scales = nf4_scales(tensor)[first:last]
    begin, end = first * nf4.BLOCK, min(last * nf4.BLOCK, tensor.elements)
    return nf4.rounded(floats(tensor, begin, end), scales)[start - begin : stop - begin]


@lru_cache(maxsize=4)
def nf4_scales(tensor: StoredTensor) -> np.ndarray:
    """The scales of all blocks of a weight, fp32."""
    starts = range(0, tensor.elements, CHUNK)
    return nf4.scales_of(
        np.concatenate([nf4.largest(floats(tensor, at, min(at + CHUNK, tensor.elements))) for at in starts])
    )


FACTORS = threading.Lock()


def factors(lora: Lora) -> tuple[np.ndarray, np.ndarray]:
    """Two fp32 matrices whose product is the change: (rows, rank), the scale in it, and (rank, columns)."""
    with FACTORS:  # a second thread that needs the same takes the first one's
        return scaled_factors(lora)


@lru_cache(maxsize=4)
def scaled_factors(lora: Lora) -> tuple[np.ndarray, np.ndarray]:
    left, right = unscaled_factors(lora)
    return left * np.float32(lora.scale), np.ascontiguousarray(right)


def unscaled_factors(lora: Lora) -> tuple[np.ndarray, np.ndarray]:
    a, b = as_float(lora.a), as_float(lora.b)
    return (a.T, b.T) if lora.transposed else (b, a)


def as_float(tensor: StoredTensor) -> np.ndarray:
    """The whole tensor in fp32."""
    return floats(tensor, 0, tensor.elements).reshape(tensor.shape)


def floats(tensor: StoredTensor, start: int, stop: int) -> np.ndarray:
    """Elements `start` to `stop` in fp32."""
    wide = np.empty(stop - start, np.float32)
    widen(tensor.bytes(start, stop), tensor.dtype, wide)
    return wide


@contextmanager
def opened(weights: Iterable[Weight]) -> Iterator[dict[Path, int]]:
    """Descriptors of all files that the weights are read from; positioned reads let the threads share them."""
    descriptors: dict[Path, int] = {}
    try:
        for path in {weight.source.file for weight in weights}:
            descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        yield descriptors
    finally:
        for number in descriptors.values():
            os.close(number)


def read_ahead(piece: Piece, descriptors: Mapping[Path, int]) -> None:
    """Let the kernel fetch what the piece will read; the threads' reads are in no order that it would see."""
    source = piece.weight.source
    item = ITEM_BYTES[source.dtype]
    os.posix_fadvise(
        descriptors[source.file],
        source.start + piece.start * item,
        (piece.stop - piece.start) * item,
        os.POSIX_FADV_WILLNEED,
    )


def not_finite(weight: Weight) -> UserMistake:
    return UserMistake(
        "MergedNotFinite",
        f"The merged {weight.name} holds NaN, infinity or a value beyond {LARGEST[weight.dtype]:g}, the largest of "
        f"{weight.dtype}.",
        "Write bfloat16 as spec.merge.dtype if it is float16 now; else the base model or the training is broken: "
        "check the base model's files and train with a lower learning rate.",
    )
