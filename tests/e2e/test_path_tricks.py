"""A path that a rule with `from` protects: no spelling of it reaches a real server from another network."""

from __future__ import annotations

import contextlib
import functools
import http.server
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from http_servers import Nginx, TwistedWeb, WebServer
from path_tricks import PIPELINED, SECRET_PATH, TRICKS, essence, request_of, row, rows_in_manual
from servers import LOOPBACK, free_port

from .harness import Daemon

pytestmark = pytest.mark.e2e

CLIENTS = 8
"""The number of spellings that are tried at a time."""

SECRET = b"the secret"
DENIED = b"denied by the rule"


class _Files(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


class _Denier(_Files):
    def _deny(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", str(len(DENIED)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(DENIED)

    do_GET = do_HEAD = do_POST = do_OPTIONS = do_get = _deny


@contextlib.contextmanager
def _serving(handler: object) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer((LOOPBACK, 0), handler)  # type: ignore[arg-type]
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"{LOOPBACK}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _put_secret(folder: Path) -> None:
    (folder / "admin").mkdir()
    (folder / "public").mkdir()
    (folder / SECRET_PATH.lstrip("/")).write_bytes(SECRET)


@contextlib.contextmanager
def _web_server(kind: type[WebServer]) -> Iterator[str]:
    server = kind()
    try:
        _put_secret(server.folder / "www")
        yield server.address
    finally:
        server.stop()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Name -> address of each real server."""
    with contextlib.ExitStack() as stack:
        _put_secret(tmp_path)
        yield {
            "nginx": stack.enter_context(_web_server(Nginx)),
            "http.server": stack.enter_context(_serving(functools.partial(_Files, directory=str(tmp_path)))),
            "twisted.web": stack.enter_context(_web_server(TwistedWeb)),
        }


def responses(address: str, data: bytes) -> bytes:
    """Send these bytes and return all that comes back."""
    host, _, port = address.rpartition(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        sock.sendall(data)
        with contextlib.suppress(ConnectionError):
            while piece := sock.recv(65536):
                received += piece
    return received


def outcome(received: bytes) -> str:
    """Return what a client has got, in a word."""
    if SECRET in received:
        return "**secret**"
    if DENIED in received:
        return "denied"
    status = received.split(b" ", 2)[1:2] if received.startswith(b"HTTP/") else []
    return status[0].decode() if status else "closed" if not received else "error page"


@contextlib.contextmanager
def protected(daemon: Daemon, address: str, network: str, scheduler: str = "phttp") -> Iterator[str]:
    """A service whose /admin/ is only for that network; other clients of it get the denier."""
    port = free_port()
    with _serving(_Denier) as denier:
        rules = ((f"path /admin/ from {network}", address), ("path /admin/", denier), (".*", address))
        daemon.service("site", port, address, denier, rules=rules, scheduler=scheduler)
        yield f"{LOOPBACK}:{port}"
        daemon.call("stop", "site")
        daemon.call("delete_service", "site")


def test_clients_of_the_network_get_the_secret(daemon: Daemon, servers: dict[str, str]) -> None:
    for address in servers.values():
        with protected(daemon, address, "127.0.0.0/8") as site:
            for path in (SECRET_PATH, "/%61dmin/secret.txt"):
                assert outcome(responses(site, request_of(f"GET {path} HTTP/1.1"))) == "**secret**"


def test_no_spelling_slips_past(daemon: Daemon, servers: dict[str, str]) -> None:
    """The manual has a row for each spelling: what real servers give without the switch, and behind it."""
    assert len(TRICKS) >= 60
    alone: dict[str, dict[str, str]] = {trick: {} for trick in TRICKS}
    behind: dict[str, dict[str, str]] = {trick: {} for trick in TRICKS}
    for name, address in servers.items():
        with protected(daemon, address, "10.0.0.0/8") as site, ThreadPoolExecutor(CLIENTS) as clients:

            def ask(trick: str, name: str = name, address: str = address, site: str = site) -> None:
                alone[trick][name] = outcome(responses(address, request_of(trick)))
                behind[trick][name] = outcome(responses(site, request_of(trick)))
                received = responses(site, request_of(PIPELINED).replace(b"close", b"keep-alive") + request_of(trick))
                assert SECRET not in received, trick

            list(clients.map(ask, TRICKS))
    leaked = [(trick, found) for trick, found in behind.items() if "**secret**" in found.values()]
    assert not leaked
    rows = []
    for trick in TRICKS:
        found = dict.fromkeys(behind[trick].values())
        is_one = len(found) == 1
        rows.append(
            row(trick, [*alone[trick].values(), next(iter(found)) if is_one else ", ".join(behind[trick].values())])
        )
    assert [*map(essence, rows_in_manual())] == [*map(essence, rows)], (
        "docs/security.md differs; its table must be:\n" + "\n".join(rows)
    )
    harmful = [trick for trick in TRICKS if "**secret**" in alone[trick].values()]
    assert len(harmful) >= 20, "the real servers should take most of the spellings for the secret"
