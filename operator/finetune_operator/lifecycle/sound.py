"""Values that a pod has told, less those that status can't hold: whoever runs in it may say anything."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from pydantic import BaseModel, ValidationError

LARGEST = 2**63
"""Whole numbers of the API server are below."""


def sound(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `values` that `model` takes, each by itself."""
    kept = {name: value for name, value in values.items() if plain(value)}
    try:
        model.model_validate(kept)
    except ValidationError as error:
        wrong = {detail["loc"][0] for detail in error.errors() if detail["loc"]}
        return {name: value for name, value in kept.items() if name not in wrong}
    return kept


def plain(value: object) -> bool:
    """Whether JSON can say it, and the API server read it."""
    match value:
        case Mapping():
            return all(map(plain, value.values()))
        case list() | tuple():
            return all(map(plain, value))
        case int():
            return -LARGEST <= value < LARGEST
        case float():
            return isfinite(value)
    return True
