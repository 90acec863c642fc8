"""Rows come out of every kind of file, numbered, and broken ones say where."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from finetune_jobs.contract import DatasetFormat
from finetune_jobs.dataset import rows
from finetune_jobs.dataset.conversation import NotUnderstood, conversation
from finetune_jobs.dataset.rows import Position, decode, read
from finetune_jobs.errors import UserMistake

PACKERS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def outcome(row):
    try:
        return row.line, decode(row)
    except NotUnderstood as problem:
        return row.line, problem.reason, problem.why


def read_one(folder: Path, name: str, content: bytes):
    (folder / name).write_bytes(content)
    return [outcome(row) for row in read(folder, [name], Position())]


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("name", ["x.jsonl", "x.ndjson", "x.json"])
def test_lines_are_numbered_and_blank_ones_are_no_rows(tmp_path, name, packed):
    content = b'{"a": 1}\n\n  \n{"a": 2}\r\n{"a": 3}'
    found = read_one(tmp_path, name + packed, PACKERS[packed](content))
    assert found == [(1, {"a": 1}), (4, {"a": 2}), (5, {"a": 3})]


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_an_array_is_read_element_by_element_whatever_the_blocks(tmp_path, packed, block, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", max(4, block))
    objects = [{"text": 'é ] } " \n'}, {"n": [1, {"b": None}]}, {}]
    content = json.dumps(objects, indent=1, ensure_ascii=False).encode()
    found = read_one(tmp_path, "x.json" + packed, PACKERS[packed](content))
    assert [row[1] for row in found] == objects
    assert [row[0] for row in found] == [2, 5, 13]


@pytest.mark.parametrize(
    ("name", "content", "line", "reason"),
    [
        ("x.jsonl", b'{"a": 1}\n{"a": 1\n', 2, "broken_json"),
        ("x.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', 2, "not_utf8"),
        ("x.jsonl", b'{"a": 1}\n' + b"[" * 100_000 + b"\n", 2, "broken_json"),
        ("x.json", b'[{"a": 1},\n{"a": }]', 2, "broken_json"),
        ("x.json", b'[{"a": 1}\n{"a": 2}]', 2, "broken_json"),
        ("x.json", b'[{"a": 1},\n', 2, "broken_json"),
    ],
)
def test_a_broken_row_says_its_line(tmp_path, name, content, line, reason):
    found = read_one(tmp_path, name, content)
    assert found[0] == (1, {"a": 1})
    assert found[-1][:2] == (line, reason)


def test_in_an_array_only_the_row_that_is_not_utf8_is_lost(tmp_path):
    row = b'{"messages": [{"role": "user", "content": "%b"}, {"role": "assistant", "content": "y"}]}'
    found = read_one(tmp_path, "x.json", b"[%b,\n%b,\n%b]" % (row % b"a", row % b"\xff", row % b"b"))
    read_rows = [understood(decoded) for _, decoded in found]
    assert read_rows == ["a", "not_utf8", "b"]


def understood(row):
    try:
        return conversation(row, DatasetFormat.MESSAGES).turns[0].input
    except NotUnderstood as problem:
        return problem.reason


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    assert read_one(tmp_path, "x.jsonl", b'\xef\xbb\xbf{"a": 1}\n') == [(1, {"a": 1})]
    assert read_one(tmp_path, "x.json", b'\xef\xbb\xbf[{"a": 1}]') == [(1, {"a": 1})]


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst"])
def test_a_file_that_arrived_in_part_ends_the_stage(tmp_path, name):
    whole = PACKERS[Path(name).suffix](b"".join(b'{"a": %d}\n' % n for n in range(5000)))
    with pytest.raises(UserMistake, match=r"can't be read to its end") as caught:
        read_one(tmp_path, name, whole[: len(whole) // 2])
    assert caught.value.failure.reason == "FileBroken"


def test_zstd_frames_in_a_row_are_one_file(tmp_path):
    pack = PACKERS[".zst"]
    assert len(read_one(tmp_path, "x.jsonl.zst", pack(b'{"a": 1}\n') + pack(b'{"a": 2}\n'))) == 2


def test_a_file_without_line_breaks_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "LARGEST_ROW", 1000)
    monkeypatch.setattr(rows, "BLOCK", 100)
    with pytest.raises(UserMistake, match="longer than"):
        read_one(tmp_path, "x.jsonl", b"x" * 5000)


@pytest.mark.parametrize("packed", PACKERS)
def test_parquet_gives_its_messages_without_what_arrow_filled_in(tmp_path, packed):
    table = pa.Table.from_pylist(
        [
            {"messages": [{"role": "user", "content": "x", "loss": None, "name": "me"}], "other": 1},
            {"messages": [{"role": "assistant", "content": "y", "loss": True, "name": None}], "other": 2},
        ]
    )
    plain = tmp_path / "plain.parquet"
    pq.write_table(table, plain)
    found = read_one(tmp_path, f"x.parquet{packed}", PACKERS[packed](plain.read_bytes()))
    first = {"messages": [{"role": "user", "content": "x", "loss": None, "name": "me"}]}
    assert found == [(1, first), (2, {"messages": [{"role": "assistant", "content": "y", "loss": True}]})]
    assert {path.name for path in tmp_path.iterdir()} == {"plain.parquet", f"x.parquet{packed}"}


def test_what_is_no_parquet_file_says_so(tmp_path):
    with pytest.raises(UserMistake, match="no Parquet file"):
        read_one(tmp_path, "x.parquet", b"hello")


def test_an_unknown_kind_of_file_is_refused(tmp_path):
    with pytest.raises(UserMistake, match=r"x\.csv is of no kind"):
        read_one(tmp_path, "x.csv", b"a,b\n")


def test_the_position_ends_at_the_total(tmp_path):
    for name in ("a.jsonl", "b.jsonl.gz"):
        (tmp_path / name).write_bytes(PACKERS[Path(name).suffix if name.endswith(".gz") else ""](b'{"a": 1}\n' * 100))
    position = Position(total=sum(path.stat().st_size for path in tmp_path.iterdir()))
    assert sum(1 for _ in read(tmp_path, ["a.jsonl", "b.jsonl.gz"], position)) == 200
    assert position.done == position.total
