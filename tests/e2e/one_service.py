"""A daemon with one service that a test configures line by line, and edits: for tests of connections to servers."""

from __future__ import annotations

import contextlib
import http.client
from typing import Any

import pytest
from servers import LOOPBACK, free_port
from tls_peers import authority

from .harness import Daemon

QUICK = ("check_interval = 1", "check_rise = 1", "check_fall = 1", "eject = 0")
"""Lines with which one check decides about a server."""

with_workers = pytest.mark.parametrize("workers", [0, 2])


def start(daemon: Daemon, *lines: str, scheduler: str = "phttp", settings: str = "") -> int:
    """Start a service with these lines. Return its port."""
    port = free_port()
    edit(daemon, port, *lines, scheduler=scheduler, settings=settings)
    daemon.call("start", ident_of(port))
    return port


def ident_of(port: int) -> str:
    """Each test has a service of its own, since the daemon logs the same fault of a service once a minute."""
    return f"web{port}"


def edit(daemon: Daemon, port: int, *lines: str, scheduler: str = "phttp", settings: str = "") -> None:
    text = "\n".join((f"listen = {LOOPBACK}:{port}", f"scheduler = {scheduler}", *lines))
    daemon.call("load", f"global {{ {settings} }}\nVirtual {ident_of(port)} {{\n{text}\n}}\n")


def trusted(address: str, words: str = "") -> str:
    """A line of a configuration for a server whose CA is that of the tests."""
    return f"server = {address} 1 tls ca {authority().pem} {words}"


def visitor(port: int) -> contextlib.closing[http.client.HTTPConnection]:
    return contextlib.closing(http.client.HTTPConnection(LOOPBACK, port, timeout=20))


def ask(client: http.client.HTTPConnection, path: str = "/") -> tuple[int, list[str]]:
    """Request `path`; return the status and the words of the body."""
    client.request("GET", path)
    answer = client.getresponse()
    return answer.status, answer.read().decode().split(" ")


def row(daemon: Daemon) -> dict[str, Any]:
    """The first server of the first service, in --stats."""
    found: dict[str, Any] = daemon.call("stats")["services"][0]["servers"][0]
    return found
