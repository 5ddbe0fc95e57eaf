"""Clients that do not read, that go away, or whose uploads are refused."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import LOOPBACK, SocketServer, dial, free_port, program, read_all, wait_for

from .harness import Daemon

pytestmark = pytest.mark.e2e

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MEBIBYTE = 1 << 20


def read_head(sock: socket.socket) -> bytes:
    """Read the head of a request and what comes with it; b"" at the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            return b""
        data += more
    return data


def responder(response: bytes) -> Callable[[socket.socket], None]:
    """A server that sends this response to each request."""

    def serve(sock: socket.socket) -> None:
        while read_head(sock):
            sock.sendall(response)

    return serve


def refuse_upload(sock: socket.socket) -> None:
    """Respond 413 without reading the body, and close: a reset follows the response."""
    if read_head(sock):
        sock.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")


def narrow(port: int) -> socket.socket:
    """A client with a small receive buffer."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(10)
    sock.connect((LOOPBACK, port))
    return sock


def upload(port: int, file: Path) -> str:
    """Upload the file with curl; return the status, or curl's error."""
    done = subprocess.run(
        [program("curl"), "-sS", "-m", "10", "-H", "Expect:", "-o", "/dev/null", "-w", "%{http_code}",
         "--data-binary", f"@{file}", f"http://{LOOPBACK}:{port}/up"],
        capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout if done.stdout != "000" else done.stderr


@pytest.mark.parametrize("limit", ["", "client_rate"])
def test_unread_responses_of_the_switch_do_not_fill_its_memory(daemon: Daemon, limit: str) -> None:
    """A client pipelines requests whose responses are 503 or 429, and never reads."""
    port = free_port()
    daemon.service("web", port, scheduler="phttp", **({"client_rate": "1/h"} if limit else {}))
    other = free_port()
    daemon.service("other", other, scheduler="phttp")
    with narrow(port) as client:
        before = daemon.memory()
        client.setblocking(False)
        sent, stalled = 0, 0
        while stalled < 100 and sent < 40 * MEBIBYTE:
            try:
                sent += client.send(GET * 2000)
                stalled = 0
            except BlockingIOError:
                stalled += 1
                with dial((LOOPBACK, other)) as another:  # it is served meanwhile
                    another.sendall(GET)
                    assert another.recv(9) == b"HTTP/1.1 "
        assert sent < 40 * MEBIBYTE, "it is read without end"
        assert daemon.memory() - before < 8 * MEBIBYTE


def test_a_client_that_never_reads_is_closed(
    daemon: Daemon, serve: Callable[..., SocketServer], stack: contextlib.ExitStack
) -> None:
    """The end of its response may wait in the kernel, in the switch, or at the server."""
    daemon.set(keepalive_timeout=1, read_timeout=2, linger_timeout=1)
    before = daemon.descriptors()
    for index, size in enumerate((1, 2600, 2800, 3000, 20_000)):
        body = b"x" * (size << 10)
        server = serve(responder(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body))
        port = free_port()
        add(daemon, f"web{index}", port, server)
        client = stack.enter_context(narrow(port))
        client.sendall(GET)
        if index % 2:
            client.shutdown(socket.SHUT_WR)
    wait_for(lambda: daemon.call("connections") == [], "all to be closed", timeout=30)
    daemon.call("stop")
    wait_for(lambda: daemon.descriptors() <= before, "their descriptors to be free", timeout=30)


def test_a_server_that_stops_reading_after_its_response_is_closed(
    daemon: Daemon, serve: Callable[..., SocketServer], stack: contextlib.ExitStack
) -> None:
    """It has responded to an upload that it does not read, and does not close the connection."""
    daemon.set(linger_timeout=1)
    responded, enough = threading.Semaphore(0), threading.Event()
    stack.callback(enough.set)

    def respond_and_rest(sock: socket.socket) -> None:
        read_head(sock)
        responded.acquire()
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        enough.wait(60)

    server = serve(respond_and_rest)
    port = free_port()
    add(daemon, "web", port, server)
    before = daemon.descriptors()
    size = 8 * MEBIBYTE  # more than the system takes for a server that does not read
    client = stack.enter_context(dial((LOOPBACK, port)))
    client.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
    client.setblocking(False)
    sent, stalled = 0, 0
    while sent < size and stalled < 50:
        try:
            sent += client.send(b"x" * min(65536, size - sent))
        except BlockingIOError:
            stalled += 1
            threading.Event().wait(0.01)
    client.settimeout(10)
    responded.release()
    assert client.recv(15) == b"HTTP/1.1 200 OK"
    client.close()
    wait_for(lambda: daemon.descriptors() <= before, "its connection to be closed", timeout=20)


@pytest.mark.parametrize("options", [{"scheduler": "phttp"}, {"relay": "copy"}, {"relay": "splice"}])
def test_a_413_reaches_a_client_that_uploads(
    daemon: Daemon, serve: Callable[..., SocketServer], tmp_path: Path, options: dict[str, str]
) -> None:
    """The server's reset after its response does not destroy the response, and ejects no server."""
    server = serve(refuse_upload)
    port = free_port()
    address = f"{LOOPBACK}:{server.port}"
    rules = ((".*", address),) if "scheduler" in options else ()
    daemon.service("web", port, address, rules=rules, **options)
    file = tmp_path / "big"
    file.write_bytes(bytes(20_000_000))
    statuses = [upload(port, file) for _ in range(12)]
    if "scheduler" in options:
        assert statuses == ["413"] * 12
    else:  # the reset is passed on too, and curl may be sending just then
        assert statuses.count("413") >= 6, statuses
    (told,) = daemon.stats("web")["servers"]
    assert (told["health"]["state"], told["stats"]["failures"]) == ("up", 0)


def test_a_refused_upload_is_read_to_its_end(daemon: Daemon, tmp_path: Path) -> None:
    """A client that does not read before it has sent everything gets its response."""
    port = free_port()
    daemon.service("web", port, scheduler="phttp")
    size = 20 * MEBIBYTE
    with dial((LOOPBACK, port)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size >> 16):
            client.sendall(bytes(65536))
        assert read_all(client).startswith(b"HTTP/1.1 503 ")


def test_more_requests_than_descriptors_blame_no_server(
    make_daemon: Callable[..., Daemon], serve: Callable[..., SocketServer], stack: contextlib.ExitStack
) -> None:
    """All clients send a request at once; each gets a descriptor for its server connection."""
    daemon = make_daemon(descriptors=150)
    daemon.start()
    go_on = threading.Event()

    def respond_late(sock: socket.socket) -> None:
        if read_head(sock):
            go_on.wait(30)
            sock.sendall(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

    servers = [serve(respond_late), serve(respond_late)]
    port = free_port()
    add(daemon, "web", port, *servers)
    daemon.set(queue_timeout=30)
    clients = [stack.enter_context(dial((LOOPBACK, port), 30)) for _ in range(120)]
    for client in clients:
        client.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    wait_for(lambda: sum(server.accepted for server in servers) >= 20)
    go_on.set()
    assert {read_all(client)[:15] for client in clients} == {b"HTTP/1.1 200 OK"}
    told = daemon.stats("web")["servers"]
    assert [(one["health"]["state"], one["stats"]["failures"]) for one in told] == [("up", 0)] * 2


def test_a_queued_request_whose_client_has_left_reaches_no_server(
    daemon: Daemon, serve: Callable[..., SocketServer]
) -> None:
    """With abort_on_close: a browser that reloads a slow page ten times does not wait for ten responses."""
    asked: list[bytes] = []
    go_on = threading.Event()

    def respond(sock: socket.socket) -> None:
        while head := read_head(sock):
            asked.append(head.split()[1])
            go_on.wait(30)
            sock.sendall(OK)

    server = serve(respond)
    port = free_port()
    add(daemon, "web", port, server, abort_on_close="on")
    daemon.call("edit_server", "web", f"{LOOPBACK}:{server.port}", maxconn=1)
    with dial((LOOPBACK, port)) as first, dial((LOOPBACK, port)) as last:
        first.sendall(GET.replace(b"/", b"/first", 1))
        wait_for(lambda: asked == [b"/first"])
        for _ in range(5):
            with dial((LOOPBACK, port)) as leaving:
                leaving.sendall(GET)
                wait_for(lambda: daemon.stats("web")["stats"]["queued"] >= 1)
        last.sendall(GET.replace(b"/", b"/last", 1))
        wait_for(lambda: daemon.active("web") == 2, "those who left to be gone")
        go_on.set()
        assert first.recv(15) == last.recv(15) == b"HTTP/1.1 200 OK"
    assert asked == [b"/first", b"/last"]


def add(daemon: Daemon, ident: str, port: int, *servers: SocketServer, **options: str) -> None:
    """Start a service of phttp with these servers."""
    addresses = [f"{LOOPBACK}:{server.port}" for server in servers]
    daemon.service(ident, port, *addresses, rules=tuple((".*", one) for one in addresses), scheduler="phttp", **options)
