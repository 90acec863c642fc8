"""Values drawn from the CRD's own schema: a field that is added there is drawn without a word here."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from finetune_operator.api.crd import root_schema

Schema = dict[str, Any]
Path = tuple[str, ...]
MOST = 3
"""Items of a list and entries of a map that is drawn."""
KEYS = st.sampled_from(["cpu", "memory", "nvidia.com/gpu", "a", "a.b/C_d", "a" * 63, "", "a b", "a..b/c", "a" * 64])
"""Of maps, good and bad."""
WORDS = ("a", "1", "a/b", "https://example.com/m", "a==1", "1GB", "0" * 64)
"""Of each form one."""
RULED = {
    "A taint that the pod accepts.": {"operator": "Exists"},
    "An environment variable of the stage's pod.": {"value": "a"},
}
"""Description of an object -> what its rules ask for beside what is required."""
FORM = re.compile(r"self\.matches\('(.*)'\)")
"""The rule that says a string's pattern."""


@cache
def spec_schema() -> Schema:
    return root_schema()["properties"]["spec"]


def fields(schema: Schema, path: Path = ()) -> Iterator[tuple[Path, Schema]]:
    """Every field below, what lies in lists apart."""
    for name, field in schema.get("properties", {}).items():
        yield (*path, name), field
        yield from fields(field, (*path, name))


def form(schema: Schema) -> str | None:
    found = (FORM.fullmatch(rule["rule"]) for rule in schema.get("x-kubernetes-validations", ()))
    return next((match[1].replace("\\'", "'").replace("\\\\", "\\") for match in found if match), None)


def values(schema: Schema) -> SearchStrategy[Any]:
    """What the schema takes; rules across fields may still refuse it."""
    return BY_TYPE[schema["type"]](schema)


def objects(schema: Schema) -> SearchStrategy[Any]:
    if "additionalProperties" in schema:
        return st.dictionaries(KEYS, values(schema["additionalProperties"]), max_size=MOST)
    required = schema.get("required", ())
    drawn = {name: st.deferred(lambda field=field: values(field)) for name, field in schema["properties"].items()}
    needed = {name: drawn.pop(name) for name in required}
    few = st.lists(st.sampled_from(sorted(drawn)), max_size=MOST, unique=True) if drawn else st.just([])
    return few.flatmap(lambda names: st.fixed_dictionaries(needed | {name: drawn[name] for name in names}))


def lists(schema: Schema) -> SearchStrategy[Any]:
    least = schema.get("minItems", 0)
    return st.lists(values(schema["items"]), min_size=least, max_size=max(least, MOST))


def strings(schema: Schema) -> SearchStrategy[Any]:
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    pattern, longest = form(schema), schema["maxLength"]
    if pattern is None:
        return st.text(
            st.characters(codec="utf-8", exclude_characters="\0"), min_size=schema.get("minLength", 0), max_size=9
        )
    ascii_only = st.characters(min_codepoint=32, max_codepoint=126)
    return st.from_regex(pattern.replace("$", r"\Z"), alphabet=ascii_only).filter(lambda text: len(text) <= longest)


def integers(schema: Schema) -> SearchStrategy[Any]:
    least, most = schema["minimum"], schema["maximum"]
    return st.one_of(st.integers(least, min(most, least + 9)), st.sampled_from([least, most]))


BY_TYPE = {
    "object": objects,
    "array": lists,
    "string": strings,
    "integer": integers,
    "boolean": lambda _: st.booleans(),
}


def edges(schema: Schema) -> Iterator[Any]:
    """Values at the limits that the schema says, and one beyond each."""
    for limit, beyond in (("minimum", -1), ("maximum", 1)):
        if limit in schema:
            yield from (schema[limit], schema[limit] + beyond)
    for limit, beyond in (("minLength", -1), ("maxLength", 1)):
        if limit in schema:
            yield from (long_text(schema, schema[limit]), long_text(schema, schema[limit] + beyond))
    for limit, beyond in (("minItems", -1), ("maxItems", 1)):
        if limit in schema:
            item = a_good(schema["items"])
            yield from ([item] * schema[limit], [item] * (schema[limit] + beyond))
    if "maxProperties" in schema:
        item, most = a_good(schema["additionalProperties"]), schema["maxProperties"]
        yield from ({f"a.b/k{n}": item for n in range(count)} for count in (most, most + 1))


def long_text(schema: Schema, length: int) -> str:
    """Of the schema's form, where letters or digits alone have it."""
    pattern = form(schema)
    known = (text * length for text in ("a", "1", "A"))
    return next((text for text in known if pattern is None or re.search(pattern, text)), "a" * length)


def a_good(schema: Schema) -> Any:
    """The plainest value that the schema takes."""
    match schema["type"]:
        case "string" if "enum" in schema:
            return schema["enum"][0]
        case "string":
            return next(word for word in WORDS if re.search(form(schema) or "", word))
        case "integer":
            return schema["minimum"]
        case "array":
            return [a_good(schema["items"])] * schema.get("minItems", 0)
        case "object":
            required = {name: a_good(schema["properties"][name]) for name in schema.get("required", ())}
            return required | RULED.get(schema["description"], {})
    return False
