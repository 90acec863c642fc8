"""Ports for the servers of tests, several of which start at once in several processes."""

import socket
from contextlib import closing

PORTS = range(20000, 29000)
"""Below the ports that systems give to connections, and those of Kubernetes' Services."""
_taken: list[socket.socket] = []


def free_port() -> int:
    """A TCP port of loopback. No other call gives it out, in any process, before this process ends.

    Between the answer and the server's start a port is held by its twin of UDP, so the server can have it.
    """
    for port in PORTS:
        twin = socket.socket(type=socket.SOCK_DGRAM)
        try:
            twin.bind(("127.0.0.1", port))
            with closing(socket.socket()) as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            twin.close()
            continue
        _taken.append(twin)
        return port
    raise RuntimeError(f"every port of {PORTS} is taken")
