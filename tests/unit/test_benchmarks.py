"""What the benchmarks say in their last lines, and that they fetch what they need."""

import importlib
import json
from pathlib import Path

import pytest

from finetune_jobs.contract import ModelRequest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """Imports one of them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.parametrize(
    ("measured", "met"),
    [
        ({"timeOfXtuners": 0.3, "tenfoldTime": 9.5, "tenfoldMemory": 1.07}, [True, True, True]),
        ({"timeOfXtuners": 0.34, "tenfoldTime": 10.5, "tenfoldMemory": 1.5}, [False, False, False]),
        ({"tenfoldTime": 9.5, "tenfoldMemory": 1.5}, [True, False]),
    ],
)
def test_bench_data_says_of_each_goal_whether_it_is_met(benchmark, measured, met):
    assert benchmark("bench_data").goals_met(measured) == dict(zip(measured, met, strict=True))


@pytest.mark.parametrize(("first", "again", "met"), [(899.0, 10.1, (True, False)), (901.0, 9.9, (False, True))])
def test_bench_quickstart_says_of_each_goal_whether_it_is_met(benchmark, first, again, met):
    said = benchmark("bench_quickstart").summary(first, again, {"model": 1.0})
    assert said["goalMet"] == {"first": met[0], "again": met[1]}
    assert json.loads(json.dumps(said)) == said


def test_bench_data_fetches_the_model_by_its_stage_where_none_is_given(benchmark, monkeypatch, tmp_path):
    bench = benchmark("bench_data")
    monkeypatch.setenv("FINETUNE_TEST_CACHE", str(tmp_path / "cache"))
    started = []
    monkeypatch.setattr(bench.subprocess, "run", lambda command, **_: started.append(command))
    workspace, digest = bench.model_workspace(None, tmp_path)
    [command] = started
    request = ModelRequest.model_validate_json(Path(command[command.index("--request") + 1]).read_bytes())
    assert (command[2:4], request.digest()) == (["finetune_jobs", "model"], digest)
    assert (workspace / "model" / digest).readlink() == tmp_path / "cache" / "model" / digest
