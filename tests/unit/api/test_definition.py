"""The definition says what the models say: every limit, and a sentence in place of every pattern."""

import pytest

from finetune_operator.api import FineTuneJob
from finetune_operator.api.crd import root_schema
from finetune_operator.api.forms import FORMS

ROOT = root_schema()


def parts(schema, path):
    """Each schema inside, with its path."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from parts(field, f"{path}.{name}")
    for inside in ("items", "additionalProperties"):
        if inside in schema:
            yield from parts(schema[inside], f"{path}[]")


def patterns(schema):
    if isinstance(schema, dict):
        yield from ([schema["pattern"]] if isinstance(schema.get("pattern"), str) else ())
        schema = list(schema.values())
    for inside in schema if isinstance(schema, list) else ():
        yield from patterns(inside)


SPEC = [*parts(ROOT["properties"]["spec"], "spec")]
LIMITS = {"string": {"maxLength", "enum"}, "array": {"maxItems"}, "integer": {"maximum"}}


@pytest.mark.parametrize("schema", [schema for _, schema in SPEC], ids=[path for path, _ in SPEC])
def test_whatever_a_user_writes_has_a_limit(schema):
    """Else the API server takes what the models refuse, or can't tell the cost of a rule over it."""
    wanted = {"maxProperties"} if "additionalProperties" in schema else LIMITS.get(schema["type"])
    assert wanted is None or schema.keys() & wanted


def test_a_pattern_is_told_in_a_sentence_and_never_as_itself():
    assert set(patterns(FineTuneJob.model_json_schema())) == FORMS.keys()
    assert all(sentence.startswith("write ") for sentence in FORMS.values())
    assert list(patterns(ROOT)) == []


def test_every_rule_says_what_to_write_instead():
    rules = [rule for _, schema in parts(ROOT, "") for rule in schema.get("x-kubernetes-validations", ())]
    silent = [rule for rule in rules if "write" not in rule["message"] and "leave" not in rule["message"]]
    assert len(rules) > 100
    assert silent == []
