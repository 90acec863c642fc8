"""The rooms are those that docs/architecture.md and the import contracts name."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPERATOR, JOBS = (ROOT / path for path in ("operator/finetune_operator", "jobs/finetune_jobs"))
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def rooms(of: Path) -> set[str]:
    """Folders and modules, by the names that they are imported by."""
    return {path.stem for path in of.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()} - {
        "__init__"
    }


@pytest.mark.parametrize("source", [OPERATOR, JOBS], ids=["operator", "jobs"])
def test_each_room_is_on_the_page(source):
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = re.search(r"## Rooms\n(.*?)\n## ", page, re.DOTALL)[1]
    assert [room for room in sorted(rooms(source)) if not re.search(rf"[/{{,`]{room}[/}},.]", table)] == []


def test_the_operator_may_import_nothing_of_the_jobs_but_their_contract():
    (contract,) = (c for c in CONTRACTS if c["name"] == "The operator knows of the jobs only their contract")
    assert set(contract["forbidden_modules"]) == {f"finetune_jobs.{room}" for room in rooms(JOBS) - {"contract"}}


def test_each_room_of_the_operator_has_its_layer():
    (contract,) = (c for c in CONTRACTS if c["type"] == "layers")
    named = {name for layer in contract["layers"] for name in layer.split(" | ")}
    assert named == {f"finetune_operator.{room}" for room in rooms(OPERATOR)}
