"""The user's own XTuner config, as examples/ has one: unchanged but for its paths."""

import json
from pathlib import Path

import pytest

from finetune_jobs.contract import CONFIG_FILE, CURVE_FILE, MESSAGES_FOLDER, Stage
from finetune_jobs.errors import MachineTrouble, UserMistake
from finetune_jobs.train import checkpoints, curve, run

pytestmark = pytest.mark.stage

EXAMPLE = Path(__file__).parents[3] / "examples" / "xtuner" / "smollm2_qlora_agentflan_3e.py"


@pytest.fixture(scope="module")
def own(make_training):
    return make_training("own", rows=600, output="messages", config=EXAMPLE.read_text(), quantization="nf4")


@pytest.fixture(scope="module")
def trained(own):
    return own.run()


def test_it_trains_as_the_config_says(own, trained):
    """600 conversations in packs of 640 tokens, 3 epochs, 2 iterations a step; nf4, chatting before and after."""
    assert trained["state"] == "Succeeded"
    points = curve.read(own.out / CURVE_FILE)
    assert [point.step for point in points] == list(range(1, trained["result"]["steps"] + 1))
    assert trained["result"]["steps"] >= 10
    assert max(point.learning_rate for point in points) == pytest.approx(1e-3, rel=0.01)
    adapter = json.loads((checkpoints.newest(own.out) / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"], adapter["lora_dropout"]) == (16, 32, 0.1)


def test_every_line_of_it_is_kept_and_the_paths_are_the_jobs(own, trained):
    ran = (own.out / CONFIG_FILE).read_text()
    assert ran.startswith(EXAMPLE.read_text().rstrip("\n"))
    added = ran.removeprefix(EXAMPLE.read_text().rstrip("\n"))
    assert f"model['llm']['pretrained_model_name_or_path'] = '{own.input(Stage.MODEL) / 'model'}'" in added
    assert str(own.input(Stage.DATASET) / MESSAGES_FOLDER) in added


def test_xtuners_caches_do_not_land_in_the_datasets_result(own, trained):
    assert list(own.input(Stage.DATASET).rglob("cache-*")) == []


@pytest.mark.parametrize(
    ("config", "reason", "said"),
    [
        ("import torch\nlr = = 1\n", "ConfigInvalid", "invalid syntax in line 2"),
        ("from torch import nn\nlr = nothing\n", "ConfigInvalid", "name 'nothing' is not defined"),
        ("from torch.optim import AdamW\nlr = 1\n", "ConfigUnfit", "no model with llm and lora"),
        (EXAMPLE.read_text().replace("dataset=agent_flan,", "dataset=dict(type=load_from_disk),"),
         "ConfigUnfit", "no dataset made by process_hf_dataset"),
        (EXAMPLE.read_text().replace("dataset=agent_flan,", "dataset=agent_flam,"),
         "ConfigInvalid", r"name 'agent_flam' is not defined in line \d+"),
        (EXAMPLE.read_text().replace("PROMPT_TEMPLATE.qwen_chat", "PROMPT_TEMPLATE.qwen_chatt"),
         "TemplateUnknown", r"PROMPT_TEMPLATE\.qwen_chat, .* prompt_template is set in line 27 of the config"),
        (EXAMPLE.read_text().replace("PROMPT_TEMPLATE.qwen_chat", "PROMPT_TEMPLATE.llama3_chat"),
         "TemplateUnfit", "llama3_chat writes .*, which this model's tokenizer does not know"),
        (EXAMPLE.read_text().replace("max_length = 640", "max_length = 2048"),
         "RowsTooLong", "max_length = 1024 or less. max_length is set in line 28"),
        (EXAMPLE.read_text().replace("lr = 1e-3", "lr = 2"), "LearningRateUnlikely", "lr = 2e-4. lr is set in line"),
        (EXAMPLE.read_text().replace("openai_map_fn", "alpaca_map_fn"), "ConfigInvalid", "no batch .*KeyError"),
    ],
    ids=["syntax", "name", "model", "data", "variable", "template", "tokens", "length", "rate", "map"],
)  # fmt: skip
def test_a_config_that_can_not_be_used_is_refused_before_anything_starts(make_training, config, reason, said):
    training = make_training("refused", rows=2, output="messages", config=config)
    with pytest.raises(UserMistake, match=said) as caught:
        run(training.request, training.room())
    assert caught.value.failure.reason == reason


def test_a_config_that_does_not_fit_this_machines_memory_is_refused_in_its_own_words(make_training):
    config = EXAMPLE.read_text().replace("batch_size = 1 ", "batch_size = 10**9 ")
    training = make_training("huge", rows=2, output="messages", config=config)
    with pytest.raises(MachineTrouble, match="batch_size = 1 or max_length = 320") as caught:
        run(training.request, training.room())
    assert caught.value.failure.reason == "TooLittleMemory"
