"""Tells a stage's progress to a ConfigMap, for the operator to show. Called by the frame, in a thread of its own.

Where no ConfigMap is named (on one machine) there is nobody to tell. Telling never fails a stage: what can't be told is
logged once and tried again at the next report.
"""

import json
import logging
import os
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from finetune_jobs.contract import (
    CURVE_FILE,
    CURVE_KEY,
    DIGEST_KEY,
    PROGRESS_FILE,
    PROGRESS_KEY,
    PROGRESS_SECONDS_VARIABLE,
    PROGRESS_VARIABLE,
)
from finetune_jobs.json_lines import whole_lines

log = logging.getLogger(__name__)

CREDENTIALS = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts a pod's own token and its cluster's certificate."""
TIMEOUT = 10
"""Seconds that one report may take."""
MOST_POINTS = 60
"""Of the curve."""


@contextmanager
def told(folder: Path, digest: str, environ: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Report what `folder` says of its progress until the block ends, and once more then."""
    target = environ.get(PROGRESS_VARIABLE)
    if not target:
        yield
        return
    teller = Teller(folder, digest, target, environ)
    ended = threading.Event()
    thread = threading.Thread(target=teller.tell_until, args=(ended,), name="telling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(TIMEOUT + 1)


@dataclass
class Teller:
    """Patches one ConfigMap with what is new in one stage's folder."""

    folder: Path
    digest: str
    target: str
    """namespace/name"""
    environ: Mapping[str, str]
    credentials: Path = CREDENTIALS
    _last: str = field(default="", init=False)
    _complained: bool = field(default=False, init=False)

    def tell_until(self, ended: threading.Event) -> None:
        seconds = float(self.environ.get(PROGRESS_SECONDS_VARIABLE, "10"))
        while not ended.wait(seconds):
            self.tell()
        self.tell()

    def tell(self) -> None:
        """One report, if there is news."""
        try:
            data = self.news()
            if data is not None:
                self.patch(data)
        except (OSError, URLError, ValueError, KeyError) as error:
            if not self._complained:
                log.warning("the progress can't be told to the cluster: %r", error)
            self._complained = True

    def news(self) -> dict[str, str] | None:
        path = self.folder / PROGRESS_FILE
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if not text or text == self._last:
            return None
        self._last = text
        return {PROGRESS_KEY: text, CURVE_KEY: json.dumps(self.curve()), DIGEST_KEY: self.digest}

    def curve(self) -> list[tuple[int, float]]:
        """Step and loss, thinned to MOST_POINTS with the last one kept."""
        path = self.folder / CURVE_FILE
        lines = whole_lines(path)
        every = -(-len(lines) // MOST_POINTS) or 1
        kept = lines[::-1][::every][::-1]
        return [(point["step"], point["loss"]) for point in map(json.loads, kept)]

    def patch(self, data: Mapping[str, str]) -> None:
        namespace, _, name = self.target.partition("/")
        host, port = self.environ["KUBERNETES_SERVICE_HOST"], self.environ.get("KUBERNETES_SERVICE_PORT", "443")
        host = f"[{host}]" if ":" in host else host
        token = (self.credentials / "token").read_text(encoding="utf-8").strip()  # read anew: it is rotated
        context = ssl.create_default_context(cafile=str(self.credentials / "ca.crt"))
        request = Request(
            f"https://{host}:{port}/api/v1/namespaces/{namespace}/configmaps/{name}",
            data=json.dumps({"data": data}).encode(),
            method="PATCH",
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"},
        )
        with build_opener(ProxyHandler({}), HTTPSHandler(context=context)).open(request, timeout=TIMEOUT):
            log.debug("told %s", data[PROGRESS_KEY])
