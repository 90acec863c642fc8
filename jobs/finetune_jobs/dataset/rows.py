"""The rows of a source's files, one at a time, in an order that does not depend on the machine.

JSON is parsed here and never by a library that infers a schema: files of one data set may differ in their fields.
A row is numbered by its line in JSON files and by its place, from 1, in Parquet and Arrow files.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import zstandard

from finetune_jobs.contract import DatasetFormat
from finetune_jobs.dataset import arrow_rows
from finetune_jobs.dataset.conversation import NotUnderstood
from finetune_jobs.errors import UserMistake

BLOCK = 256 << 10  # bytes read at once
LARGEST_ROW = 64 << 20  # bytes: a file without line breaks must not fill the memory
COMPRESSED = (".gz", ".zst")
LINE_KINDS = (".jsonl", ".ndjson")
KINDS = (*LINE_KINDS, ".json", ".parquet")
PATTERNS = {
    DatasetFormat.AGENT_FLAN: tuple(f"**/*.jsonl{packed}" for packed in ("", *COMPRESSED)),
    DatasetFormat.MESSAGES: tuple(f"**/*{kind}{packed}" for kind in KINDS for packed in ("", *COMPRESSED)),
    DatasetFormat.XTUNER: (),
}
"""What is looked for when the request names no files."""


class Row(NamedTuple):
    file: str
    """Relative to the source."""
    line: int
    body: object
    """Undecoded JSON as bytes, a decoded object, or NotUnderstood where not even that could be made."""


@dataclass
class Position:
    """How far the reading is, in bytes of the files as they lie on the disk."""

    total: int = 1
    done: int = 0


def decode(row: Row) -> object:
    """The row's object; NotUnderstood if it is no JSON in UTF-8."""
    if isinstance(row.body, NotUnderstood):
        raise row.body
    if not isinstance(row.body, bytes):
        return row.body
    try:
        return json.loads(row.body.decode("utf-8-sig" if row.line == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise NotUnderstood("not_utf8", f"byte {error.start + 1} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise NotUnderstood("broken_json", f"broken JSON at column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise NotUnderstood("broken_json", f"broken JSON: {error}") from None


def read(root: Path, names: Iterable[str], position: Position) -> Iterator[Row]:
    """All rows of the files `names` under `root`, in the order given."""
    for name in names:
        path = root / name
        try:
            for line, body in reader_of(name)(path, position):
                yield Row(name, line, body)
        except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
            raise broken_file(name, error) from None


def broken_file(name: str, error: Exception) -> UserMistake:
    return UserMistake(
        "FileBroken",
        f"{name} can't be read to its end: {error or 'it stops in the middle'}.",
        "Bring the file again: it is damaged, or only a part of it has arrived.",
    )


def kind_of(name: str) -> str:
    """.jsonl of data/train.jsonl.gz"""
    path = Path(name)
    return Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


def reader_of(name: str) -> Callable[[Path, Position], Iterator[tuple[int, object]]]:
    kind = kind_of(name)
    if kind == ".parquet":
        return parquet
    if kind == ".json":
        return json_array_or_lines
    if kind in LINE_KINDS:
        return json_lines
    raise UserMistake(
        "FileUnknown",
        f"{name} is of no kind that can be read.",
        f"Name files that end in {', '.join(KINDS)}, each perhaps with {' or '.join(COMPRESSED)} after it.",
    )


def parquet(path: Path, position: Position) -> Iterator[tuple[int, object]]:
    """Parquet compresses by itself; a file that was compressed once more is unpacked beside itself meanwhile."""
    if path.suffix in COMPRESSED:
        unpacked = path.with_name(f".{path.name}.unpacked")
        with unpacked.open("wb") as file:
            file.writelines(blocks(path, position))
        yield from ((line, body) for line, _, body in arrow_rows.parquet(unpacked))
        unpacked.unlink()
        return
    start, size = position.done, path.stat().st_size
    for line, share, body in arrow_rows.parquet(path):
        position.done = start + int(share * size)
        yield line, body
    position.done = start + size


def json_lines(path: Path, position: Position) -> Iterator[tuple[int, object]]:
    return lines(blocks(path, position))


def json_array_or_lines(path: Path, position: Position) -> Iterator[tuple[int, object]]:
    """A .json file is one array of rows, or has a row in each line."""
    stream = blocks(path, position)
    head = b""
    while not head.strip(b"\xef\xbb\xbf \t\r\n"):
        block = next(stream, None)
        if block is None:
            return
        head += block
    together = chain_head(head, stream)
    yield from array_rows(together) if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[") else lines(together)


def chain_head(head: bytes, stream: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from stream


def lines(stream: Iterator[bytes]) -> Iterator[tuple[int, object]]:
    """Lines that are not blank, numbered from 1."""
    number, rest = 0, b""
    for block in stream:
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            number += 1
            if line.strip():
                yield number, line
        if len(rest) > LARGEST_ROW:
            raise UserMistake(
                "RowTooLarge",
                f"Line {number + 1} of a JSON lines file is longer than {LARGEST_ROW >> 20} MiB.",
                "Write one row in each line.",
            )
    if rest.strip():
        yield number + 1, rest


def array_rows(stream: Iterator[bytes]) -> Iterator[tuple[int, object]]:
    """The elements of one JSON array, decoded as they come; a row's line is where it starts.

    After a broken element nobody knows where the next one would start: it is the last that is yielded.
    """
    scanner = ArrayScanner(stream)
    try:
        scanner.peek()
        scanner.skip()  # the opening bracket
        while scanner.peek() not in ("]", ""):
            line = scanner.line
            yield line, scanner.element()
            if scanner.peek() == ",":
                scanner.skip()
            elif scanner.peek() != "]":
                break
        if scanner.peek() != "]":
            raise NotUnderstood("broken_json", "broken JSON: a comma, a bracket or the array's end is missing")
    except NotUnderstood as problem:
        yield scanner.line, problem


class ArrayScanner:
    """Decodes a JSON array piece by piece; holds one element and one block at most.

    Bytes that are not UTF-8 become lone surrogates, which no message may hold: only their row is lost.
    """

    def __init__(self, stream: Iterator[bytes]) -> None:
        self.stream = stream
        self.utf8 = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self.decoder = json.JSONDecoder()
        self.text = ""
        self.place = 0
        self.line = 1

    def more(self) -> bool:
        """Append a block to the text; False at the end."""
        block = next(self.stream, None)
        if block is None:
            return False
        self.text = self.text[self.place :] + self.utf8.decode(block)
        self.place = 0
        return True

    def move(self, place: int) -> None:
        self.line += self.text.count("\n", self.place, place)
        self.place = place

    def peek(self) -> str:
        """The next character that is not blank, or nothing at the end."""
        while True:
            place = self.place
            while place < len(self.text) and self.text[place] in " \t\r\n":
                place += 1
            self.move(place)
            if place < len(self.text):
                return self.text[place]
            if not self.more():
                return ""

    def skip(self) -> None:
        """Leave the character behind that `peek` showed."""
        self.move(self.place + 1)

    def element(self) -> object:
        """The row that starts here; NotUnderstood, with the line set to the error's, if it is broken."""
        while True:
            try:
                body, end = self.decoder.raw_decode(self.text, self.place)
            except json.JSONDecodeError as error:
                if len(self.text) - self.place < LARGEST_ROW and self.more():
                    continue
                self.line += error.lineno - 1 - self.text.count("\n", 0, self.place)
                raise NotUnderstood("broken_json", f"broken JSON at column {error.colno}: {error.msg}") from None
            except RecursionError:
                raise NotUnderstood("broken_json", "broken JSON: nested too deeply") from None
            self.move(end)
            return body


def blocks(path: Path, position: Position) -> Iterator[bytes]:
    """The file's bytes, decompressed by its name."""
    start = position.done
    with path.open("rb") as raw:
        opened = OPENERS.get(path.suffix, plain)(raw)
        for block in opened:
            position.done = start + raw.tell()
            yield block
    position.done = start + path.stat().st_size


def plain(raw: BinaryIO) -> Iterator[bytes]:
    while block := raw.read(BLOCK):
        yield block


def gunzip(raw: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=raw) as file:
        while block := file.read(BLOCK):
            yield block


def unzstd(raw: BinaryIO) -> Iterator[bytes]:
    """Frame by frame, because the library's own stream takes a cut file for a whole one."""
    frame: Any = None
    while data := raw.read(BLOCK >> 2):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(data)
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("it stops in the middle of a zstd frame")


OPENERS: dict[str, Callable[[BinaryIO], Iterator[bytes]]] = {".gz": gunzip, ".zst": unzstd}
