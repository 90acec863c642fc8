"""Files of a volume: linked where they are, or copied."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_jobs.contract import Source, VolumeSource
from finetune_jobs.errors import MachineTrouble, UserMistake


def of_volume(path: str = "", sha256: str | None = None, **more: object) -> Source:
    return Source(volume=VolumeSource(claim_name="models", path=path, **more), sha256=sha256)


def sha256sum_of(folder: Path) -> str:
    """By the very command that the docs give, not by our own code."""
    command = "find -L . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    return subprocess.run(command, shell=True, cwd=folder, check=True, capture_output=True, text=True).stdout.split()[0]


def test_a_link_copies_nothing(bring, volume):
    fetched = bring(of_volume("small"))
    assert fetched.linked
    assert (fetched.path / "deep" / "notes.txt").readlink() == volume / "small" / "deep" / "notes.txt"


def test_a_single_file_is_linked_by_its_name(bring, volume):
    fetched = bring(of_volume("alone.bin"))
    assert fetched.path.name == "alone.bin"
    assert fetched.path.readlink() == volume / "alone.bin"


def test_a_copy_outlives_the_volume(bring, volume):
    fetched = bring(of_volume("small", mode="copy"))
    shutil.rmtree(volume)
    assert (fetched.path / "deep" / "notes.txt").read_text() == "notes"
    assert not fetched.linked


def test_an_interrupted_copy_goes_on_and_never_shows_a_part(bring, volume, out):
    whole = out / "download" / "config.json"
    whole.parent.mkdir()
    shutil.copy2(volume / "small" / "config.json", whole)
    (out / "download" / "deep").mkdir()
    (out / "download" / "deep" / "notes.txt").write_text("no")
    before = whole.stat().st_ino
    fetched = bring(of_volume("small", mode="copy"))
    assert whole.stat().st_ino == before
    assert (fetched.path / "deep" / "notes.txt").read_text() == "notes"


def test_a_second_fetch_takes_the_first_ones_result(bring, volume):
    bring(of_volume("small", mode="copy"))
    shutil.rmtree(volume)
    assert (bring(of_volume("small", mode="copy")).path / "config.json").exists()


def test_patterns_choose_and_the_rest_is_told(bring):
    fetched = bring(of_volume("small"), patterns=["*.json"])
    assert [path.name for path in fetched.path.iterdir()] == ["config.json"]
    assert fetched.left_out == ("deep/notes.txt",)


def test_a_right_sha256_of_a_folder_is_the_one_that_sha256sum_gives(bring, volume):
    (volume / "small" / "b c.txt").write_text("x")
    fetched = bring(of_volume("small", sha256sum_of(volume / "small")), patterns=["*.json"])
    assert fetched.left_out == (), "what the digest is over is brought whole"


def test_a_right_sha256_of_a_file(bring):
    fetched = bring(of_volume("alone.bin", hashlib.sha256(b"alone").hexdigest()))
    assert fetched.path.read_bytes() == b"alone"


def test_a_wrong_sha256_names_both(bring):
    with pytest.raises(UserMistake, match="SHA-256") as caught:
        bring(of_volume("alone.bin", "0" * 64))
    failure = caught.value.failure
    assert failure.reason == "WrongSha256"
    assert "0" * 64 in failure.message
    assert hashlib.sha256(b"alone").hexdigest() in failure.message


def test_a_wrong_sha256_is_not_forgotten_by_a_second_try(bring):
    for _ in range(2):
        with pytest.raises(UserMistake, match="SHA-256"):
            bring(of_volume("alone.bin", "0" * 64))


def test_a_missing_path_says_what_is_there(bring):
    with pytest.raises(UserMistake, match=r"no 'smal'; at its root: alone.bin, small") as caught:
        bring(of_volume("smal"))
    assert caught.value.failure.reason == "SourceMissing"


def test_an_unknown_claim_says_how_to_name_it(bring):
    with pytest.raises(UserMistake, match="--volume other=FOLDER"):
        bring(Source(volume=VolumeSource(claim_name="other")))


def test_a_folder_without_wanted_files_says_what_it_has(bring):
    with pytest.raises(UserMistake, match=r"\*\.safetensors.*it has: config\.json"):
        bring(of_volume("small"), patterns=["*.safetensors"])


def test_a_dangling_link_is_named(bring, volume):
    (volume / "small" / "gone.json").symlink_to("/nowhere")
    with pytest.raises(UserMistake, match=r"gone\.json .* isn't there"):
        bring(of_volume("small"))


def test_what_does_not_fit_is_refused_before_the_first_byte(bring, volume, out, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 3))
    with pytest.raises(MachineTrouble, match="0 MB are free") as caught:
        bring(of_volume("small", mode="copy"))
    assert caught.value.failure.reason == "DiskFull"
    assert list((out / "download").iterdir()) == []


FULL_DISK = """
import json, sys
from pathlib import Path
from finetune_jobs.contract import ModelRequest, Source, VolumeSource
from finetune_jobs.errors import StageError
from finetune_jobs.room import Room
from finetune_jobs.sources import fetch
source = Source(volume=VolumeSource(claim_name="models", mode="copy"))
out = Path(sys.argv[2])
try:
    fetch(source, Room(out, ModelRequest(source=source), out, {"models": Path(sys.argv[1])}), out / "download")
except StageError as error:
    print(error.failure.to_json())
"""


@pytest.mark.skipif(os.getuid() != 0 and not os.environ.get("CI"), reason="only root mounts a tmpfs")
def test_a_real_full_disk_is_told_with_what_is_missing(tmp_path, volume):
    (volume / "large.bin").write_bytes(bytes(12_000_000))
    small = tmp_path / "small-disk"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=True)
    try:
        told = subprocess.run(
            [sys.executable, "-c", FULL_DISK, str(volume), str(small)], check=True, capture_output=True, text=True
        )
        assert not (small / "download" / "large.bin").exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)
    failure = json.loads(told.stdout)
    assert failure["reason"] == "DiskFull"
    assert "16 MB" in failure["message"]


@pytest.mark.skipif(os.getuid() != 0 and not os.environ.get("CI"), reason="only root becomes another user")
def test_a_file_that_may_not_be_read_is_named(tmp_path, volume):
    secret = volume / "small" / "config.json"
    secret.chmod(0o600)
    out = tmp_path / "out"
    out.mkdir()
    os.chown(out, 65534, 65534)
    for parent in [volume, *tmp_path.parents[:3], tmp_path]:
        parent.chmod(0o755)
    become = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    preload = "import finetune_jobs.sources, finetune_jobs.room\n"
    told = subprocess.run(
        [sys.executable, "-c", preload + become + FULL_DISK, str(volume), str(out)],
        check=True,
        capture_output=True,
        text=True,
    )
    failure = json.loads(told.stdout)
    assert failure["reason"] == "NoPermission"
    assert str(secret) in failure["message"]
