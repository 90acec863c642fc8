"""Writes large files front to back: whole aligned blocks, past the page cache, hashed on the way.

The page cache costs more processor time than the addition itself, and nobody reads the file soon enough to
profit; where a file system does not know O_DIRECT, the ordinary way is taken.
"""

import errno
import fcntl
import hashlib
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

BLOCK = 8 << 20  # bytes
BLOCKS = 8
ALIGNMENT = 4096  # bytes; a multiple of every disk's sector
MODE = 0o644


class Blocks:
    """A ring of page-aligned buffers, and the threads that hash and write full ones."""

    def __init__(self, hasher: ThreadPoolExecutor, writer: ThreadPoolExecutor) -> None:
        self._ring = [memoryview(mmap.mmap(-1, BLOCK)) for _ in range(BLOCKS)]
        self._busy: list[list[Future[None]]] = [[] for _ in range(BLOCKS)]
        self._next = 0
        self._hasher = hasher
        self._writer = writer

    def take(self) -> memoryview:
        """The next buffer, once what was in it is hashed and written. Raises what that raised."""
        for task in self._busy[self._next]:
            task.result()
        self._busy[self._next] = []
        return self._ring[self._next]

    def give(self, hash_it: Callable[[], None], write_it: Callable[[], None]) -> None:
        self._busy[self._next] = [self._hasher.submit(hash_it), self._writer.submit(write_it)]
        self._next = (self._next + 1) % BLOCKS

    def drain(self) -> None:
        for tasks in self._busy:
            for task in tasks:
                task.result()
            tasks.clear()

    def settle(self) -> None:
        """Wait until no thread works on a buffer, however that ended."""
        wait([task for tasks in self._busy for task in tasks])
        for tasks in self._busy:
            tasks.clear()


@contextmanager
def open_blocks() -> Iterator[Blocks]:
    with ThreadPoolExecutor(1, "hash") as hasher, ThreadPoolExecutor(1, "write") as writer:
        try:
            yield Blocks(hasher, writer)
        finally:
            hasher.shutdown(cancel_futures=True)
            writer.shutdown(cancel_futures=True)


class BlockFile:
    """One file being written; `finish` makes it durable and tells its SHA-256."""

    def __init__(self, path: Path, blocks: Blocks) -> None:
        self._descriptor = open_direct(path)
        os.fchmod(self._descriptor, MODE)  # whatever the umask: the demo's user reads it
        self._blocks = blocks
        self._digest = hashlib.sha256()
        self._block = blocks.take()
        self._filled = 0
        self._written = 0

    def write(self, data: memoryview) -> None:
        while data:
            count = min(len(data), BLOCK - self._filled)
            self._block[self._filled : self._filled + count] = data[:count]
            self._filled += count
            data = data[count:]
            if self._filled == BLOCK:
                self._flush()
                self._block = self._blocks.take()

    def _flush(self) -> None:
        view, start = self._block[: self._filled], self._written
        self._blocks.give(
            lambda: self._digest.update(view),
            lambda: write_at(self._descriptor, view, start),
        )
        self._written += self._filled
        self._filled = 0

    def finish(self) -> str:
        self._flush()
        self._blocks.drain()
        os.fsync(self._descriptor)
        return self._digest.hexdigest()

    def close(self) -> None:
        self._blocks.settle()
        os.close(self._descriptor)


def open_direct(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT, MODE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        path.unlink(missing_ok=True)  # the kernel makes the file before it refuses the flag
        return os.open(path, flags, MODE)


def write_at(descriptor: int, view: memoryview, start: int) -> None:
    """Write all of the view at byte `start`; what is not aligned goes through the page cache."""
    while view:
        if len(view) % ALIGNMENT or start % ALIGNMENT:
            leave_direct(descriptor)
        try:
            count = os.pwrite(descriptor, view, start)
        except OSError as error:
            if error.errno != errno.EINVAL or not leave_direct(descriptor):
                raise
            continue
        view = view[count:]
        start += count


def leave_direct(descriptor: int) -> bool:
    """Take O_DIRECT off; whether it was on."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    return bool(flags & os.O_DIRECT)
