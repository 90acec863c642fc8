"""Real git repositories, git's own HTTP server, and a real git-lfs server (giftless) with the large files."""

import logging
import os
import subprocess
import threading
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from pathlib import Path
from typing import Any

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


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The address at which this machine serves the WSGI application."""

    class Quiet(WSGIRequestHandler):
        def log(self, *_: object) -> None: ...

    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@dataclass
class GitServer:
    """`git http-backend`, open to all, to a password alone, or sending everybody on to another address."""

    root: Path
    password: str | None = None
    elsewhere: str | None = None
    closed: str = "/never/"
    """What is part of a path that opens to nobody."""
    offered: list[str] = field(default_factory=list)
    """Passwords that it was sent."""
    amid_a_pack: Callable[[], object] = lambda: None
    """Called when a commit's first bytes are sent, before the others."""
    url: str = ""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        given = b64decode(environ.get("HTTP_AUTHORIZATION", "").partition(" ")[2]).decode().partition(":")[2]
        self.offered += [given] if given else []
        if self.elsewhere is not None:
            location = f"{self.elsewhere}{environ['PATH_INFO']}?{environ['QUERY_STRING']}"
            start_response("302 Found", [("Location", location)])
            return []
        if self.password not in {None, given} or self.closed in environ["PATH_INFO"]:
            start_response("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="models"')])
            return []
        status, headers, body = self.answer(environ)
        start_response(status, headers)
        return self.sent(body)

    def sent(self, body: bytes) -> Iterable[bytes]:
        about, packfile, pack = body.partition(b"packfile\n")
        yield about + packfile
        if packfile:
            self.amid_a_pack()
        yield pack

    def answer(self, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
        passed = {name: value for name, value in environ.items() if isinstance(value, str)}
        done = subprocess.run(
            ["git", "http-backend"],
            input=environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)),
            env={**os.environ, **passed, "GIT_PROJECT_ROOT": str(self.root), "GIT_HTTP_EXPORT_ALL": "1",
                 "GIT_PROTOCOL": environ.get("HTTP_GIT_PROTOCOL", "")},
            capture_output=True, check=True,
        )  # fmt: skip
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        headers = dict(BytesParser().parsebytes(head).items())
        return headers.pop("Status", "200 OK"), list(headers.items()), body


@pytest.fixture
def git_server(repository):
    """The repository over HTTP."""
    served = GitServer(repository.bare.parent)
    with serving(served) as address:
        served.url = f"{address}/{repository.bare.name}"
        yield served


@pytest.fixture
def stranger(tmp_path):
    """Another server, which lets nobody in and notes what it is offered."""
    served = GitServer(tmp_path, password="a password that nobody has")
    with serving(served) as served.url:
        yield served


@pytest.fixture
def token(tmp_path, monkeypatch) -> str:
    """What the file of FINETUNE_TOKEN_FILE holds."""
    (tmp_path / "token").write_text("verysecret\n")
    monkeypatch.setenv("FINETUNE_TOKEN_FILE", str(tmp_path / "token"))
    return "verysecret"
