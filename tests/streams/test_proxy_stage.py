"""The stages for the PROXY protocol: who must begin with a header, who must not, and the address that counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.protocols.proxy_protocol import LOCAL, write_v1, write_v2
from ktcpvs.streams.contract import SocketAddress
from ktcpvs.streams.preamble import Proceed, Refuse
from ktcpvs.streams.proxy_stage import FORGED, MAX_HEADER_SIZE, NoHeaderStage, ProxyStage
from ktcpvs.streams.stream import Stream

PROXY, OTHER = ("10.0.0.1", 4711), ("192.0.2.1", 4711)
SOURCE, DESTINATION = ("198.51.100.7", 5000), ("203.0.113.1", 443)
SOURCE6, DESTINATION6 = ("2001:db8::7", 5000), ("2001:db8::1", 443)

HEADERS = [
    (write_v1(SOURCE, DESTINATION), (SOURCE, DESTINATION)),
    (write_v1(SOURCE6, DESTINATION6), ((*SOURCE6, 0, 0), (*DESTINATION6, 0, 0))),
    (b"PROXY UNKNOWN\r\n", (None, None)),
    (write_v2(SOURCE, DESTINATION), (SOURCE, DESTINATION)),
    (write_v2(SOURCE6, DESTINATION6, checksum=True), ((*SOURCE6, 0, 0), (*DESTINATION6, 0, 0))),
    (LOCAL, (None, None)),
    (write_v2(None, None), (None, None)),
]
"""(header, (the client's address, the one that it has called))."""


def is_proxy(peer: SocketAddress) -> bool:
    return peer == PROXY


def stages() -> tuple[NoHeaderStage, ProxyStage]:
    return NoHeaderStage(is_proxy, lambda: 30), ProxyStage(is_proxy, lambda: 5)


def fed(stage: NoHeaderStage | ProxyStage, peer: SocketAddress, *pieces: bytes) -> Proceed | Refuse | None:
    reader = stage.begin(peer, Stream())
    assert reader is not None
    for piece in pieces[:-1]:
        assert reader.feed(piece) is None
    return reader.feed(pieces[-1])


def test_each_stage_is_for_its_clients() -> None:
    no_header, proxy = stages()
    assert no_header.begin(PROXY, Stream()) is None
    assert proxy.begin(OTHER, Stream()) is None
    assert (no_header.timeout, proxy.timeout) == (30, 5)
    assert [stage.finds_address(peer) for stage in (no_header, proxy) for peer in (PROXY, OTHER)] == [
        False, False, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(("header", "addresses"), HEADERS)
@pytest.mark.parametrize("rest", [b"", b"GET / HTTP/1.1\r\n\r\n", write_v1(SOURCE6, DESTINATION6)])
def test_the_addresses_in_the_header(
    header: bytes, addresses: tuple[SocketAddress, SocketAddress], rest: bytes
) -> None:
    """None keeps that of the connection. A second header is what the client itself has sent."""
    _, proxy = stages()
    assert fed(proxy, PROXY, header + rest) == Proceed(rest, *addresses)
    assert fed(proxy, PROXY, *(header[place : place + 1] for place in range(len(header)))) == Proceed(b"", *addresses)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "this is no PROXY header"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", "malformed header of version 1"),
        (LOCAL[:12] + b"\x31\0\0\0", "unknown version or command"),
        (LOCAL[:12] + b"\x21\x11\xff\xff", f"the header is longer than {MAX_HEADER_SIZE} bytes"),
    ],
)
def test_a_proxy_without_a_good_header_is_refused(data: bytes, reason: str) -> None:
    _, proxy = stages()
    assert fed(proxy, PROXY, data) == Refuse(reason)


@pytest.mark.parametrize("header", [header for header, _ in HEADERS])
def test_others_with_a_header_are_refused(header: bytes) -> None:
    no_header, _ = stages()
    assert fed(no_header, OTHER, header) == Refuse(FORGED)
    enough = 6 if header.startswith(b"PROXY") else 12
    assert fed(no_header, OTHER, *(header[place : place + 1] for place in range(enough))) == Refuse(FORGED)


@given(st.lists(st.binary(min_size=1, max_size=4), min_size=1))
def test_others_lose_no_byte(pieces: list[bytes]) -> None:
    no_header, _ = stages()
    reader = no_header.begin(OTHER, Stream())
    assert reader is not None
    came = b""
    for piece in pieces:
        came += piece
        outcome = reader.feed(piece)
        if outcome is not None:
            assert outcome == Proceed(came)
            return
    assert b"PROXY ".startswith(came) or LOCAL[:12].startswith(came)
