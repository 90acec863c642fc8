"""The fast path under XTuner and DeepSpeed: the same training as the plain path, by the same config otherwise.

The stage chooses it only on a GPU; here its config is written as for one and run by hand.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tests.stages.train.conftest import run_ranks

from finetune_jobs.contract import CHECKPOINTS_FOLDER, CONFIG_FILE, CURVE_FILE, CurvePoint, Lora
from finetune_jobs.hardware import survey
from finetune_jobs.train import checked_setting, curve, deepspeed_text
from finetune_jobs.train.config import config_text
from finetune_jobs.train.fast import Choice
from finetune_jobs.train.layout import DEEPSPEED_FILE
from finetune_jobs.train.world import make_world

pytestmark = pytest.mark.stage

SETTINGS = {
    "epochs": 2, "learning_rate": "1e-2", "quantization": "nf4", "lora": Lora(rank=4, alpha=8, dropout="0"),
}  # fmt: skip
STEPS = 24


@dataclass
class Trained:
    points: list[CurvePoint]
    adapter: dict[str, torch.Tensor]


def write(training, folder: Path, choice: Choice | None) -> None:
    """Both configs, as the stage writes them."""
    machine, request = survey(), training.request
    world = make_world(request, machine)
    setting = checked_setting(request, training.room(), machine, world, "float32")
    folder.mkdir()
    (folder / CONFIG_FILE).write_text(config_text(request, replace(setting, fast=choice)))
    (folder / DEEPSPEED_FILE).write_text(deepspeed_text(request, setting.dtype, world))


def trained(folder: Path) -> Trained:
    saved = folder / CHECKPOINTS_FOLDER / f"step-{STEPS}" / "mp_rank_00_model_states.pt"
    return Trained(curve.read(folder / CURVE_FILE), torch.load(saved, weights_only=False)["module"])


@pytest.fixture(scope="module")
def runs(make_training, tmp_path_factory) -> dict[str, Trained]:
    folder = tmp_path_factory.mktemp("by-hand")
    one = make_training("fast", rows=24, gradient_accumulation=2, **SETTINGS)
    two = make_training("fast-two", rows=24, gpus=2, **SETTINGS)
    fast = Choice(fast=True, reason="chosen by the test")
    write(one, folder / "plain", None)
    write(one, folder / "fast", fast)
    write(one, folder / "nf4", replace(fast, store="nf4", recomputed_layers=1))
    write(two, folder / "two processes", fast)
    processes = {"plain": 1, "fast": 1, "nf4": 1, "two processes": 2}
    run_ranks({folder / name: count for name, count in processes.items()})
    return {name: trained(folder / name) for name in processes}


@pytest.mark.parametrize("name", ["fast", "nf4", "two processes"])
def test_every_step_has_the_plain_path_s_loss(runs: dict[str, Trained], name: str) -> None:
    """Sums in another order differ in their last digits, which AdamW carries on: 1e-3 of the loss after 24 steps."""
    losses = {key: [point.loss for point in run.points] for key, run in runs.items()}
    assert len(losses[name]) == STEPS
    assert losses[name][-1] < losses[name][0] - 0.1
    assert losses[name][0] == pytest.approx(losses["plain"][0], rel=1e-6)
    assert losses[name] == pytest.approx(losses["plain"], rel=1e-3)


@pytest.mark.parametrize("name", ["fast", "nf4", "two processes"])
def test_the_checkpoint_holds_the_plain_path_s_adapter(runs: dict[str, Trained], name: str) -> None:
    ours, plain = runs[name].adapter, runs["plain"].adapter
    assert ours.keys() == plain.keys()
    for key, wanted in plain.items():
        assert ours[key].shape == wanted.shape
        assert torch.nn.functional.cosine_similarity(ours[key].flatten(), wanted.flatten(), 0) > 0.999, key
