"""The benchmark runs, and says what it measured in its last line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.stage

BENCH = Path(__file__).parents[3] / "benchmarks" / "bench_merge.py"


def test_small_run(tmp_path):
    command = [sys.executable, str(BENCH), "--gigabytes", "0.01", "--rounds", "1", "--folder", str(tmp_path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = json.loads(said.splitlines()[-1])
    assert figures["ratio"] == pytest.approx(figures["mergeSeconds"] / figures["copySeconds"], rel=0.05)
    assert figures["peakMemoryBytes"] > 50_000_000
    assert list(tmp_path.iterdir()) == []
