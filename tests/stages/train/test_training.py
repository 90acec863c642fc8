"""The train stage from request to checkpoint, on a tiny model."""

import pytest

from finetune_jobs.contract import CURVE_FILE
from finetune_jobs.train import curve

pytestmark = pytest.mark.stage


def test_a_training_learns_and_reports_every_step(training):
    training.settings = {"epochs": 3}
    outcome = training.run()
    assert outcome["state"] == "Succeeded"
    points = curve.read(training.out / CURVE_FILE)
    assert [point.step for point in points] == list(range(1, 37))
    assert outcome["result"]["finalLoss"] < points[0].loss - 0.5
    assert outcome["result"]["steps"] == 36
    assert outcome["result"]["peakLearningRate"] == pytest.approx(5e-3, rel=1e-6)
