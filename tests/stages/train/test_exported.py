"""What was trained comes out of the export stage as an adapter that peft loads."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tests.stages.train.conftest import run_ranks

from finetune_jobs.__main__ import run_stage
from finetune_jobs.contract import ADAPTER_FOLDER, MODEL_FOLDER, ExportRequest, Stage, State
from finetune_jobs.export import run
from finetune_jobs.hardware import survey
from finetune_jobs.room import Room, stage_folder
from finetune_jobs.train import prepare
from finetune_jobs.train.world import make_world

pytestmark = pytest.mark.stage


WAYS = ["zero1", "zero2", "zero3"]
"""DeepSpeed's, to spread a checkpoint over files."""


@pytest.fixture(scope="module")
def trained(make_training):
    """Trainings by two processes each, complete but for the stage's summing up."""
    made = {
        way: make_training(way, rows=8, epochs=3, gpus=2, deepspeed=way, learning_rate="2e-2") for way in WAYS
    }  # fmt: skip
    machine = survey()
    for training in made.values():
        prepare(training.request, training.room(), machine, make_world(training.request, machine))
    run_ranks({training.out: 2 for training in made.values()})
    return made


@pytest.fixture(scope="module", params=WAYS)
def exported(trained, request):
    training = trained[request.param]
    state, record = run_stage(training.request, training.workspace, {})
    assert state == State.SUCCEEDED
    asked = ExportRequest(needs={Stage.MODEL: training.needs[Stage.MODEL], Stage.TRAIN: record.digest})
    out = stage_folder(training.workspace, Stage.EXPORT, asked.digest())
    out.mkdir(parents=True)
    return training, run(asked, Room(training.workspace, asked, out)), out / ADAPTER_FOLDER


def test_it_has_every_linear_layer_in_float32(exported):
    _, result, folder = exported
    assert result.tensors == 2 * 7 * 2  # layers, linear layers in each, A and B
    assert (result.rank, result.alpha) == (4, 8)
    assert {tensor.dtype for tensor in load_file(folder / "adapter_model.safetensors").values()} == {torch.float32}
    assert json.loads((folder / "adapter_config.json").read_text())["inference_mode"] is True


def test_the_base_model_with_it_has_learned_the_data(exported):
    """The words go up by three; the loss on a row is lower with the adapter than without."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    training, _, folder = exported
    base = AutoModelForCausalLM.from_pretrained(training.input(Stage.MODEL) / MODEL_FOLDER)
    ids = torch.tensor([[4 + 3 * place for place in range(16)]])
    with torch.no_grad():
        before = float(base(ids, labels=ids).loss)
        after = float(PeftModel.from_pretrained(base, folder)(ids, labels=ids).loss)
    assert after < before - 0.1
