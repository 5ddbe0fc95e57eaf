"""Uncommon forms of HTTP/1: old clients, custom upgrades, and servers that close without `Connection: close`."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from servers import LOOPBACK, SocketServer, dial, free_port, length_of, read_all, read_exactly, read_head

from .harness import Daemon

pytestmark = pytest.mark.e2e

Serve = Callable[..., SocketServer]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def service(daemon: Daemon, server: SocketServer, *words: str) -> int:
    """Start a service whose only server is never ejected; return its port. words: further options, NAME=VALUE."""
    port, address = free_port(), f"{LOOPBACK}:{server.port}"
    daemon.service("web", port, address, scheduler="phttp", rules=((".*", address),))
    daemon.adm("-E", "-i", "web", "eject=0", *words)
    return port


def requests(sock: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    """The head and the body of each request."""
    while head := read_head(sock):
        yield head, read_exactly(sock, length_of(head))


def shouting(sock: socket.socket) -> None:
    """Switch to the protocol `shout/1`: send back the request's body, then all that comes, in capitals."""
    for head, body in requests(sock):
        if b"\r\nUpgrade: shout/1\r\n" not in head or b"\r\nConnection: Upgrade\r\n" not in head:
            sock.sendall(OK)
            continue
        sock.sendall(b"HTTP/1.1 101 Shouting\r\nConnection: Upgrade\r\nUpgrade: shout/1\r\nX-Hall: 7\r\n\r\n" + body)
        while data := sock.recv(65536):
            sock.sendall(data.upper())
        return


UPGRADE = (
    b"POST /hall HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: shout/1\r\n"
    b"Content-Length: 6\r\n\r\nhello\n"
)


def test_an_upgrade_to_a_custom_protocol_with_a_request_body(daemon: Daemon, serve: Serve) -> None:
    port = service(daemon, serve(shouting))
    with dial((LOOPBACK, port)) as client:
        client.sendall(UPGRADE)
        head = read_head(client)
        assert head == b"HTTP/1.1 101 Shouting\r\nX-Hall: 7\r\nConnection: Upgrade\r\nUpgrade: shout/1\r\n\r\n"
        assert read_exactly(client, 6) == b"hello\n"
        sent = b"get / http/1.1\r\n\r\n" * 10000
        sender = threading.Thread(target=client.sendall, args=(sent,))
        sender.start()
        assert read_exactly(client, len(sent)) == sent.upper()
        sender.join()
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""


@pytest.mark.parametrize("mode", ["websocket", "off"])
def test_a_service_may_forbid_upgrades_to_custom_protocols(daemon: Daemon, serve: Serve, mode: str) -> None:
    port = service(daemon, serve(shouting), f"upgrade={mode}")
    with dial((LOOPBACK, port)) as client:
        client.sendall(UPGRADE)
        assert read_exactly(client, len(OK)) == OK
        assert f"upgrade = {mode}" in daemon.adm("--save").stdout
        refused = daemon.adm("-E", "-i", "web", "upgrade=h2c", check=False)
        assert refused.returncode == 1
        assert "any" in refused.stderr


def old_fashioned(sock: socket.socket) -> None:
    """Close after the response to HTTP/1.0, and after a response to HEAD without Content-Length."""
    for head, _ in requests(sock):
        if head.startswith(b"HEAD"):
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            return
        sock.sendall(OK)
        if b" HTTP/1.0\r\n" in head:
            return


def statuses(port: int, *sent: bytes) -> list[bytes]:
    """Send these requests at once on one connection; return the statuses of the responses."""
    with dial((LOOPBACK, port)) as client:
        client.sendall(b"".join(sent))
        client.shutdown(socket.SHUT_WR)
        return [
            line[9:12] for line in read_all(client).replace(b"HTTP/1", b"\nHTTP/1").splitlines() if b"HTTP/1." in line
        ]


POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"


def test_no_post_is_lost_beside_clients_of_http_1_0(daemon: Daemon, serve: Serve) -> None:
    port = service(daemon, serve(old_fashioned))
    enough = threading.Event()

    def old_client() -> None:
        while not enough.is_set():
            assert statuses(port, b"GET / HTTP/1.0\r\n\r\n") == [b"200"]

    thread = threading.Thread(target=old_client)
    thread.start()
    try:
        client = http.client.HTTPConnection(LOOPBACK, port, timeout=20)
        answered = []
        for _ in range(200):
            client.request("POST", "/", b"hi")
            answer = client.getresponse()
            answer.read()
            answered.append(answer.status)
        client.close()
    finally:
        enough.set()
        thread.join()
    assert answered == [200] * 200


def test_no_post_is_lost_after_a_head_request_whose_server_closes(daemon: Daemon, serve: Serve) -> None:
    port = service(daemon, serve(old_fashioned))
    for _ in range(30):
        assert statuses(port, b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", POST) == [b"200", b"200"]


def closing(sock: socket.socket) -> None:
    """Respond once and close without `Connection: close`; the response and the FIN come together."""
    for _ in requests(sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        sock.sendall(OK)
        return


def test_no_post_is_lost_after_a_response_that_comes_with_a_fin(daemon: Daemon, serve: Serve) -> None:
    port = service(daemon, serve(closing))
    for _ in range(30):
        assert statuses(port, POST, POST, POST) == [b"200"] * 3


def test_a_client_of_http_1_0_keeps_its_connection(daemon: Daemon, serve: Serve) -> None:
    server = serve(old_fashioned)
    port = service(daemon, server)
    with dial((LOOPBACK, port)) as client:
        for _ in range(20):
            client.sendall(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
            head = read_head(client)
            assert head.endswith(b"\r\nConnection: keep-alive\r\n\r\n")
            assert read_exactly(client, length_of(head)) == b"ok"
    assert server.accepted == 1


def chunking(sock: socket.socket) -> None:
    """Respond in chunks, and keep the connection."""
    for _ in requests(sock):
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"5   \r\nhel", b"lo\r\n6;a\r\n", b" world\r", b"\n0\r\n\r\n"):
            sock.sendall(piece)


def test_a_client_of_http_1_0_gets_chunks_decoded(daemon: Daemon, serve: Serve) -> None:
    port = service(daemon, serve(chunking))
    with contextlib.closing(dial((LOOPBACK, port))) as client:
        client.sendall(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
        assert read_all(client) == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello world"
