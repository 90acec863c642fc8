"""The licence, as the model's own files tell it."""

import re
from pathlib import Path
from typing import Any

import yaml

FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---", re.DOTALL)


def of_folder(folder: Path) -> str | None:
    """From the model card's front matter, else the first line of a LICENSE file; None if neither is there."""
    card = front_matter(folder / "README.md")
    named = card.get("license_name") if card.get("license") == "other" else card.get("license")
    if isinstance(named, str) and named:
        return named
    for file in sorted([*folder.glob("LICENSE*"), *folder.glob("LICENCE*")]):
        lines = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
        first = next(filter(None, lines), None)
        if first:
            return first[:200]
    return None


def front_matter(card: Path) -> dict[str, Any]:
    """The YAML between the first two lines of dashes; empty where it is missing or broken."""
    if not card.is_file():
        return {}
    match = FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace"))
    if match is None:
        return {}
    try:
        loaded = yaml.safe_load(match[1])
    except yaml.YAMLError:
        return {}
    return loaded if isinstance(loaded, dict) else {}
