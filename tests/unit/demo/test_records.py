"""What the second page reads: whatever is there, and nothing where nothing was made."""

import json
from pathlib import Path

import pytest

from finetune_jobs.contract import MERGED_FOLDER, CurvePoint, EvaluateResult, Rates
from finetune_jobs.demo import records
from finetune_jobs.demo.look import transcript_html


def test_what_a_job_has_not_made_is_empty(tmp_path: Path):
    for folder in (None, tmp_path):
        assert records.training_of(folder) is None
        assert records.report_of(folder) is None
        assert records.evaluation_of(folder) is None
        assert records.transcripts_of(folder) == []
        assert records.model_card_of(folder) is None


def test_a_cut_line_of_the_curve_is_left_out(tmp_path: Path):
    point = CurvePoint(step=1, loss=2.5, learning_rate=1e-3)
    (tmp_path / "curve.jsonl").write_text(point.to_json() + '\n{"step": 2, "lo')
    assert list(records.curve_of(tmp_path / "curve.jsonl")) == [point]


def test_only_measured_rates_have_a_row():
    judged = EvaluateResult(
        base=Rates(valid_calls=0), tuned=Rates(valid_calls=0.98, finished_turns=0.9), prompts=50, turns=20
    )
    assert records.rate_rows(judged) == [
        records.RateRow("Well-formed tool calls", 0, 0.98),
        records.RateRow("Finished turns", None, 0.9),
    ]


def test_every_fate_of_a_row_is_one_line():
    fate = {"rows": 2, "meaning": "Not JSON.", "first": [{"file": "a.jsonl", "line": line} for line in (3, 7)]}
    assert records.fates({"rowsDropped": {"broken_json": fate}, "rowsCut": {}}) == [
        {"what": "dropped", "reason": "broken_json", "rows": 2, "meaning": "Not JSON.", "first": "a.jsonl:3, a.jsonl:7"}
    ]


@pytest.mark.parametrize("text", ["# Card\n", "---\nlicense: x\n---\n# Card\n"])
def test_the_model_card_is_shown_without_its_front_matter(tmp_path: Path, text: str):
    (tmp_path / MERGED_FOLDER).mkdir()
    (tmp_path / MERGED_FOLDER / "README.md").write_text(text)
    assert records.model_card_of(tmp_path) == "# Card\n"


def test_a_token_in_a_url_of_an_old_card_is_not_shown(tmp_path: Path):
    (tmp_path / MERGED_FOLDER).mkdir()
    (tmp_path / MERGED_FOLDER / "README.md").write_text("git: url=https://ghp_token@github.com/org/data.git\n")
    assert records.model_card_of(tmp_path) == "git: url=https://***@github.com/org/data.git\n"


def test_a_text_with_what_only_looks_like_the_end_of_a_line_is_shown_whole(tmp_path: Path):
    text = "a\u2028b\u2029c\x85d"
    line = json.dumps({"model": "base", "question": text, "steps": [{"content": text}]}, ensure_ascii=False)
    (tmp_path / "transcripts.jsonl").write_text(line + "\n")
    assert [group[0]["question"] for group in records.transcripts_of(tmp_path)] == [text]


def test_transcripts_are_grouped_by_question_and_escaped(tmp_path: Path):
    lines = [
        '{"model": "base", "question": "q", "validCall": false, "steps": [{"content": "<i>no</i>"}]}',
        '{"model": "tuned", "question": "q", "validCall": true, "steps": [{"content": "yes"}]}',
        '{"model": "base", "question": "r", "steps": []}',
    ]
    (tmp_path / "transcripts.jsonl").write_text("\n".join(lines) + "\n")
    groups = records.transcripts_of(tmp_path)
    assert [len(group) for group in groups] == [2, 1]
    assert "&lt;i&gt;no&lt;/i&gt;" in transcript_html(groups[0][0])
    assert "base: ✗ well-formed call" in transcript_html(groups[0][0])
