"""TLS from clients and to servers at the same time, with every scheduler, in a daemon with workers."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import pytest
from authority import SERVER
from servers import LOOPBACK, SocketServer, free_port, read_all, read_head
from tls_load import connect
from tls_peers import authority, client_context
from tls_servers import NAME, by_tls

from .harness import Daemon

pytestmark = pytest.mark.e2e

SITE = "site.example"
BY_CONNECTION = ("wlc", "lc", "rr", "wrr", "p2c", "sh", "tcp")
BY_REQUEST = ("http", "hhttp", "phttp", "chttp")
FORWARDS = ("phttp", "chttp")
"""Those that add fields to requests."""

RULES = {"tcp": "from 127.0.0.0/8"} | dict.fromkeys(BY_REQUEST, 'pattern ".*"')
FIELDS = b"Host: x\r\nX-Forwarded-Proto: http\r\nConnection: close\r\n"
CONNECTIONS = 8
"""Clients of each scheduler: at least four come to one of two workers."""


@pytest.fixture
def workers() -> int:
    return 2


def service(scheduler: str, port: int, server: str, certificate: Any) -> str:
    lines = [
        f"listen = {LOOPBACK}:{port} tls",
        f"certificate = {certificate}",
        f"scheduler = {scheduler}",
        f"server = {server} 1 tls ca {authority().pem} name {NAME}",
    ]
    if scheduler in FORWARDS:
        lines.append("x_forwarded_proto = replace")
    if scheduler in RULES:
        lines.append(f"rule = {RULES[scheduler]} use server {server}")
    text = "\n    ".join(lines)
    return f"Virtual {scheduler} {{\n    {text}\n}}\n"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_every_scheduler(daemon: Daemon, serve: Callable[..., SocketServer], version: ssl.TLSVersion) -> None:
    """Sessions are resumed at both ends: those of clients by each worker, those with the server by the one that has
    begun them."""
    resumed: dict[str, list[bool]] = {}

    def show_head(peer: Any) -> None:
        head = read_head(peer)
        resumed.setdefault(head.split(b" ")[1].decode()[1:], []).append(bool(peer.tls.session_reused))
        peer.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))
        peer.notify()

    server = serve(by_tls(show_head, minimum_version=version, maximum_version=version)).address
    certificate = authority().issue("both-ends", SITE, purposes=(SERVER,))
    ports = {scheduler: free_port() for scheduler in BY_CONNECTION + BY_REQUEST}
    daemon.call("load", "".join(service(name, port, server, certificate) for name, port in ports.items()))
    context = client_context(version)
    for name, port in ports.items():
        daemon.call("start", name)
        session = None
        for number in range(CONNECTIONS):
            with connect(port, context, SITE, session) as client:
                client.sendall(b"GET /%b HTTP/1.1\r\n%b\r\n" % (name.encode(), FIELDS))
                said = read_all(client)
                assert said.startswith(b"HTTP/1.1 200 "), (name, said)
                fields = said.partition(b"\r\n\r\n")[2].splitlines()
                scheme = b"https" if name in FORWARDS else b"http"
                assert [one for one in fields if one.startswith(b"X-Forwarded-Proto:")] == [
                    b"X-Forwarded-Proto: " + scheme
                ], name
                assert client.session_reused == (number > 0), name
                session = client.session
        shown = daemon.stats(name)["stats"]
        assert sum(shown["handshakes"].values()) == CONNECTIONS, name
        assert len(resumed[name]) == CONNECTIONS, name
        assert resumed[name].count(True) >= CONNECTIONS - 2, name
