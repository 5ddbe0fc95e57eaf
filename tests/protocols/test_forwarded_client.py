"""Clients behind proxies: what counts in X-Forwarded-For and Forwarded, and what a client can write there in vain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.protocols.forwarded_client import FORWARDED, UNKNOWN, X_FORWARDED_FOR, forwarded_client, read_node
from ktcpvs.protocols.http1 import BadRequest

PROXY, INNER, CLIENT = "10.0.0.1", "10.9.9.9", "192.0.2.7"


def is_trusted(address: str) -> bool:
    return address.startswith("10.") or address == "2001:db8::1"


def found(*lines: str, header: str = X_FORWARDED_FOR) -> str:
    return forwarded_client(PROXY, "".join(f"{line}\r\n" for line in lines).encode("latin-1"), header, is_trusted)


@pytest.mark.parametrize(
    ("node", "address"),
    [
        (b"192.0.2.7", "192.0.2.7"),
        (b"192.0.2.7:4711", "192.0.2.7"),
        (b"2001:DB8:0::7", "2001:db8::7"),
        (b"[2001:db8::7]", "2001:db8::7"),
        (b"[2001:db8::7]:443", "2001:db8::7"),
        (b"::ffff:192.0.2.7", "192.0.2.7"),
        (b"::", "::"),
        (b"", None),
        (b"unknown", None),
        (b"_hidden", None),
        (b"192.0.2", None),
        (b"192.0.2.256", None),
        (b"192.0.2.07", None),
        (b"192.0.2.7:", None),
        (b"192.0.2.7:x", None),
        (b"[192.0.2.7", None),
        (b"fe80::1%eth0", None),
        (b"3221225991", None),
        (b"0xc0000207", None),
        (b"192.0.2.7 ", None),
        (b"\xb2.0.2.7", None),
        (b"client.example", None),
    ],
)
def test_a_node_is_an_ip_address_with_or_without_a_port(node: bytes, address: str | None) -> None:
    assert read_node(node) == address


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ((), PROXY),
        ((f"X-Forwarded-For: {CLIENT}",), CLIENT),
        ((f"x-forwarded-FOR:{CLIENT}:80",), CLIENT),
        ((f"X-Forwarded-For: 203.0.113.1, {CLIENT}",), CLIENT),
        ((f"X-Forwarded-For: {CLIENT}, {INNER}",), CLIENT),
        ((f"X-Forwarded-For: 203.0.113.1,{CLIENT},{INNER} , 10.1.1.1",), CLIENT),
        (("X-Forwarded-For: 203.0.113.1", f"X-Forwarded-For: {CLIENT}"), CLIENT),
        ((f"X-Forwarded-For: {CLIENT}", f"X-Forwarded-For: {INNER}"), CLIENT),
        ((f"X-Forwarded-For: {CLIENT},", "X-Forwarded-For: , ,"), CLIENT),
        ((f"X-Forwarded-For: 10.1.1.1, {INNER}",), "10.1.1.1"),
        (("X-Forwarded-For: 192.0.2.9, 2001:db8::1",), "192.0.2.9"),
        (("X-Forwarded-For: unknown",), UNKNOWN),
        ((f"X-Forwarded-For: {CLIENT}, unknown, {INNER}",), UNKNOWN),
        (("X-Forwarded-For:",), PROXY),
    ],
)
def test_the_client_is_the_last_address_that_is_no_trusted_proxy(lines: tuple[str, ...], client: str) -> None:
    assert found(*lines) == client


@pytest.mark.parametrize(
    "line",
    [
        "X_Forwarded_For: 10.6.6.6",
        "X-Forwarded-For-: 10.6.6.6",
        "X-Forwarded-For : 10.6.6.6",
        " X-Forwarded-For: 10.6.6.6",
        "X-Real-IP: 10.6.6.6",
        "Forwarded: for=10.6.6.6",
        "X-Forwarded: for=10.6.6.6",
        "X-Forwarded-For: 10.6.6.6",
        "X-Forwarded-For: ,",
        'X-Forwarded-For: "10.6.6.6',
        "X-Forwarded-For: unknown",
        "X-Forwarded-For: 10.6.6.6\t",
        "X-Forwarded-For: \xff",
        "Connection: X-Forwarded-For",
    ],
)
@pytest.mark.parametrize("is_joined", [False, True])
def test_a_client_writes_in_vain(line: str, is_joined: bool) -> None:
    """The proxy appends the client's address: in a line of its own, or to the client's."""
    if is_joined and line.lower().startswith("x-forwarded-for:"):
        assert found(f"{line}, {CLIENT}") == CLIENT
    else:
        assert found(line, f"X-Forwarded-For: {CLIENT}") == CLIENT


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ((), PROXY),
        ((f"Forwarded: for={CLIENT}",), CLIENT),
        ((f"forwarded: For={CLIENT};proto=https;by=10.0.0.1",), CLIENT),
        ((f'Forwarded: proto=https ; for="{CLIENT}:4711"',), CLIENT),
        (('Forwarded: for="[2001:db8::7]:80"',), "2001:db8::7"),
        ((f"Forwarded: for=203.0.113.1, for={CLIENT}, for={INNER}",), CLIENT),
        ((f"Forwarded: for={CLIENT}", f"Forwarded: for={INNER}"), CLIENT),
        ((f'Forwarded: for={CLIENT};host="a,for=10.6.6.6;x=\\"y"',), CLIENT),
        ((f"Forwarded: , ,for={CLIENT},",), CLIENT),
        ((f"Forwarded: for={CLIENT}, proto=https",), UNKNOWN),
        (("Forwarded: for=unknown",), UNKNOWN),
        (("Forwarded: for=_x",), UNKNOWN),
        (("X-Forwarded-For: 10.6.6.6", f"Forwarded: for={CLIENT}"), CLIENT),
    ],
)
def test_the_same_with_forwarded(lines: tuple[str, ...], client: str) -> None:
    assert found(*lines, header=FORWARDED) == client


@pytest.mark.parametrize(
    "value",
    [
        f'for="10.6.6.6, for={CLIENT}',
        f'for=10.6.6.6", for={CLIENT}',
        f"for=10.6.6.6;for={CLIENT}",
        f"for={CLIENT}:80",
        f"for = {CLIENT}",
        "for",
        "=x",
        f"for={CLIENT} x",
    ],
)
def test_a_forwarded_with_two_readings_is_refused(value: str) -> None:
    with pytest.raises(BadRequest, match="malformed Forwarded") as refused:
        found(f"Forwarded: {value}", header=FORWARDED)
    assert refused.value.status == 400


@given(
    st.text(st.sampled_from('10.6,;:="\\ \tfor[]_X'), max_size=40),
    st.booleans(),
    st.sampled_from((X_FORWARDED_FOR, FORWARDED)),
)
def test_whatever_a_client_sends_its_own_address_counts(text: str, is_joined: bool, header: str) -> None:
    name, own = ("Forwarded", f"for={CLIENT}") if header == FORWARDED else ("X-Forwarded-For", CLIENT)
    lines = (f"{name}: {text}, {own}",) if is_joined else (f"{name}: {text}", f"{name}: {own}")
    try:
        assert found(*lines, header=header) == CLIENT
    except BadRequest:
        assert header == FORWARDED
