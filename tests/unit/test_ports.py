"""A port that a test was given is its own until its process ends."""

import socket
import subprocess
import sys
from pathlib import Path

from tests.ports import free_port

ROOT = Path(__file__).parents[2]


def test_no_other_process_gets_a_port_whose_server_has_not_begun():
    mine = {free_port() for _ in range(3)}
    ask = "from tests.ports import free_port; print(*(free_port() for _ in range(3)))"
    said = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert len(mine) == len(set(said.split())) == 3
    assert mine.isdisjoint(map(int, said.split()))


def test_the_server_itself_can_have_it():
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert server.getsockname()[1]
