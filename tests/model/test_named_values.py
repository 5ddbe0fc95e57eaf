"""What schedulers see of a request: its fields by name, and its connection."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.scheduling import Request

LINES = b"Host: h\r\nX-User:  a\r\nCookie: a=1; b; a=3\r\nx-user: b \r\n"
REQUEST = Request(method=b"GET", target=b"/p?a=1&b=%20+&a=2", path=b"/p?a=1&b=%20+&a=2", lines=LINES)

_name = st.from_regex(rb"[A-Za-z][A-Za-z-]{0,5}", fullmatch=True)
_value = st.from_regex(rb"[!-~]{0,8}", fullmatch=True)


class TLS(NamedTuple):
    sni: str | None = "A.example."
    version: str = "TLSv1.3"
    certificate_subject: str = "CN=a"
    certificate_fingerprint: str = "00"


class Connection(NamedTuple):
    local_address: object
    tls: TLS | None = None


def test_headers() -> None:
    headers = REQUEST.headers
    assert headers["X-User"] == headers[b"x-user"] == b"a"
    assert headers.get_all("x-USER") == (b"a", b"b")
    assert (headers.get("x"), headers.get("x", 7), headers.get("host", 7)) == (None, 7, b"h")
    assert "host" in headers
    assert b"Host" in headers
    assert "x" not in headers
    assert 1 not in headers
    with pytest.raises(KeyError):
        headers["x"]
    assert list(headers) == [(b"host", b"h"), (b"x-user", b"a"), (b"cookie", b"a=1; b; a=3"), (b"x-user", b"b")]
    assert len(headers) == 4
    assert dict(headers)[b"host"] == b"h"


def test_query_and_cookies() -> None:
    assert (REQUEST.query["a"], REQUEST.query.get_all("a"), REQUEST.query["b"]) == (b"1", (b"1", b"2"), b"  ")
    assert "A" not in REQUEST.query
    assert REQUEST.cookies["a"] == b"1"
    assert list(REQUEST.cookies) == [(b"a", b"1"), (b"", b"b"), (b"a", b"3")]
    assert len(REQUEST.query) == 3


def test_a_connection_without_a_request_has_no_fields() -> None:
    request = Request()
    assert not request.headers
    assert not request.query
    assert not request.cookies
    assert (request.local_address, request.port, request.tls, request.is_tls) == (None, None, None, False)


def test_the_connection() -> None:
    request = Request(connection=Connection(("::1", 443, 0, 0), TLS()))
    assert (request.local_address, request.port, request.sni) == (("::1", 443), 443, "a.example")
    assert request.tls is not None
    assert request.tls.certificate_subject == "CN=a"
    assert Request(connection=Connection("/run/s")).local_address == "/run/s"
    assert Request(connection=Connection("/run/s")).port is None


@given(st.lists(st.tuples(_name, _value)))
def test_lookups_agree_with_iteration(pairs: list[tuple[bytes, bytes]]) -> None:
    headers = Request(lines=b"".join(b"%b: %b\r\n" % pair for pair in pairs)).headers
    assert [value for _, value in headers] == [value for _, value in pairs]
    for name, _ in pairs:
        same = tuple(value for known, value in pairs if known.lower() == name.lower())
        assert headers.get_all(name.decode().upper()) == same
        assert headers[name] == same[0]
