"""Reads lines of access logs: `combined` of any server, and the JSON of this one.

A log may be damaged or foreign: a line that cannot be read is a BadLine, whatever is in it.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import Any

from attrs import define

MAX_SECONDS = 1e7
"""The longest duration that a line may have: 115 days."""


class BadLine(ValueError):
    """A line that is no line of an access log; the text says why."""


@define(eq=False)
class LoggedRequest:
    """One request, or one connection, as its line tells.

    began: Unix time. client: its address, "" without one. method, target: None: no request was read. lines: the header
    lines that the log has, each with CRLF. status: of the response; 0: there was none. is_exact: whether `began` has
    fractions of a second. total: seconds to its end; None: unknown. connect: seconds until a server accepted; None:
    none did, or it is unknown. server: its address; None: unknown, or none. failed_server: the last server that failed
    the request; None: none did, or it is unknown. service: its name; None: unknown. has_reason: whether a scheduler has
    decided. is_tls: the client speaks TLS with the switch.
    """

    began: float
    client: str
    method: bytes | None
    target: bytes | None
    lines: bytes
    status: int
    is_exact: bool = False
    total: float | None = None
    connect: float | None = None
    server: str | None = None
    failed_server: str | None = None
    service: str | None = None
    has_reason: bool = True
    is_tls: bool = False


def read_line(line: bytes) -> LoggedRequest:
    """Read a line of either format. Raises BadLine."""
    return _read_json(line) if line.startswith(b"{") else _read_combined(line)


# combined

_COMBINED = re.compile(
    rb"([^ ]+) [^ ]+ [^\[]*\[([^\]]{20,32})\] "  # client, names, time
    rb'"((?:[^"\\]|\\.)*)" ([0-9]{3}) ([0-9]+|-)'  # request line, status, bytes
    rb'(?: "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)")?'  # Referer, User-Agent
)
_TIME = re.compile(rb"([0-9]{2})/([A-Za-z]{3})/([0-9]{4}):([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([0-9]{2})([0-9]{2})")
_MONTHS = {
    name: number
    for number, name in enumerate(
        (b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"), 1
    )
}
_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{2}|.)", re.DOTALL)
_REQUEST = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([^ ]+)(?: HTTP/[0-9.]+)?")
_NO_VALUE = (b"", b"-")


def _read_combined(line: bytes) -> LoggedRequest:
    found = _COMBINED.match(line)
    if found is None:
        raise BadLine("neither the combined format nor a JSON object")
    client, time, request, status, _, referer, agent = found.groups()
    lines = _combined_lines(referer or b"-", agent or b"-")
    words = _REQUEST.fullmatch(_plain(request))
    method, target = (None, None) if words is None else words.groups()
    address = "" if client == b"-" else client.decode("ascii", "replace")
    return LoggedRequest(_clf_time(time), address, method, target, lines, int(status))


@lru_cache(maxsize=4096)
def _combined_lines(referer: bytes, agent: bytes) -> bytes:
    lines = b"" if referer in _NO_VALUE else _header(b"Referer", _plain(referer))
    return lines if agent in _NO_VALUE else lines + _header(b"User-Agent", _plain(agent))


def _plain(value: bytes) -> bytes:
    """Return a value without its escapes: \\xHH, and of Apache \\" and \\\\."""
    return value if b"\\" not in value else _ESCAPE.sub(_unescaped, value)


def _unescaped(found: re.Match[bytes]) -> bytes:
    code = found[1]
    return bytes((int(code[1:], 16),)) if len(code) == 3 else code


@lru_cache(maxsize=256)
def _clf_time(text: bytes) -> float:
    """As in 23/Nov/2026:03:31:34 +0000."""
    found = _TIME.fullmatch(text)
    month = _MONTHS.get(found[2].lower()) if found is not None else None
    if found is None or month is None:
        raise BadLine("the time is none (example: 23/Nov/2026:03:31:34 +0000)")
    day, _, year, hour, minute, second, sign, hours, minutes = found.groups()
    zone = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == b"-" else 1)
    try:
        at = datetime(int(year), month, int(day), int(hour), int(minute), int(second), tzinfo=timezone(zone))
        return at.timestamp()
    except (ValueError, OverflowError) as error:
        raise BadLine(f"the time is none: {error}") from None


# json

_TEXT = rb'"([^"\\]*)"'
_SECONDS = rb"([0-9]{1,7}\.[0-9]{6})"
_USUAL = re.compile(
    rb'\{"time": TEXT, "service": TEXT, "scheduler": "[^"\\]*", "client": TEXT, "tls": (null|\{[^{}\\]*\}), '
    rb'"method": TEXT, "target": TEXT, "protocol": "[^"\\]*", "host": (?:null|TEXT), "referer": (?:null|TEXT), '
    rb'"user_agent": (?:null|TEXT), "status": ([1-9][0-9]{2}), "server": TEXT, "reason": "[^"\\]*", '
    rb'(?:"why": (?:null|"[^"\\]*"), )?'
    rb'"connect": SECONDS, "first": [^,]*, "total": SECONDS, "bytes_in": [^"]*"bytes_out": [^"]*"body_out": [^"]*'
    rb'"retries": [^"]*"reused": [^"]*"ending": "[^"\\]*", "error": null[,}]'.replace(b"TEXT", _TEXT).replace(
        b"SECONDS", _SECONDS
    )
)
"""The line of a request that a server has responded to, without an escape in it: nearly all lines. Those of
earlier versions have no "why"."""


def _read_json(line: bytes) -> LoggedRequest:
    found = _USUAL.match(line)
    return _read_any_json(line) if found is None or not line.endswith(b"}\n") else _read_usual(found)


def _read_usual(found: re.Match[bytes]) -> LoggedRequest:
    time, service, client, tls, method, target, host, referer, agent, status, server, connect, total = found.groups()
    return LoggedRequest(
        _iso_time(time.decode("ascii", "replace")),
        client.decode("ascii", "replace"),
        method,
        target,
        _usual_lines(host, referer, agent),
        int(status),
        True,
        float(total),
        float(connect),
        _name(server),
        None,
        _name(service),
        True,
        tls != b"null",
    )


@lru_cache(maxsize=4096)
def _usual_lines(host: bytes | None, referer: bytes | None, agent: bytes | None) -> bytes:
    values = (b"Host", host), (b"Referer", referer), (b"User-Agent", agent)
    return b"".join([_header(name, value) for name, value in values if value is not None])


@lru_cache(maxsize=1024)
def _name(text: bytes) -> str:
    return text.decode("ascii", "replace")


def _read_any_json(line: bytes) -> LoggedRequest:
    try:
        fields = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        raise BadLine("not valid JSON") from None
    try:
        return _of_fields(fields)
    except KeyError as missing:
        raise BadLine(f"the key {missing} is missing") from None
    except (TypeError, ValueError, AttributeError, UnicodeError) as error:
        raise error if isinstance(error, BadLine) else BadLine("a value is not what the log has there") from None


def _of_fields(fields: Any) -> LoggedRequest:
    method, target, client, error = fields["method"], fields["target"], fields["client"], fields["error"]
    lines = _json_lines(fields["host"], fields["referer"], fields["user_agent"])
    status, server, service = fields["status"], fields["server"], fields["service"]
    if (
        type(service) is not str
        or not (server is None or type(server) is str)
        or not (client is None or type(client) is str)
    ):
        raise BadLine("a value is not what the log has there")
    if status is not None and (type(status) is not int or not 100 <= status <= 999):
        raise BadLine("the status is none")
    return LoggedRequest(
        _iso_time(fields["time"]),
        client or "",
        None if method is None else method.encode("latin-1"),
        None if target is None else target.encode("latin-1"),
        lines,
        status or 0,
        True,
        _seconds(fields["total"]),
        _seconds(fields["connect"]),
        server,
        None if error is None else error.partition(": ")[0],
        service,
        fields["reason"] is not None,
        fields["tls"] is not None,
    )


@lru_cache(maxsize=4096)
def _json_lines(host: str | None, referer: str | None, agent: str | None) -> bytes:
    values = (b"Host", host), (b"Referer", referer), (b"User-Agent", agent)
    return b"".join([_header(name, value.encode("latin-1")) for name, value in values if value is not None])


def _iso_time(text: str) -> float:
    """As in 2026-11-23T03:31:34.123Z."""
    if len(text) != 24 or text[19] != "." or text[23] != "Z" or not text[20:23].isdigit():
        raise BadLine("the time is none (example: 2026-11-23T03:31:34.123Z)")
    return _iso_second(text[:19]) + int(text[20:23]) / 1000


@lru_cache(maxsize=256)
def _iso_second(text: str) -> float:
    """As in 2026-11-23T03:31:34, UTC."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp()


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value <= MAX_SECONDS:
        raise BadLine("a duration is none")
    return float(value)


def _header(name: bytes, value: bytes) -> bytes:
    if b"\r" in value or b"\n" in value or b"\0" in value:
        raise BadLine("a header field has a line end in it")
    return b"%b: %b\r\n" % (name, value)
