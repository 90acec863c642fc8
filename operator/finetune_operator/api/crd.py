"""The CustomResourceDefinition, made from the models.

A CRD's schema is structural: no references, no anyOf with null, no additionalProperties beside properties
(https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/). A pattern becomes a
CEL rule, since the API server's own message for a pattern shows a regular expression and no way out.
"""

from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from finetune_operator.api.forms import FORMS
from finetune_operator.api.job import GROUP, KIND, PLURAL, VERSION, FineTuneJob
from finetune_operator.api.problems import model_in
from finetune_operator.api.rules import FRACTION_RULE, ROOT_RULES, RULES, VALUE_RULES, Rule, matches
from finetune_operator.api.spec import Fraction, Spec
from finetune_operator.api.status import Status

Schema = dict[str, Any]

KEPT = (
    "type", "enum", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties", "format",
)  # fmt: skip
VALIDATIONS = "x-kubernetes-validations"
COLUMNS = (
    ("Stage", "string", ".status.stage", 0),
    ("Progress", "string", ".status.progress", 0),
    ("Loss", "string", ".status.training.loss", 0),
    ("ETA", "string", ".status.training.eta", 0),
    ("GPUs", "integer", ".status.gpus", 0),
    ("Demo", "string", ".status.demo.url", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Model", "string", ".status.model", 1),
    ("Tokens/s", "string", ".status.training.tokensPerSecond", 1),
    ("Valid-Calls", "string", ".status.evaluation.tuned", 1),
)
"""Title, type, where it stands, priority (above 0: with -o wide)."""


def crd() -> Schema:
    """The whole CustomResourceDefinition of FineTuneJob."""
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [column(*row) for row in COLUMNS],
        "schema": {"openAPIV3Schema": root_schema()},
    }
    names = {"kind": KIND, "listKind": f"{KIND}List", "plural": PLURAL, "singular": KIND.lower(), "shortNames": ["ftj"]}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {"group": GROUP, "names": names, "scope": "Namespaced", "versions": [version]},
    }


def column(name: str, kind: str, path: str, priority: int) -> Schema:
    shown: Schema = {"name": name, "type": kind, "jsonPath": path}
    return shown | ({"priority": priority} if priority else {})


def root_schema() -> Schema:
    return {
        "type": "object",
        "description": (FineTuneJob.__doc__ or "").strip(),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": object_schema(Spec),
            "status": object_schema(Status),
        },
        VALIDATIONS: validations(ROOT_RULES),
    }


def validations(rules: tuple[Rule, ...]) -> list[Schema]:
    return [{"rule": rule.rule, "message": rule.message} for rule in rules]


def object_schema(model: type[BaseModel]) -> Schema:
    """A model as a structural schema, with its rules."""
    own = model.model_json_schema(by_alias=True)
    schema: Schema = {"type": "object", "description": " ".join((model.__doc__ or "").split())}
    schema["properties"] = {
        field.alias or name: field_schema(model, name, field, own) for name, field in model.model_fields.items()
    }
    required = [field.alias or name for name, field in model.model_fields.items() if field.is_required()]
    if required:
        schema["required"] = required
    rules = tuple(rule for owner, found in RULES.items() if issubclass(model, owner) for rule in found)
    if rules:
        schema[VALIDATIONS] = validations(rules)
    return schema


def field_schema(model: type[BaseModel], name: str, field: FieldInfo, own: Schema) -> Schema:
    shape = resolved(own["properties"][field.alias or name], own)
    schema = value_schema(shape, model_in(field.annotation), own)
    rules = schema.pop(VALIDATIONS, []) + validations(value_rules(model, name, field))
    return schema | ({VALIDATIONS: rules} if rules else {}) | {"description": field.description or ""}


def value_schema(shape: Schema, inner: type[BaseModel] | None, own: Schema) -> Schema:
    """Of a field, an item of a list or a value of a map; `inner` is the model that it holds."""
    schema = {key: shape[key] for key in KEPT if key in shape}
    if shape.get("type") == "array":
        return schema | {"items": value_schema(resolved(shape["items"], own), inner, own)}
    if inner is not None:
        return object_schema(inner)
    if shape.get("type") == "object":
        return schema | map_schema(shape, own)
    if "const" in shape:
        schema["enum"] = [shape["const"]]
    if "enum" in schema:
        schema.pop("maxLength", None)
    if "pattern" in shape:
        schema[VALIDATIONS] = validations((Rule(matches(shape["pattern"]), FORMS[shape["pattern"]]),))
    return schema


def map_schema(shape: Schema, own: Schema) -> Schema:
    """The form of its keys is a rule: a structural schema has no place for it."""
    form, values = next(iter(shape.get("patternProperties", {}).items()), (None, shape.get("additionalProperties")))
    if not isinstance(values, dict):
        return {"x-kubernetes-preserve-unknown-fields": True}
    schema: Schema = {"additionalProperties": value_schema(resolved(values, own), None, own)}
    if form is None:
        return schema
    longest = shape["propertyNames"]["maxLength"]
    rule = Rule(f"self.all(key, key.size() <= {longest} && {matches(form, 'key')})", FORMS[form])
    return schema | {VALIDATIONS: validations((rule,))}


def resolved(shape: Schema, own: Schema) -> Schema:
    """Without anyOf-null and without references."""
    shape = next((part for part in shape.get("anyOf", []) if part.get("type") != "null"), shape)
    if "$ref" in shape:
        return own["$defs"][shape["$ref"].rpartition("/")[2]]  # type: ignore[no-any-return]
    return shape


def value_rules(model: type[BaseModel], name: str, field: FieldInfo) -> tuple[Rule, ...]:
    rule = VALUE_RULES.get((model, name))
    checks = {id(check) for check in field.metadata}
    for part in get_args(field.annotation):
        checks |= {id(check) for check in getattr(part, "__metadata__", ())}
    fraction = id(get_args(Fraction)[-1]) in checks
    return tuple(found for found in (rule, FRACTION_RULE if fraction else None) if found)
