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

MAX_NAME_LENGTH = 256
"""The most characters of a client, of a server and of a service: a replay keeps counts for each of them."""

MAX_CACHED_LINES = 4096
"""For how many sets of header fields their lines are cached."""

MAX_CACHED_BYTES = 1024
"""The longest header fields whose lines are cached."""

_UNEXPECTED = "a value is not what the log has there"


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
    if len(client) > MAX_NAME_LENGTH:
        raise BadLine(_UNEXPECTED)
    referer, agent = referer or b"-", agent or b"-"
    is_short = len(referer) + len(agent) <= MAX_CACHED_BYTES
    lines = _cached_combined_lines(referer, agent) if is_short else _combined_lines(referer, agent)
    words = _REQUEST.fullmatch(_plain(request))
    method, target = (None, None) if words is None else words.groups()
    address = "" if client == b"-" else client.decode("ascii", "replace")
    return LoggedRequest(_clf_time(time), address, method, target, lines, int(status))


def _combined_lines(referer: bytes, agent: bytes) -> bytes:
    lines = b"" if referer in _NO_VALUE else _header(b"Referer", _plain(referer))
    return lines if agent in _NO_VALUE else lines + _header(b"User-Agent", _plain(agent))


_cached_combined_lines = lru_cache(maxsize=MAX_CACHED_LINES)(_combined_lines)


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

_decode = json.JSONDecoder().raw_decode
_THOUSANDTHS = {f".{number:03}Z": number / 1000 for number in range(1000)}


def _read_json(line: bytes) -> LoggedRequest:
    try:
        text = line.decode("utf-8")
        fields, end = _decode(text)
        if end < len(text) - 1 and text[end:].strip():  # nearly all end with one line feed
            raise ValueError("more follows")
    except (ValueError, RecursionError):
        raise BadLine("not valid JSON") from None
    try:
        return _of_fields(fields)
    except KeyError as missing:
        raise BadLine(f"the key {missing} is missing") from None
    except (TypeError, ValueError, AttributeError, UnicodeError) as error:
        raise error if isinstance(error, BadLine) else BadLine(_UNEXPECTED) from None


def _of_fields(fields: Any) -> LoggedRequest:
    method, target, client, error = fields["method"], fields["target"], fields["client"], fields["error"]
    host, referer, agent = fields["host"], fields["referer"], fields["user_agent"]
    status, total, connect = fields["status"], fields["total"], fields["connect"]
    if len(host or "") + len(referer or "") + len(agent or "") <= MAX_CACHED_BYTES:
        lines = _cached_json_lines(host, referer, agent)
    else:
        lines = _json_lines(host, referer, agent)
    if client is not None and (type(client) is not str or len(client) > MAX_NAME_LENGTH):
        raise BadLine(_UNEXPECTED)
    service = _name(fields["service"])
    if service is None:
        raise BadLine(_UNEXPECTED)
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
        total if type(total) is float and 0 <= total <= MAX_SECONDS else _seconds(total),
        connect if type(connect) is float and 0 <= connect <= MAX_SECONDS else _seconds(connect),
        _name(fields["server"]),
        None if error is None else _name(error.partition(": ")[0]),
        service,
        fields["reason"] is not None,
        fields["tls"] is not None,
    )


@lru_cache(maxsize=1024)
def _name(value: str | None) -> str | None:
    """Return the name of a service or the address of a server. Equal ones become one object, of which many requests
    are held at once."""
    if value is not None and (type(value) is not str or len(value) > MAX_NAME_LENGTH):
        raise BadLine(_UNEXPECTED)
    return value


def _json_lines(host: str | None, referer: str | None, agent: str | None) -> bytes:
    values = (b"Host", host), (b"Referer", referer), (b"User-Agent", agent)
    return b"".join([_header(name, value.encode("latin-1")) for name, value in values if value is not None])


_cached_json_lines = lru_cache(maxsize=MAX_CACHED_LINES)(_json_lines)


def _iso_time(text: str) -> float:
    """As in 2026-11-23T03:31:34.123Z."""
    thousandths = _THOUSANDTHS.get(text[19:])
    if thousandths is None:
        raise BadLine("the time is none (example: 2026-11-23T03:31:34.123Z)")
    return _iso_second(text[:19]) + thousandths


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
