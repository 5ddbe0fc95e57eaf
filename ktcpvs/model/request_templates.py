"""Templates with values of a request or of a connection, for schedulers: `{header.x-user}`, `{client}`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from attrs import field, frozen

from ktcpvs.model.request_values import arguments, cookies, header_values
from ktcpvs.model.templates import read_template


class TLSNames(Protocol):
    """The part of a connection's TLS that schedulers and templates see."""

    @property
    def sni(self) -> str | None:
        """The server name that the client has sent; None: it has sent none."""

    @property
    def version(self) -> str:
        """As in `TLSv1.3`."""

    @property
    def certificate_subject(self) -> str:
        """Of the client's certificate; "" without one."""

    @property
    def certificate_fingerprint(self) -> str:
        """The SHA-256 of the client's certificate, in hexadecimal; "" without one."""


class Connection(Protocol):
    """The part of a client's connection that has values in templates."""

    @property
    def tls(self) -> TLSNames | None:
        """None for a client that does not speak TLS with the switch."""


class RequestLike(Protocol):
    """The part of a request, as schedulers see it, that has values in templates."""

    client: str
    path: bytes | None
    lines: bytes

    @property
    def connection(self) -> Connection | None:
        """That of the client."""

    @property
    def host(self) -> bytes | None:
        """The host that is asked for."""

    @property
    def sni(self) -> str | None:
        """The server name of TLS in lower case."""


ValueOf = Callable[[RequestLike], bytes]
"""Returns the value of a variable for one request; b"" where there is none."""


def encoded(text: str) -> bytes:
    """Return text as bytes; what was not UTF-8 becomes what it was."""
    return text.encode("utf-8", "surrogateescape")


def _tls(request: RequestLike) -> TLSNames | None:
    return request.connection.tls if request.connection is not None else None


def _of_tls(read: Callable[[TLSNames], str | None]) -> ValueOf:
    """Return what reads a value of the client's TLS; b"" without TLS."""

    def value(request: RequestLike) -> bytes:
        tls = _tls(request)
        return b"" if tls is None else encoded(read(tls) or "")

    return value


REQUEST_VALUES: dict[str, ValueOf] = {
    "target": lambda request: request.path or b"",
    "path": lambda request: (request.path or b"").partition(b"?")[0],
    "query": lambda request: (request.path or b"").partition(b"?")[2],
    "scheme": lambda request: b"http" if _tls(request) is None else b"https",
    "client": lambda request: encoded(request.client),
    "tls_server_name": _of_tls(lambda tls: tls.sni),
    "tls_version": _of_tls(lambda tls: tls.version),
    "client_certificate_subject": _of_tls(lambda tls: tls.certificate_subject),
    "client_certificate_fingerprint": _of_tls(lambda tls: tls.certificate_fingerprint),
}
"""Name of a variable -> what reads its value, where templates of all kinds have the same."""

_FOR_SCHEDULERS: dict[str, ValueOf] = {
    **REQUEST_VALUES,
    "host": lambda request: request.host or b"",
    "tls_server_name": lambda request: encoded(request.sni or ""),  # of a connection that passes through, too
}

HEADER, COOKIE, QUERY = NAMED = ("header", "cookie", "query")
"""KIND of variables KIND.NAME: the first header field, cookie or argument of the query with that name."""


_OF_REQUESTS = frozenset(("target", "path", "query", "host"))
"""The variables that have values only where a request is read. So has each KIND.NAME."""


def _first(pairs: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    return next((value for called, value in pairs if called == name), b"")


def _of_named(kind: str, name: bytes) -> ValueOf:
    if kind == HEADER:
        names = (name.lower(),)
        return lambda request: next(header_values(request.lines, names), (b"", b""))[1]
    if kind == COOKIE:
        return lambda request: _first(cookies(request.lines), name)
    return lambda request: _first(arguments(request.path or b""), name)


def _reader(name: str) -> ValueOf:
    kind, dot, of_kind = name.partition(".")
    return _of_named(kind, of_kind.encode()) if dot else _FOR_SCHEDULERS[name]


@frozen
class RequestTemplate:
    """A text with variables that are values of a request. text: as it is written. variables: their names."""

    text: str
    variables: frozenset[str] = field(init=False, eq=False, repr=False)
    _parts: tuple[bytes | ValueOf, ...] = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Raises BadValue."""
        template = read_template(self.text, _FOR_SCHEDULERS, (), NAMED)
        object.__setattr__(self, "variables", template.variables)
        parts = tuple([_reader(part) if is_variable else part.encode() for part, is_variable in template.parts])
        object.__setattr__(self, "_parts", parts)

    def __str__(self) -> str:
        return self.text

    @property
    def needs_requests(self) -> bool:
        """Whether it has a variable that has no value before a request has been read."""
        return any(name in _OF_REQUESTS or "." in name for name in self.variables)

    def value(self, request: RequestLike) -> bytes:
        """Return the text for one request: a variable without a value is empty."""
        return b"".join([part if isinstance(part, bytes) else part(request) for part in self._parts])
