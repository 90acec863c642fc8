"""The texts that a job takes from ConfigMaps: an XTuner config, a DeepSpeed config, prompts.

Whoever may write a ConfigMap wrote them, so anything may stand in them: what can't be taken is a SpecError.
"""

import ast
import json
from functools import lru_cache

import yaml
from pydantic import TypeAdapter, ValidationError

from finetune_jobs.contract import Prompt
from finetune_operator.api import SpecError
from finetune_operator.api.problems import problems_of
from finetune_operator.api.read import YAML_ERRORS

PROMPTS = "spec.evaluation.promptsFrom"
MOST_PROMPTS = 10_000
"""As many as spec.evaluation.turns may ask for."""


def deepspeed_json(text: str) -> str:
    try:
        if not isinstance(json.loads(text), dict):
            raise SpecError(["spec.training.deepspeedConfig: write a JSON object"])
    except (ValueError, RecursionError) as error:  # also endless digits, and endless nesting
        raise SpecError([f"spec.training.deepspeedConfig: this is not JSON: {error}"]) from None
    return text


def python_text(text: str) -> str:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # also NUL bytes, and endless nesting
        said = f"this is not Python: {error}"
        if isinstance(error, SyntaxError) and error.lineno:
            said = f"{error.msg} in line {error.lineno}; correct that line"
        raise SpecError([f"spec.training.config: {said}"]) from None
    return text


class PromptsYaml(yaml.SafeLoader):
    """YAML whose aliases stand for words alone: of lists and mappings a few lines would make gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if alias and not isinstance(node, yaml.ScalarNode):
            raise yaml.YAMLError("an alias (*) may stand for a word, not for a list or a mapping; write it out")
        return node


@lru_cache(8)
def own_prompts(text: str) -> tuple[Prompt, ...]:
    """A job is planned anew in each pass, and a megabyte of YAML takes seconds: the last few are kept."""
    try:
        found = yaml.load(text, PromptsYaml)  # noqa: S506 - a SafeLoader
    except YAML_ERRORS as error:
        raise SpecError([f"{PROMPTS}: this is neither YAML nor JSON: {error}"]) from None
    if not isinstance(found, list):
        raise SpecError([f"{PROMPTS}: write a list of {{question, tool, arguments}}"])
    if len(found) > MOST_PROMPTS:
        raise SpecError([f"{PROMPTS}: {len(found)} prompts; write at most {MOST_PROMPTS}"])
    try:
        return TypeAdapter(tuple[Prompt, ...]).validate_python(found)
    except ValidationError as error:
        raise SpecError(f"{PROMPTS}{problem}" for problem in problems_of(error, Prompt)) from None
