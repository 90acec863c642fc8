"""The demo's address: whether it is free, and whether the page is open."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from finetune_jobs.contract import DEMO_HOST_VARIABLE, DEMO_PORT_VARIABLE, DemoResult
from finetune_operator.local.events import refuse

HEALTH_PATH = "/_stcore/health"
"""Streamlit's own."""
PORT = 8501
"""Streamlit's default."""
PORTS_TRIED = 50
HIGHEST_PORT = 65535
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - names what the user may have asked for


@dataclass(frozen=True)
class Address:
    """Where the demo listens."""

    host: str = "127.0.0.1"
    port: int = PORT

    @property
    def url(self) -> str:
        """As a browser on this machine opens it."""
        host = EVERYWHERE.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def environment(self) -> Mapping[str, str]:
        return {DEMO_HOST_VARIABLE: self.host, DEMO_PORT_VARIABLE: str(self.port)}

    @property
    def result(self) -> dict[str, object]:
        return DemoResult(url=self.url).model_dump(mode="json", by_alias=True)

    def trouble(self) -> OSError | None:
        """Why nothing can listen here, or None."""
        try:
            family, _, _, _, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            return error
        return None

    def check_free(self) -> None:
        """CannotRun, naming another port, when this one is taken."""
        trouble = self.trouble()
        if trouble is None:
            return
        nearby = range(self.port + 1, min(self.port + PORTS_TRIED, HIGHEST_PORT) + 1)
        other = next((port for port in nearby if Address(self.host, port).trouble() is None), None)
        cure = f"Give another: --port {other}." if other else "Give an address of this machine with --host and --port."
        raise refuse(
            "PortInUse" if other else "AddressUnusable",
            f"The demo can't listen on {self.host} port {self.port}: {trouble.strerror}.",
            cure,
        )

    def is_open(self) -> bool:
        """Whether the page answers."""
        try:
            with build_opener(ProxyHandler({})).open(self.url + HEALTH_PATH, timeout=1) as answer:
                return bool(answer.status == 200)  # noqa: PLR2004 - OK
        except (URLError, OSError):
            return False
