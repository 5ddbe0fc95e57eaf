"""Checks at another address or port than the server's own, which speak TLS and the PROXY protocol if they say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from servers import SocketServer, read_exactly, read_head, wait_for
from tls_servers import TLSNginx

from .harness import Daemon
from .one_service import QUICK, edit, row, start, trusted, with_workers

pytestmark = pytest.mark.e2e

Serve = Callable[..., SocketServer]
EXPIRED = "check: TLS: certificate has expired"


def health(daemon: Daemon) -> tuple[str, str]:
    """State and reason of the server."""
    found: dict[str, Any] = row(daemon)["health"]
    return found["state"], found["reason"]


@pytest.mark.parametrize("check", ["tcp", "http / expect 200", 'send "GET / HTTP/1.0\\r\\n\\r\\n" expect " 200 "'])
@with_workers
def test_with_the_tls_of_the_server(daemon: Daemon, tls_nginx: TLSNginx, check: str, workers: int) -> None:
    """The server has a good certificate, and what is checked an expired one; then the other way round."""
    good, expired = (tls_nginx.address(kind) for kind in ("good", "expired"))
    port = start(daemon, trusted(good, f"check {expired}"), f"check = {check} tls", *QUICK)
    wait_for(lambda: health(daemon) == ("down", EXPIRED))
    edit(daemon, port, trusted(expired, f"check {good}"), f"check = {check} tls", *QUICK)
    wait_for(lambda: health(daemon)[0] == "up")
    checked_port = expired.rpartition(":")[2]
    edit(daemon, port, trusted(good), f"check = {check} port {checked_port} tls", *QUICK)
    wait_for(lambda: health(daemon) == ("down", EXPIRED))


def test_without_the_word_there_is_no_tls(daemon: Daemon, tls_nginx: TLSNginx) -> None:
    line = trusted(tls_nginx.address("expired"), f"check {tls_nginx.address('plain')}")
    port = start(daemon, line, "check = http / expect 200 tls", *QUICK)
    wait_for(lambda: health(daemon)[0] == "down")
    assert health(daemon)[1].startswith("check: TLS: ")
    edit(daemon, port, line, "check = http / expect 200", *QUICK)
    wait_for(lambda: health(daemon)[0] == "up")


def test_with_the_proxy_protocol_of_the_server(daemon: Daemon, serve: Serve) -> None:
    """The switch itself is the client, which version 2 calls LOCAL."""
    begun: list[bytes] = []

    def checked(sock: Any) -> None:
        begun.append(read_exactly(sock, 16))
        read_head(sock)
        sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    elsewhere = serve(checked).address
    start(daemon, f"server = 127.0.0.1:1 1 proxy v2 check {elsewhere}", "check = http / expect 204 proxy", *QUICK)
    wait_for(lambda: row(daemon)["check_response"] == "HTTP/1.1 204 No Content")
    assert begun[0] == b"\r\n\r\n\0\r\nQUIT\n" + b"\x20\0\0\0"


def test_a_word_without_effect(daemon: Daemon) -> None:
    done = daemon.adm("-A", "-i", "web", "-s", "wlc", "check=tcp port 8443 tls")
    assert done.stderr == ""
    done = daemon.adm("-a", "-i", "web", "-r", "127.0.0.1:80")
    done = daemon.adm("-E", "-i", "web", "check=tcp port 8443 tls proxy")
    assert "warning: service web: the word tls of check has no effect: no server has tls\n" in done.stderr
    assert "warning: service web: the word proxy of check has no effect: no server has proxy\n" in done.stderr
