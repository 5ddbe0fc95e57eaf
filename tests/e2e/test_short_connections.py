"""Short relayed connections cost few system calls: as many as the work needs, and none for transports."""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import LOOPBACK, SocketServer, dial, free_port, program, read_all, read_exactly, read_head, wait_for

from .harness import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.starts]

REQUEST = b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"

CONNECTIONS = 50

WAITS = ("epoll_wait", "epoll_pwait")
"""One of these reports all sockets that are ready, of any number of connections."""

MAX_CALLS = {
    # accept4, getsockname (by Python), socket, connect; two each of epoll_ctl, send and close; recv: the request, the
    # response with the server's FIN, the client's FIN; shutdown
    "server": 14,
    # and one more recv: the server's FIN comes by itself
    "client": 15,
}
"""System calls of one connection, by the side that closes first."""


def answer_and_close(sock: socket.socket) -> None:
    read_exactly(sock, len(REQUEST))
    # The response and the FIN are one segment, so that the switch reads both at once.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    sock.sendall(RESPONSE)


def answer_and_wait(sock: socket.socket) -> None:
    read_exactly(sock, len(REQUEST))
    sock.sendall(RESPONSE)
    assert read_all(sock) == b""


def answer_any_request(sock: socket.socket) -> None:
    read_head(sock)
    sock.sendall(RESPONSE)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace"


@pytest.fixture
def traced(make_daemon: Callable[..., Daemon], trace: Path) -> Daemon:
    """A daemon whose system calls are written to `trace`."""
    daemon = make_daemon()
    daemon.prefix(program("strace"), "-D", "-f", "-o", str(trace))
    daemon.start()
    return daemon


def calls_in(lines: list[str]) -> Counter[str]:
    """Count each system call, without waits, and without accepts that find nobody, which end a batch."""
    calls: Counter[str] = Counter()
    for line in lines:
        found = re.match(r"\d+ +(\w+)\(", line)
        if found is not None and found[1] not in WAITS and not (found[1] == "accept4" and "EAGAIN" in line):
            calls[found[1]] += 1
    return calls


@pytest.mark.parametrize("scheduler", ["wlc", "http"])
@pytest.mark.parametrize("first", ["server", "client"])
def test_system_calls_of_a_short_connection(traced: Daemon, trace: Path, scheduler: str, first: str) -> None:
    server = SocketServer(answer_and_close if first == "server" else answer_and_wait)
    port, address = free_port(), f"{LOOPBACK}:{server.port}"
    traced.service("s", port, address, rules=((".*", address),) if scheduler == "http" else (), scheduler=scheduler)

    def request() -> None:
        with dial((LOOPBACK, port)) as client:
            client.sendall(REQUEST)
            assert read_exactly(client, len(RESPONSE)) == RESPONSE
            if first == "server":
                assert read_all(client) == b""

    def closed() -> int:
        return trace.read_text().count(" close(")

    request()  # the first one makes what is made once
    traced.wait_until_empty()
    before, closed_before = len(trace.read_text().splitlines()), closed()
    for _ in range(CONNECTIONS):
        request()
    wait_for(lambda: closed() == closed_before + 2 * CONNECTIONS)
    calls = calls_in(trace.read_text().splitlines()[before:])
    # Rounded, since the loop and the control connection make some calls beside.
    assert round(calls.total() / CONNECTIONS) <= MAX_CALLS[first], calls
    server.stop()


@pytest.mark.parametrize("reactor", ["uvloop", "epoll"])
def test_no_descriptor_is_closed_twice(traced: Daemon, trace: Path, reactor: str) -> None:
    """A second close would hit what another thread has opened meanwhile, such as the state file."""
    server = SocketServer(answer_any_request)
    port, address = free_port(), f"{LOOPBACK}:{server.port}"
    traced.service("s", port, address, rules=((".*", address),), scheduler="phttp")
    for _ in range(5):
        with dial((LOOPBACK, port)) as client:
            for request in REQUEST.replace(b"Connection: close\r\n", b""), REQUEST:
                client.sendall(request)
                assert b" 200 OK\r\n" in read_head(client)
                assert read_exactly(client, 5) == b"hello"
            assert read_all(client) == b""
    traced.wait_until_empty()
    server.stop()
    calls = [line for line in trace.read_text().splitlines() if " close(" in line]
    assert len(calls) >= 10
    assert [line for line in calls if "EBADF" in line] == []
