"""What images/build.py says, with an engine that does nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "images" / "build.py"
ENGINE = """#!/bin/sh
case "$1" in images) echo "348 MB"; echo "another name's" ;; esac
"""


@pytest.fixture
def said(tmp_path):
    """Its lines for some of the images."""
    engine = tmp_path / "docker"
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REGISTRY": "registry.example.com/team"}

    def run(*names: str) -> list[str]:
        command = [sys.executable, str(BUILD), *names]
        done = subprocess.run(command, env=os.environ | path, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    return run


def test_the_size_of_each_image_is_told(said):
    (line,) = said("operator")
    assert line.startswith("  348 MB  registry.example.com/team/finetune-operator:")


def test_the_environment_that_two_of_them_share_is_told_too(said):
    names = [line.split()[-1].partition("finetune-")[2].partition(":")[0] for line in said()]
    assert names == ["environment", "operator", "trainer", "demo"]
