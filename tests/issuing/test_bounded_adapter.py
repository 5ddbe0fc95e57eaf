"""Responses of a CA that are too long, too slow or too deep: an error, and no memory."""

from __future__ import annotations

import os
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
    """Responds to each request by its path. sent: bytes. clients: connections so far. ended: one has ended."""

    def __init__(self) -> None:
        self.sent = self.clients = 0
        self.ended = threading.Event()
        self._listener = socket.create_server((LOOPBACK, 0))
        self.url = "http://{}:{}".format(*self._listener.getsockname())
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.clients += 1
                with client, suppress(OSError):
                    while data := client.recv(65536):
                        if data.startswith(b"\x16"):  # a ClientHello
                            client.sendall(b"\x16\x03\x03\x40\x00")
                            self._drip(client)
                        elif not self._respond(client, data.split()[1].decode()):
                            break
                self.ended.set()

    def _drip(self, client: socket.socket) -> None:
        """Send a byte after the other until the client leaves."""
        client.settimeout(0.02)
        while True:
            with suppress(TimeoutError):
                if not client.recv(1):
                    return
            client.send(b"a")

    def _respond(self, client: socket.socket, path: str) -> bool:
        """Return whether the connection is kept."""
        if path == "/moved":
            client.sendall(b"HTTP/1.1 302 Found\r\nLocation: /whole\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        elif path == "/whole":
            client.sendall(HEAD + b'Content-Length: 8\r\nX-Name: a\r\nConnection: close\r\n\r\n{"a": 1}')
        elif path == "/kept":
            client.sendall(HEAD + b"Content-Length: 2\r\n\r\nok")
            return True
        elif path == "/silent":
            client.recv(1)
        elif path.startswith("/drip"):
            client.sendall({"/drip-body": HEAD + b"\r\n", "/drip-head": HEAD + b"X-Name: "}.get(path, b"HTTP/1.1 200 "))
            self._drip(client)
        elif path == "/deep":
            client.sendall(HEAD + b"Connection: close\r\n\r\n" + b"[" * 200_000)
        else:
            client.sendall(HEAD + b"\r\n")
            while self.sent < MAX_SENT:
                self.sent += client.send(b" " * 65536)
        return False

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


@pytest.mark.parametrize("path", ["/drip-body", "/drip-head", "/drip-status", "/silent"])
def test_a_response_that_takes_too_long_is_left(server: Server, path: str) -> None:
    """Each byte comes in time, the whole does not."""
    began, descriptors = time.monotonic(), len(os.listdir("/proc/self/fd"))
    with session(BoundedAdapter(max_time=0.5)) as one, pytest.raises(requests.RequestException) as error:
        one.get(f"{server.url}{path}", timeout=20)
    assert str(error.value) == "the response has not ended within 0.5 s"
    assert time.monotonic() - began < 10
    server.ended.wait(10)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_connection_of_an_earlier_request_has_a_deadline_too(server: Server) -> None:
    with session(BoundedAdapter(max_time=0.5)) as one:
        assert one.get(f"{server.url}/kept").content == b"ok"
        with pytest.raises(requests.RequestException) as error:
            one.get(f"{server.url}/drip-head", timeout=20)
    assert str(error.value) == "the response has not ended within 0.5 s"
    assert server.clients == 1


def test_a_tls_handshake_has_a_deadline_too(server: Server) -> None:
    found = requests.Session()
    found.mount("https://", BoundedAdapter(max_time=0.5))
    with found, pytest.raises(requests.RequestException) as error:
        found.get(f"{server.url.replace('http', 'https')}/", timeout=20)
    assert str(error.value) == "the response has not ended within 0.5 s"


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
