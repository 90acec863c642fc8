"""Reads the layout of safetensors files: who lies where, without loading anything.

A safetensors file is an 8-byte little-endian length, a JSON header of that length and the tensors' bytes
(https://huggingface.co/docs/safetensors#format).
"""

import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from finetune_jobs.errors import UserMistake

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
MAX_HEADER = 100_000_000  # bytes; the reference implementation's limit

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOATS = ("F32", "F16", "BF16")
"""Types that are added to, and converted to the wanted one."""
SAFETENSORS_NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor where it lies: `size` bytes from byte `start` of `file`."""

    name: str
    dtype: str
    """As safetensors writes it: BF16, F32, ..."""
    shape: tuple[int, ...]
    file: Path
    start: int
    size: int

    @property
    def elements(self) -> int:
        return prod(self.shape)

    def bytes(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The bytes of elements `start` to `stop`; of all, where nothing is said."""
        item = ITEM_BYTES[self.dtype]
        found = np.empty(((self.elements if stop is None else stop) - start) * item, np.uint8)
        with self.file.open("rb", buffering=0) as file:
            read_into(file.fileno(), found, self.start + start * item)
        return found


def read_into(descriptor: int, buffer: np.ndarray, start: int) -> None:
    """Fill the buffer from byte `start` on; OSError where the file ends before."""
    view = memoryview(buffer)
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], start + done)
        if count == 0:
            raise OSError(f"the file ends {len(view) - done} bytes too early")
        done += count


def read_header(path: Path) -> list[StoredTensor]:
    """The file's tensors in the order of their bytes. Raises UserMistake(WeightsBroken)."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
            return sorted(entries(header, path, 8 + length, file.seek(0, os.SEEK_END)), key=lambda t: t.start)
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise UserMistake(
            "WeightsBroken",
            f"{path.name} is no whole safetensors file: {error}.",
            "Remove the stage's folder that holds it and run again, so that it is fetched anew.",
        ) from error


def entries(header: Mapping[str, object], path: Path, data: int, end: int) -> Iterator[StoredTensor]:
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict):
            raise TypeError(f"{name} is no entry")
        first, last = entry["data_offsets"]
        tensor = StoredTensor(name, entry["dtype"], tuple(entry["shape"]), path, data + first, last - first)
        if tensor.dtype not in ITEM_BYTES:
            raise ValueError(f"{name} has the unknown type {tensor.dtype}")
        if tensor.size != tensor.elements * ITEM_BYTES[tensor.dtype] or data + last > end:
            raise ValueError(f"{name} should lie in bytes {data + first} to {data + last} of {end}")
        yield tensor


def weight_files(folder: Path) -> dict[str, str | None]:
    """Names of the files that hold a model's weights; where there is an index, by tensor, else None."""
    index = folder / INDEX_FILE
    if index.exists():
        return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    single = folder / SINGLE_FILE
    names = [SINGLE_FILE] if single.exists() else sorted(path.name for path in folder.glob("*.safetensors"))
    return dict.fromkeys(names)


def read_weights(folder: Path) -> dict[str, StoredTensor]:
    """All weights of a model folder, single or sharded, in the order in which they lie. Raises UserMistake."""
    listed = weight_files(folder)
    by_tensor = None not in listed.values()
    files = sorted({str(name) for name in (listed.values() if by_tensor else listed)})
    missing = [name for name in files if not (folder / name).exists()]
    if missing or not files:
        raise UserMistake(
            "WeightsMissing",
            f"The base model lacks {missing[0] if missing else 'any safetensors file'}.",
            "Remove the model stage's folder and run again, so that it is fetched anew.",
        )
    found: dict[str, StoredTensor] = {}
    for name in files:
        for tensor in read_header(folder / name):
            if not by_tensor or listed.get(tensor.name, name) == name:
                found[tensor.name] = tensor
    absent = sorted(listed.keys() - found.keys()) if by_tensor else []
    if absent:
        raise UserMistake(
            "WeightsMissing",
            f"The base model's index names {absent[0]}, which {listed[absent[0]]} does not hold.",
            "Remove the model stage's folder and run again, so that it is fetched anew.",
        )
    return found
