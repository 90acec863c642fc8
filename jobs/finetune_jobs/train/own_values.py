"""The values that the user's own XTuner config really has, as a request: what is checked of a recipe is checked of it.

Called by the train stage before anything large starts. What the checks then say is put in the config's own words.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from finetune_jobs.contract import TrainRequest
from finetune_jobs.errors import StageError, UserMistake

PLACES = {
    "max_length": "train_dataloader.dataset.max_length",
    "batch_size": "train_dataloader.batch_size",
    "gradient_accumulation": "optim_wrapper.accumulative_counts",
    "learning_rate": "optim_wrapper.optimizer.lr",
}
"""Field of a request -> where it stands in XTuner's fine-tuning configs."""
LORA_PLACES = {"rank": "model.lora.r", "alpha": "model.lora.lora_alpha", "dropout": "model.lora.lora_dropout"}
LORA_DEFAULTS = {"rank": 8, "alpha": 8, "dropout": "0"}
"""peft's own."""
FRACTIONS = {"learning_rate", "dropout"}
"""Strings in a request."""
TEMPLATE = "train_dataloader.dataset.template_map_fn.template"
FEWER_BITS = ("model.llm.quantization_config.load_in_4bit", "model.llm.quantization_config.load_in_8bit")
RECOMPUTE = "model.use_activation_checkpointing"
WORDS = (
    ("training.batchSize: ", "batch_size = "),
    ("training.maxLength: ", "max_length = "),
    ("maxLength", "max_length"),
    ("training.quantization: none", "no quantization_config"),
    ("training.quantization: nf4", "a quantization_config with load_in_4bit=True"),
    ('a learningRate such as "2e-4"', "lr = 2e-4"),
    ("learningRate", "lr"),
    ("Write template: ", "Write prompt_template = PROMPT_TEMPLATE."),
)
"""What the checks of a recipe say -> what a config's author writes."""
ATTRIBUTES = ("batch_size", "max_length", "lr", "prompt_template", "quantization_config")


def at(config: Mapping[str, Any], place: str) -> Any:
    """What stands there, or None."""
    found: Any = config
    for key in place.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def values_of(config: Mapping[str, Any], request: TrainRequest) -> TrainRequest:
    """The request with the config's values; UserMistake for one that no training can have."""
    values = {
        **_found(config, PLACES),
        "quantization": "nf4" if any(at(config, place) for place in FEWER_BITS) else "none",
    }
    if (name := template_name(config)) is not None:
        values["template"] = name
    lora = {**LORA_DEFAULTS, **_found(config, LORA_PLACES)}
    try:
        return TrainRequest.model_validate({**request.model_dump(exclude={"lora"}), **values, "lora": lora})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _unfit(str(first["loc"][-1]), first["input"], first["msg"]) from None


def _found(config: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    values = {name: at(config, place) for name, place in places.items()}
    return {name: str(value) if name in FRACTIONS else value for name, value in values.items() if value is not None}


def _unfit(field: str, value: object, why: str) -> UserMistake:
    places = {to_camel(name): place for name, place in {**PLACES, **LORA_PLACES}.items()} | PLACES
    attribute = places.get(field, field).rpartition(".")[2]
    return UserMistake(
        "ConfigUnfit",
        f"The XTuner config can't be used: {attribute} is {value!r}. {why}.",
        f"Correct {attribute}.",
    )


def template_name(config: Mapping[str, Any]) -> str | None:
    """Of PROMPT_TEMPLATE.qwen_chat, qwen_chat; None for a template that the config writes itself."""
    template = at(config, TEMPLATE)
    return None if template is None or isinstance(template, Mapping) else str(template).rpartition(".")[2]


def own_template(config: Mapping[str, Any]) -> str | None:
    """All the text of a template that the config writes itself; None for one of XTuner's."""
    template = at(config, TEMPLATE)
    return " ".join(map(str, template.values())) if isinstance(template, Mapping) else None


def recomputes(config: Mapping[str, Any]) -> bool:
    """Whether it trains with activation checkpointing, which is XTuner's default."""
    return at(config, RECOMPUTE) is not False


@contextmanager
def in_words_of(text: str) -> Iterator[None]:
    """What a check refuses, said in the words of the config `text`, with the line where they stand."""
    try:
        yield
    except StageError as error:
        failure = error.failure
        message, cure = reworded(failure.message), reworded(failure.cure)
        kind: Any = type(error)
        raise kind(failure.reason, message, cure + where(cure, text)) from error


def reworded(said: str) -> str:
    for recipe, config in WORDS:
        said = said.replace(recipe, config)
    return said


def where(cure: str, text: str) -> str:
    """The lines of the config that set what the cure speaks of."""
    spoken = [name for name in (*ATTRIBUTES, *(p.rpartition(".")[2] for p in (*PLACES.values(), *LORA_PLACES.values())))
              if re.search(rf"\b{name}\b", cure)]  # fmt: skip
    lines = {name: line for name in spoken if (line := line_of(name, text))}
    return "".join(f" {name} is set in line {line} of the config." for name, line in lines.items())


def line_of(name: str, text: str) -> int | None:
    """The first line in which the name is given a value."""
    numbered = enumerate(text.split("\n"), 1)
    return next((number for number, line in numbered if re.match(rf"\s*{name}\s*=[^=]", line)), None)
