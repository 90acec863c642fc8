"""The second pass: kept documents -> the stage's Arrow folder, written and then opened to be checked."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from finetune_jobs.contract import MESSAGES_FOLDER, PACKED_FOLDER, DatasetRequest
from finetune_jobs.dataset import check, packing
from finetune_jobs.dataset.folder import MESSAGES_SCHEMA, PACKED_SCHEMA, ArrowFolder, messages_batch, packed_batch
from finetune_jobs.dataset.reading import Item, Opened, items
from finetune_jobs.dataset.report import Tally
from finetune_jobs.dataset.spool import Spool
from finetune_jobs.dataset.tokens import Array, Encoder
from finetune_jobs.errors import UserMistake
from finetune_jobs.room import Room

BATCH_TOKENS = 1 << 18
"""About as many tokens are in a record batch: 4 MB, so that a row is quick to be had from the memory map."""


@dataclass(frozen=True)
class Job:
    """One run of the stage, opened and ready to be read."""

    request: DatasetRequest
    room: Room
    source: Opened
    encoder: Encoder
    tally: Tally


def write(job: Job) -> int:
    """The folder that the request asks for; returns its rows."""
    if job.request.output == "messages":
        return write_messages(job)
    folder = job.room.out / PACKED_FOLDER
    with ArrowFolder(folder, PACKED_SCHEMA, job.request.digest()) as out:
        for rows in packs(job) if job.request.pack else single_rows(job):
            out.write(packed_batch(rows))
    check.check_packed(
        folder,
        rows=out.rows,
        tokens=job.tally.tokens,
        supervised=job.tally.supervised,
        max_length=job.request.max_length,
    )
    return out.rows


def write_messages(job: Job) -> int:
    if job.source.tokenised:
        raise UserMistake(
            "MessagesMissing",
            "The Dataset is tokenised already; messages can't be made of tokens.",
            "Give a Dataset with a column messages, or leave the training config to the product.",
        )
    folder = job.room.out / MESSAGES_FOLDER
    with ArrowFolder(folder, MESSAGES_SCHEMA, job.request.digest()) as out:
        for kept in kept_items(job):
            out.write(messages_batch([item.conversation.messages() for item in kept if item.conversation]))
    check.check_loads(folder, job.tally.kept.total())
    return out.rows


def kept_items(job: Job) -> Iterator[list[Item]]:
    """Chunks that are not empty, with progress; UserMistake at the end if too many rows were dropped."""
    position = job.source.position
    for kept in items(job.source, job.encoder, job.request.format, job.tally):
        read = job.tally.read.total()
        estimate = round(read * position.total / max(1, position.done))
        job.room.progress(read, max(read + 1, estimate), unit="row", message="tokenising")
        if kept:
            yield kept
    job.tally.require_enough_kept(job.request.max_dropped)


def single_rows(job: Job) -> Iterator[list[list[Array]]]:
    """One conversation a row, in the order of the source."""
    for kept in kept_items(job):
        yield [[item.document] for item in kept]


def packs(job: Job) -> Iterator[list[list[Array]]]:
    """Rows of whole documents, through the spool."""
    with Spool(job.room.out) as spool:
        for kept in kept_items(job):
            spool.append(item.document for item in kept)
        at_once = max(1, BATCH_TOKENS // job.request.max_length)
        done = 0
        for number, (offsets, lengths) in enumerate(spool.windows(packing.WINDOW)):
            rows = packing.pack(lengths, job.request.max_length, (job.request.seed, number))
            for some in groups(rows, at_once):
                yield [[spool.read(int(offsets[i]), int(lengths[i])) for i in row] for row in some]
                done += sum(map(len, some))
                job.room.progress(done, spool.count, unit="row", message="packing")


def groups(rows: Iterable[list[int]], size: int) -> Iterator[Sequence[list[int]]]:
    rows = iter(rows)
    while some := list(islice(rows, size)):
        yield some
