"""Small packages that pip finds without any index, by --find-links."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

METADATA = "Metadata-Version: 2.1\nName: small-weights\nVersion: 1.0\nLicense: MIT\n"
FILES = {"small_weights/model.gguf": b"weights", "small_weights/data/a.txt": b"a", "small_weights/__init__.py": b""}

WheelMaker = Callable[..., Path]


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """The folder of packages; pip looks nowhere else."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def wheel(shelf) -> WheelMaker:
    """Puts a wheel of these files on the shelf."""

    def make(files: dict[str, bytes] = FILES) -> Path:
        path = shelf / "small_weights-1.0-py3-none-any.whl"
        about = {
            "small_weights-1.0.dist-info/METADATA": METADATA,
            "small_weights-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "small_weights-1.0.dist-info/RECORD": "",
        }
        with zipfile.ZipFile(path, "w") as archive:
            for name, body in {**files, **about}.items():
                archive.writestr(name, body)
        return path

    return make
