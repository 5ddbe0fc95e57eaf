"""Long bodies that are moved from socket to socket: peers, access log and counters see what they see of copied ones."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from examples import examples
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st
from servers import LOOPBACK, SocketServer, dial, free_port, length_of, read_exactly, read_head, reset, wait_for

from ktcpvs.relay.body_relay import MAX_MOVED_SIZE, MIN_BODY_SIZE

from .harness import Daemon

pytestmark = pytest.mark.e2e

Serve = Callable[..., SocketServer]

BYTES = random.Random(2).randbytes(12 << 20)
"""More than the kernel's buffers hold."""

LONG = 3 << 20

TIMES = ("time", "client", "connect", "first", "total", "service")
"""Fields of the access log that differ between two equal requests."""

WHOLE, SHORT, EXTRA = "whole", "short", "extra"
"""The end of a response: as its head says, by a FIN in the middle, with bytes that belong to nothing."""


@frozen
class Transfer:
    """One request. upload, size: of the bodies of the request and of the response. pieces: of both bodies, sent one by
    one with a pause after each. ending: of the response. is_slow: the client reads in small pieces, with pauses."""

    upload: int
    size: int
    pieces: tuple[int, ...]
    ending: str = WHOLE
    is_slow: bool = False


def send_in_pieces(sock: socket.socket, data: bytes, pieces: tuple[int, ...]) -> None:
    for size in pieces:
        if data:
            sock.sendall(data[:size])
            data = data[size:]
            time.sleep(0.002)
    if data:
        sock.sendall(data)


class Origin:
    """A server that responds as `transfer` says, and tells in the head what it has received."""

    def __init__(self) -> None:
        self.transfer = Transfer(0, 0, ())

    def __call__(self, sock: socket.socket) -> None:
        while head := read_head(sock):
            transfer = self.transfer
            body = read_exactly(sock, length_of(head))
            told = hashlib.sha256(body).hexdigest()
            sock.sendall(b"HTTP/1.1 200 OK\r\nX-Got: %b\r\nContent-Length: %d\r\n\r\n" % (told.encode(), transfer.size))
            data = BYTES[: transfer.size]
            if transfer.ending == SHORT:
                send_in_pieces(sock, data[: transfer.size * 2 // 3], transfer.pieces)
                return
            send_in_pieces(sock, data + b"extra" if transfer.ending == EXTRA else data, transfer.pieces)


def perform(port: int, transfer: Transfer) -> tuple[bytes, bytes, bytes]:
    """Return the head of the response, its body, and the response to a further request on the same connection."""
    with dial((LOOPBACK, port)) as client:
        if transfer.is_slow:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 << 10)
        method = b"POST" if transfer.upload else b"GET"
        head = b"%b /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (method, transfer.upload)
        client.sendall(head if transfer.upload else b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        send_in_pieces(client, BYTES[: transfer.upload], transfer.pieces)
        head = read_head(client)
        body = b""
        try:
            while len(body) < length_of(head) and (data := client.recv(100_000 if transfer.is_slow else 1 << 18)):
                body += data
                if transfer.is_slow:
                    time.sleep(0.001)
        except ConnectionResetError:
            return head, body, b"reset"
        if transfer.ending != WHOLE:
            return head, body, b""
        client.sendall(b"GET /y HTTP/1.1\r\nHost: h\r\n\r\n")
        again = read_head(client)
        return head, body, again + read_exactly(client, length_of(again))


class Ways:
    """One service whose bodies are copied and one whose bodies are moved, with the same server."""

    def __init__(self, daemon: Daemon, serve: Serve, folder: Path) -> None:
        self.daemon = daemon
        self.origin = Origin()
        self.server = serve(self.origin).address
        self.ports: dict[str, int] = {}
        self.logs: dict[str, Path] = {}
        self._read: dict[str, int] = {}
        for way in ("copy", "splice"):
            self.ports[way], self.logs[way] = free_port(), folder / f"{way}.log"
            log = {"access_log": str(self.logs[way]), "access_log_format": "json"}
            rules = ((".*", self.server),)
            daemon.service(way, self.ports[way], self.server, rules=rules, scheduler="phttp", relay=way, **log)

    def perform(self, way: str, transfer: Transfer) -> Any:
        """Return all that anybody notices of a transfer."""
        (noticed,) = self.perform_by((way,), transfer)
        return noticed

    def perform_by(self, ways: tuple[str, ...], transfer: Transfer) -> list[Any]:
        """Return all that anybody notices of a transfer that is made in each of these ways."""
        self.origin.transfer = transfer
        begun = [(way, self.counts(way), perform(self.ports[way], transfer)) for way in ways]
        return [self._noticed(way, transfer, before, seen) for way, before, seen in begun]

    def _noticed(self, way: str, transfer: Transfer, before: dict[str, int], seen: Any) -> Any:
        count = self._read.get(way, 0)
        more = 2 if transfer.ending == WHOLE else 1
        wait_for(lambda: self.logs[way].exists() and self.logs[way].read_text().count("\n") >= count + more)
        self.daemon.wait_until_empty()
        lines = [json.loads(line) for line in self.logs[way].read_text().splitlines()[count:]]
        self._read[way] = count + len(lines)
        for line in lines:
            for name in TIMES:
                del line[name]
        after = self.counts(way)
        return seen, lines, {name: after[name] - before[name] for name in after}

    def counts(self, way: str) -> dict[str, int]:
        """The counters of the service and of its server."""
        service = self.daemon.stats(way)
        found = {f"server {name}": value for name, value in service["servers"][0]["stats"].items()}
        found |= service["stats"]
        return {name: value for name, value in found.items() if type(value) is int}


@pytest.fixture
def ways(daemon: Daemon, serve: Serve, tmp_path: Path) -> Ways:
    return Ways(daemon, serve, tmp_path)


sizes = st.one_of(
    st.integers(0, 2000),
    st.integers(MIN_BODY_SIZE - 2, MIN_BODY_SIZE + 2),
    st.integers(MIN_BODY_SIZE, LONG),
    st.integers(MAX_MOVED_SIZE - 5000, MAX_MOVED_SIZE + 5000),
)
pieces = st.lists(st.one_of(st.integers(1, 9000), st.integers(1, 300_000)), max_size=6).map(tuple)
transfers = st.builds(Transfer, sizes, sizes, pieces, st.sampled_from((WHOLE, WHOLE, SHORT, EXTRA)), st.booleans())


@examples(4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(transfer=transfers)
@example(transfer=Transfer(0, LONG, ()))
@example(transfer=Transfer(0, len(BYTES), (), is_slow=True))
@example(transfer=Transfer(len(BYTES), 0, ()))
@example(transfer=Transfer(0, MIN_BODY_SIZE + 1, (3000,)))
@example(transfer=Transfer(0, MIN_BODY_SIZE + 1, (), EXTRA))
@example(transfer=Transfer(0, LONG, (70_000,), SHORT))
def test_moved_bodies_are_like_copied_ones(ways: Ways, transfer: Transfer) -> None:
    copied, moved = ways.perform_by(("copy", "splice"), transfer)
    (head, body, after), lines, counted = copied
    if transfer.ending == SHORT:  # a reset may overtake bytes that are on their way
        for one in (body, moved[0][1]):
            assert BYTES.startswith(one)
        assert (head, lines, counted) == (moved[0][0], *moved[1:])
        return
    assert body == BYTES[: transfer.size]
    assert hashlib.sha256(BYTES[: transfer.upload]).hexdigest().encode() in head
    assert (head, body, after) == moved[0]
    assert lines == moved[1]
    assert counted == moved[2]


def test_long_bodies_take_a_pipe(ways: Ways) -> None:
    """One pipe stays open for later bodies; copying takes none."""

    def pipes() -> int:
        folder = f"/proc/{ways.daemon.pid}/fd"
        return sum(os.readlink(f"{folder}/{name}").startswith("pipe:") for name in os.listdir(folder))

    ways.perform("copy", Transfer(0, LONG, ()))
    before = pipes()
    ways.perform("splice", Transfer(0, LONG, ()))
    assert pipes() in (before, before + 2)  # another test of this daemon may have left one
    assert pipes() >= 2


def test_a_client_that_leaves_in_the_middle(ways: Ways) -> None:
    ways.origin.transfer = Transfer(0, len(BYTES), (100_000, 100_000, 100_000))
    for way in ("copy", "splice"):
        with dial((LOOPBACK, ways.ports[way])) as client:
            client.sendall(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
            read_exactly(client, 150_000)
            reset(client)
        ways.daemon.wait_until_empty()
        wait_for(lambda way=way: ways.logs[way].exists() and ways.logs[way].read_text())
        (line,) = map(json.loads, ways.logs[way].read_text().splitlines())
        assert line["ending"] == "client gone"
        assert 150_000 < line["bytes_out"] <= len(BYTES) + 1000
