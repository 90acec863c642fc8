"""The example's rows cut short, for trainings of which only the course is looked at, not what they learn."""

import json
from pathlib import Path

ROWS = Path(__file__).parents[1] / "examples" / "react-data" / "two_tools.jsonl"
LENGTH = 90
"""Tokens: more than any of these rows has and less than any two, so that each is a pack of its own."""


def brief(row: str) -> str:
    """The first question of a row and its answer, after the first line of its system prompt."""
    system, asked, answer, *_ = json.loads(row)["conversation"]
    return json.dumps({"conversation": [system | {"content": system["content"].partition("\n")[0]}, asked, answer]})


def brief_rows(count: int) -> str:
    return "".join(f"{brief(row)}\n" for row in ROWS.read_text().splitlines()[:count])
