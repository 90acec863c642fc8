"""What was trained comes out of the export stage as an adapter that peft loads."""

import json

import pytest
import torch
from safetensors.torch import load_file

from finetune_jobs.contract import ADAPTER_FOLDER, MODEL_FOLDER, ExportRequest, Stage
from finetune_jobs.export import run
from finetune_jobs.room import Room, stage_folder

pytestmark = pytest.mark.stage


@pytest.fixture(scope="module", params=["zero1", "zero2", "zero3"])
def exported(make_training, request):
    """Each of DeepSpeed's ways to spread a checkpoint over files, by two processes."""
    training = make_training(request.param, rows=8, epochs=3, gpus=2, deepspeed=request.param, learning_rate="2e-2")
    outcome = training.run()
    assert outcome["state"] == "Succeeded"
    asked = ExportRequest(needs={Stage.MODEL: training.needs[Stage.MODEL], Stage.TRAIN: outcome["digest"]})
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
