"""Repositories by the real git and git-lfs."""

import logging
import os
import signal
import threading

import pytest

from finetune_jobs.contract import GitSource, Source
from finetune_jobs.errors import MachineTrouble, UserMistake
from finetune_jobs.sources import git, space
from finetune_jobs.sources.files import walk


def of_git(url: str, revision: str = "main", lfs: bool = True) -> Source:
    return Source(git=GitSource(url=url, revision=revision, lfs=lfs))


def of_old(url: str) -> Source:
    """As it could once be written."""
    return Source(git=GitSource.model_construct(url=url, revision="main", lfs=True))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def large_of(repository) -> bytes:
    return (repository.tree / "model.safetensors").read_bytes()


@pytest.mark.parametrize("revision", ["HEAD", "main", "v1", "commit"])
def test_a_branch_a_tag_and_a_commit_are_each_resolved_to_a_commit(bring, repository, revision):
    commit = repository.git("rev-parse", "HEAD")
    repository.git("tag", "-a", "v1", "-m", "one")
    repository.git("push", "-q", "origin", "v1")
    fetched = bring(of_git(repository.url, commit if revision == "commit" else revision))
    assert fetched.revision == commit
    assert (fetched.path / "config.json").read_bytes() == b"{}"
    assert [path.name for path in fetched.path.iterdir()] == ["config.json"]


def test_an_older_commit_than_the_branch_is_fetched_by_its_name(bring, repository):
    first = repository.git("rev-parse", "HEAD")
    repository.commit({"config.json": b'{"new": 1}'})
    assert (bring(of_git(repository.url, first)).path / "config.json").read_bytes() == b"{}"


def test_large_files_come_from_the_lfs_server(bring, with_lfs):
    fetched = bring(of_git(with_lfs.url))
    assert (fetched.path / "model.safetensors").read_bytes() == large_of(with_lfs)
    assert (fetched.path / "a, b[1]" / "model.safetensors").read_bytes() == large_of(with_lfs)
    assert (fetched.path / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_only_wanted_large_files_are_fetched(bring, with_lfs, lfs_server):
    with_lfs.commit({"other.safetensors": b"another large file"})
    lfs_server.requests.clear()
    bring(of_git(with_lfs.url), patterns=["config.json", "model.safetensors"])
    assert len([line for line in lfs_server.requests if line.startswith("GET")]) == 1


def test_more_large_files_than_an_argument_may_name_are_fetched(bring, with_lfs):
    """Each a pointer to the same bytes."""
    pointer = with_lfs.git("show", "HEAD:model.safetensors") + "\n"
    with_lfs.git("lfs", "uninstall", "--local")
    names = [f"{'long-' * 40}{number}.safetensors" for number in range(800)]
    with_lfs.commit(dict.fromkeys(names, pointer.encode()))
    fetched = bring(of_git(with_lfs.url), patterns=["long-*"])
    assert {(fetched.path / name).stat().st_size for name in names} == {len(large_of(with_lfs))}


def test_an_interrupted_fetch_does_not_download_again_what_is_in_place(bring, with_lfs, lfs_server, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(git, "place", interrupt)
        with pytest.raises(KeyboardInterrupt):
            bring(of_git(with_lfs.url))
    lfs_server.requests.clear()
    fetched = bring(of_git(with_lfs.url))
    assert (fetched.path / "model.safetensors").read_bytes() == large_of(with_lfs)
    assert not [line for line in lfs_server.requests if line.startswith("GET")]


@pytest.mark.parametrize("lock", ["shallow.lock", "index.lock"])
def test_the_lock_of_a_git_that_was_killed_is_no_obstacle(bring, with_lfs, out, monkeypatch, lock):
    with monkeypatch.context() as patched:
        patched.setattr(git, "check_out", interrupt)
        with pytest.raises(KeyboardInterrupt):
            bring(of_git(with_lfs.url))
    (out / ".download.git" / lock).touch()
    with_lfs.commit({"config.json": b'{"new": 1}'})
    assert (bring(of_git(with_lfs.url)).path / "config.json").read_bytes() == b'{"new": 1}'


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_git_removes_its_own_locks(bring, git_server, out):
    """It waits for the rest of a commit, with shallow.lock in its hands, when the stage is told to stop."""
    over, held = threading.Event(), out / ".download.git" / "shallow.lock"

    def stop_the_stage() -> None:
        while not held.exists():
            over.wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        over.wait()

    git_server.amid_a_pack = stop_the_stage
    with pytest.raises(KeyboardInterrupt):
        bring(of_git(git_server.url))
    over.set()
    assert list((out / ".download.git").rglob("*.lock")) == []


def test_files_of_an_older_commit_go_when_the_branch_moved_on_between_two_attempts(bring, repository, monkeypatch):
    repository.commit({"data/old.jsonl": b"{}"})
    with monkeypatch.context() as patched:
        patched.setattr(git, "refuse_outward_links", interrupt)
        with pytest.raises(KeyboardInterrupt):
            bring(of_git(repository.url))
    repository.git("rm", "-q", "data/old.jsonl")
    repository.commit({"data/new.jsonl": b"{}"})
    fetched = bring(of_git(repository.url))
    assert walk(fetched.path) == ["config.json", "data/new.jsonl"]


def test_what_a_link_to_a_folder_shows_stays_with_the_folder(bring, repository):
    (repository.tree / "latest").symlink_to("v1")
    repository.commit({"v1/data.jsonl": b"{}"})
    assert walk(bring(of_git(repository.url)).path) == ["config.json", "latest/data.jsonl", "v1/data.jsonl"]


def test_a_second_fetch_needs_no_repository(bring, with_lfs):
    bring(of_git(with_lfs.url))
    with_lfs.bare.rename(with_lfs.bare.with_name("moved"))
    assert (bring(of_git(with_lfs.url)).path / "model.safetensors").exists()


def test_pointers_are_refused_where_lfs_is_off(bring, with_lfs):
    with pytest.raises(UserMistake, match=r"model\.safetensors is a git-lfs pointer to 200,000 bytes") as caught:
        bring(of_git(with_lfs.url, lfs=False))
    assert caught.value.failure.cure == "Set source.git.lfs: true."


def test_a_large_file_that_its_server_lost_is_not_taken_for_the_pointer(bring, with_lfs, lfs_server, out):
    for held in lfs_server.store.rglob("*"):
        if held.is_file():
            held.unlink()
    with pytest.raises(UserMistake) as caught:
        bring(of_git(with_lfs.url))
    assert caught.value.failure.reason == "LfsObjectMissing", caught.value
    assert not (out / ".download.fetched.json").exists()


def test_too_little_space_is_seen_before_the_large_files(bring, with_lfs, lfs_server, monkeypatch):
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: space.shutil._ntuple_diskusage(9, 9, 9))
    lfs_server.requests.clear()
    with pytest.raises(MachineTrouble, match="are free"):
        bring(of_git(with_lfs.url))
    assert lfs_server.requests == []


@pytest.mark.parametrize("kept", ["small", "large"])
def test_too_little_space_is_seen_before_a_file_is_written(bring, with_lfs, out, monkeypatch, kept):
    """A small file beside large ones: neither it nor a pointer lies there when the disk is found too small."""
    if kept == "small":
        with_lfs.git("rm", "-q", "-r", "model.safetensors", "a, b[1]")
    with_lfs.commit({"vocab.json": b"{}" * 5000})
    monkeypatch.setattr(space, "RESERVE", 0)
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: space.shutil._ntuple_diskusage(9, 9, 9000))
    with pytest.raises(MachineTrouble, match="are free") as caught:
        bring(of_git(with_lfs.url))
    assert caught.value.failure.reason == "DiskFull"
    assert list((out / "download").iterdir()) == []


def test_no_such_repository(bring, tmp_path):
    with pytest.raises(UserMistake, match="no such repository") as caught:
        bring(of_git(f"file://{tmp_path}/none.git"))
    assert caught.value.failure.reason == "RepositoryMissing"


def test_no_such_revision_says_which_there_are(bring, repository):
    with pytest.raises(UserMistake, match=r"no revision 'mian'; it has: .*main"):
        bring(of_git(repository.url, "mian"))


def test_a_private_repository_asks_for_the_token_that_git_is_given(bring, stranger):
    with pytest.raises(UserMistake) as caught:
        bring(of_git(f"{stranger.url}/private.git"))
    assert "FINETUNE_TOKEN_FILE" in caught.value.failure.cure
    assert "HF_TOKEN" not in caught.value.failure.cure


def test_a_server_out_of_reach_is_the_machines_trouble(bring):
    with pytest.raises(MachineTrouble, match="could not be fetched"):
        bring(of_git("http://127.0.0.1:9/a.git"))


def test_credentials_in_a_url_are_in_no_log_and_no_error(bring, caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(MachineTrouble) as caught:
        bring(of_old("http://verysecret@127.0.0.1:9/a.git"))
    assert "verysecret" not in str(caught.value) + caplog.text
    assert "***@127.0.0.1" in str(caught.value)


def test_a_link_that_leads_out_of_the_repository_is_refused(bring, repository, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (repository.tree / "vocab.json").symlink_to(tmp_path / "secret")
    repository.commit({})
    with pytest.raises(UserMistake, match=r"vocab\.json in the repository is a link to .*secret, outside"):
        bring(of_git(repository.url))
