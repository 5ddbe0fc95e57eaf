"""Services whose servers speak TLS, with real servers: verification, sessions, pools, relays, and how failures show."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import random
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from authority import CLIENT
from nameserver import NameServer
from servers import LOOPBACK, SocketServer, dial, ending, read_all, read_exactly, read_head, wait_for
from tls_peers import TLSPeer, authority
from tls_servers import (
    NAME,
    OpenSSL,
    TLSNginx,
    by_tls,
    echo_all,
    echo_websocket,
    reset_at_once,
    respond,
    server_context,
    stall,
)

from ktcpvs.errors import NoTLS

from .harness import Daemon
from .one_service import QUICK, ask, edit, ident_of, row, start, trusted, visitor, with_workers

pytestmark = pytest.mark.e2e

Serve = Callable[..., SocketServer]
UNTRUSTED = {
    "expired": "TLS: certificate has expired",
    "elsewhere": f"TLS: IP address mismatch, certificate is not valid for '{LOOPBACK}'",
    "stranger": "TLS: unable to get local issuer certificate",
}


# Verification.


@pytest.mark.parametrize("words", ["", f"name {NAME}", "name localhost"])
@with_workers
def test_a_verified_server_keeps_its_connections(daemon: Daemon, tls_nginx: TLSNginx, words: str, workers: int) -> None:
    port = start(daemon, trusted(tls_nginx.address("good"), words))
    with visitor(port) as client:
        told = [ask(client, f"/{number}") for number in range(6)]
    assert [status for status, _ in told] == [200] * 6
    lines = [line for _, line in told]
    assert len({line[1] for line in lines}) == 1, "one server connection for all requests"
    sni = words.removeprefix("name ")
    assert {(line[0], line[2], line[3], line[4]) for line in lines} == {("good", ".", "TLSv1.3", sni)}
    assert [line[-1] for line in lines] == [f"/{number}\n" for number in range(6)]
    stats = row(daemon)["stats"]
    assert (stats["kept"], stats["reused"], stats["failures"]) == (1, 5, 0)
    assert row(daemon)["last_error"] is None


@pytest.mark.parametrize("kind", UNTRUSTED)
@with_workers
def test_a_server_that_is_not_trusted(
    daemon: Daemon, tls_nginx: TLSNginx, kind: str, workers: int, tmp_path: Path
) -> None:
    address, reason = tls_nginx.address(kind), UNTRUSTED[kind]
    log = tmp_path / "web.log"
    lines = "eject = 0", f"access_log = {log}", "access_log_format = json"
    checked = "check = tcp", *QUICK, *lines[1:]
    port = start(daemon, trusted(address), *lines)
    with visitor(port) as client:
        status, body = ask(client)
    assert status == 503
    assert kind not in " ".join(body)
    daemon.wait_for_log(f"service {ident_of(port)}: servers fail, as {address}: {reason}")
    wait_for(lambda: log.exists() and log.read_text())
    entry = json.loads(log.read_text())
    assert (entry["status"], entry["error"]) == (503, f"{address}: {reason}")
    error = row(daemon)["last_error"]
    assert (error["reason"], error["in_a_row"]) == (reason, 1)
    shown = daemon.adm("--list", "--stats").stdout
    assert "     failed at 2" in shown
    assert shown.count(f": {reason}\n") == 1
    edit(daemon, port, trusted(address), *checked)
    wait_for(lambda: row(daemon)["health"]["state"] == "down")
    assert row(daemon)["health"]["reason"] == f"check: {reason}"
    edit(daemon, port, f"server = {address} 1 tls verify off", *checked)
    wait_for(lambda: row(daemon)["health"]["state"] == "up")

    def is_served_again() -> bool:
        """By the worker, too, that the server has failed."""
        with visitor(port) as client:
            status, line = ask(client)
        assert (status, line[0]) == (200, kind)
        return not row(daemon)["last_error"]["in_a_row"]

    wait_for(is_served_again)
    assert "failed at" not in daemon.adm("--list", "--stats").stdout


@with_workers
def test_an_explanation_names_the_reason(daemon: Daemon, tls_nginx: TLSNginx, workers: int) -> None:
    address = tls_nginx.address("expired")
    port = start(daemon, trusted(address))
    with visitor(port) as client:
        ask(client)
    assert (
        f"{address} has failed: {UNTRUSTED['expired']}" in daemon.adm("--explain", "-i", ident_of(port), "GET /").stdout
    )


@pytest.mark.parametrize("scheduler", ["phttp", "wlc"])
@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (stall, "the handshake was not complete within 1 seconds"),
        (reset_at_once, "the server has reset the connection in the handshake"),
        (lambda sock: sock.recv(10000), "the server has ended the connection in the handshake"),
        (lambda sock: (sock.recv(10000), sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")), "wrong version number"),
    ],
    ids=["stalls", "resets", "hangs up", "plain"],
)
def test_a_handshake_that_fails(
    daemon: Daemon, serve: Serve, what: Callable[..., object], reason: str, scheduler: str
) -> None:
    server = serve(what)
    port = start(daemon, trusted(server.address), scheduler=scheduler, settings="connect_timeout = 1")
    with dial((LOOPBACK, port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            said = read_all(client)
            assert said.startswith(b"HTTP/1.1 503 ") if scheduler == "phttp" else said == b""
    wait_for(lambda: row(daemon)["last_error"])
    assert row(daemon)["last_error"]["reason"].startswith(f"TLS: {reason}")
    daemon.wait_for_log(f"servers fail, as {server.address}: TLS: {reason}")


def test_the_systems_authorities(make_daemon: Callable[..., Daemon], tls_nginx: TLSNginx) -> None:
    daemon = make_daemon(preloaded=False)
    daemon.environment["SSL_CERT_FILE"] = str(authority().pem)
    daemon.start()
    port = start(daemon, f"server = {tls_nginx.address('good')} 1 tls")
    with visitor(port) as client:
        assert ask(client)[0] == 200


def test_a_server_by_name(make_daemon: Callable[..., Daemon], tls_nginx: TLSNginx) -> None:
    """Each address of the name is verified by the name, which is sent to it."""
    names = NameServer()
    try:
        names.says(NAME, LOOPBACK)
        daemon = make_daemon("--nameserver", names.address)
        daemon.start()
        port = start(daemon, trusted(f"{NAME}:{tls_nginx.ports['good']}"), "check = http / expect 200", *QUICK)
        wait_for(lambda: row(daemon)["address"] == tls_nginx.address("good"))
        with visitor(port) as client:
            status, line = ask(client)
        assert (status, line[4]) == (200, NAME)
    finally:
        names.stop()


def test_a_name_that_is_not_looked_up(daemon: Daemon, tls_nginx: TLSNginx) -> None:
    port = start(daemon, trusted(f"localhost:{tls_nginx.ports['good']}"))
    with visitor(port) as client:
        status, line = ask(client)
    assert (status, line[4]) == (200, "localhost")


# Certificates of the switch.


@with_workers
def test_a_certificate_for_the_server(daemon: Daemon, tls_nginx: TLSNginx, workers: int) -> None:
    own = authority().issue("balancer", purposes=(CLIENT,))
    port = start(daemon, trusted(tls_nginx.address("mutual"), f"cert {own}"))
    with visitor(port) as client:
        status, line = ask(client)
    assert (status, line[5]) == (200, "CN=balancer")
    edit(daemon, port, trusted(tls_nginx.address("mutual")))
    with visitor(port) as client:
        assert ask(client)[0] == 400, "nginx says so by HTTP"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("scheduler", ["phttp", "wlc"])
def test_a_server_that_demands_a_certificate(
    daemon: Daemon, serve: Serve, version: ssl.TLSVersion, scheduler: str
) -> None:
    server = serve(
        by_tls(respond(notify=True), verify_mode=ssl.CERT_REQUIRED, minimum_version=version, maximum_version=version)
    )
    port = start(daemon, trusted(server.address), scheduler=scheduler)
    is_late = version is ssl.TLSVersion.TLSv1_3  # the handshake of the switch is complete by then
    with dial((LOOPBACK, port)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        if scheduler == "phttp":
            assert read_exactly(client, 12) == (b"HTTP/1.1 502" if is_late else b"HTTP/1.1 503")
        else:
            assert ending(client) in ("end", "reset")
    wait_for(lambda: row(daemon)["last_error"])
    told = "certificate required" if is_late else "handshake failure"
    assert row(daemon)["last_error"]["reason"] == f"TLS: the peer sent an alert: {told}"
    daemon.wait_for_log(f"servers fail, as {server.address}: TLS: the peer sent an alert: {told}")


def test_openssl_demands_a_certificate(daemon: Daemon, tmp_path: Path) -> None:
    own = authority().issue("balancer", purposes=(CLIENT,))
    server = OpenSSL(tmp_path, "-Verify", "1", "-verify_return_error", "-CAfile", str(authority().pem))
    try:
        port = start(daemon, trusted(server.address, f"cert {own}"))
        with visitor(port) as client:
            client.request("GET", "/")
            answer = client.getresponse()
            page = answer.read().decode()
        assert answer.status == 200
        assert "CN = balancer" in page or "CN=balancer" in page
    finally:
        server.stop()


# Sessions.


@pytest.mark.parametrize(("kind", "version"), [("good", "TLSv1.3"), ("old", "TLSv1.2")])
def test_sessions_are_resumed(daemon: Daemon, tls_nginx: TLSNginx, kind: str, version: str) -> None:
    port = start(daemon, trusted(tls_nginx.address(kind)), settings="pool_size = 0")
    with visitor(port) as client:
        told = [ask(client)[1] for _ in range(4)]
        edit(daemon, port, trusted(tls_nginx.address(kind)), "check_interval = 7", settings="pool_size = 0")
        told.append(ask(client)[1])
        edit(daemon, port, trusted(tls_nginx.address(kind), f"name {NAME}"), settings="pool_size = 0")
        told.append(ask(client)[1])
    assert [line[2] for line in told] == [".", "r", "r", "r", "r", "."]
    assert {line[3] for line in told} == {version}
    assert len({line[1] for line in told}) == 6


# Endings.

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "notify", "body"),
    [
        ((HEAD, b"0123456789"), True, b"0123456789"),
        ((HEAD, b"0123456789"), False, b"0123456789"),
        ((HEAD, b"01234"), True, None),
        ((HEAD, b"01234"), False, None),
        ((UNTIL_CLOSE, b"0123456789"), True, b"0123456789"),
        ((UNTIL_CLOSE, b"0123456789"), False, None),
    ],
    ids=["whole", "whole, cut", "half", "half, cut", "until close", "until close, cut"],
)
def test_a_truncated_response_is_not_taken_for_a_whole_one(
    daemon: Daemon, serve: Serve, pieces: tuple[bytes, ...], notify: bool, body: bytes | None
) -> None:
    server = serve(by_tls(respond(*pieces, notify=notify)))
    port = start(daemon, trusted(server.address), "eject = 0")
    for _ in range(2):
        with visitor(port) as client:
            client.request("GET", "/")
            answer = client.getresponse()
            if body is not None:
                assert answer.read() == body
                continue
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                answer.read()
    if body is None and not notify:
        told = row(daemon)["last_error"]["reason"]
        assert told.endswith(
            "in the middle of its response: TLS: the peer has ended the connection without close_notify"
        )


def test_a_websocket(daemon: Daemon, serve: Serve) -> None:
    server = serve(by_tls(echo_websocket))
    port = start(daemon, trusted(server.address))
    with dial((LOOPBACK, port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert read_head(client).startswith(b"HTTP/1.1 101 ")
        data = random.Random(1).randbytes(3_000_000)
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        assert read_exactly(client, len(data)) == data
        sender.join()
        client.shutdown(socket.SHUT_WR)
        assert ending(client) == "end"


# Whole connections.


@pytest.mark.parametrize("relay", ["auto", "splice", "copy"])
@with_workers
def test_whole_connections_are_copied(daemon: Daemon, serve: Serve, relay: str, workers: int) -> None:
    server = serve(by_tls(echo_all))
    port = start(daemon, trusted(server.address), f"relay = {relay}", scheduler="wlc")
    data = random.Random(relay).randbytes(8_000_000)
    with dial((LOOPBACK, port)) as client:
        sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
        sender.start()
        assert hashlib.sha256(read_all(client)).digest() == hashlib.sha256(data).digest()
        sender.join()
    told = daemon.call("stats")["services"][0]["stats"]["relay"]
    assert told["in_use"] == "copy"
    assert told["why"] == ("" if relay == "copy" else "splice: all servers speak TLS")
    assert told["joined"]["copy"] == 1
    if relay != "copy":
        assert "splice: all servers speak TLS" in daemon.adm("--list", "--stats").stdout


def test_a_connection_that_is_chosen_by_its_first_request(daemon: Daemon, tls_nginx: TLSNginx) -> None:
    address = tls_nginx.address("good")
    port = start(daemon, trusted(address), f'rule = pattern ".*" use server {address}', scheduler="http")
    with visitor(port) as client:
        assert [ask(client, path)[1][-1] for path in ("/a", "/b")] == ["/a\n", "/b\n"]


def test_a_connection_that_is_chosen_by_its_client_hello(daemon: Daemon, serve: Serve) -> None:
    """The client's own TLS goes through untouched, within that of the switch."""
    inner = server_context()
    server = serve(by_tls(lambda outer: echo_all(TLSPeer(outer, inner, server_side=True))))
    port = start(daemon, trusted(server.address), scheduler="sni")
    with dial((LOOPBACK, port)) as client:
        peer = TLSPeer(client, ssl.create_default_context(cafile=str(authority().pem)), server_name=NAME)
        peer.sendall(b"hello")
        assert read_exactly(peer, 5) == b"hello"  # type: ignore[arg-type]


def test_plain_and_tls_servers_side_by_side(daemon: Daemon, tls_nginx: TLSNginx) -> None:
    lines = trusted(tls_nginx.address("good")), f"server = {tls_nginx.address('plain')}", "balance = rr"
    port = start(daemon, *lines)
    with visitor(port) as client:
        assert {ask(client)[1][0] for _ in range(6)} == {"good", "plain"}
    assert daemon.call("stats")["services"][0]["stats"]["relay"]["in_use"] == "splice"


# Checks.


@pytest.mark.parametrize("check", ["tcp", "http / expect 200", 'send "GET / HTTP/1.0\\r\\n\\r\\n" expect "expired"'])
@with_workers
def test_checks_go_through_tls(daemon: Daemon, tls_nginx: TLSNginx, check: str, workers: int) -> None:
    port = start(daemon, trusted(tls_nginx.address("expired")), f"check = {check}", *QUICK)
    wait_for(lambda: row(daemon)["health"]["state"] == "down")
    assert row(daemon)["health"]["reason"] == f"check: {UNTRUSTED['expired']}"
    edit(daemon, port, f"server = {tls_nginx.address('expired')} 1 tls verify off", f"check = {check}", *QUICK)
    wait_for(lambda: row(daemon)["health"]["state"] == "up")
    with visitor(port) as client:
        assert ask(client)[1][0] == "expired"


@pytest.mark.parametrize("check", ["tcp", "http /", 'send "x" expect "y"'])
def test_a_check_that_is_refused_after_the_handshake(daemon: Daemon, serve: Serve, check: str) -> None:
    server = serve(by_tls(respond(notify=True), verify_mode=ssl.CERT_REQUIRED))
    start(daemon, trusted(server.address), f"check = {check}", *QUICK)
    wait_for(lambda: row(daemon)["health"]["state"] == "down")
    assert row(daemon)["health"]["reason"].endswith("TLS: the peer sent an alert: certificate required")


def stay_silent(peer: Any) -> None:
    """Send nothing after the handshake, not even a ticket, until the client leaves."""
    while peer.recv(65536):
        pass


def greet(peer: Any) -> None:
    peer.sendall(b"220 hello\r\n")
    stay_silent(peer)


@pytest.mark.parametrize("what", [stay_silent, greet], ids=["silent", "speaks first"])
def test_a_tcp_check_passes_when_the_server_accepts_the_certificate(
    daemon: Daemon, serve: Serve, what: Callable[..., object]
) -> None:
    server = serve(by_tls(what, verify_mode=ssl.CERT_REQUIRED, num_tickets=0))
    own = authority().issue("balancer", purposes=(CLIENT,))
    port = start(daemon, trusted(server.address), "check = tcp", *QUICK)
    wait_for(lambda: row(daemon)["health"]["state"] == "down")
    edit(daemon, port, trusted(server.address, f"cert {own}"), "check = tcp", "check_timeout = 1", *QUICK)
    wait_for(lambda: row(daemon)["health"]["state"] == "up")


@pytest.mark.parametrize(("words", "host"), [(f"name {NAME}", NAME), ("", LOOPBACK), ("verify off", LOOPBACK)])
def test_the_host_of_an_http_check(daemon: Daemon, serve: Serve, words: str, host: str) -> None:
    """It is the name that is verified, since one server may have several sites."""
    heads: list[bytes] = []

    def note(peer: Any) -> None:
        heads.append(read_head(peer))
        peer.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        peer.notify()

    server = serve(by_tls(note))
    line = f"server = {server.address} 1 tls {words}" if words == "verify off" else trusted(server.address, words)
    start(daemon, line, "check = http /health expect 204", *QUICK)
    wait_for(lambda: heads)
    fields = heads[0].decode().split("\r\n")
    port = server.address.rpartition(":")[2]
    assert [field for field in fields if field.startswith("Host:")] == [f"Host: {host}:{port}"]


def test_a_check_follows_an_edit(daemon: Daemon, tls_nginx: TLSNginx) -> None:
    """A connection that was kept for the next check was made differently."""
    address, check = tls_nginx.address("good"), "check = http / expect 200"
    port = start(daemon, trusted(address), check, *QUICK)
    wait_for(lambda: row(daemon)["health"]["state"] == "up")
    edit(daemon, port, trusted(address, "name nowhere.example"), check, *QUICK)
    wait_for(lambda: row(daemon)["health"]["state"] == "down")
    assert "hostname mismatch" in row(daemon)["health"]["reason"]


# Edits.


@with_workers
def test_a_bad_file_refuses_the_edit(daemon: Daemon, tls_nginx: TLSNginx, workers: int) -> None:
    port = start(daemon, trusted(tls_nginx.address("good")))
    before = daemon.adm("--save").stdout
    refused = daemon.adm(
        "-e", "-i", ident_of(port), "-r", tls_nginx.address("good"), "tls", "ca", "/nowhere/ca.pem", check=False
    )
    assert refused.returncode != 0
    why = "ca /nowhere/ca.pem: No such file or directory"
    assert f"service {ident_of(port)}: server = {tls_nginx.address('good')}: {why}" in refused.stderr
    with pytest.raises(NoTLS, match=r"missing name, which its certificate must have"):
        edit(daemon, port, "server = unix:/run/app.sock 1 tls")
    assert daemon.adm("--save").stdout == before
    with visitor(port) as client:
        assert ask(client)[0] == 200


@pytest.mark.load
@with_workers
def test_edits_under_load(daemon: Daemon, tls_nginx: TLSNginx, workers: int) -> None:
    """Connections are replaced, and no request fails."""
    good = tls_nginx.address("good")
    variants = (
        trusted(good),
        trusted(good, f"name {NAME}"),
        f"server = {good} 1 tls verify off",
        trusted(good, "name localhost"),
    )
    port = start(daemon, variants[0])
    is_over = threading.Event()
    seen: list[tuple[int, str]] = []

    def load() -> None:
        with visitor(port) as client:
            while not is_over.is_set():
                status, line = ask(client)
                seen.append((status, line[4] if status == 200 else " ".join(line)))

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    for number in range(24):
        edit(daemon, port, variants[number % len(variants)])
        before = len(seen)
        wait_for(lambda: len(seen) > before + 20)  # noqa: B023
    is_over.set()
    for client in clients:
        client.join()
    assert {status for status, _ in seen} == {200}
    assert {name for _, name in seen} == {"", NAME, "localhost"}
    assert row(daemon)["stats"]["failures"] == 0
