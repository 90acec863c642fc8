"""What docs/training.md says of the recipes is what they have."""

import re
from pathlib import Path

from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from finetune_operator.plan.recipes import RECIPES, Recipe

PAGE = Path(__file__).parents[3] / "docs" / "training.md"


def written(value: object) -> str:
    """As in a job's YAML, strings without their quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def values(recipe: Recipe) -> dict[str, str]:
    """Field of `training`, with a dot below another, -> its value."""
    found = {}
    for name, value in vars(recipe).items():
        inner = value.model_dump(by_alias=True) if isinstance(value, BaseModel) else {"": value}
        found |= {f"{to_camel(name)}.{key}".rstrip("."): written(said) for key, said in inner.items()}
    return found


def test_the_page_has_every_value_of_every_recipe():
    head = re.search(r"\| `training\.` \|(.*)\|\n", PAGE.read_text())
    names = re.findall(r"`(\S+)`", head[1])
    table = PAGE.read_text()[head.end() :].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\S+)` \| (.+) \|$", table, re.MULTILINE)
    columns = zip(*(cells.split(" | ") for _, cells in rows), strict=True)
    told = {
        name: dict(zip((field for field, _ in rows), column, strict=True))
        for name, column in zip(names, columns, strict=True)
    }
    assert told == {name.value: values(recipe) for name, recipe in RECIPES.items()}
