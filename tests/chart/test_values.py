"""values.yaml tells what each value is."""

import pytest
from tests.chart.helm import CHART
from tests.chart.values import read_values, rows, schema_of


def read(tmp_path, text: str):
    path = tmp_path / "values.yaml"
    path.write_text(text)
    return read_values(path)


def test_a_value_without_a_comment_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a.b: say in a comment above it what it is"):
        read(tmp_path, "a:\n  b: 1\n")


def test_a_comment_becomes_the_description_and_its_schema_is_added(tmp_path):
    values = read(tmp_path, "# How many,\n# at least one.\n# schema: {minimum: 1}\nworkers: 2\n")
    expected = {"description": "How many, at least one.", "type": "integer", "minimum": 1}
    assert schema_of(values)["properties"] == {"workers": expected}


def test_unknown_keys_are_refused_but_in_free_maps(tmp_path):
    text = "a:\n  # One.\n  b: 1\n# Free.\n# schema: {additionalProperties: {type: string}}\nfree: {x: y}\n"
    schema = schema_of(read(tmp_path, text))
    assert schema["additionalProperties"] is False
    assert schema["properties"]["a"]["additionalProperties"] is False
    assert schema["properties"]["free"]["additionalProperties"] == {"type": "string"}


def test_every_value_has_its_row():
    table = list(rows(read_values(CHART / "values.yaml")))
    assert any(row.startswith("| `networkPolicy.metrics.from` | `[]` | Peers that may read /metrics") for row in table)
    assert len({row.split("|")[1] for row in table}) == len(table)
