"""The formats of the access log: one line for each request that has ended.

`combined` is the format that Apache and nginx call so and that log analysers read; `json` has everything. Whatever a
client sends, its request becomes exactly one line of ASCII, and cannot forge another line.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted
from typing import TYPE_CHECKING, Protocol

from attrs import define

from ktcpvs.protocols.http1.plain import PlainRequest


class TLSNames(Protocol):
    """The part of a connection's TLS that lines name."""

    @property
    def version(self) -> str: ...

    @property
    def cipher(self) -> str: ...

    @property
    def sni(self) -> str | None: ...

    @property
    def certificate_subject(self) -> str: ...

    @property
    def certificate_fingerprint(self) -> str: ...


HTTP_2 = 2
"""In place of the minor version of HTTP/1, for a client of HTTP/2."""


@define(eq=False)
class Record:
    """One request, or one connection if the scheduler decides per connection; filled in while it is in progress.

    client: its host without the port, "" for a client on a unix socket. began: Unix time.
    method, target: as they came; minor: of HTTP/1.x, or HTTP_2; all None if no request was read. lines: the request's
    header lines as they came, each with CRLF. status: of the response; None if none was sent. server: its address; None
    if no server was chosen. reason: the scheduler's. why: the same, or why the request was refused, in words of
    `model/why.py`; None: nothing was decided. connect, first, total: seconds from `began` until the connection
    to the server was established, until the first byte of the response, until the end; None if that never happened. On
    a kept server connection `connect` is 0.
    bytes_in, bytes_out: all bytes of the request and of the response, heads included. body_out: those of the response's
    body. retries: failed or repeated attempts at a server. reused: on a kept server connection. ending: what ended it.
    error: the last server that failed the request, and why; None: none did. grpc_status: of the response to a request
    of gRPC; None without one. tls: of the client's connection; None without. trace: the IDs of the request's trace and
    of its span; None: it has none.
    """

    client: str
    began: float
    method: bytes | None = None
    target: bytes | None = None
    minor: int | None = None
    lines: bytes = b""
    status: int | None = None
    server: str | None = None
    reason: str | None = None
    why: str | None = None
    connect: float | None = None
    first: float | None = None
    total: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    body_out: int = 0
    retries: int = 0
    reused: bool = False
    ending: str = ""
    tls: TLSNames | None = None
    error: str | None = None
    grpc_status: int | None = None
    trace: tuple[bytes, bytes] | None = None


_PLAIN = bytes(code for code in range(0x20, 0x7F) if code not in b'"\\')
"""The bytes that need no escape in the combined format."""

_UNPLAIN = re.compile(rb"[^%b]" % re.escape(_PLAIN))
_ESCAPES = {bytes((code,)): b"\\x%02X" % code for code in range(256)}

_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
"""Not from strftime, whose names depend on the locale."""


MAX_CLIENTS = 4096
"""For how many clients, and for how many servers with reasons, parts of lines are cached."""


class LineFormat(Protocol):
    """A form of the lines of one service's log."""

    def line(self, record: Record) -> bytes:
        """Return the line of a record, its line end included."""

    def plain_line(
        self,
        request: PlainRequest,
        client: tuple[str, TLSNames | None],
        began: float,
        total: float,
        status: int,
        server: tuple[str, str, str],
        moved: tuple[int, int, int],
    ) -> bytes:
        """Return the line of a plain request that was answered on a kept server connection by a response that came as
        a whole: the one that `line` returns for a Record of it.

        client: `client` and `tls` of Record. began, total, status: as there. server: its address, the reason and why.
        moved: bytes_in, bytes_out and body_out.
        """


class CombinedFormat:
    """Lines in the combined format.

    The time is `began`, in UTC. A double quote, a backslash, and everything but printable ASCII are written as \\xHH. A
    missing value is "-", but a missing status is 000: three digits, as nginx writes it and log readers expect.
    """

    __slots__ = ("_is_http2",)

    def __init__(self, service: str, scheduler: str, is_http2: bool = False) -> None:
        """The lines do not name service and scheduler. is_http2: plain lines are of clients of HTTP/2."""
        self._is_http2 = is_http2

    def line(self, record: Record) -> bytes:
        lines = b"\n" + record.lines
        lower = lines.lower()
        return _combined(
            record.client.encode() or b"-",
            _clf_second(int(record.began)),
            _request_line(record.method, record.target, record.minor),
            record.status or 0,
            record.body_out,
            _value(lines, lower, _REFERER) or b"-",
            _value(lines, lower, _USER_AGENT) or b"-",
        )

    def plain_line(
        self,
        request: PlainRequest,
        client: tuple[str, TLSNames | None],
        began: float,
        total: float,
        status: int,
        server: tuple[str, str, str],
        moved: tuple[int, int, int],
    ) -> bytes:
        write = combined_line if self._is_http2 else plain_combined
        return write(
            client[0].encode(),
            _clf_second(int(began)),
            request.target,
            HTTP_2 if self._is_http2 else request.minor,
            status,
            moved[2],
            request.referer,
            request.user_agent,
        )


def combined_line(
    client: bytes,
    second: bytes,
    target: bytes,
    minor: int,
    status: int,
    body_out: int,
    referer: bytes | None,
    user_agent: bytes | None,
) -> bytes:
    """Return the line of a GET in the combined format. second: as it stands in the line."""
    line = b"GET %b %b" % (target, _VERSION[minor])
    return _combined(client or b"-", second, line, status, body_out, referer or b"-", user_agent or b"-")


def _combined(*fields: bytes | int) -> bytes:
    """A line with these fields, in their order."""
    line = _COMBINED % fields
    if line.translate(None, _PLAIN) != b'""""""\n':  # a value has such a byte
        line = _COMBINED % tuple(_escaped(value) if isinstance(value, bytes) else value for value in fields)
    return line


_COMBINED = b'%b - - [%b] "%b" %03d %d "%b" "%b"\n'


class JSONFormat:
    """Lines that are JSON objects. All keys are always there, in this order; `grpc_status`, `trace_id` and
    `span_id` only where there is one.

    Times are seconds with six decimals; `time` is `began` in ISO 8601, UTC, with milliseconds. Bytes from the client
    become the characters U+0000 to U+00FF (ISO 8859-1): this loses nothing, and every JSON parser accepts it, whereas
    some refuse lone surrogates (RFC 8259, section 8.2). A missing value is null.
    """

    __slots__ = ("_clients", "_is_http2", "_names", "_servers")

    def __init__(self, service: str, scheduler: str, is_http2: bool = False) -> None:
        """is_http2: plain lines are of clients of HTTP/2."""
        self._is_http2 = is_http2
        self._clients: dict[tuple[str, TLSNames | None], bytes] = {}
        self._servers: dict[tuple[str, str, str], bytes] = {}
        self._names = f'Z", "service": {_quoted(service)}, "scheduler": {_quoted(scheduler)}, "client": '

    def line(self, record: Record) -> bytes:
        lines = b"\n" + record.lines
        lower = lines.lower()
        milliseconds = int(record.began * 1000)
        grpc_status = "" if record.grpc_status is None else f', "grpc_status": {record.grpc_status}'
        line = (
            f'{{"time": "{_iso_second(milliseconds // 1000)}.{milliseconds % 1000:03d}{self._names}'
            f"{_client(record.client, record.tls)}, "
            f'"method": {_bytes(record.method)}, "target": {_bytes(record.target)}, '
            f'"protocol": {_PROTOCOL[record.minor]}, '
            f'"host": {_bytes(_value(lines, lower, _HOST))}, "referer": {_bytes(_value(lines, lower, _REFERER))}, '
            f'"user_agent": {_bytes(_value(lines, lower, _USER_AGENT))}, '
            f'"status": {record.status or "null"}, "server": {_text(record.server)}, "reason": {_text(record.reason)}, '
            f'"why": {_text(record.why)}, '
            f'"connect": {_seconds(record.connect)}, "first": {_seconds(record.first)}, "total": {record.total:.6f}, '
            f'"bytes_in": {record.bytes_in}, "bytes_out": {record.bytes_out}, "body_out": {record.body_out}, '
            f'"retries": {record.retries}, "reused": {"true" if record.reused else "false"}, '
            f'"ending": {_quoted(record.ending)}, "error": {_text(record.error)}{grpc_status}}}\n'
        ).encode("ascii")
        if record.trace is not None:
            line = b'%b, "trace_id": "%b", "span_id": "%b"}\n' % (line[:-2], *record.trace)
        return line

    def plain_line(
        self,
        request: PlainRequest,
        client: tuple[str, TLSNames | None],
        began: float,
        total: float,
        status: int,
        server: tuple[str, str, str],
        moved: tuple[int, int, int],
    ) -> bytes:
        names = self._clients.get(client)
        if names is None:
            if len(self._clients) >= MAX_CLIENTS:
                self._clients.clear()
            names = self._clients[client] = (self._names + _client(*client)).encode("ascii")
        texts = self._servers.get(server)
        if texts is None:
            if len(self._servers) >= MAX_CLIENTS:
                self._servers.clear()
            address, reason, why = server
            text = f', "server": {_quoted(address)}, "reason": {_quoted(reason)}, "why": {_quoted(why)}'
            texts = self._servers[server] = text.encode("ascii")
        milliseconds = int(began * 1000)
        begin = b'{"time": "%b.%03d%b' % (_iso_bytes(milliseconds // 1000), milliseconds % 1000, names)
        headers = request.host, request.referer, request.user_agent
        if self._is_http2:
            return json_line(begin, request.target, HTTP_2, *headers, status, texts, total, *moved)
        return plain_json(begin, request.target, request.minor, *headers, status, texts, total, *moved)


def json_line(
    begin: bytes,
    target: bytes,
    minor: int,
    host: bytes,
    referer: bytes | None,
    user_agent: bytes | None,
    status: int,
    server: bytes,
    total: float,
    bytes_in: int,
    bytes_out: int,
    body_out: int,
) -> bytes:
    """Return the line of a GET as JSON. begin: the line up to the client. server: the keys server, reason and why."""
    seconds = f"{total:.6f}"
    return begin + (
        f', "method": "GET", "target": {_bytes(target)}, "protocol": {_PROTOCOL[minor]}, '
        f'"host": {_bytes(host)}, "referer": {_bytes(referer)}, "user_agent": {_bytes(user_agent)}, '
        f'"status": {status}{server.decode("ascii")}, "connect": 0.000000, "first": {seconds}, "total": {seconds}, '
        f'"bytes_in": {bytes_in}, "bytes_out": {bytes_out}, "body_out": {body_out}, '
        f'"retries": 0, "reused": true, "ending": "answered", "error": null}}\n'
    ).encode("ascii")


_VERSION = {0: b"HTTP/1.0", 1: b"HTTP/1.1", HTTP_2: b"HTTP/2.0"}
_PROTOCOL = {None: "null", 0: '"HTTP/1.0"', 1: '"HTTP/1.1"', HTTP_2: '"HTTP/2.0"'}

plain_combined: Callable[..., bytes] = combined_line
"""`combined_line`, compiled where that is installed."""

plain_json: Callable[..., bytes] = json_line
"""`json_line`, compiled where that is installed."""

if not TYPE_CHECKING:
    with contextlib.suppress(ImportError):  # there was no C compiler when ktcpvs was installed
        from ktcpvs.protocols._compiled import combined_line as plain_combined
        from ktcpvs.protocols._compiled import json_line as plain_json

FORMATS: dict[str, type[CombinedFormat] | type[JSONFormat]] = {"combined": CombinedFormat, "json": JSONFormat}
"""The values of the option `access_log_format`."""


def _request_line(method: bytes | None, target: bytes | None, minor: int | None) -> bytes:
    if method is None or target is None:
        return b"-"
    return b"%b %b" % (method, target) if minor is None else b"%b %b %b" % (method, target, _VERSION[minor])


_HOST, _REFERER, _USER_AGENT = b"\nhost:", b"\nreferer:", b"\nuser-agent:"


def _value(lines: bytes, lower: bytes, begin: bytes) -> bytes | None:
    """Return the value of the first header line of that name, or None.

    lines: with a line end before the first of them. lower: the same in lower case. begin: line end, name, colon.
    """
    at = lower.find(begin)
    if at < 0:
        return None
    at += len(begin)
    end = lower.find(b"\n", at)
    return lines[at : end if end >= 0 else len(lines)].strip(b" \t\r")


def _escaped(value: bytes) -> bytes:
    return _UNPLAIN.sub(lambda found: _ESCAPES[found[0]], value)


def _client(client: str, tls: TLSNames | None) -> str:
    """The value of the key `client`, and the key `tls` behind it."""
    begin = f'{_quoted(client) if client else "null"}, "tls": '
    if tls is None:
        return begin + "null"
    return (
        f'{begin}{{"version": {_quoted(tls.version)}, "cipher": {_quoted(tls.cipher)}, '
        f'"server_name": {_text(tls.sni)}, "client_subject": {_text(tls.certificate_subject or None)}, '
        f'"client_fingerprint": {_text(tls.certificate_fingerprint or None)}}}'
    )


def _bytes(value: bytes | None) -> str:
    return "null" if value is None else _quoted(value.decode("latin-1"))


def _text(value: str | None) -> str:
    return "null" if value is None else _quoted(value)


def _seconds(value: float | None) -> str:
    return "null" if value is None else f"{value:.6f}"


# Requests that end in the same second began in many different seconds, so several are cached.


@lru_cache(maxsize=256)
def _clf_second(second: int) -> bytes:
    """As in 23/Nov/2026:03:31:34 +0000."""
    at = datetime.fromtimestamp(second, UTC)
    month = _MONTHS[at.month - 1]
    return b"%02d/%b/%04d:%02d:%02d:%02d +0000" % (at.day, month, at.year, at.hour, at.minute, at.second)


@lru_cache(maxsize=256)
def _iso_bytes(second: int) -> bytes:
    """`_iso_second` as bytes."""
    return _iso_second(second).encode("ascii")


@lru_cache(maxsize=256)
def _iso_second(second: int) -> str:
    """As in 2026-11-23T03:31:34."""
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"
