"""The values of the option `check`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.errors import BadValue, Refusal
from ktcpvs.model.address import no_port_names
from ktcpvs.model.check import GRPC, HTTP, OFF, SEND, TCP, Check, parse_check, read_check, read_weight
from ktcpvs.model.describe import configuration
from ktcpvs.model.language.lexer import quoted
from ktcpvs.model.language.parser import parse
from ktcpvs.model.language.writer import write
from ktcpvs.model.table import Table


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("off", Check(OFF)),
        ("tcp", Check(TCP)),
        ("http /", Check(HTTP, "/")),
        ("http /health?x=1 expect 200 204", Check(HTTP, "/health?x=1", (200, 204))),
        ("grpc", Check(GRPC)),
        ("grpc shop.v1.Orders", Check(GRPC, service="shop.v1.Orders")),
        (r'send "PING\r\n" expect "+PONG"', Check(SEND, send=b"PING\r\n", expect=b"+PONG")),
        (r'send "" expect "\x32\x32\x30 \\-"', Check(SEND, send=b"", expect=b"220 \\-")),
        ('send "é" expect "ü"', Check(SEND, send=b"\xe9", expect=b"\xfc")),
        ("tcp port 8008", Check(TCP, port=8008)),
        ('send "a" expect "b" port 1', Check(SEND, send=b"a", expect=b"b", port=1)),
        ("tcp tls proxy port 8008", Check(TCP, port=8008, tls=True, proxy=True)),
        ('send "a" expect "b" proxy', Check(SEND, send=b"a", expect=b"b", proxy=True)),
        ("grpc tls", Check(GRPC, tls=True)),
        ("grpc shop.v1.Orders proxy tls", Check(GRPC, service="shop.v1.Orders", tls=True, proxy=True)),
        ("http / port 8443 tls expect 204", Check(HTTP, "/", (204,), port=8443, tls=True)),
        ("http /proxy expect 200 proxy", Check(HTTP, "/proxy", (200,), proxy=True)),
        ("http HEAD /", Check(HTTP, "/", method="HEAD")),
        ("http / host app.example:81", Check(HTTP, "/", host="app.example:81")),
        (
            'http / header "A: b c" header "D:"',
            Check(HTTP, "/", headers=(("A", "b c"), ("D", ""))),
        ),
        (
            'http OPTIONS /x port 9 expect 200 204 body "^role: (master|leader)$" weight X-Weight host h',
            Check(
                HTTP,
                "/x",
                (200, 204),
                method="OPTIONS",
                port=9,
                body="^role: (master|leader)$",
                weight="X-Weight",
                host="h",
            ),
        ),
    ],
)
def test_forms(text: str, check: Check) -> None:
    assert parse_check(text) == check
    assert read_check("check", text, no_port_names) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "check = : expected off, tcp, http PATH"),
        ("grpc a b", "check = grpc a b: expected off, tcp, http PATH [expect STATUS ...], grpc [SERVICE]"),
        ('grpc "a b"', "check = grpc a b: expected the name of a service (example: shop.Orders)"),
        ("udp", "check = udp: expected off, tcp, http PATH"),
        ("tcp 80", "check = tcp 80: expected off, tcp"),
        ('"tcp"', "off, tcp, http PATH"),
        ("http", "check = http: expected off, tcp"),
        ("http health", "check = http health: expected a path (example: /health)"),
        ("http GET", "check = http GET: expected a path (example: /health)"),
        ("http get /", "check = http get: expected a path (example: /health)"),
        ("http /a b", "check = http: unknown word 'b'"),
        ("http /a hots h", "check = http: unknown word 'hots'; did you mean 'host'?"),
        ("http /a expect", "check: missing value after 'expect'"),
        ("http /a expect host h", "status host: expected a number from 100 to 599"),
        ("http /a port 0", "check: port 0 is out of range: ports are 1..65535"),
        ("http /a port x", "check: port = x: expected a whole number"),
        ("http /a host a host b", "check = http: 'host' appears a second time"),
        ('http /a host "a b"', "host 'a b': expected a name, perhaps with a port"),
        ("http /a header a", "header 'a': expected \"NAME: VALUE\" in ASCII"),
        ('http /a header "Host: a"', "header 'Host' is set by the switch itself; to set it: host NAME"),
        ('http /a header "Transfer-Encoding: chunked"', "header 'Transfer-Encoding' is set by the switch itself"),
        ('http /a body "("', "missing )"),
        ('http HEAD /a body "x"', "a response to HEAD has no body that could contain a pattern; use GET"),
        ('http /a weight "a b"', "weight 'a b': expected the name of a header field"),
        ("http CONNECT /a", "check = http CONNECT: a proxy's method cannot check a server"),
        ("tcp port", "check: missing value after 'port'"),
        ("tcp port 80 81", "check = tcp port 80 81: '81' is none of port, tls, proxy"),
        ("tcp tls tls", "check = tcp: 'tls' appears a second time"),
        ("http / tls proxy tls", "check = http: 'tls' appears a second time"),
        ("grpc a tls port 5", "check = grpc a tls port 5: 'port' is none of tls, proxy"),
        ('send "a" expect "b" 80', "off, tcp, http PATH"),
        ("http /a expect ok", "status ok: expected a number from 100 to 599"),
        ("http /a expect 600", "status 600: expected a number from 100 to 599"),
        ('send "a"', "off, tcp, http PATH"),
        ('send "a" expect ""', "expected a text of 1 to 1024 bytes"),
        (r'send "\q" expect "a"', r"'\q': unknown escape; expected"),
        ('send "a expect', "unterminated quote"),
    ],
)
def test_what_is_none(text: str, why: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse_check(text)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "share", "weight"),
    [("5", 3, 5), ("65535", 1, 65535), ("0", 9, 0), ("50%", 3, 1.5), ("100%", 7, 7), ("0%", 7, 0), (" 1% ", 1, 0.01)],
)
def test_weights_of_responses(text: str, share: int, weight: float) -> None:
    assert read_weight(text, share) == weight


@pytest.mark.parametrize("text", ["", "-1", "65536", "101%", "x", "5 5", "1.5", "\uff15"])
def test_weights_that_are_none(text: str) -> None:
    with pytest.raises(BadValue, match=r"expected 0\.\.65535, or 0%\.\.100% of the configured weight"):
        read_weight(text, 5)


@pytest.mark.parametrize("status", [99, 199, 200, 204, 302, 399, 400, 503])
def test_statuses_that_pass(status: int) -> None:
    assert Check(HTTP, "/").is_well(status) == (200 <= status < 400)
    assert Check(HTTP, "/", (503,)).is_well(status) == (status == 503)


def block(check: str) -> str:
    return f"Virtual a {{\n    check = {check}\n    eject = 3\n    server = 10.0.0.1:80\n}}\n"


@given(
    st.lists(
        st.text(st.characters(codec="ascii", exclude_categories=("C",)), min_size=1, max_size=20),
        min_size=2,
        max_size=2,
    )
)
def test_it_is_written_as_it_was_read(texts: list[str]) -> None:
    send, expect = (quoted(text.replace("\\", "\\\\")) for text in texts)
    load = parse(block(f"send {send}\n expect {expect}"))
    check = parse_check(load.services["a"].check)
    assert (check.send, check.expect) == tuple(text.encode() for text in texts)
    assert load.services["a"].eject == 3
    assert parse(write(*configuration(Table(load.services)))) == load


def test_an_error_has_its_place() -> None:
    with pytest.raises(Refusal, match=r"^<text>:2:13: check = http: status 7: expected a number from 100 to 599$"):
        parse(block("http /a expect 7"))
