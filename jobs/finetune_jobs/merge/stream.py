"""Streams a plan to safetensors files: chunks are made by all cores, and written in order.

In memory are a few chunks and blocks only, whatever the size of the model.
"""

import json
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from finetune_jobs.merge.arithmetic import Slot, chunks, largest_chunk, opened
from finetune_jobs.merge.blocks import BlockFile, Blocks, open_blocks
from finetune_jobs.merge.plan import Plan, Shard, Weight

MOST_WORKERS = 8
"""More can't be fed to the one hash that a file is."""

Report = Callable[[int], None]
Piece = tuple[Weight, int, int]


def write_shards(plan: Plan, folder: Path, report: Report) -> dict[str, str]:
    """Write the plan's files to the folder; their SHA-256 by name. `report` is told the bytes so far."""
    workers = min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    with (
        opened(plan.weights) as descriptors,
        ThreadPoolExecutor(workers, "merge", torch.set_num_threads, (1,)) as pool,
        open_blocks() as blocks,
    ):
        slots = [Slot(largest_chunk(plan.weights), descriptors) for _ in range(2 * workers)]
        try:
            made = make_in_order(plan, pool, slots)
            done = 0
            sha256s = {}
            for shard in plan.shards:
                sha256s[shard.file] = write_shard(shard, folder, blocks, made, beginning_at(done, report))
                done += shard.size
            return sha256s
        finally:
            pool.shutdown(cancel_futures=True)


def beginning_at(done: int, report: Report) -> Report:
    return lambda more: report(done + more)


def make_in_order(plan: Plan, pool: ThreadPoolExecutor, slots: list[Slot]) -> Iterator[memoryview]:
    """Each chunk of each weight in the order of the files; a chunk is valid until the next one is asked for."""
    pieces = ((weight, start, stop) for weight in plan.weights for start, stop in chunks(weight))
    free = deque(slots)
    running: deque[tuple[Slot, Future[memoryview]]] = deque()
    while True:
        while free and (piece := next(pieces, None)) is not None:
            slot = free.popleft()
            running.append((slot, pool.submit(slot.make, *piece)))
        if not running:
            return
        slot, future = running.popleft()
        yield future.result()
        free.append(slot)


def write_shard(shard: Shard, folder: Path, blocks: Blocks, made: Iterator[memoryview], report: Report) -> str:
    file = BlockFile(folder / shard.file, blocks)
    try:
        file.write(memoryview(header_of(shard)))
        done = 0
        while done < shard.size:
            chunk = next(made)
            file.write(chunk)
            done += len(chunk)
            report(done)
        return file.finish()
    finally:
        file.close()


def header_of(shard: Shard) -> bytes:
    """Length and JSON, filled up with blanks to a multiple of 8 as the reference implementation does."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for weight in shard.weights:
        header[weight.name] = {
            "dtype": weight.dtype,
            "shape": list(weight.shape),
            "data_offsets": [at, at + weight.size],
        }
        at += weight.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
