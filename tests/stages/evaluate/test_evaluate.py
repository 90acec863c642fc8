"""The evaluate stage: with models that are played, for what is counted, and with real ones, for that it runs."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune_jobs import evaluate
from finetune_jobs.contract import TRANSCRIPTS_FILE, Prompt, Stage
from finetune_jobs.errors import UserMistake
from finetune_jobs.room import stage_folder

from .conftest import PROMPTS, SEARCH, request, room

CALLS = {
    "Find papers on bees.": f'Thought:t\nAction:{SEARCH}\nAction Input:{{"query": "bees"}}',
    "What is 2 + 3?": 'Thought:t\nAction:Calculator\nAction Input:{"expression": "2+3"}',
    "Hello!": "Thought:t\nFinal Answer:Hello!",
}


class Played:
    """An engine: the folder named merged knows the protocol, any other writes prose."""

    asked: int = 0
    gives_up_after: int = 10**9

    def __init__(self, folder: Path, _template: str) -> None:
        self.tuned = folder.name == "merged"

    def complete(self, conversations: Sequence[Sequence[Any]], **_: Any) -> list[str]:
        if Played.asked >= Played.gives_up_after:
            raise KeyboardInterrupt
        Played.asked += len(conversations)
        return [self.answer(conversation[-1]["content"]) for conversation in conversations]

    def answer(self, last: str) -> str:
        if not self.tuned:
            return "I am a language model."
        if last.startswith("Response:"):
            return f"Thought:t\nFinal Answer:{last[:40]}"
        return CALLS[last]


@pytest.fixture
def played(monkeypatch, tmp_path, workspace):
    monkeypatch.setattr("finetune_jobs.agent.engine.Engine", Played)
    monkeypatch.setattr(Played, "asked", 0)
    return workspace(tmp_path, tmp_path)


def test_a_model_that_knows_the_protocol_beats_one_that_does_not(played):
    asked = request(turns=2)
    result = evaluate.run(asked, room(played, asked))
    assert result.model_dump(mode="json", by_alias=True) == {
        "base": {"validCalls": 0.0, "exactArguments": 0.0, "finishedTurns": 0.0, "noToolAnswers": 0.0},
        "tuned": {"validCalls": 1.0, "exactArguments": 1.0, "finishedTurns": 1.0, "noToolAnswers": 1.0},
        "prompts": 3,
        "turns": 2,
    }


def test_transcripts_and_table_are_kept(played):
    asked = request(turns=1)
    place = room(played, asked)
    evaluate.run(asked, place)
    lines = [json.loads(line) for line in (place.out / TRANSCRIPTS_FILE).read_text().splitlines()]
    assert [(line["model"], line["question"]) for line in lines[:2]] == [
        ("base", PROMPTS[0].question),
        ("tuned", PROMPTS[0].question),
    ]
    whole = [step["content"] for step in lines[1]["steps"]]
    assert whole[0] == CALLS["Find papers on bees."]
    assert whole[1].startswith('Response:{"content": "Published: ')
    assert whole[2].startswith("Thought:t\nFinal Answer:")
    assert "| well-formed calls | 0 of 2 (0%) | 2 of 2 (100%) |" in (place.out / evaluate.TABLE_FILE).read_text()


def test_progress_ends_at_its_total(played):
    asked = request(turns=2)
    place = room(played, asked)
    evaluate.run(asked, place)
    progress = json.loads((place.out / "progress.json").read_text())
    assert (progress["step"], progress["totalSteps"], progress["unit"]) == (10, 10, "prompt")


def test_an_interrupted_run_is_taken_up_where_it_was(played, monkeypatch):
    asked = request(turns=2)
    monkeypatch.setattr(Played, "gives_up_after", 8)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(asked, room(played, asked))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("turn-")]
    before = Played.asked
    monkeypatch.setattr(Played, "gives_up_after", 10**9)
    resumed = evaluate.run(asked, room(played, asked))
    assert resumed.tuned.finished_turns == 1.0
    # 3 first answers each; base: 2 turns of 2 more answers; tuned: 2 turns of 1 more
    assert (before < Played.asked, Played.asked) == (True, 3 + 3 + 2 * 2 + 2 * 1)


def test_what_can_not_be_judged_is_refused_before_a_model_is_loaded(played):
    asked = request(prompts=(Prompt(question="Hi", tool="Calculater"),))
    with pytest.raises(UserMistake, match="no tool 'Calculater'.*Write Calculator"):
        evaluate.run(asked, room(played, asked))
    assert Played.asked == 0


@pytest.mark.stage
def test_the_program_judges_real_folders(tiny, workspace, tmp_path):
    place = workspace(tiny, tiny)
    asked = request(turns=2)
    (tmp_path / "request.json").write_text(asked.to_json(), encoding="utf-8")
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    program = [sys.executable, "-m", "finetune_jobs", "evaluate"]
    done = subprocess.run(
        [*program, "--request", str(tmp_path / "request.json"), "--workspace", str(place)],
        env={**os.environ, **threads},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| well-formed calls | 0 of 2 (0%) | 0 of 2 (0%) |" in done.stderr
    out = stage_folder(place, Stage.EVALUATE, asked.digest())
    result = json.loads((out / "result.json").read_text())["result"]
    assert (result["prompts"], result["turns"], result["base"]) == (3, 2, result["tuned"])
    lines = [json.loads(line) for line in (out / TRANSCRIPTS_FILE).read_text().splitlines()]
    assert [line["steps"] for line in lines[::2]] == [line["steps"] for line in lines[1::2]]


@pytest.mark.stage
def test_the_real_base_model_calls_no_tool(smollm2, workspace):
    asked = request(turns=0, max_new_tokens=24)
    result = evaluate.run(asked, room(workspace(smollm2, smollm2), asked))
    assert (result.base.valid_calls, result.base.finished_turns) == (0.0, None)
    assert result.base == result.tuned
