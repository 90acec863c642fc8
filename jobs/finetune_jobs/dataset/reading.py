"""The first pass: files -> rows -> conversations -> tokenised documents, a chunk at a time.

Tokenising runs on threads (the tokenizer leaves Python and uses all cores) while the next rows are parsed; chunks come
out in the order of the rows.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from finetune_jobs.contract import DatasetFormat, DatasetRequest
from finetune_jobs.dataset import arrow_rows
from finetune_jobs.dataset.conversation import Conversation, NotUnderstood, conversation
from finetune_jobs.dataset.report import Tally
from finetune_jobs.dataset.rows import PATTERNS, Position, Row, decode, read, reader_of
from finetune_jobs.dataset.tokens import Array, Encoder, document_of
from finetune_jobs.errors import UserMistake
from finetune_jobs.sources.files import walk, wanted

CHUNK_ROWS = 256
CHUNK_CHARACTERS = 1 << 20
THREADS = 2
"""One tokenises while the other makes arrays of what it got."""


class Item(NamedTuple):
    """A row that is kept."""

    document: Array
    conversation: Conversation | None = None
    """What the document says; None for a row that came tokenised."""


class Opened(NamedTuple):
    """A source whose rows can be read."""

    rows: Iterator[Row]
    position: Position
    tokenised: bool = False
    """Rows have input_ids and labels instead of messages."""


def open_source(path: Path, request: DatasetRequest) -> Opened:
    """`path` is the fetched file or folder; UserMistake when it holds nothing of the request's format."""
    if request.format is DatasetFormat.XTUNER:
        return open_dataset(path)
    root, names = (path.parent, [path.name]) if path.is_file() else (path, files_in(path, request))
    for name in names:
        reader_of(name)
    position = Position(total=sum((root / name).stat().st_size for name in names))
    return Opened(read(root, names, position), position)


def files_in(folder: Path, request: DatasetRequest) -> list[str]:
    there = walk(folder)
    names = wanted(there, request.files or PATTERNS[request.format])
    if names:
        return names
    patterns = ", ".join(request.files or PATTERNS[request.format])
    raise UserMistake(
        "DatasetEmpty",
        f"No file of the source fits {patterns}; it has: {', '.join(there[:10]) or 'nothing'}.",
        f"Name the files by dataset.files, or another format than {request.format}.",
    )


def open_dataset(path: Path) -> Opened:
    folder = arrow_rows.dataset_folder(path)
    shards = arrow_rows.shards(folder)
    columns = arrow_rows.columns(shards[0]) if shards else []
    tokenised = "messages" not in columns
    if tokenised and not {"input_ids", "labels"} <= set(columns):
        raise UserMistake(
            "ColumnsMissing",
            f"The Dataset has the columns {', '.join(columns) or 'none'}.",
            "Give one with a column messages, or with both input_ids and labels.",
        )
    position = Position(total=sum(shard.stat().st_size for shard in shards))
    return Opened(dataset_rows(shards, position), position, tokenised=tokenised)


def dataset_rows(shards: list[Path], position: Position) -> Iterator[Row]:
    for shard in shards:
        for line, body in arrow_rows.rows(shard):
            yield Row(shard.name, line, body)
        position.done += shard.stat().st_size


def items(source: Opened, encoder: Encoder, form: DatasetFormat, tally: Tally) -> Iterator[list[Item]]:
    """The kept rows, in chunks; the tally learns what became of each row."""
    if source.tokenised:
        yield from tokenised_items(source.rows, encoder, tally)
        return
    for chunk, encoded in ahead(chunks(conversations(source.rows, form, tally)), encoder.encode_chunk):
        kept = []
        for (row, one), result in zip(chunk, encoded, strict=True):
            if isinstance(result, NotUnderstood):
                tally.drop(row, result)
                continue
            tally.keep(row, result.document, result.length)
            tally.mark(row, one.repaired, one.noted)
            if result.turns < len(one.turns):
                tally.mark_cut(row, result.length, result.turns, len(one.turns))
            kept.append(Item(result.document, one._replace(turns=one.turns[: result.turns])))
        yield kept


def conversations(rows: Iterable[Row], form: DatasetFormat, tally: Tally) -> Iterator[tuple[Row, Conversation]]:
    for row in rows:
        tally.read[row.file] += 1
        try:
            yield row._replace(body=None), conversation(decode(row), form)
        except NotUnderstood as problem:
            tally.drop(row, problem)


Chunk = list[tuple[Row, Conversation]]


def chunks(pairs: Iterable[tuple[Row, Conversation]]) -> Iterator[Chunk]:
    """As many rows as are worth a call of the tokenizer, and not more text than is small in memory."""
    chunk: Chunk = []
    characters = 0
    for row, one in pairs:
        chunk.append((row, one))
        characters += sum(len(turn.system) + len(turn.input) + len(turn.output) for turn in one.turns)
        if len(chunk) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def ahead(chunked: Iterable[Chunk], work: Callable[[Chunk], Any]) -> Iterator[tuple[Chunk, Any]]:
    """(chunk, work(chunk)) in order, with the work done on threads while later chunks are made."""
    with ThreadPoolExecutor(THREADS, thread_name_prefix="tokenise") as pool:
        waiting: deque[tuple[Chunk, Future[Any]]] = deque()
        for chunk in chunked:
            waiting.append((chunk, pool.submit(work, chunk)))
            if len(waiting) > THREADS:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def tokenised_items(rows: Iterable[Row], encoder: Encoder, tally: Tally) -> Iterator[list[Item]]:
    """Rows that XTuner tokenised. A packed one is taken apart at its boundaries, and each document counts as a row."""
    for row in rows:
        kept = []
        for ids, labels in parts(row.body):
            tally.read[row.file] += 1
            try:
                document = document_of(ids, labels, encoder.vocabulary.size)
                if len(document) > encoder.max_length:
                    raise NotUnderstood("too_long", f"{len(document)} tokens, and no turns to cut between")
            except NotUnderstood as problem:
                tally.drop(row, problem)
                continue
            tally.keep(row, document, len(document))
            kept.append(Item(document))
        yield kept


def parts(body: Any) -> Iterator[tuple[list[int], list[int]]]:
    ids, labels = body["input_ids"] or [], body["labels"] or []
    boundaries = body.get("cumulative_len") or [0, len(ids)]
    if len(ids) != len(labels) or boundaries[-1] != len(ids):
        boundaries = [0, max(len(ids), len(labels))]  # refused as one row
    for start, end in itertools.pairwise(boundaries):
        yield ids[start:end], labels[start:end]
