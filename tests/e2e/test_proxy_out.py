"""Servers that are told their clients by the PROXY protocol: nginx, HAProxy and the package proxy-protocol read it."""

from __future__ import annotations

import hashlib
import http.client
import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest
from servers import LOOPBACK, SocketServer, dial, free_port, read_all, read_exactly, wait_for
from tls_peers import TLSPeer, authority
from tls_servers import NAME, TLSNginx, ToldHAProxy

from ktcpvs.protocols.proxy_protocol import ProxyHeader, ProxyHeaderReader
from ktcpvs.relay.program import available

from .harness import Daemon
from .one_service import QUICK, ask, edit, row, start, trusted, visitor, with_workers

pytestmark = pytest.mark.e2e

Serve = Callable[..., SocketServer]


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToldHAProxy]:
    server = ToldHAProxy(tmp_path_factory.mktemp("haproxy"))
    yield server
    server.stop()


@pytest.fixture(params=["v1", "v2"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def own_address(client: http.client.HTTPConnection) -> str:
    """The client's address, as the server must see it."""
    host, port = client.sock.getsockname()
    return f"{host}:{port}"


@with_workers
def test_nginx_request_by_request(daemon: Daemon, tls_nginx: TLSNginx, version: str, workers: int) -> None:
    port = start(daemon, f"server = {tls_nginx.address('told')} 1 proxy {version}")
    seen: dict[str, set[str]] = {}
    with visitor(port) as one, visitor(port) as two:
        for client in (one, two, one, two, one):
            status, line = ask(client)
            assert status == 200
            seen.setdefault(own_address(client), set()).add(line[6])
            seen.setdefault("connections", set()).add(line[1])
    assert len(seen.pop("connections")) == 5, "a connection for each request"
    assert all(told == {address} for address, told in seen.items())
    assert len(seen) == 2
    stats = row(daemon)["stats"]
    assert (stats["kept"], stats["reused"], stats["failures"]) == (0, 0, 0)


def test_nginx_before_tls(daemon: Daemon, tls_nginx: TLSNginx, version: str) -> None:
    server = trusted(tls_nginx.address("told-tls"), f"name {NAME} proxy {version}")
    port = start(daemon, server, "check = http / expect 200", *QUICK)
    with visitor(port) as client:
        told = [ask(client) for _ in range(3)]
        assert [(status, line[6], line[4]) for status, line in told] == [(200, own_address(client), NAME)] * 3
        assert [line[2] for _, line in told] == [".", "r", "r"]


@pytest.mark.parametrize("relay", ["copy", "splice", "auto"])
@with_workers
def test_haproxy_with_whole_connections(
    daemon: Daemon, haproxy: ToldHAProxy, version: str, relay: str, workers: int
) -> None:
    port = start(daemon, f"server = {haproxy.told} 1 proxy {version}", f"relay = {relay}", scheduler="wlc")
    with visitor(port) as client:
        told = [ask(client) for _ in range(2)]
        length = "32" if version == "v2" else ""
        assert told == [(200, [own_address(client), LOOPBACK, length])] * 2


def test_haproxy_is_told_the_server_name(daemon: Daemon, haproxy: ToldHAProxy) -> None:
    """That of a ClientHello which is passed on."""
    port = start(daemon, f"server = {haproxy.told_tls} 1 proxy v2", scheduler="sni")
    with dial((LOOPBACK, port)) as client:
        host, own = client.getsockname()
        peer = TLSPeer(client, ssl.create_default_context(cafile=str(authority().pem)), server_name=NAME)
        peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert read_all(peer).endswith(f"{host}:{own} {NAME} {NAME}".encode())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "relay",
    ["splice", pytest.param("kernel", marks=pytest.mark.skipif(available() is not None, reason=str(available())))],
)
def test_bulk_behind_a_header(daemon: Daemon, serve: Serve, version: str, relay: str) -> None:
    """An engine takes over behind the header, and loses nothing of either."""
    headers: list[ProxyHeader] = []

    def upload(sock: socket.socket) -> None:
        reader = ProxyHeaderReader()
        while (header := reader.feed(read_exactly(sock, 1))) is None:
            pass
        headers.append(header)
        sock.sendall(hashlib.sha256(read_all(sock)).hexdigest().encode())

    server = serve(upload)
    port = start(daemon, f"server = {server.address} 1 proxy {version}", f"relay = {relay}", scheduler="wlc")
    data = random.Random(relay).randbytes(6_000_000)
    with dial((LOOPBACK, port)) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).decode() == hashlib.sha256(data).hexdigest()
        assert headers[0].source == client.getsockname()
    assert headers[0].destination == (LOOPBACK, port)
    assert daemon.call("stats")["services"][0]["stats"]["relay"]["joined"][relay] == 1


@pytest.mark.parametrize("check", ["http / expect 200", "tcp", 'send "GET / HTTP/1.0\\r\\n\\r\\n" expect "told"'])
def test_checks(daemon: Daemon, tls_nginx: TLSNginx, version: str, check: str) -> None:
    port = start(daemon, f"server = {tls_nginx.address('told')} 1 proxy off", "check = http / expect 200", *QUICK)
    wait_for(lambda: row(daemon)["health"]["state"] == "down")
    edit(daemon, port, f"server = {tls_nginx.address('told')} 1 proxy {version}", f"check = {check}", *QUICK)
    wait_for(lambda: row(daemon)["health"]["state"] == "up")


def test_a_server_that_does_not_expect_it(daemon: Daemon, tls_nginx: TLSNginx, version: str) -> None:
    port = start(daemon, f"server = {tls_nginx.address('plain')} 1 proxy {version}", "check = http /", *QUICK)
    wait_for(lambda: row(daemon)["health"]["state"] == "down")
    hint = f"; does it expect the PROXY protocol (proxy {version})?"
    assert row(daemon)["health"]["reason"].endswith(hint)
    edit(daemon, port, trusted(tls_nginx.address("good"), f"proxy {version}"), "eject = 0")
    with visitor(port) as client:
        assert ask(client)[0] == 503
    reason = row(daemon)["last_error"]["reason"]
    assert reason.startswith("TLS: ")
    assert reason.endswith(hint)
    daemon.wait_for_log(f"servers fail, as {tls_nginx.address('good')}: {reason}")


def test_a_server_that_hangs_up(daemon: Daemon, serve: Serve) -> None:
    server = serve(lambda sock: sock.recv(100))
    port = start(daemon, f"server = {server.address} 1 proxy v2", "eject = 0")
    with visitor(port) as client:
        assert ask(client)[0] in (502, 503)
    told = "the server closed the connection before it answered; does it expect the PROXY protocol (proxy v2)?"
    assert row(daemon)["last_error"]["reason"] == told
    daemon.wait_for_log(f"servers fail, as {server.address}: {told}")


def test_a_client_on_a_unix_socket(daemon: Daemon, serve: Serve, version: str) -> None:
    """It has no address that a server could be told."""
    headers: list[ProxyHeader] = []

    def note(sock: socket.socket) -> None:
        header = ProxyHeaderReader().feed(sock.recv(1000))
        assert header is not None
        headers.append(header)

    path = f"{daemon.folder}/web.sock"
    server = serve(note)
    text = f"listen = unix:{path}\nscheduler = wlc\nserver = {server.address} 1 proxy {version}"
    daemon.call("load", f"Virtual web {{\n{text}\n}}\n")
    daemon.call("start", "web")
    with dial(path) as client:
        read_all(client)
    (header,) = headers
    assert (header.source, header.is_local) == (None, False)


def test_a_client_of_tls(make_daemon: Callable[..., Daemon], serve: Serve) -> None:
    """The server is told what the switch knows of a client whose TLS ends there."""
    headers: list[ProxyHeader] = []

    def note(sock: socket.socket) -> None:
        header = ProxyHeaderReader().feed(sock.recv(1000))
        assert header is not None
        headers.append(header)

    server = serve(note)
    daemon = make_daemon(tls=True)
    daemon.start()
    port = free_port()
    site, own = authority().daemon("site", NAME), authority().issue("alice")
    text = (
        f"listen = {LOOPBACK}:{port} tls\ncertificate = {site}\nclient_ca = {authority().pem}\n"
        f"client_certificate = required\nscheduler = wlc\nserver = {server.address} 1 proxy v2"
    )
    daemon.call("load", f"Virtual web {{\n{text}\n}}\n")
    daemon.call("start", "web")
    context = ssl.create_default_context(cafile=str(authority().pem))
    context.load_cert_chain(own)
    with dial((LOOPBACK, port)) as client:
        peer = TLSPeer(client, context, server_name=NAME)
        peer.recv(1)
        (header,) = headers
        assert (header.source, header.destination) == (client.getsockname(), (LOOPBACK, port))
    tls = header.tlvs.tls
    assert tls is not None
    assert (header.tlvs.authority, tls.version, tls.common_name) == (NAME, "TLSv1.3", "alice")
    assert (tls.is_tls, tls.has_certificate, tls.had_certificate, tls.is_verified) == (True,) * 4
    assert tls.cipher == peer.tls.cipher()[0]


def test_edits_under_load(daemon: Daemon, tls_nginx: TLSNginx) -> None:
    """From TLS alone to TLS behind a header and back, at servers of the same kind."""
    good, told = tls_nginx.address("good"), tls_nginx.address("told-tls")
    variants = (
        trusted(good),
        trusted(told, "proxy v2"),
        f"server = {told} 1 tls verify off proxy v1",
    )
    port = start(daemon, variants[0])
    is_over = threading.Event()
    seen: list[tuple[int, str]] = []

    def load() -> None:
        with visitor(port) as client:
            while not is_over.is_set():
                status, line = ask(client)
                seen.append((status, line[0]))
                if line[0] == "told-tls":
                    assert line[6] == own_address(client)

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    for number in range(15):
        edit(daemon, port, variants[number % 3])
        before = len(seen)
        wait_for(lambda: len(seen) > before + 20)  # noqa: B023
    is_over.set()
    for client in clients:
        client.join()
    assert {status for status, _ in seen} == {200}
    assert {kind for _, kind in seen} == {"good", "told-tls"}
