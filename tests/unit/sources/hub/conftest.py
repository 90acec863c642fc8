"""A fake of the Hugging Face Hub: the few endpoints of its API that a download needs, over real HTTP.

It answers as the hub's documentation and huggingface_hub 0.36 say: ``/api/models/REPO/revision/REV`` with
``blobs=true``, and ``/REPO/resolve/COMMIT/FILE`` with ETag, X-Repo-Commit, X-Linked-* and ranges; errors
carry X-Error-Code. The real hub was not asked.
"""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

LFS_FROM = 1000  # bytes; larger files lie in lfs
COMMIT = "5f0b02c75b57c5855da9ae460ce51323ea669d8a"


@dataclass
class Hub:
    files: dict[str, bytes] = field(default_factory=dict)
    repo: str = "owner/small"
    kind: str = "models"
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, COMMIT: COMMIT})
    gated_for: set[str] | None = None
    """Tokens that may read the files; None: everyone."""
    card: dict = field(default_factory=lambda: {"license": "apache-2.0"})
    cut_after: dict[str, int] = field(default_factory=dict)
    """File -> bytes after which the next answer breaks off."""
    trouble: int | None = None
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Range header of each request."""
    url: str = ""

    def siblings(self) -> list[dict]:
        listed = []
        for name, body in self.files.items():
            entry = {"rfilename": name, "size": len(body), "blobId": blob_id(body)}
            if len(body) >= LFS_FROM:
                entry["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
            listed.append(entry)
        return listed


def blob_id(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        """The test's own output stays readable."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.asked.append((self.command, path, self.headers.get("Range")))
        if hub.trouble is not None:
            return self.answer(hub.trouble)
        prefix = f"/api/{hub.kind}/{hub.repo}/revision/"
        if path.startswith(prefix):
            return self.info(path.removeprefix(prefix))
        files = f"/{'' if hub.kind == 'models' else hub.kind + '/'}{hub.repo}/resolve/"
        if path.startswith(files):
            return self.file(*path.removeprefix(files).split("/", 1))
        return self.answer(401, {"X-Error-Code": "RepoNotFound"})

    def info(self, revision: str) -> None:
        commit = self.hub.revisions.get(revision)
        if commit is None:
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        body = {
            "id": self.hub.repo, "sha": commit, "private": False, "tags": [], "downloads": 0, "likes": 0,
            "siblings": self.hub.siblings(), "cardData": self.hub.card,
        }  # fmt: skip
        return self.answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def file(self, revision: str, name: str) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.hub.gated_for is not None and token not in self.hub.gated_for:
            return self.answer(403 if token else 401, {"X-Error-Code": "GatedRepo"})
        body = self.hub.files[name]
        etag = hashlib.sha256(body).hexdigest() if len(body) >= LFS_FROM else blob_id(body)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.hub.revisions[revision], "Accept-Ranges": "bytes"}
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return self.answer(206 if start else 200, headers, body[start:], cut=name)

    def answer(self, status: int, headers: dict | None = None, body: bytes = b"", cut: str = "") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: self.hub.cut_after.pop(cut, len(body))])


@pytest.fixture
def hub(monkeypatch):
    """The fake, reached as any mirror is: by HF_ENDPOINT."""
    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": made}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    for name in ("HF_TOKEN", "FINETUNE_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    yield made
    server.shutdown()
    thread.join()
    server.server_close()
