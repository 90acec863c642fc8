"""What can't be trained is refused by a sentence that says what to write instead, before torchrun starts."""

import json
import shutil
import subprocess

import pytest
from tests.stages.train.conftest import WORDS

from finetune_jobs.contract import CHECKPOINTS_FOLDER, MODEL_FOLDER, PACKED_FOLDER, ExitCode, Stage
from finetune_jobs.errors import UserMistake
from finetune_jobs.train import checkpoints, run
from finetune_jobs.train.checkpoints import Marker, Tally

pytestmark = pytest.mark.stage


@pytest.fixture
def training(make_training):
    return make_training("refused", rows=4)


def refusal(training):
    with pytest.raises(UserMistake) as caught:
        run(training.request, training.room())
    return caught.value.failure


def rewrite(training, change):
    """Change every packed row."""
    from datasets import load_from_disk

    folder = training.input(Stage.DATASET) / PACKED_FOLDER
    rows = [change(row) for row in load_from_disk(str(folder)).to_list()]
    shutil.rmtree(folder)
    from datasets import Dataset

    Dataset.from_list(rows).save_to_disk(str(folder))


def test_a_template_whose_tokens_the_model_does_not_know(training):
    training.settings = {"template": "llama3_chat"}
    failure = refusal(training)
    assert failure.reason == "TemplateUnfit"
    assert "writes <|end_header_id|>, which this model's tokenizer does not know" in failure.message
    assert "qwen_chat" in failure.cure


def test_an_unknown_template(training):
    training.settings = {"template": "qwen_chatt"}
    assert "qwen_chat" in refusal(training).cure


def test_a_learning_rate_at_which_nothing_is_learned(training):
    training.settings = {"learning_rate": "2"}
    assert (refusal(training).reason, refusal(training).cure) == (
        "LearningRateUnlikely", 'Write a learningRate such as "2e-4".',
    )  # fmt: skip


def test_rows_longer_than_the_model_can_place(training):
    training.settings = {"max_length": 4096}
    assert "1024 or less" in refusal(training).cure


def test_tokens_of_another_tokenizer(training):
    rewrite(training, lambda row: {**row, "input_ids": [*row["input_ids"][:-1], 64]})
    assert "token 64, but the model knows only 64" in refusal(training).message


def test_a_row_without_loss_is_named(training):
    number = iter(range(100))
    rewrite(training, lambda row: {**row, "labels": [-100] * 32} if next(number) == 2 else row)
    assert refusal(training).message.startswith("Row 2 of the data has no token with loss")


def test_rows_that_bitsandbytes_gets_wrong_on_a_cpu(training):
    config = training.input(Stage.MODEL) / MODEL_FOLDER / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": 112}))
    training.settings = {"quantization": "nf4"}
    failure = refusal(training)
    assert "rows of 112" in failure.message
    assert "training.quantization: none" in failure.cure


def test_data_that_is_not_there(training):
    shutil.rmtree(training.input(Stage.DATASET) / PACKED_FOLDER)
    assert refusal(training).reason == "DatasetUnreadable"


def test_a_model_without_config(training):
    (training.input(Stage.MODEL) / MODEL_FOLDER / "config.json").unlink()
    assert refusal(training).reason == "ModelUnreadable"


def test_a_stage_that_did_not_run(training):
    training.needs = {Stage.MODEL: training.needs[Stage.MODEL], Stage.DATASET: "0" * 12}
    assert "what is missing is made again" in refusal(training).cure


def test_a_checkpoint_of_other_processes(training):
    draft = checkpoints.draft(training.room().out, 2)
    draft.mkdir(parents=True)
    checkpoints.finish(draft, Marker(step=2, total_steps=4, world_size=8, dtype="float32", tally=Tally()))
    assert "written by 8 processes; 1 can't read it" in refusal(training).message


def test_a_deepspeed_config_that_deepspeed_refuses(training):
    training.settings = {"deepspeed": "custom", "deepspeed_config": json.dumps({"zero_optimization": {"stage": 9}})}
    assert training.run()["failure"]["reason"] == "DeepSpeedConfigInvalid"


def test_a_loss_that_is_no_number_ends_at_its_step_without_a_checkpoint(training):
    """One word of the base model is NaN; not every row has it."""
    from safetensors.torch import load_file, save_file

    weights = training.input(Stage.MODEL) / MODEL_FOLDER / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.embed_tokens.weight"][5] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    training.settings = {"checkpoint_every": 100}
    outcome = training.run()
    assert outcome["failure"]["reason"] == "LossIsNaN"
    assert "at step" in outcome["failure"]["message"]
    assert training.checkpoints() == []


def know_the_data(weights):
    """Make the model one that is right already: layers that add nothing, and a head that names the word plus three."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    for name, tensor in tensors.items():
        if "o_proj" in name or "down_proj" in name:
            tensor.zero_()
    tensors["model.embed_tokens.weight"] = torch.eye(WORDS)
    tensors["lm_head.weight"] = torch.eye(WORDS).roll(3, 0)
    save_file(tensors, weights, metadata={"format": "pt"})


def test_a_loss_that_rises_for_good_ends_early_with_a_cure(make_training):
    training = make_training("diverging", rows=20)
    know_the_data(training.input(Stage.MODEL) / MODEL_FOLDER / "model.safetensors")
    training.settings = {"learning_rate": "0.9", "warmup_ratio": "0", "checkpoint_every": 100}
    failure = training.run()["failure"]
    assert failure["reason"] == "LossDiverged"
    assert int(failure["message"].partition("by step ")[2].partition(":")[0]) < 20
    assert "smaller training.learningRate" in failure["cure"]


def test_a_disk_that_fills_up_ends_with_a_cure_and_keeps_the_checkpoint_before(training):
    """A tmpfs that holds a few checkpoints, filled by someone else after step 3."""
    training.settings = {"epochs": 2, "checkpoint_every": 2}
    folder = training.room().out / CHECKPOINTS_FOLDER
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=False, capture_output=True, text=True
    )
    if mount.returncode != 0:
        pytest.skip(f"this user may not mount a tmpfs: {mount.stderr.strip()}")
    try:
        process = training.start(**training.sabotage("fill::3"))
        assert process.wait() == ExitCode.MACHINE_TROUBLE
        assert training.outcome()["failure"]["reason"] == "DiskFull"
        assert training.checkpoints() == ["step-2"]
    finally:
        subprocess.run(["umount", str(folder)], check=True)
