"""A chart's commented values.yaml, read: its JSON schema and its table.

The comment above a key is its text; a line "schema: {...}" in it adds to the JSON schema what the default can't tell.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
SCHEMA = re.compile(r"schema: (\{.*\})$")


@dataclass(frozen=True)
class Value:
    """One key of values.yaml."""

    path: tuple[str, ...]
    default: Any
    text: str
    schema: dict[str, Any]
    """What the comment adds."""
    inner: tuple["Value", ...]
    """Commented keys below this one."""


def read_values(path: Path) -> tuple[Value, ...]:
    """ValueError for a key without a comment that is no mere heading of others."""
    text = path.read_text()
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return tuple(values_in(root, (), text.splitlines(), yaml.safe_load(text)))


def values_in(
    node: yaml.MappingNode, above: tuple[str, ...], lines: list[str], data: dict[str, Any]
) -> Iterator[Value]:
    for key, below in node.value:
        path, default = (*above, key.value), data[key.value]
        text, schema = comment(lines, key.start_mark.line)
        free = "additionalProperties" in schema and not commented(below, lines)
        inner = () if free or not isinstance(below, yaml.MappingNode) else values_in(below, path, lines, default)
        found = Value(path, default, text, schema, tuple(inner))
        if not text and not found.inner:
            raise ValueError(f"{'.'.join(path)}: say in a comment above it what it is")
        yield found


def commented(node: yaml.Node, lines: list[str]) -> bool:
    keys = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    return any(comment(lines, key.start_mark.line)[0] for key in keys)


def comment(lines: list[str], line: int) -> tuple[str, dict[str, Any]]:
    """Text and schema of the comment that ends above a line."""
    said: list[str] = []
    while line and lines[line - 1].strip().startswith("#"):
        line -= 1
        said.insert(0, lines[line].strip().removeprefix("#").strip())
    schemas = [match[1] for row in said if (match := SCHEMA.match(row))]
    text = " ".join(row for row in said if not SCHEMA.match(row))
    return text, {k: v for row in schemas for k, v in yaml.safe_load(row).items()}


def schema_of(values: tuple[Value, ...]) -> dict[str, Any]:
    """Keys that are not there are refused."""
    return {
        "type": "object",
        "properties": {v.path[-1]: schema_of_one(v) for v in values},
        "additionalProperties": False,
    }


def schema_of_one(value: Value) -> dict[str, Any]:
    kind = {"type": TYPES[type(value.default)]}
    if kind["type"] == "integer" and "exclusiveMinimum" in value.schema:
        kind = {"type": "number"}
    below = schema_of(value.inner) if value.inner else {}
    text = {"description": value.text} if value.text else {}
    return {**text, **kind, **below, **value.schema}


def schema_file(path: Path) -> str:
    head = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": "Made from values.yaml by `make generate`; do not edit.",
    }
    whole = schema_of(read_values(path))
    whole["properties"]["global"] = {
        "type": "object",
        "description": "Helm's own: values of a chart that this one is in.",
    }
    return json.dumps(head | whole, indent=2) + "\n"


def table(path: Path) -> str:
    head = [
        "# The chart's values",
        "",
        "Made from `charts/finetune-operator/values.yaml` by `make generate`; do not edit.",
        "",
        "| value | default | what it is |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *rows(read_values(path))]) + "\n"


def rows(values: tuple[Value, ...]) -> Iterator[str]:
    for value in values:
        if value.inner:
            yield from rows(value.inner)
        else:
            default = json.dumps(value.default).replace("|", "\\|")
            allowed = f" One of {', '.join(value.schema['enum'])}." if "enum" in value.schema else ""
            yield f"| `{'.'.join(value.path)}` | `{default}` | {value.text.replace('|', chr(92) + '|')}{allowed} |"
