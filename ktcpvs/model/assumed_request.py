"""A request that no client sends: `--explain` and the tests of a configuration say what would happen to it."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import field, frozen

LOCAL_CLIENT = "127.0.0.1"
"""The client of a request for which none is given."""


def _as_tuple(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(headers)


@frozen
class AssumedRequest:
    """A request that no client sends.

    method, target: None for a client that has only connected. headers: (name, value) of header lines; a name may be
    repeated. client: its IP address. port: to which it connects; None: the first of the service. body: of the request,
    or its beginning; b"": it has none.
    """

    method: str | None = None
    target: str | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), converter=_as_tuple)
    client: str = LOCAL_CLIENT
    port: int | None = None
    body: bytes = b""
