"""A package index on this machine, for pods that reach nothing beyond it."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.kubernetes.cluster import HOST


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """A test's output is no access log."""


@contextmanager
def index(folder: Path, requirement: str) -> Iterator[str]:
    """URL of an index with the wheel of `name==version`, which is downloaded once."""
    shelf = folder / requirement.partition("==")[0]
    if not any(shelf.glob("*.whl")):
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(shelf)]
        subprocess.run([*download, requirement], check=True)
    # A listed folder is what pip expects of an index.
    with ThreadingHTTPServer((HOST, 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_port}/"
        server.shutdown()
