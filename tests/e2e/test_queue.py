"""maxconn and the queue: no server gets more than its maxconn, and waiting clients are served or refused."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers import LOOPBACK, SocketServer, dial, echo, free_port, read_all, read_exactly, wait_for

from .harness import TIMEOUT, Daemon

pytestmark = pytest.mark.e2e

Serve = Callable[..., SocketServer]


class Careful:
    """A server that responds to each HTTP request with `name` and counts the requests at once.

    seconds: how long a request takes; None: until `go` is set. now, most: requests at once. total: all of them.
    """

    def __init__(self, name: str, seconds: float | None = 0.01) -> None:
        self.name = name
        self.seconds = seconds
        self.go = threading.Event()
        self.now = self.most = self.total = 0
        self._lock = threading.Lock()

    def __call__(self, sock: socket.socket) -> None:
        """Serve one connection, kept alive."""
        with sock.makefile("rb") as stream:
            while stream.readline():
                while stream.readline() not in (b"\r\n", b""):
                    pass
                with self._counted():
                    if self.seconds is None:
                        assert self.go.wait(TIMEOUT)
                    else:
                        time.sleep(self.seconds)
                body = self.name.encode()
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self.now += 1
            self.total += 1
            self.most = max(self.most, self.now)
        try:
            yield
        finally:
            with self._lock:
                self.now -= 1


def configuration(port: int, scheduler: str, *servers: str, settings: str = "") -> str:
    """A configuration with one service. servers: each with its options. The rule is for schedulers that use rules."""
    addresses = " ".join(f"server {server.split()[0]}" for server in servers)
    lines = [f"server = {server}" for server in servers]
    head = f"listen = {LOOPBACK}:{port} scheduler = {scheduler}"
    rule = f'rule = pattern ".*" use {addresses}'
    return "\n".join([f"global {{ {settings} }}", "Virtual s {", head, *lines, rule, "}"])


def started(daemon: Daemon, scheduler: str, *servers: str, settings: str = "") -> int:
    """Start such a service; return its port."""
    port = free_port()
    daemon.call("load", configuration(port, scheduler, *servers, settings=settings))
    daemon.call("start")
    return port


def get(port: int, cookie: str = "") -> tuple[int, str, str]:
    """Send a request on a new connection; return (status, body, cookie)."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/", headers={"Cookie": cookie} if cookie else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.getheader("Set-Cookie", "").partition(";")[0]
    finally:
        connection.close()


@pytest.fixture
def crowd() -> Iterator[ThreadPoolExecutor]:
    """Thirty threads."""
    with ThreadPoolExecutor(30) as crowd:
        yield crowd


def test_maxconn_limits_requests_at_once(daemon: Daemon, serve: Serve, crowd: ThreadPoolExecutor) -> None:
    careful = Careful("one")
    port = started(daemon, "phttp", f"{serve(careful).address} 1 maxconn 2")
    barrier = threading.Barrier(30)

    def ask(_: int) -> list[tuple[int, str, str]]:
        barrier.wait(TIMEOUT)
        return [get(port), get(port)]

    answers = [answer for both in crowd.map(ask, range(30)) for answer in both]
    assert answers == [(200, "one", "")] * 60
    assert careful.total == 60
    assert careful.most == 2


def test_a_kept_connection_waits_for_each_of_its_requests(
    daemon: Daemon, serve: Serve, crowd: ThreadPoolExecutor
) -> None:
    careful = Careful("one")
    port = started(daemon, "phttp", f"{serve(careful).address} maxconn 1")

    def ask(_: int) -> bytes:
        with dial((LOOPBACK, port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 2)
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            return read_all(client)

    for said in crowd.map(ask, range(10)):
        assert said.count(b"HTTP/1.1 200 OK") == said.count(b"\r\n\r\none") == 3
    assert careful.total == 30
    assert careful.most == 1


@pytest.mark.parametrize("scheduler", ["phttp", "http"])
def test_a_server_with_room_is_chosen_before_a_request_waits(
    daemon: Daemon, serve: Serve, crowd: ThreadPoolExecutor, scheduler: str
) -> None:
    small, large = Careful("small", None), Careful("large", None)
    servers = f"{serve(small).address} 60000 maxconn 1", f"{serve(large).address} 1 maxconn 4"
    port = started(daemon, scheduler, *servers)
    asked = [crowd.submit(get, port) for _ in range(8)]
    wait_for(lambda: (small.now, large.now) == (1, 4))
    assert not any(one.done() for one in asked)
    small.go.set()
    large.go.set()
    assert {one.result()[0] for one in asked} == {200}
    assert (small.most, small.total + large.total) == (1, 8)
    assert large.most <= 4


def test_queue_timeout_refuses_requests_that_wait_too_long(
    daemon: Daemon, serve: Serve, crowd: ThreadPoolExecutor
) -> None:
    careful = Careful("one", None)
    port = started(daemon, "phttp", f"{serve(careful).address} maxconn 2", settings="queue_timeout = 1")
    asked = [crowd.submit(get, port) for _ in range(10)]
    refused = wait_for(lambda: [one for one in asked if one.done()][7:] and [one for one in asked if one.done()])
    for one in refused:
        status, body, _ = one.result()
        assert (status, "no server had room within 1 seconds" in body) == (503, True), body
    assert careful.now == 2
    careful.go.set()
    answers = Counter(one.result()[0] for one in asked)
    assert answers == {200: 2, 503: 8}
    assert get(port)[:2] == (200, "one"), "a refused client takes no room"
    assert careful.total == 3


def test_wlc_counts_whole_connections(daemon: Daemon, serve: Serve, stack: contextlib.ExitStack) -> None:
    server = serve(echo)
    port = started(daemon, "wlc", f"{server.address} maxconn 2")
    clients = [stack.enter_context(dial((LOOPBACK, port))) for _ in range(6)]
    for number, client in enumerate(clients):
        client.sendall(b"%d" % number)
    for client in clients[:2]:
        read_exactly(client, 1)
    wait_for(lambda: daemon.active("s") == 6)
    assert server.accepted == 2
    for leaving, entering in zip(clients, clients[2:], strict=False):
        leaving.close()
        assert read_exactly(entering, 1) == b"%d" % clients.index(entering), "in their order, with what they have sent"
        assert server.accepted == clients.index(entering) + 1
    wait_for(lambda: server.living == 2)
    late = [stack.enter_context(dial((LOOPBACK, port))) for _ in range(2)]
    wait_for(lambda: daemon.active("s") == 4)
    daemon.call("load", configuration(port, "wlc", f"{server.address} maxconn 3"))
    late[0].sendall(b"x")
    assert read_exactly(late[0], 1) == b"x"
    assert server.accepted == 7
    daemon.call("load", configuration(port, "wlc", server.address))
    late[1].sendall(b"y")
    assert read_exactly(late[1], 1) == b"y"


def test_wlc_closes_connections_that_wait_too_long(daemon: Daemon, serve: Serve, stack: contextlib.ExitStack) -> None:
    server = serve(echo)
    port = started(daemon, "wlc", f"{server.address} maxconn 2", settings="queue_timeout = 1")
    served = [stack.enter_context(dial((LOOPBACK, port))) for _ in range(2)]
    wait_for(lambda: server.accepted == 2)
    waiting = [stack.enter_context(dial((LOOPBACK, port))) for _ in range(5)]
    assert [read_all(client) for client in waiting] == [b""] * 5
    assert server.accepted == 2
    for client in served:
        client.sendall(b"here")
        assert read_exactly(client, 4) == b"here"
    assert daemon.stats("s")["stats"]["refused"] == 5


def test_a_session_waits_for_its_own_server(daemon: Daemon, serve: Serve, crowd: ThreadPoolExecutor) -> None:
    careful = {name: Careful(name, None) for name in ("one", "two")}
    port = started(daemon, "chttp", *(f"{serve(server).address} maxconn 1" for server in careful.values()))
    for server in careful.values():
        server.go.set()
    _, name, cookie = get(port)
    mine = careful[name]
    (other,) = (server for server in careful.values() if server is not mine)
    mine.go.clear()
    first = crowd.submit(get, port, cookie)
    wait_for(lambda: mine.now == 1)
    second = crowd.submit(get, port, cookie)
    wait_for(lambda: daemon.active("s") == 2)
    assert [get(port)[1] for _ in range(3)] == [other.name] * 3, "there is room for those without a session"
    assert not second.done()
    mine.go.set()
    assert first.result() == second.result() == (200, name, "")
    assert mine.most == 1
