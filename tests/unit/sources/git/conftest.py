"""Real git repositories, and a real git-lfs server (giftless) with the large files."""

import logging
import os
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from werkzeug.serving import WSGIRequestHandler, make_server

LARGE = os.urandom(200_000)


@pytest.fixture(autouse=True)
def plain_git(tmp_path, monkeypatch):
    """Git as on a fresh machine: no settings, no credentials."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "A")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@example.org")


@dataclass
class LfsServer:
    url: str
    store: Path
    """Where the objects lie: <organisation>/<repository>/<oid>."""
    requests: list[str]


@pytest.fixture(scope="session")
def lfs_server(tmp_path_factory):
    """giftless with its own streaming storage, over HTTP."""
    from giftless.app import init_app
    from giftless.auth import authentication
    from giftless.auth.identity import DefaultIdentity, Permission

    def anyone(_: object) -> DefaultIdentity:
        # giftless's own allow_anon forbids each single object
        user = DefaultIdentity(name="anyone")
        user.allow(organization="tests", permissions=Permission.all())
        return user

    store, requests = tmp_path_factory.mktemp("lfs"), []

    class Quiet(WSGIRequestHandler):
        def log_request(self, code: object = "-", *_: object) -> None:
            requests.append(f"{self.command} {self.path} {code}")

    storage = {"storage_class": "giftless.storage.local_storage:LocalStorage", "storage_options": {"path": str(store)}}
    app = init_app(
        additional_config={
            # its JWT wants a subject, and nobody here has a name
            "PRE_AUTHORIZED_ACTION_PROVIDER": None,
            "LEGACY_ENDPOINTS": False,
            "TRANSFER_ADAPTERS": {
                "basic": {"factory": "giftless.transfer.basic_streaming:factory", "options": storage}
            },
        }
    )
    authentication.push_authenticator(anyone)
    logging.getLogger("giftless").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield LfsServer(f"http://127.0.0.1:{server.server_port}", store, requests)
    server.shutdown()
    thread.join()


@dataclass
class Repository:
    """A work tree and the bare repository that it is pushed to."""

    tree: Path
    bare: Path

    @property
    def url(self) -> str:
        return f"file://{self.bare}"

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.tree, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, files: dict[str, bytes], message: str = "More") -> str:
        for name, body in files.items():
            (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
            (self.tree / name).write_bytes(body)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        self.git("push", "-q", "origin", "HEAD:main")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path) -> Repository:
    """A repository with one small file on `main`."""
    made = Repository(tmp_path / "tree", tmp_path / "bare.git")
    made.tree.mkdir()
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(made.bare)], check=True)
    made.git("init", "-q", "-b", "main")
    made.git("remote", "add", "origin", str(made.bare))
    made.commit({"config.json": b"{}"}, "First")
    return made


@pytest.fixture
def with_lfs(repository, lfs_server, tmp_path) -> Repository:
    """The same with a large file, pushed by the real git-lfs to the real server."""
    repository.git("lfs", "install", "--local")
    repository.git("lfs", "track", "*.safetensors")
    address = f"[lfs]\n\turl = {lfs_server.url}/tests/{tmp_path.name}.git/info/lfs\n"
    repository.commit({".lfsconfig": address.encode(), "a, b[1]/model.safetensors": LARGE, "model.safetensors": LARGE})
    return repository
