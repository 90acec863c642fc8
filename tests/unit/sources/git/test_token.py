"""Who is offered the token of a git source, and where it is never seen."""

import logging
import subprocess

import pytest
from pydantic import ValidationError

from finetune_jobs.contract import GitSource, Source
from finetune_jobs.errors import UserMistake
from finetune_jobs.sources import git, programs
from finetune_jobs.sources.token import masked


def of_git(url: str) -> Source:
    return Source(git=GitSource(url=url, revision="main"))


def of_old(url: str) -> Source:
    """As it could once be written."""
    return Source(git=GitSource.model_construct(url=url, revision="main", lfs=True))


@pytest.mark.parametrize(
    "url", ["https://ghp_token@example.com/a", "http://me:word@example.com/a", "ssh://git:word@example.com/a"]
)
def test_a_url_that_may_hold_a_secret_is_refused(url):
    with pytest.raises(ValidationError, match="leave out what is before the @"):
        of_git(url)


@pytest.mark.parametrize("url", ["ssh://git@example.com/a", "https://example.com/a@b?c=d@e", "file:///a:b@c"])
def test_an_account_and_an_at_sign_elsewhere_are_no_secret(url):
    assert of_git(url).git.url == url


def test_a_password_with_an_at_sign_is_masked_whole():
    assert masked("from https://me:pass@word@example.com/a@b") == "from https://***@example.com/a@b"


def test_the_sources_own_server_opens_to_the_token(bring, git_server, token):
    git_server.password = token
    assert (bring(of_git(git_server.url)).path / "config.json").read_bytes() == b"{}"


def test_the_large_files_of_the_sources_own_server_open_to_the_token(bring, git_server, repository, token):
    """It has none; that it was asked with the token is what counts."""
    git_server.password = token
    repository.commit({".gitattributes": b"*.safetensors filter=lfs\n", "model.safetensors": pointer()})
    git_server.offered.clear()
    with pytest.raises(UserMistake, match=r"model\.safetensors|404|not found"):
        bring(of_git(git_server.url))
    assert set(git_server.offered) == {token}


@pytest.mark.timeout(120)
def test_a_token_that_git_lfs_is_refused_is_not_offered_for_ever(bring, git_server, repository, token):
    git_server.password, git_server.closed = token, "/info/lfs/"
    repository.commit({".gitattributes": b"*.safetensors filter=lfs\n", "model.safetensors": pointer()})
    with pytest.raises(UserMistake) as caught:
        bring(of_git(git_server.url))
    assert caught.value.failure.reason == "AccessRefused"


def test_a_server_that_the_source_sends_on_to_is_not_offered_the_token(bring, git_server, stranger, token):
    git_server.elsewhere = stranger.url
    with pytest.raises(UserMistake) as caught:
        bring(of_git(git_server.url))
    assert caught.value.failure.reason == "AccessRefused"
    assert stranger.offered == []


def pointer() -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 2000000\n"


def test_a_git_lfs_server_elsewhere_is_not_offered_the_token(bring, git_server, repository, stranger, token):
    git_server.password = token
    address = f"[lfs]\n\turl = {stranger.url}/tests/model.git/info/lfs\n"
    repository.commit({".lfsconfig": address.encode(), "model.safetensors": pointer()})
    with pytest.raises(UserMistake) as caught:
        bring(of_git(git_server.url))
    assert caught.value.failure.reason == "AccessRefused"
    assert stranger.offered == []


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("https://example.com/a/b.git", ["https://example.com"]),
        ("https://someone@example.com:8443/a/b.git", ["https://example.com:8443"]),
        ("http://[::1]:80/a", ["http://[::1]:80"]),
        ("ssh://git@example.com/a", []),
        ("file:///a", []),
    ],
)
def test_the_token_is_for_one_scheme_host_and_port(url, servers):
    assert git.servers(url) == servers


def test_settings_that_the_user_gives_git_by_the_environment_stay(bring, repository, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{repository.bare.parent}/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://example.org/")
    assert (bring(of_git(f"https://example.org/{repository.bare.name}")).path / "config.json").exists()


@pytest.fixture
def commands(monkeypatch) -> list[str]:
    """All that is given to git on a command line."""
    given: list[str] = []
    start = subprocess.Popen

    def noting(command, *arguments, **options):
        given.extend(command)
        return start(command, *arguments, **options)

    monkeypatch.setattr(programs.subprocess, "Popen", noting)
    return given


@pytest.fixture
def broken_off(bring, git_server, with_lfs, token, monkeypatch):
    """Breaks a fetch off before its last step, when all of git's own files are still there."""

    def fetch() -> None:
        def killed(*_):
            raise KeyboardInterrupt

        git_server.password = token
        monkeypatch.setattr(git, "place", killed)
        with pytest.raises(KeyboardInterrupt):
            bring(of_old(git_server.url.replace("://", "://alsosecret@")))

    return fetch


@pytest.mark.parametrize("secret", ["verysecret", "alsosecret"])
def test_neither_the_token_nor_what_the_url_holds_is_left_behind(broken_off, commands, out, caplog, secret):
    caplog.set_level(logging.DEBUG)
    broken_off()
    kept = [path for path in out.rglob("*") if path.is_file()]
    assert any(path.name == "config" for path in kept)
    assert [path for path in kept if secret.encode() in path.read_bytes()] == []
    assert [word for word in commands if secret in word] == []
    assert secret not in caplog.text
