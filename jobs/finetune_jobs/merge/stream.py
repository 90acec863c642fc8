"""Streams a plan to safetensors files: pieces are made by all cores, each in its place in a block.

In memory are a few pieces and blocks only, whatever the size of the model.
"""

import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from finetune_jobs.merge.arithmetic import Maker, Piece, opened, pieces_of, read_ahead
from finetune_jobs.merge.blocks import BlockFile, Fill, open_blocks
from finetune_jobs.merge.plan import Plan, Shard

MOST_WORKERS = 8
"""More can't be fed to the one hash that a file is."""

Report = Callable[[int], None]


def write_shards(plan: Plan, folder: Path, report: Report) -> dict[str, str]:
    """Write the plan's files to the folder; their SHA-256 by name. `report` is told the bytes so far."""
    workers = min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    with opened(plan.weights) as descriptors, open_blocks() as blocks, ThreadPoolExecutor(workers, "merge") as pool:
        maker = Maker(descriptors)

        def start(piece: Piece) -> Fill:
            read_ahead(piece, descriptors)
            return lambda targets: pool.submit(maker.make, piece, targets)

        try:
            digests = {}
            for shard in plan.shards:
                file = BlockFile(folder / shard.file, blocks)
                for size, fill in contents(shard, pool, start):
                    file.append(size, fill)
                    report(min(blocks.done, plan.size))
                digests[shard.file] = file.finish()
            sha256s = {name: digest.result() for name, digest in digests.items()}
        finally:
            pool.shutdown(cancel_futures=True)
    report(plan.size)
    return sha256s


def contents(shard: Shard, pool: ThreadPoolExecutor, start: Callable[[Piece], Fill]) -> Iterator[tuple[int, Fill]]:
    """All that the file holds, in order: sizes in bytes, and who fills them."""
    header = header_of(shard)
    yield len(header), lambda targets: pool.submit(write_out, header, targets)
    for weight in shard.weights:
        for piece in pieces_of(weight):
            yield piece.size, start(piece)


def write_out(data: bytes, targets: Sequence[memoryview]) -> None:
    start = 0
    for target in targets:
        target[:] = data[start : start + len(target)]
        start += len(target)


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
