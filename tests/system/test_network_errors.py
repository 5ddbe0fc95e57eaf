"""Errors of connections in words: each is said once, and without a period."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest
from twisted.internet.error import (
    ConnectError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    NoRouteError,
    TCPTimedOutError,
    UnknownHostError,
    getConnectError,
)

from ktcpvs.system.network_errors import network_reason


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "Connection refused"),
        (NoRouteError(errno.EHOSTUNREACH, "No route to host"), "No route to host"),
        (TCPTimedOutError(errno.ETIMEDOUT), "Connection timed out"),
        (getConnectError(OSError(errno.ENETUNREACH, "x")), "Network is unreachable"),
        (getConnectError(socket.gaierror(-2, "Name or service not known")), None),
        (UnknownHostError(), "Hostname couldn't be looked up"),
        (ConnectionRefusedError(), "Connection was refused by other side"),
        (ConnectError(string="the switch stops."), "the switch stops"),
        (ConnectionLost("[Errno 104] Connection reset by peer"), "[Errno 104] Connection reset by peer"),
        (ConnectionLost(), "Connection to the other side was lost in a non-clean fashion"),
        (ConnectionDone(), "Connection was closed cleanly"),
        (OSError(errno.EPIPE, "Broken pipe"), "Broken pipe"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"), "No such file or directory"),
        (ssl.SSLError(1, "wrong version number"), "wrong version number"),
        (ValueError(), "ValueError"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_error_is_said_once(error: Exception, words: str | None) -> None:
    said = network_reason(error)
    assert said == words or (words is None and "Name or service not known" in said)
    assert not said.endswith(".")


def test_an_error_of_an_exception_that_cannot_be_written() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert "Broken" in network_reason(Broken())
