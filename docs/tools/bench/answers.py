"""Looks at what a proxy answers, before it is measured: status, body, and the right server."""

from __future__ import annotations

import contextlib
import http.client
import ssl

from bench.configurations import LOOPBACK, NAME
from bench.failure import Failure


def ask(connection: http.client.HTTPConnection, path: str, host: str = "") -> tuple[int, bytes]:
    """The status and the body of one answer. host: of the request; an empty text: that of the connection. Raises
    Failure when none comes."""
    try:
        connection.request("GET", path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"no answer for {path} from port {connection.port}: {error!r}") from error


def judge(name: str, path: str, status: int, body: bytes, allowed: tuple[str, ...]) -> None:
    """Raises Failure when the answer is not 200 with one of these bodies."""
    if status != 200 or body not in [text.encode() for text in allowed]:
        raise Failure(f"{name} answers {path} with {status} {body[:200]!r}, not with 200 and one of {allowed}")


def trusting_context() -> ssl.SSLContext:
    """A client's context that verifies nothing, as the load does: the certificate is one of the benchmark's own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connection_to(port: int, is_tls: bool = False) -> http.client.HTTPConnection:
    """A connection that is made when the first request is sent. is_tls: by TLS."""
    if not is_tls:
        return http.client.HTTPConnection(LOOPBACK, port, timeout=30)
    return http.client.HTTPSConnection(NAME, port, timeout=30, context=trusting_context())


def check(
    name: str,
    port: int,
    wanted: dict[str, tuple[str, ...]],
    one_server: bool = False,
    is_tls: bool = False,
    host: str = "",
) -> None:
    """Ask for each path on a connection of its own, and all of them again on one kept connection.

    wanted: path -> bodies, one of which is right. one_server: a connection stays with the server that its first request
    chose, so the kept one is asked for one path only. is_tls: by TLS. host: see `ask`. Raises Failure
    at the first wrong answer.
    """
    for path, allowed in wanted.items():
        with contextlib.closing(connection_to(port, is_tls)) as connection:
            judge(name, path, *ask(connection, path, host), allowed)
    with contextlib.closing(connection_to(port, is_tls)) as connection:
        kept = list(wanted)[:1] * 3 if one_server else [*wanted, *wanted]
        connection.connect()
        first = connection.sock
        for path in kept:
            judge(name, path, *ask(connection, path, host), wanted[path])
            if connection.sock is not first:
                raise Failure(f"{name} has closed a connection that was to be kept")
