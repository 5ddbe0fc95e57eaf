"""Lines of an access log: log analysers can read them, and no client can forge one."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.service import OPTIONS, VirtualService
from ktcpvs.protocols import access_log
from ktcpvs.protocols.access_log import FORMATS, CombinedFormat, JSONFormat, Record
from ktcpvs.protocols.http1.plain import RequestScanner

combined, as_json = CombinedFormat("web", "phttp").line, JSONFormat("web", "phttp").line
LINES = b"Host: www.example.org\r\nUSER-agent:curl/8.1 \r\nX-Referer: no\r\nreferer:  http://example.org/a?b\r\n"
BEGAN = 1795404694.1239  # 23 November 2026, 03:31:34 UTC


def record(**fields: Any) -> Record:
    known = {
        "client": "192.0.2.7",
        "began": BEGAN,
        "method": b"GET",
        "target": b"/x?y=1",
        "minor": 1,
        "lines": LINES,
        "status": 200,
        "server": "192.168.0.11:80",
        "reason": "the rule ^/x",
        "why": "rule=1, hash",
        "connect": 0.00025,
        "first": 0.0125,
        "total": 1.5,
        "bytes_in": 120,
        "bytes_out": 1234,
        "body_out": 1000,
        "retries": 1,
        "reused": True,
        "ending": "answered",
        "error": "192.168.0.12:80: TLS: certificate has expired",
    }
    return Record(**(known | fields))


NOTHING = Record("", 0.0)
"""A connection without any further facts."""


def test_the_formats_are_those_of_the_option() -> None:
    assert OPTIONS["access_log_format"].default in FORMATS
    for name in FORMATS:
        assert VirtualService(ident="web", access_log_format=name).access_log_format == name


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {},
            b'192.0.2.7 - - [23/Nov/2026:03:31:34 +0000] "GET /x?y=1 HTTP/1.1" 200 1000'
            b' "http://example.org/a?b" "curl/8.1"\n',
        ),
        (
            {"client": "2001:db8::7", "lines": b"", "minor": 0, "status": None, "body_out": 0},
            b'2001:db8::7 - - [23/Nov/2026:03:31:34 +0000] "GET /x?y=1 HTTP/1.0" 000 0 "-" "-"\n',
        ),
        (
            {"method": b"G", "target": b'/"\\\x00\r\n\x1f\x7f\x80\xff ~', "lines": b'User-Agent: "\t\xc3\xa9\r\n'},
            b'192.0.2.7 - - [23/Nov/2026:03:31:34 +0000] "G /\\x22\\x5C\\x00\\x0D\\x0A\\x1F\\x7F\\x80\\xFF ~ HTTP/1.1"'
            b' 200 1000 "-" "\\x22\\x09\\xC3\\xA9"\n',
        ),
        (
            {"minor": None, "lines": b"Referer: \r\nUser-Agent: first\r\nUser-Agent: second\r\n"},
            b'192.0.2.7 - - [23/Nov/2026:03:31:34 +0000] "GET /x?y=1" 200 1000 "-" "first"\n',
        ),
    ],
    ids=["whole", "no answer", "escapes", "no version, an empty field and one twice"],
)
def test_combined(fields: dict[str, Any], line: bytes) -> None:
    assert combined(record(**fields)) == line


def test_combined_of_nothing() -> None:
    assert combined(NOTHING) == b'- - - [01/Jan/1970:00:00:00 +0000] "-" 000 0 "-" "-"\n'


def test_json() -> None:
    assert as_json(record()).decode() == (
        '{"time": "2026-11-23T03:31:34.123Z", "service": "web", "scheduler": "phttp", "client": "192.0.2.7", '
        '"tls": null, "method": "GET", "target": "/x?y=1", "protocol": "HTTP/1.1", "host": "www.example.org", '
        '"referer": "http://example.org/a?b", "user_agent": "curl/8.1", "status": 200, "server": "192.168.0.11:80", '
        '"reason": "the rule ^/x", "why": "rule=1, hash", "connect": 0.000250, "first": 0.012500, '
        '"total": 1.500000, "bytes_in": 120, '
        '"bytes_out": 1234, "body_out": 1000, "retries": 1, "reused": true, "ending": "answered", '
        '"error": "192.168.0.12:80: TLS: certificate has expired"}\n'
    )


def test_json_of_nothing_has_the_same_keys() -> None:
    read = json.loads(as_json(NOTHING))
    assert list(read) == list(json.loads(as_json(record())))
    assert {name: value for name, value in read.items() if value is not None} == {
        "time": "1970-01-01T00:00:00.000Z",
        "service": "web",
        "scheduler": "phttp",
        "total": 0.0,
        "bytes_in": 0,
        "bytes_out": 0,
        "body_out": 0,
        "retries": 0,
        "reused": False,
        "ending": "",
    }


def test_requests_that_began_in_different_seconds() -> None:
    seconds = [BEGAN + 0.5 * step for step in (0, 3, 1, 700, 0, 3)]
    times = [combined(record(began=began)).split(b"[")[1][12:20].decode() for began in seconds]
    assert times == ["03:31:34", "03:31:35", "03:31:34", "03:37:24", "03:31:34", "03:31:35"]
    assert [json.loads(as_json(record(began=began)))["time"][11:19] for began in seconds] == times


LINE = re.compile(
    rb'192\.0\.2\.7 - - \[23/Nov/2026:03:31:34 \+0000\] "((?:[^"\\]|\\x[0-9A-F]{2})*)" 200 1000'
    rb' "((?:[^"\\]|\\x[0-9A-F]{2})*)" "((?:[^"\\]|\\x[0-9A-F]{2})*)"\n'
)


def unescaped(value: bytes) -> bytes:
    return re.sub(rb"\\x(..)", lambda found: bytes.fromhex(found[1].decode()), value)


@given(method=st.binary(), target=st.binary(), lines=st.binary())
def test_combined_is_one_line_whatever_comes(method: bytes, target: bytes, lines: bytes) -> None:
    line = combined(record(method=method, target=target, lines=lines))
    assert line.decode("ascii")[:-1].isprintable()
    found = LINE.fullmatch(line)
    assert found is not None
    assert unescaped(found[1]) == b"%b %b HTTP/1.1" % (method, target)


VALUES = st.binary(min_size=1).filter(lambda value: b"\n" not in value and value == value.strip(b" \t\r"))


@given(referer=VALUES, agent=VALUES)
def test_combined_of_any_fields(referer: bytes, agent: bytes) -> None:
    found = LINE.fullmatch(combined(record(lines=b"Referer: %b\r\nUser-Agent: %b\r\n" % (referer, agent))))
    assert found is not None
    assert (unescaped(found[2]), unescaped(found[3])) == (referer, agent)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
TIMES = st.one_of(st.none(), st.floats(0, 1e6))


@given(
    method=st.binary(),
    target=st.binary(),
    host=VALUES,
    texts=st.fixed_dictionaries(dict.fromkeys(["service", "scheduler", "server", "reason", "ending"], TEXTS)),
    times=st.fixed_dictionaries({"connect": TIMES, "first": TIMES, "total": st.floats(0, 1e6)}),
    numbers=st.fixed_dictionaries(dict.fromkeys(["bytes_in", "bytes_out", "body_out", "retries"], st.integers(0))),
    reused=st.booleans(),
    status=st.one_of(st.none(), st.integers(100, 599)),
)
def test_json_reads_back(
    method: bytes,
    target: bytes,
    host: bytes,
    texts: dict[str, str],
    times: dict[str, float | None],
    numbers: dict[str, int],
    reused: bool,
    status: int | None,
) -> None:
    wanted = texts | numbers | {"reused": reused, "status": status}
    names = {name: wanted.pop(name) for name in ("service", "scheduler")}
    whole = record(method=method, target=target, lines=b"Host:%b\r\n" % host, **times, **wanted)
    line = JSONFormat(str(names["service"]), str(names["scheduler"])).line(whole)
    wanted |= names
    assert line.isascii()
    assert line.index(b"\n") == len(line) - 1
    read = json.loads(line)
    assert {name: read[name] for name in wanted} == wanted
    assert {name: read[name].encode("latin-1") for name in ("method", "target", "host")} == {
        "method": method,
        "target": target,
        "host": host,
    }
    for name, value in times.items():
        assert read[name] == (None if value is None else pytest.approx(value, abs=1e-6))
    assert (read["referer"], read["user_agent"]) == (None, None)


@given(
    st.from_regex(rb"/[!\"$-~\x80-\xff]{0,20}", fullmatch=True),  # a target has no fragment
    st.lists(
        st.tuples(
            st.sampled_from((b"Referer", b"user-agent", b"X")),
            st.from_regex(rb"[\t -~\x80-\xff]{0,20}", fullmatch=True),
        )
    ),
    st.sampled_from((b"0", b"1", b"2")),
    st.sampled_from(("192.0.2.7", "", "2001:db8::7")),
    st.floats(0, 1e10),
    st.floats(0, 1e4),
)
def test_a_plain_request_has_the_line_of_its_record(
    target: bytes, fields: list[tuple[bytes, bytes]], minor: bytes, client: str, began: float, total: float
) -> None:
    lines = b"Host: h\r\n" + b"".join(b"%b:%b\r\n" % field for field in fields)
    request = RequestScanner(10**6, 100, 10**6, frozenset(), True).scan(
        b"GET %b HTTP/1.%b\r\n%b\r\n" % (target, minor, lines), b""
    )
    assert request is not None
    whole = record(
        client=client,
        began=began,
        target=target,
        minor=int(minor != b"0"),
        lines=lines,
        server="10.0.0.1:80",
        reason='rule 1 "x"',
        why="rule=1",
        connect=0.0,
        first=total,
        total=total,
        bytes_in=7,
        bytes_out=9,
        body_out=2,
        retries=0,
        error=None,
    )
    for form in (CombinedFormat("web", "phttp"), JSONFormat("web", "phttp")):
        line = form.plain_line(
            request, (client, None), began, total, 200, ("10.0.0.1:80", 'rule 1 "x"', "rule=1"), (7, 9, 2)
        )
        assert line == form.line(whole)
    plain = (client.encode(), b"now", target, minor != b"0", 200, 2, request.referer, request.user_agent)
    assert access_log.combined_line(*plain) == access_log.plain_combined(*plain)
    values = (request.host, request.referer, request.user_agent, 200, b', "server": null', total, 7, 9, 2)
    assert access_log.json_line(b"{", target, minor != b"0", *values) == access_log.plain_json(
        b"{", target, minor != b"0", *values
    )
