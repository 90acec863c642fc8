"""Globs over names in a source."""

import pytest

from finetune_jobs.sources.files import matches, wanted


@pytest.mark.parametrize(
    ("name", "pattern", "fits"),
    [
        ("config.json", "*.json", True),
        ("deep/config.json", "*.json", False),
        ("deep/config.json", "**/*.json", True),
        ("config.json", "**/*.json", True),
        ("data/a/b.jsonl", "data/**", True),
        ("shard-1.bin", "shard-[0-9].bin", True),
        ("shard-x.bin", "shard-[!0-9].bin", True),
        ("axjson", "a.json", False),
        ("a+b", "a+b", True),
    ],
)
def test_a_star_stops_at_a_slash_and_two_do_not(name, pattern, fits):
    assert matches(name, pattern) is fits


def test_pickles_beside_safetensors_are_not_wanted():
    names = ["model.safetensors", "pytorch_model.bin", "old/pytorch_model.bin"]
    assert wanted(names, ["**/*"]) == ["model.safetensors", "old/pytorch_model.bin"]


def test_without_patterns_everything_is_wanted():
    assert wanted(["model.safetensors", "pytorch_model.bin"], []) == ["model.safetensors", "pytorch_model.bin"]
