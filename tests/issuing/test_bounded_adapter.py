"""Responses of a CA that are too long, too slow or too deep: an error, and no memory."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from servers import LOOPBACK

from ktcpvs.acme.bounded_adapter import BoundedAdapter
from ktcpvs.acme.client import CA, Accounts, ACMEClient
from ktcpvs.acme.problems import ACMEProblem
from ktcpvs.acme.store import CertificateFolder

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
MAX_SENT = 64 << 20
"""More than any test reads."""


class Server:
    """Responds to each request by its path. sent: bytes."""

    def __init__(self) -> None:
        self.sent = 0
        self._listener = socket.create_server((LOOPBACK, 0))
        self.url = "http://{}:{}".format(*self._listener.getsockname())
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, suppress(OSError):
                    self._respond(client, client.recv(65536).split()[1].decode())

    def _respond(self, client: socket.socket, path: str) -> None:
        if path == "/moved":
            client.sendall(b"HTTP/1.1 302 Found\r\nLocation: /whole\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        elif path == "/whole":
            client.sendall(HEAD + b'Content-Length: 8\r\nX-Name: a\r\nConnection: close\r\n\r\n{"a": 1}')
        elif path == "/deep":
            client.sendall(HEAD + b"Connection: close\r\n\r\n" + b"[" * 200_000)
        else:
            client.sendall(HEAD + b"\r\n")
            while self.sent < MAX_SENT:
                self.sent += client.send(b" " * 65536)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.stop()


def session(adapter: BoundedAdapter) -> requests.Session:
    found = requests.Session()
    found.mount("http://", adapter)
    return found


@pytest.mark.parametrize("path", ["/whole", "/moved"])
def test_a_response_is_what_it_was(server: Server, path: str) -> None:
    with session(BoundedAdapter()) as one:
        response = one.get(f"{server.url}{path}")
    assert (response.status_code, response.json(), response.headers["X-Name"]) == (200, {"a": 1}, "a")
    assert [before.status_code for before in response.history] == ([302] if path == "/moved" else [])


def test_a_response_that_does_not_end_is_left(server: Server) -> None:
    with session(BoundedAdapter(max_bytes=100_000)) as one, pytest.raises(requests.RequestException) as error:
        one.get(f"{server.url}/endless")
    assert str(error.value) == "the response has more than 100000 bytes"
    assert server.sent < MAX_SENT


def test_a_response_that_takes_too_long_is_left(server: Server) -> None:
    times = iter([0.0, 1.0, 5.0, 11.0])
    adapter = BoundedAdapter(max_bytes=MAX_SENT, max_time=10.0, now=lambda: next(times))
    with session(adapter) as one, pytest.raises(requests.RequestException) as error:
        one.get(f"{server.url}/endless")
    assert str(error.value) == "the response has not ended within 10 s"


@pytest.mark.parametrize(
    ("path", "why"),
    [("/deep", "unexpected response: "), ("/endless", "the response has more than 1048576 bytes")],
)
def test_a_client_says_what_was_wrong(server: Server, tmp_path: Path, path: str, why: str) -> None:
    store = CertificateFolder(str(tmp_path / "state.acme"))
    accounts = Accounts(store.load_account, store.save_account, store.delete_account)
    client = ACMEClient(CA(f"{server.url}{path}"), accounts, time.time)
    with pytest.raises(ACMEProblem) as problem:
        client.new_order(["a.example"])
    assert str(problem.value).startswith(f"{server.url}{path}: {why}")
    assert problem.value.is_of_ca
