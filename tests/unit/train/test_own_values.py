"""What the user's own XTuner config says, as the checks of a recipe take it, and what they say in its words."""

import pytest

from finetune_jobs.contract import Lora, TrainRequest
from finetune_jobs.errors import UserMistake
from finetune_jobs.train import own_values, preflight

REQUEST = TrainRequest(
    template="llama3_chat", epochs=1, max_length=4096, batch_size=1, gradient_accumulation=16, learning_rate="2e-4",
    config="x = 1",
)  # fmt: skip
TEXT = """
batch_size = 2
max_length = 640
lr = 1.5
prompt_template = PROMPT_TEMPLATE.qwen_chatt
same = max_length == 640
"""


class Lazy:
    """As mmengine leaves PROMPT_TEMPLATE.qwen_chat until it is needed."""

    def __str__(self):
        return "xtuner.utils.PROMPT_TEMPLATE.qwen_chat"


def config(**changes):
    dataset = {"max_length": 640, "template_map_fn": {"template": Lazy()}}
    found = {
        "train_dataloader": {"batch_size": 2, "dataset": dataset},
        "optim_wrapper": {"accumulative_counts": 3, "optimizer": {"lr": 1e-3}},
        "model": {"llm": {"quantization_config": {"load_in_4bit": True}}, "lora": {"r": 16, "lora_dropout": 0.1}},
    }
    return {**found, **changes}


def test_the_request_has_the_configs_values():
    values = own_values.values_of(config(), REQUEST)
    assert (values.max_length, values.batch_size, values.gradient_accumulation) == (640, 2, 3)
    assert (float(values.learning_rate), values.quantization, values.template) == (1e-3, "nf4", "qwen_chat")
    assert values.lora == Lora(rank=16, alpha=8, dropout="0.1")


def test_what_the_config_leaves_out_is_the_jobs_or_pefts():
    values = own_values.values_of({}, REQUEST)
    assert values == REQUEST.model_copy(update={"quantization": "none", "lora": Lora(rank=8, alpha=8, dropout="0")})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_dataloader": {"batch_size": 0}}, "batch_size is 0"),
        ({"train_dataloader": {"batch_size": "many"}}, "batch_size is 'many'"),
        ({"train_dataloader": {"dataset": {"max_length": 3}}}, "max_length is 3"),
        ({"optim_wrapper": {"optimizer": {"lr": -1}}}, "lr is '-1'"),
        ({"model": {"lora": {"r": 0}}}, "r is 0"),
    ],
)
def test_a_value_that_no_training_can_have_is_named_as_in_the_config(changes, said):
    with pytest.raises(UserMistake, match=f"can't be used: {said}") as caught, own_values.in_words_of(TEXT):
        own_values.values_of(config(**changes), REQUEST)
    assert caught.value.failure.reason == "ConfigUnfit"


def test_the_line_that_sets_a_value_is_told():
    with pytest.raises(UserMistake) as caught, own_values.in_words_of(TEXT):
        own_values.values_of(config(train_dataloader={"batch_size": 0}), REQUEST)
    assert caught.value.failure.cure == "Correct batch_size. batch_size is set in line 2 of the config."


def test_a_check_of_a_recipe_speaks_in_the_configs_words():
    with pytest.raises(UserMistake) as caught, own_values.in_words_of(TEXT):
        preflight.check_learning_rate(REQUEST.model_copy(update={"learning_rate": "1.5"}))
    failure = caught.value.failure
    assert failure.message == "lr is 1.5; nothing is learned outside of 0 to 1."
    assert failure.cure == "Write lr = 2e-4. lr is set in line 4 of the config."


def test_an_unknown_template_is_told_with_the_nearest_and_its_line():
    with pytest.raises(UserMistake) as caught, own_values.in_words_of(TEXT):
        preflight.special_tokens("qwen_chatt")
    failure = caught.value.failure
    assert failure.cure.startswith("Write prompt_template = PROMPT_TEMPLATE.qwen_chat, or one of")
    assert failure.cure.endswith("prompt_template is set in line 5 of the config.")


def test_a_template_that_the_config_writes_itself_has_no_name_but_a_text():
    own = config(train_dataloader={"dataset": {"template_map_fn": {"template": {"SYSTEM": "<|a|>", "SEP": "<|b|>"}}}})
    assert own_values.template_name(own) is None
    assert preflight.tokens_in(own_values.own_template(own) or "") == {"<|a|>", "<|b|>"}
    assert own_values.own_template(config()) is None


@pytest.mark.parametrize(("model", "recomputes"), [({}, True), ({"use_activation_checkpointing": False}, False)])
def test_activations_are_recomputed_unless_the_config_says_no(model, recomputes):
    assert own_values.recomputes({"model": model}) is recomputes
