"""Tokenised documents on disk between reading and packing: bytes in one file, lengths in another.

Read back by ``pread``: memory-mapped pages would count as this process's memory, and grow with the data.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from finetune_jobs.dataset.tokens import Array

TOKEN_BYTES = 4
LENGTH_BYTES = 4


class Spool:
    """Appended to first, read afterwards; both files are gone when the `with` block ends."""

    def __init__(self, folder: Path) -> None:
        self.paths = folder / ".documents", folder / ".lengths"
        self.count = 0

    def __enter__(self) -> Self:
        self.documents, self.lengths = (path.open("w+b", buffering=1 << 20) for path in self.paths)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file, path in zip((self.documents, self.lengths), self.paths, strict=True):
            path.unlink()
            with suppress(OSError):  # a full disk: what can't be written any more is not needed either
                file.close()

    def append(self, documents: Iterable[Array]) -> None:
        for document in documents:
            self.documents.write(document.tobytes())
            self.lengths.write(np.uint32(len(document)).tobytes())
            self.count += 1

    def windows(self, size: int) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """(offsets, lengths) in tokens, of `size` documents at a time, in the order of `append`."""
        self.documents.flush()
        self.lengths.flush()
        base = 0
        for first in range(0, self.count, size):
            raw = os.pread(self.lengths.fileno(), size * LENGTH_BYTES, first * LENGTH_BYTES)
            lengths = np.frombuffer(raw, np.uint32).astype(np.int64)
            ends = base + np.cumsum(lengths)
            yield ends - lengths, lengths
            base = int(ends[-1])

    def read(self, offset: int, length: int) -> Array:
        """The document that lies at `offset` tokens."""
        raw = os.pread(self.documents.fileno(), length * TOKEN_BYTES, offset * TOKEN_BYTES)
        return np.frombuffer(raw, np.int32)
