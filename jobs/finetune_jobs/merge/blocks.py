"""Writes large files front to back: whole aligned blocks, past the page cache, hashed on the way.

The page cache costs more processor time than the addition itself, and nobody reads the file soon enough to
profit; where a file system does not know O_DIRECT, the ordinary way is taken.
"""

import errno
import fcntl
import hashlib
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = 4 << 20  # bytes
BLOCKS = 8
"""Few and small enough to stay in the processor's last cache between the sum, the hash and the disk."""
WRITERS = 2
"""So that the disk has the next block at hand when it is done with one."""
ALIGNMENT = 4096  # bytes; a multiple of every disk's sector
MODE = 0o644

Fill = Callable[[Sequence[memoryview]], Future[None]]
"""Begins to fill these places, one after the other."""


@dataclass
class Block:
    """A page-aligned buffer with a part of a file, and who works on it."""

    memory: memoryview
    start: int = 0
    """Where in the file it lies."""
    filled: int = 0
    """Bytes that are given to somebody to fill."""
    fills: list[Future[None]] = field(default_factory=list)
    """Those who fill it."""
    uses: list[Future[None]] = field(default_factory=list)
    """Those who then read it: the hash and the write."""


class Blocks:
    """A ring of blocks, and the threads that hash and write what is in them."""

    def __init__(self, pools: ExitStack, descriptors: ExitStack) -> None:
        memory = mmap.mmap(-1, BLOCK * BLOCKS)
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
        view = memoryview(memory)
        self._ring = deque(Block(view[n * BLOCK : (n + 1) * BLOCK]) for n in range(BLOCKS))
        self.descriptors = descriptors
        """Of the files, until no thread works any more."""
        self.hasher = pools.enter_context(cancelled_at_exit(ThreadPoolExecutor(1, "hash")))  # one: in order
        self.writer = pools.enter_context(cancelled_at_exit(ThreadPoolExecutor(WRITERS, "write")))
        self.finisher = pools.enter_context(cancelled_at_exit(ThreadPoolExecutor(1, "finish")))
        self.done = 0
        """Bytes hashed and written."""

    def take(self, start: int) -> Block:
        """The next block, for a file's bytes from `start` on. Waits for what was in it, and raises what that raised."""
        block = self._ring[0]
        for use in block.uses:
            use.result()
        self._ring.rotate(-1)
        self.done += block.filled
        block.start, block.filled, block.fills, block.uses = start, 0, [], []
        return block


@contextmanager
def cancelled_at_exit(pool: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def open_blocks() -> Iterator[Blocks]:
    with ExitStack() as descriptors, ExitStack() as pools:
        yield Blocks(pools, descriptors)


class BlockFile:
    """One file being written front to back."""

    def __init__(self, path: Path, blocks: Blocks) -> None:
        self._descriptor = open_direct(path)
        blocks.descriptors.callback(os.close, self._descriptor)
        os.fchmod(self._descriptor, MODE)  # whatever the umask: the demo's user reads it
        self._blocks = blocks
        self._digest = hashlib.sha256()
        self._block = blocks.take(0)
        self._uses: list[Future[None]] = []

    def append(self, size: int, fill: Fill) -> None:
        """Give the file's next `size` bytes to `fill`, and to the hash and the disk when they are there."""
        places = list(self._places(size))
        views = [view for _, view in places]
        filled = fill(views)
        hashed = self._blocks.hasher.submit(self._hash, filled, views)
        self._uses.append(hashed)
        for block, _ in places:
            block.fills.append(filled)
            block.uses.append(hashed)
            if block.filled == BLOCK:
                self._write(block)

    def _places(self, size: int) -> Iterator[tuple[Block, memoryview]]:
        while size:
            if self._block.filled == BLOCK:
                self._block = self._blocks.take(self._block.start + BLOCK)
            block = self._block
            count = min(size, BLOCK - block.filled)
            yield block, block.memory[block.filled : block.filled + count]
            block.filled += count
            size -= count

    def _hash(self, filled: Future[None], views: Sequence[memoryview]) -> None:
        filled.result()
        for view in views:
            self._digest.update(view)

    def _write(self, block: Block) -> None:
        view = block.memory[: block.filled]
        written = self._blocks.writer.submit(write_when_filled, self._descriptor, block.fills, view, block.start)
        block.uses.append(written)
        self._uses.append(written)

    def finish(self) -> Future[str]:
        """Its SHA-256, when all of it is safe on the disk."""
        if self._block.filled < BLOCK:
            self._write(self._block)
        return self._blocks.finisher.submit(self._finish)

    def _finish(self) -> str:
        for use in self._uses:
            use.result()
        os.fsync(self._descriptor)
        return self._digest.hexdigest()


def write_when_filled(descriptor: int, fills: Sequence[Future[None]], view: memoryview, start: int) -> None:
    for filled in fills:
        filled.result()
    write_at(descriptor, view, start)


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
