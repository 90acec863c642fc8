"""The stage on small real files: what it writes, what it counts, what it refuses."""

import gzip
import hashlib
import json
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from datasets import Dataset, DatasetDict, load_from_disk

from finetune_jobs.errors import UserMistake

pytestmark = pytest.mark.stage


def messages(number: int, *, words: int = 8, loss: object = True, turns: int = 1) -> list[dict[str, object]]:
    said: list[dict[str, object]] = [{"role": "system", "content": "You can search.", "loss": False}]
    for turn in range(turns):
        said.append({"role": "user", "content": f"Question {number}.{turn}?", "loss": False})
        answer = f"Answer {number}.{turn}: " + "word " * words
        said.append({"role": "assistant", "content": answer, "loss": loss})
    return said


def flan(number: int, **more: object) -> dict[str, object]:
    return {"conversation": messages(number, **more), "id": f"row_{number}"}  # type: ignore[arg-type]


def documents(folder: Path) -> list[tuple[int, ...]]:
    """Every document of the packed rows, sorted."""
    found = []
    for row in load_from_disk(str(folder)):
        ends = row["cumulative_len"]
        found += [tuple(row["input_ids"][a:b]) for a, b in pairwise(ends)]
    return sorted(found)


def test_packed_rows_hold_every_conversation_whole(stage, write_rows):
    write_rows("a.jsonl", *(flan(n, words=5 * (n % 17)) for n in range(60)))
    result = stage()
    packed = stage.room.out / "packed"
    loaded = load_from_disk(str(packed))
    assert len(loaded) == result.packs < 60
    assert result.rows_kept == result.rows_read == 60
    assert max(loaded["length"]) <= 256
    assert sum(loaded["length"]) == result.tokens
    assert sum(label != -100 for row in loaded["labels"] for label in row) == result.supervised_tokens
    assert result.fill == pytest.approx(result.tokens / (result.packs * 256))
    stage(pack=False)
    assert documents(packed) == documents(stage.room.out / "packed")


def test_without_packing_each_conversation_is_a_row_in_the_files_order(stage, write_rows, smollm2):
    from transformers import AutoTokenizer

    write_rows("b.jsonl", flan(2), flan(3))
    write_rows("a.jsonl", flan(0), flan(1))
    assert stage(pack=False).packs == 4
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    texts = [tokenizer.decode(row["input_ids"]) for row in load_from_disk(str(stage.room.out / "packed"))]
    assert [f"Question {n}.0?" in text for n, text in enumerate(texts)] == [True] * 4


def test_position_ids_begin_anew_in_each_document(stage, write_rows):
    write_rows("a.jsonl", *(flan(n) for n in range(20)))
    stage()
    for row in load_from_disk(str(stage.room.out / "packed")):
        ends = row["cumulative_len"]
        expected = [place for a, b in pairwise(ends) for place in range(b - a)]
        assert row["position_ids"] == expected
        assert ends[-1] == len(row["input_ids"]) == row["length"]


@pytest.mark.parametrize("varlen", [True, False])
def test_xtuners_collate_function_takes_a_row_as_it_is(stage, write_rows, varlen):
    from xtuner.dataset.collate_fns import default_collate_fn

    write_rows("a.jsonl", *(flan(n) for n in range(20)))
    stage()
    rows = load_from_disk(str(stage.room.out / "packed"))
    batch = default_collate_fn([rows[0]] if varlen else [rows[0], rows[1]], use_varlen_attn=varlen)["data"]
    assert batch["input_ids"][0, : rows[0]["length"]].tolist() == rows[0]["input_ids"]
    assert batch["labels"].shape == batch["input_ids"].shape == batch["position_ids"].shape
    if varlen:
        assert batch["cumulative_len"][0].tolist() == rows[0]["cumulative_len"]


def test_the_same_request_gives_the_same_bytes(stage, write_rows, tmp_path, monkeypatch):
    write_rows("a.jsonl", *(flan(n, words=n % 23) for n in range(300)))
    digests = []
    for name, parallel in (("one", "true"), ("two", "false")):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", parallel)
        stage(out=tmp_path / name)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file() and path.name != "progress.json")
        digests.append({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files if "source" not in str(p)})
    assert digests[0] == digests[1]
    assert {"report.json", "histogram.png", "data-00000-of-00001.arrow"} <= set(digests[0])


def test_all_kinds_of_files_hold_the_same_rows(stage, tmp_path):
    rows = [{"messages": messages(n)} for n in range(30)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    parquet = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    contents = {
        ".jsonl": lines,
        ".json": json.dumps(rows, indent=2).encode(),
        ".parquet": parquet.getvalue().to_pybytes(),
    }
    found = {}
    for kind, content in contents.items():
        for packed, pack in compress.items():
            folder = stage.data / f"kind{kind}{packed}"
            folder.mkdir()
            (folder / f"x{kind}{packed}").write_bytes(pack(content))
            stage(format="messages", path=folder.name)
            found[folder.name] = documents(stage.room.out / "packed")
    assert len(found) == 9
    assert all(one == found["kind.jsonl"] and len(one) == 30 for one in found.values())


def test_files_whose_fields_differ_are_one_dataset(stage, write_rows):
    write_rows("a.jsonl", flan(0), flan(1) | {"extra": {"deep": [1]}})
    write_rows("b.jsonl", {"conversation": messages(2), "id": 7}, flan(3) | {"extra": "text"})
    assert stage().rows_kept == 4


def test_named_files_alone_are_read(stage, write_rows):
    write_rows("a.jsonl", flan(0))
    write_rows("b.jsonl", flan(1), flan(2))
    assert stage(files=("b*.jsonl",)).rows_read == 2


def test_a_dataset_on_disk_loses_no_loss_to_arrows_none(stage):
    """Dataset.from_list fills a missing loss with None, which XTuner itself reads as False."""
    without = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    rows = [{"messages": messages(n)} for n in range(3)] + [{"messages": without}]
    Dataset.from_list(rows).save_to_disk(str(stage.data / "set"))
    result = stage(format="xtuner", path="set")
    assert result.rows_kept == 4
    assert result.rows_repaired == {"missing_loss": 1}
    assert stage.report["rowsRepaired"]["missing_loss"]["first"][0]["line"] == 4


def test_a_dataset_dict_gives_its_train_split(stage):
    splits = {name: Dataset.from_list([{"messages": messages(n)} for n in range(size)]) for name, size in
              (("train", 3), ("test", 5))}  # fmt: skip
    DatasetDict(splits).save_to_disk(str(stage.data / "set"))
    assert stage(format="xtuner", path="set").rows_read == 3


@pytest.mark.parametrize("first_packed", [True, False])
def test_a_tokenised_dataset_is_packed_again_document_by_document(stage, write_rows, first_packed):
    write_rows("a.jsonl", *(flan(n) for n in range(20)))
    stage(pack=first_packed)
    before = documents(stage.room.out / "packed")
    load_from_disk(str(stage.room.out / "packed")).save_to_disk(str(stage.data / "set"))
    result = stage(format="xtuner", path="set")
    assert documents(stage.room.out / "packed") == before
    assert result.rows_kept == 20


def test_messages_output_is_what_the_tutorials_converter_makes(stage, write_rows):
    rows = [flan(n, turns=2) for n in range(10)]
    write_rows("a.jsonl", *rows)
    result = stage(output="messages")
    loaded = load_from_disk(str(stage.room.out / "messages"))
    assert loaded.column_names == ["messages"]
    assert loaded["messages"][:] == [row["conversation"] for row in rows]
    assert result.packs == result.rows_kept == 10


def test_the_report_tells_what_was_repaired_cut_and_noted(stage, write_rows):
    late_system = [*messages(1), {"role": "system", "content": "Response: 42"}, {"role": "assistant", "content": "42"}]
    lost = messages(2)
    lost[-1].pop("loss")
    silent = [*messages(3, loss=False), *messages(4)[1:]]
    write_rows(
        "a.jsonl", {"conversation": late_system}, {"conversation": lost}, {"conversation": silent}, flan(5, turns=30)
    )
    result = stage()
    assert result.rows_repaired == {"missing_loss": 2, "system_turned_user": 1}
    assert result.rows_cut == 1
    report = stage.report
    assert report["rowsRepaired"]["system_turned_user"]["first"] == [{"file": "a.jsonl", "line": 1}]
    assert report["rowsNoted"]["loss_false"]["first"] == [{"file": "a.jsonl", "line": 3}]
    assert report["rowsCut"]["cut"]["first"][0]["line"] == 4
    assert sum(report["histogram"]["counts"]) + report["histogram"]["longer"] == 4
    assert (stage.room.out / "histogram.png").read_bytes().startswith(b"\x89PNG")


def test_few_rows_that_are_not_understood_are_dropped_by_name(stage, write_rows):
    path = write_rows("a.jsonl", *(flan(n) for n in range(99)))
    path.write_bytes(path.read_bytes() + b'{"conversation": [}\n')
    result = stage()
    assert result.rows_dropped == {"broken_json": 1}
    first = stage.report["rowsDropped"]["broken_json"]["first"][0]
    assert (first["file"], first["line"]) == ("a.jsonl", 100)
    assert "broken JSON at column" in first["why"]


WRONG = {
    "empty file": ([], {}, "DatasetEmpty", "no rows"),
    "no file": (None, {}, "SourceEmpty", "none of the files"),
    "broken line": (["{"], {}, "BrokenJson", r"a\.jsonl:1: broken JSON at column 2"),
    "no assistant": ([{"conversation": messages(1)[:2]}], {}, "NoAssistantTurn", "no assistant message"),
    "no loss": ([flan(1, loss=False)], {}, "NothingSupervised", "loss: false"),
    "too long": ([flan(1, words=500)], {}, "RowsTooLong", "first trained turn ends at token 5.."),
    "other format": ([flan(1)], {"format": "messages"}, "RowsNotUnderstood", "keys: conversation, id"),
    "no dataset": ([flan(1)], {"format": "xtuner"}, "DatasetMissing", r"no state\.json"),
    "unknown template": ([flan(1)], {"template": "llama3-chat"}, "TemplateUnknown", "Write template: llama3_chat"),
    "files fit nothing": ([flan(1)], {"files": ("x/*.jsonl",)}, "SourceEmpty", r"it has: a\.jsonl"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_input_is_refused_with_a_cure(stage, wrong):
    rows, more, reason, said = WRONG[wrong]
    if rows is not None:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (stage.data / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserMistake, match=said) as caught:
        stage(**more)
    assert caught.value.failure.reason == reason
    assert caught.value.failure.cure
    assert not (stage.room.out / "packed").exists()
    assert not [path for path in stage.room.out.iterdir() if path.name in (".documents", ".lengths", ".packed.draft")]


def test_a_model_without_tokenizer_is_refused(tmp_path):
    from finetune_jobs.dataset.tokens import load_vocabulary

    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    with pytest.raises(UserMistake) as caught:
        load_vocabulary(tmp_path)
    assert caught.value.failure.reason == "TokenizerMissing"


def test_tokens_cannot_be_made_messages_again(stage):
    Dataset.from_list([{"input_ids": [5, 6], "labels": [-100, 6]}]).save_to_disk(str(stage.data / "set"))
    with pytest.raises(UserMistake, match="tokenised already"):
        stage(format="xtuner", path="set", output="messages")
