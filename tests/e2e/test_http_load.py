"""phttp under load: a gigabyte each way, thousands of slow clients, and clients that read slowly."""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import LOOPBACK, Nginx, SocketServer, dial, free_port, read_exactly, sink, wait_for

from .harness import TIMEOUT, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.load]

Serve = Callable[..., SocketServer]

GIB = 1 << 30

BLOCK = random.Random("block").randbytes(1 << 20)

SLOW_CLIENTS = 5000


def gigabyte() -> Iterator[bytes]:
    """1 GiB in blocks that all differ."""
    for number in range(GIB // len(BLOCK)):
        yield number.to_bytes(8, "big") + BLOCK[8:]


def send_gigabyte(sock: socket.socket) -> None:
    for block in gigabyte():
        sock.sendall(block)


def take_gigabyte(sock: socket.socket) -> bool:
    """Read 1 GiB; True when it is that of `gigabyte`. Raises EOFError when there is less."""
    taken = bytearray(1 << 20)
    buffer = memoryview(taken)
    is_equal = True
    for block in gigabyte():
        size = 0
        while size < len(block):
            count = sock.recv_into(buffer[size:])
            if not count:
                raise EOFError("there is less than a gigabyte")
            size += count
        is_equal = is_equal and taken == block
    return is_equal


def head_of(sock: socket.socket) -> bytes:
    """Read up to an empty line, and no byte behind it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += read_exactly(sock, 1)
    return head


def highest(daemon: Daemon) -> int:
    """The highest number of resident bytes since `forget_peak`."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def forget_peak(daemon: Daemon) -> int:
    """Let `highest` start from now (proc(5), clear_refs); return the resident bytes."""
    Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")
    return highest(daemon)


def started(daemon: Daemon, server: SocketServer | Nginx) -> int:
    """Start a service with this server; return its port."""
    port = free_port()
    daemon.service("web", port, server.address, scheduler="phttp", rules=((".*", server.address),))
    return port


def test_a_gigabyte_down(new_daemon: Daemon, serve: Serve) -> None:
    def answer(sock: socket.socket) -> None:
        head_of(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % GIB)
        send_gigabyte(sock)

    port = started(new_daemon, serve(answer))
    before = forget_peak(new_daemon)
    with dial((LOOPBACK, port), TIMEOUT) as client:
        client.sendall(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b"\r\nContent-Length: %d\r\n" % GIB in head_of(client)
        assert take_gigabyte(client)
    assert highest(new_daemon) < before + (8 << 20)


def test_a_gigabyte_up(new_daemon: Daemon, serve: Serve) -> None:
    def answer(sock: socket.socket) -> None:
        assert b"\r\nContent-Length: %d\r\n" % GIB in head_of(sock)
        said = b"as it was sent" if take_gigabyte(sock) else b"something else"
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said))

    port = started(new_daemon, serve(answer))
    before = forget_peak(new_daemon)
    with dial((LOOPBACK, port), TIMEOUT) as client:
        client.sendall(b"POST /big HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % GIB)
        send_gigabyte(client)
        assert head_of(client).startswith(b"HTTP/1.1 200 ")
        assert read_exactly(client, 14) == b"as it was sent"
    assert highest(new_daemon) < before + (8 << 20)


class SlowClients:
    """Many clients that send the head of a request, one byte a second each, until they get a response.

    answers: the responses of those whose connection the switch has closed. All run in one thread.
    """

    HEAD = b"GET /slow HTTP/1.1\r\nHost: h\r\nX-Slow: " + b"w" * 1000

    def __init__(self, port: int, count: int) -> None:
        self.answers: list[bytes] = []
        self._sent = 0  # bytes by each
        self._next = time.monotonic()  # when the next is due
        self._heard: dict[socket.socket, bytes] = {}
        self._selector = selectors.DefaultSelector()
        for _ in range(count):
            client = socket.create_connection((LOOPBACK, port), timeout=TIMEOUT)
            client.setblocking(False)
            self._heard[client] = b""
            self._selector.register(client, selectors.EVENT_READ)

    @property
    def waiting(self) -> int:
        """The number of clients that have received nothing yet."""
        return sum(not heard for heard in self._heard.values())

    def run(self, seconds: float) -> None:
        """Send and receive for so many seconds, or until all have a response."""
        until = time.monotonic() + seconds
        while self._heard and time.monotonic() < until:
            if time.monotonic() >= self._next:
                self._next = time.monotonic() + 1
                self._send()
            self._hear(min(self._next, until))

    def _send(self) -> None:
        byte = self.HEAD[self._sent : self._sent + 1]
        self._sent += 1
        for client, heard in self._heard.items():
            if not heard:
                with contextlib.suppress(ConnectionError):  # it may have been answered a moment ago
                    client.send(byte)

    def _hear(self, until: float) -> None:
        while self._heard and (left := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                client = key.fileobj
                assert isinstance(client, socket.socket)
                if data := client.recv(65536):
                    self._heard[client] += data
                else:
                    self._selector.unregister(client)
                    self.answers.append(self._heard.pop(client))
                    client.close()

    def close(self) -> None:
        self._selector.close()
        for client in self._heard:
            client.close()


@pytest.fixture
def many_descriptors() -> Iterator[int]:
    """Raise the limit of open files while the test runs; the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_slow_clients_do_not_delay_a_fast_one(
    daemon: Daemon, web: list[Nginx], stack: contextlib.ExitStack, many_descriptors: int
) -> None:
    count = min(SLOW_CLIENTS, many_descriptors - 500)
    daemon.set(head_timeout=600)
    port = started(daemon, web[0])
    answered: list[int] = []

    enough = threading.Event()

    def ask() -> None:
        """One fast client: 200 requests as fast as it can, then more while the switch refuses the slow clients."""
        with contextlib.closing(http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT)) as client:
            while not answered or not enough.wait(0.01 if len(answered) >= 200 else 0):
                client.request("GET", f"/fast/{len(answered)}")
                answer = client.getresponse()
                assert answer.read().split()[0] == b"r1"
                answered.append(answer.status)

    enough.set()
    ask()  # once
    enough.clear()
    answered.clear()
    daemon.wait_until_empty()
    before = daemon.descriptors()  # with the one to the server that is kept

    slow = SlowClients(port, count)
    stack.callback(slow.close)
    wait_for(lambda: daemon.active("web") == count, "all to be accepted", timeout=TIMEOUT)
    slow.run(0.1)  # all have begun
    fast = threading.Thread(target=ask)
    fast.start()
    stack.callback(fast.join, TIMEOUT)
    stack.callback(enough.set)
    while len(answered) < 200 and fast.is_alive():
        slow.run(0.1)
    assert (slow.waiting, slow.answers) == (count, [])

    daemon.set(head_timeout=1)  # applies to heads that have begun, too
    slow.run(TIMEOUT)
    enough.set()
    fast.join(TIMEOUT)
    assert len(answered) >= 200
    assert set(answered) == {200}
    assert len(slow.answers) == count
    assert {answer.split(b"\r\n", 1)[0] for answer in slow.answers} == {b"HTTP/1.1 408 Request Timeout"}
    daemon.wait_until_empty()
    wait_for(lambda: daemon.descriptors() == before, "the descriptors to be given back")


def answer_of_size(sock: socket.socket) -> None:
    """Respond to a request for /SIZE with that many bytes."""
    size = int(head_of(sock).split()[1][1:])
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (size, body_of_size(size)))
    sink(sock)


def body_of_size(size: int) -> bytes:
    return (size.to_bytes(8, "big") + BLOCK * (size // len(BLOCK) + 1))[:size]


def test_slow_readers_get_every_byte(daemon: Daemon, serve: Serve, stack: contextlib.ExitStack) -> None:
    """They pause in the middle of a response after which the switch closes, for longer than linger_timeout.

    How much of a response the switch and the kernel hold differs a little between connections. So the test requests
    several sizes around that amount: of some responses the switch has the end, has closed the connection, and still
    holds what the kernel does not take.
    """
    daemon.set(linger_timeout=1)
    port = started(daemon, serve(answer_of_size))
    clients: dict[int, socket.socket] = {}

    def ask(size: int) -> None:
        clients[size] = client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        client.settimeout(TIMEOUT)
        client.connect((LOOPBACK, port))
        client.sendall(b"GET /%d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % size)

    for number in range(5):
        ask((16 << 20) + number)
    taken: list[int] = []

    def take_no_more() -> bool:
        nonlocal taken
        before, taken = taken, sorted(client["bytes_out"] for client in daemon.connections())
        return len(taken) == 5 and taken[0] > 0 and before == taken

    wait_for(take_no_more, "the switch to have taken what it can", pause=0.3)
    held = taken[2]  # of some connections more is taken, or less
    assert held < 15 << 20
    for number in range(16):
        ask(held - (number - 4) * 16384)
    wait_for(lambda: "closed" in {client["state"] for client in daemon.connections()}, timeout=TIMEOUT)
    time.sleep(4)
    assert "closed" in {client["state"] for client in daemon.connections()}
    for size, client in clients.items():
        assert b"\r\nContent-Length: %d\r\n" % size in head_of(client)
        assert read_exactly(client, size) == body_of_size(size)
        assert client.recv(1) == b""
    daemon.wait_until_empty()
