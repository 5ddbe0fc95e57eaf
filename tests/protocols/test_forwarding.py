"""Header fields about the client: exactly those that the service's options select."""

from __future__ import annotations

import pytest

from ktcpvs.model.service import OPTIONS
from ktcpvs.protocols import http1
from ktcpvs.protocols.forwarding import FIELDS, MODES, Forwarding

CLIENTS_OWN = b"X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 7.7.7.7\r\nVia: 1.0 fred\r\nForwarded: for=evil\r\n"


def test_every_field_is_an_option_of_a_service() -> None:
    assert set(FIELDS) <= set(OPTIONS)
    assert all(OPTIONS[name].default == "off" for name in FIELDS)


def test_off_is_nothing() -> None:
    assert not Forwarding({})
    assert not Forwarding(dict.fromkeys(FIELDS, "off"))
    assert Forwarding({"via": "append"})


@pytest.mark.parametrize(
    ("name", "client", "host", "line"),
    [
        ("x_forwarded_for", "192.0.2.1", b"h", b"X-Forwarded-For: 192.0.2.1\r\n"),
        ("x_forwarded_for", "2001:db8::1", b"h", b"X-Forwarded-For: 2001:db8::1\r\n"),
        ("x_forwarded_for", "", b"h", b""),
        ("x_forwarded_proto", "192.0.2.1", b"h", b"X-Forwarded-Proto: http\r\n"),
        ("x_forwarded_host", "192.0.2.1", b"h:80", b"X-Forwarded-Host: h:80\r\n"),
        ("x_forwarded_host", "192.0.2.1", b"", b""),
        ("via", "192.0.2.1", b"h", b"Via: 1.1 ktcpvs\r\n"),
        ("forwarded", "192.0.2.1", b"h:80", b'Forwarded: for=192.0.2.1;proto=http;host="h:80"\r\n'),
        ("forwarded", "2001:db8::1", b"", b'Forwarded: for="[2001:db8::1]";proto=http\r\n'),
        ("forwarded", "", b"", b"Forwarded: for=unknown;proto=http\r\n"),
    ],
)
def test_what_is_said(name: str, client: str, host: bytes, line: bytes) -> None:
    assert Forwarding({name: "append"}).lines(client, host, True) == line


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n"])
def test_the_client_s_own(mode: str, connection: bytes) -> None:
    data = b"GET / HTTP/1.1\r\nHost: h\r\n%b%bX: y\r\n\r\n" % (CLIENTS_OWN, connection)
    found = http1.REQUEST.match(data)
    assert found is not None
    told = Forwarding({"x_forwarded_for": mode, "via": mode})
    head = http1.Request(found).head(told.lines("192.0.2.1", b"h", True), told.replaced)
    ours = b"X-Forwarded-For: 192.0.2.1\r\nVia: 1.1 ktcpvs\r\n"
    assert (b"6.6.6.6" in head, b"7.7.7.7" in head, b"fred" in head) == (mode != "replace",) * 3
    assert (ours in head) == (mode != "off")
    assert b"Forwarded: for=evil\r\n" in head  # this one was not spoken of
    assert b"Connection" not in head
    assert b"X: y\r\n" in head
