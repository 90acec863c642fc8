"""The demo's address."""

import socket

import pytest

from finetune_operator.local.demo import Address
from finetune_operator.local.events import CannotRun


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_is_refused_with_a_free_one(taken):
    with pytest.raises(CannotRun) as error:
        Address(port=taken).check_free()
    other = int(error.value.failure.cure.rpartition(" ")[2].rstrip("."))
    assert other > taken
    assert Address(port=other).trouble() is None


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(CannotRun) as error:
        Address("192.0.2.1", 8501).check_free()
    assert error.value.failure.reason == "AddressUnusable"
    assert "--host" in error.value.failure.cure


def test_nothing_answers_at_a_port_without_a_page():
    with socket.socket() as unlistened:
        unlistened.bind(("127.0.0.1", 0))
        assert Address(port=unlistened.getsockname()[1]).is_open() is False


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("0.0.0.0", "http://127.0.0.1:80"), ("::1", "http://[::1]:80")],
)
def test_the_url_opens_on_this_machine(host, url):
    assert Address(host, 80).url == url
