"""JSON schemas of the kinds that an API server knows, for kubeconform: strict ones, that refuse unknown fields."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Schema = dict[str, Any]
MADE_OF = ("items", "additionalProperties", "not")
LISTS = ("oneOf", "anyOf", "allOf")


def write_schemas(plane: Any, folder: Path, versions: Iterable[str]) -> None:
    """Of versions such as apps/v1: a small file a kind, as kubeconform's template names it, and their definitions."""
    for version in versions:
        path = f"apis/{version}" if "/" in version else f"api/{version}"
        schemas = json.loads(raw(plane, f"/openapi/v3/{path}"))["components"]["schemas"]
        for schema in schemas.values():
            make_strict(schema)
        definitions = f"_{path.replace('/', '-')}.json"
        (folder / definitions).write_text(json.dumps({"components": {"schemas": schemas}}))
        for name, schema in schemas.items():
            for kind in schema.get("x-kubernetes-group-version-kind", ()):
                refers = {"$ref": f"{definitions}#/components/schemas/{name}"}
                (folder / file_name(kind)).write_text(json.dumps(refers))


def raw(plane: Any, path: str) -> str:
    done = plane.kubectl("get", "--raw", path)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def file_name(kind: dict[str, str]) -> str:
    """As `{{.ResourceKind}}{{.KindSuffix}}.json`."""
    group = f"-{kind['group'].partition('.')[0]}" if kind["group"] else ""
    return f"{kind['kind']}{group}-{kind['version']}.json".lower()


def make_strict(schema: Any) -> None:
    """In place. Only what stands where a schema stands is one: a property may be called "properties"."""
    if not isinstance(schema, dict):
        return
    if "properties" in schema and "additionalProperties" not in schema:
        free = schema.get("x-kubernetes-preserve-unknown-fields", False)
        schema["additionalProperties"] = free
    for inner in schema.get("properties", {}).values():
        make_strict(inner)
    for key in MADE_OF:
        make_strict(schema.get(key))
    for key in LISTS:
        for inner in schema.get(key, ()):
            make_strict(inner)
