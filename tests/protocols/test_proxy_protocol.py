"""The PROXY protocol: headers of HAProxy, built ones, whole and in pieces, and a package that reads and writes them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path
from socket import SOCK_STREAM

import pytest
from attrs import evolve
from examples import examples
from hypothesis import assume, given
from hypothesis import strategies as st
from proxy_oracle import assert_same, read_by_package
from proxyprotocol.result import ProxyResultIPv4, ProxyResultIPv6, ProxyResultLocal
from proxyprotocol.tlv import ProxyProtocolSSLTLV, ProxyProtocolTLV
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

from ktcpvs.protocols.proxy_protocol import (
    LOCAL,
    NO_TLVS,
    Address,
    BadProxyHeader,
    ProxiedTLS,
    ProxyHeader,
    ProxyHeaderReader,
    TLVs,
    begins_with_header,
    crc32c,
    write_v1,
    write_v2,
)

RECORDED = Path(__file__).parent / "corpus" / "proxy"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
HERE = "127.0.0.1"


def read(data: bytes, max_size: int = 4096) -> ProxyHeader | None:
    return ProxyHeaderReader(max_size).feed(data)


def complete(data: bytes) -> ProxyHeader:
    found = read(data)
    assert found is not None
    return found


def byte_by_byte(data: bytes) -> tuple[int, ProxyHeader | BadProxyHeader | None]:
    """The result of a reader, and how many bytes it needed."""
    reader = ProxyHeaderReader()
    for place in range(len(data)):
        try:
            found = reader.feed(data[place : place + 1])
        except BadProxyHeader as bad:
            return place + 1, bad
        if found is not None:
            assert reader.received == data[: place + 1]
            return place + 1, found
    return len(data), None


def tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def version_2(block: bytes, command: int = 0x21, family: int = 0x11) -> bytes:
    return SIGNATURE + bytes((command, family)) + len(block).to_bytes(2, "big") + block


INET = b"\xc0\0\2\1\xc0\0\2\2\x1f\x90\1\xbb"
SOURCE, DESTINATION = ("192.0.2.1", 8080), ("192.0.2.2", 443)


def with_tlvs(*tlvs: bytes) -> bytes:
    return version_2(INET + b"".join(tlvs))


def found(source: Address | None, destination: Address | None, tlvs: TLVs = NO_TLVS) -> ProxyHeader:
    """A header of version 2 without its size."""
    return ProxyHeader(2, False, source, destination, tlvs, 0)


# HAProxy.

OF_TLS = TLVs(
    b"h2",
    "www.example.com",
    b"7F000001:E628_0005",
    ProxiedTLS(
        version="TLSv1.3",
        cipher="TLS_AES_256_GCM_SHA384",
        signature_algorithm="ecdsa-with-SHA256",
        key_algorithm="EC256",
    ),
)
VERIFIED = ProxiedTLS(
    True, True, True, True, "TLSv1.3", "a client", "TLS_AES_256_GCM_SHA384", "ecdsa-with-SHA256", "EC256"
)

KNOWN = {
    "v1-tcp4": ProxyHeader(1, False, (HERE, 45492), (HERE, 18101), NO_TLVS, 44),
    "v1-tcp6": ProxyHeader(1, False, ("::1", 43300), ("::1", 18106), NO_TLVS, 32),
    "v1-unix": ProxyHeader(1, False, None, None, NO_TLVS, 15),
    "v2-tcp4": ProxyHeader(2, False, (HERE, 33234), (HERE, 18102), NO_TLVS, 28),
    "v2-tcp6": ProxyHeader(2, False, ("::1", 43928), ("::1", 18103), NO_TLVS, 52),
    "v2-tls": ProxyHeader(2, False, (HERE, 58920), (HERE, 18104), OF_TLS, 150),
    "v2-tls-certificate": ProxyHeader(
        2, False, (HERE, 58922), (HERE, 18104), evolve(OF_TLS, unique_id=b"7F000001:E62A_0006", tls=VERIFIED), 161
    ),
    "v2-local": ProxyHeader(2, True, None, None, NO_TLVS, 16),
}
"""The content of HAProxy's headers."""


def test_every_recorded_header_is_known() -> None:
    assert {path.stem for path in RECORDED.glob("*.bin")} == KNOWN.keys()


@pytest.mark.parametrize("name", KNOWN)
def test_a_header_of_haproxy_is_read(name: str) -> None:
    data, known = (RECORDED / f"{name}.bin").read_bytes(), KNOWN[name]
    assert complete(data) == known
    assert byte_by_byte(data) == (len(data), known)
    for place in range(1, len(data)):
        reader = ProxyHeaderReader()
        assert reader.feed(data[:place]) is None
        assert reader.rest == b""
        assert reader.feed(data[place:] + b"GET /") == known
        assert reader.rest == b"GET /"
    seen = read_by_package(data)
    assert seen is not None
    assert_same(known, seen)


@pytest.mark.parametrize("name", ["v2-tls", "v2-tls-certificate"])
def test_the_checksum_covers_every_byte_of_haproxys_header(name: str) -> None:
    data = (RECORDED / f"{name}.bin").read_bytes()
    for place in range(16, len(data)):
        with pytest.raises(BadProxyHeader):
            read(data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :])


@pytest.mark.parametrize("name", ["v1-tcp4", "v1-tcp6", "v1-unix", "v2-tcp4", "v2-tcp6"])
def test_what_is_written_is_what_haproxy_writes(name: str) -> None:
    known = KNOWN[name]
    write = write_v1 if known.version == 1 else write_v2
    assert write(known.source, known.destination) == (RECORDED / f"{name}.bin").read_bytes()
    assert (RECORDED / "v2-local.bin").read_bytes() == LOCAL


# Version 1.

LONGEST_V6 = ":".join(["ffff"] * 8)

GOOD_V1: dict[bytes, tuple[Address, Address] | None] = {
    b"PROXY TCP4 192.0.2.1 192.0.2.2 8080 443\r\n": (SOURCE, DESTINATION),
    b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n": (("0.0.0.0", 0), ("255.255.255.255", 65535)),
    b"PROXY TCP6 2001:db8::1 2001:DB8::ABCD 1 2\r\n": (("2001:db8::1", 1), ("2001:db8::abcd", 2)),
    b"PROXY TCP6 2001:0db8:0:0:0:0:0:1 1:2:3:4:5:6:7:: 1 2\r\n": (("2001:db8::1", 1), ("1:2:3:4:5:6:7:0", 2)),
    b"PROXY TCP6 :: ::1 1 2\r\n": (("::", 1), ("::1", 2)),
    b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c000:202 8080 443\r\n": (SOURCE, DESTINATION),
    f"PROXY TCP6 {LONGEST_V6} {LONGEST_V6} 65535 65535\r\n".encode(): ((LONGEST_V6, 65535), (LONGEST_V6, 65535)),
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY UNKNOWN \r\n": None,
    b"PROXY UNKNOWN anything \0 \r at \n all\xff\r\n": None,
    b"PROXY UNKNOWN 192.0.2.1 192.0.2.2 8080 443\r\n": None,
    f"PROXY UNKNOWN {LONGEST_V6} {LONGEST_V6} 65535 65535\r\n".encode(): None,
    b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n": None,
}


@pytest.mark.parametrize("line", GOOD_V1)
def test_a_line_of_version_1(line: bytes) -> None:
    addresses = GOOD_V1[line] or (None, None)
    known = ProxyHeader(1, False, *addresses, NO_TLVS, len(line))
    assert complete(line) == known
    assert byte_by_byte(line + b"\r\n") == (len(line), known)
    reader = ProxyHeaderReader()
    assert reader.feed(line + line) == known
    assert reader.rest == line


BAD_V1 = [
    b"PROXY \r\n", b"PROXY TCP4\r\n", b"PROXY TCP4 \r\n", b"PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n", b"PROXY TCP5 \r\n",
    b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n", b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY\tTCP4 192.0.2.1 192.0.2.2 1 2\r\n", b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY Unknown\r\n", b"PROXY UNKNOWNX\r\n", b"PROXY UNKNOWN\n", b"PROXY UNKNOWN\r\r\n", b"PROXY UNKNOWN\t\r\n",
    b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", b"PROXY UNKNOWN " + b"x" * 93, b"PROXY TCP4 " + b"1" * 96,
    b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n", b"PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", b"PROXY TCP4 192.0.2.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rx", b"PROXY TCP4 192.0.2.1\t",
    b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", b"PROXY TCP4 00.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n", b"PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1.1 192.0.2.2 1 2\r\n", b"PROXY TCP4 192.0.2.1 192.0..2 1 2\r\n",
    b"PROXY TCP4 ::1 ::1 1 2\r\n", b"PROXY TCP4 0x7f.0.0.1 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 00\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 99999\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 100000\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 1_0 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2  2\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 \xd9\xa1 2\r\n",
    b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n", b"PROXY TCP6 ::1 192.0.2.2 1 2\r\n", b"PROXY TCP6 ::1::2 ::1 1 2\r\n",
    b"PROXY TCP6 1:2:3:4:5:6:7 ::1 1 2\r\n", b"PROXY TCP6 1:2:3:4:5:6:7:8:9 ::1 1 2\r\n",
    b"PROXY TCP6 00001::1 ::1 1 2\r\n", b"PROXY TCP6 ::g ::1 1 2\r\n", b"PROXY TCP6 ::1%1 ::1 1 2\r\n",
    b"PROXY TCP6 [::1] ::1 1 2\r\n", b"PROXY TCP6 :1 ::1 1 2\r\n", b"PROXY TCP6 ::ffff:192.0.2.01 ::1 1 2\r\n",
    b"PROXY TCP6 : ::1 1 2\r\n",
]  # fmt: skip


@pytest.mark.parametrize("line", BAD_V1)
def test_a_line_that_is_refused(line: bytes) -> None:
    with pytest.raises(BadProxyHeader) as whole:
        read(line)
    assert str(whole.value).isprintable()
    size, bad = byte_by_byte(line)
    assert isinstance(bad, BadProxyHeader)
    if size < len(line):
        with pytest.raises(BadProxyHeader):
            read(line[:size])


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b"PROX", b"x"), (b"PROXY", b"\r"), (b"PROXY ", b"t"), (b"PROXY TC", b"X"), (b"PROXY TCP4", b"\r"),
        (b"PROXY TCP4 1", b"a"), (b"PROXY TCP4 1", b":"), (b"PROXY TCP6 a", b"g"), (b"PROXY TCP4 1", b"\n"),
        (b"PROXY TCP4 1\r", b"\r"), (b"PROXY UNKNOWN", b"x"), (b"PROXY UNKNOWN\r", b"x"),
        (b"\r\n\r\n\0\r\nQUIT", b"\r"),
        (SIGNATURE, b"\x22"), (SIGNATURE, b"\x11"), (SIGNATURE, b"\x31"), (SIGNATURE + b"\x21", b"\x41"),
        (SIGNATURE + b"\x21", b"\x13"), (SIGNATURE + b"\x21\x11\0", b"\x0b"), (SIGNATURE + b"\x21\x22\0", b"\x23"),
        (SIGNATURE + b"\x21\x31\0", b"\xd7"), (SIGNATURE + b"\x21\x11\x0f", b"\xf1"),
        (SIGNATURE + b"\x20\0\x0f", b"\xf1"),
    ],
)  # fmt: skip
def test_a_header_is_refused_at_the_first_byte_that_spoils_it(good: bytes, bad: bytes) -> None:
    assert read(good) is None
    assert byte_by_byte(good + bad)[0] == len(good + bad)
    assert isinstance(byte_by_byte(good + bad)[1], BadProxyHeader)
    with pytest.raises(BadProxyHeader):
        read(good + bad)


# Version 2.

V6 = bytes(range(16)) + b"\x20\1" + bytes(13) + b"\1\0\1\0\2"
MAPPED = bytes(10) + b"\xff\xff"
NAMES = TLVs(b"h2", "a.example", bytes(128))

GOOD_V2: dict[str, tuple[bytes, ProxyHeader]] = {
    "IPv4": (version_2(INET), found(SOURCE, DESTINATION)),
    "IPv6": (version_2(V6, family=0x21), found(("1:203:405:607:809:a0b:c0d:e0f", 1), ("2001::1", 2))),
    "IPv4-mapped": (
        version_2(MAPPED + INET[:4] + MAPPED + INET[4:], family=0x21), found(SOURCE, DESTINATION),
    ),
    "unix": (version_2(b"/a".ljust(216, b"\0"), family=0x31), found(None, None)),
    "unix with TLVs": (
        version_2(bytes(216) + tlv(1, b"h2"), family=0x31), found(None, None, TLVs(b"h2")),
    ),
    "unix datagrams": (version_2(bytes(216), family=0x32), found(None, None)),
    "UDP": (version_2(INET + tlv(1, b"h3"), family=0x12), found(None, None, TLVs(b"h3"))),
    "no family": (version_2(b"", family=0), found(None, None)),
    "no family, anything behind it": (version_2(b"\xff" * 99, family=0), found(None, None)),
    "no family, a protocol": (version_2(b"", family=1), found(None, None)),
    "a family, no protocol": (version_2(b"", family=0x10), found(None, None)),
    "a family, no protocol, anything behind it": (version_2(INET + b"\xff" * 3, family=0x10), found(None, None)),
    "local": (LOCAL, ProxyHeader(2, True, None, None, NO_TLVS, 0)),
    "local with addresses": (version_2(INET, 0x20), ProxyHeader(2, True, None, None, NO_TLVS, 0)),
    "local with anything": (version_2(b"\xff" * 5, 0x20, 0xFF), ProxyHeader(2, True, None, None, NO_TLVS, 0)),
    "names": (with_tlvs(tlv(2, b"a.example"), tlv(5, bytes(128)), tlv(1, b"h2")), found(SOURCE, DESTINATION, NAMES)),
    "empty values": (
        with_tlvs(tlv(1, b""), tlv(2, b""), tlv(5, b"")), found(SOURCE, DESTINATION, TLVs(b"", "", b"")),
    ),
    "padding": (with_tlvs(tlv(4, b"\xff"), tlv(4, b"")), found(SOURCE, DESTINATION)),
    "unknown types": (
        with_tlvs(tlv(0xEA, b"\1vpce"), tlv(0x30, b"ns"), tlv(0xEA, b"")),
        found(SOURCE, DESTINATION, TLVs(others=((0xEA, b"\1vpce"), (0x30, b"ns"), (0xEA, b"")))),
    ),
    "SSL without TLS": (
        with_tlvs(tlv(0x20, bytes(5))), found(SOURCE, DESTINATION, TLVs(tls=ProxiedTLS(False))),
    ),
    "SSL": (
        with_tlvs(tlv(0x20, b"\7\0\0\0\0" + tlv(0x22, "Zoë".encode()) + tlv(0x99, b"\0") + tlv(0x21, b"TLSv1.2"))),
        found(SOURCE, DESTINATION, TLVs(tls=ProxiedTLS(True, True, True, True, "TLSv1.2", "Zoë"))),
    ),
    "SSL with a certificate that is not verified": (
        with_tlvs(tlv(0x20, b"\3\0\0\0\x0a")), found(SOURCE, DESTINATION, TLVs(tls=ProxiedTLS(True, True))),
    ),
    "SSL with a certificate of an earlier connection": (
        with_tlvs(tlv(0x20, b"\5\0\0\0\0")),
        found(SOURCE, DESTINATION, TLVs(tls=ProxiedTLS(True, False, True, True))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD_V2)
def test_a_header_of_version_2(name: str) -> None:
    data, known = GOOD_V2[name]
    known = evolve(known, size=len(data))
    assert complete(data) == known
    assert byte_by_byte(data + b"x") == (len(data), known)
    reader = ProxyHeaderReader()
    assert reader.feed(data + data) == known
    assert reader.rest == data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (version_2(INET, 0x22), "command"),
        (version_2(INET, 0x11), "version"),
        (version_2(INET, family=0x41), "family"),
        (version_2(INET, family=0x13), "family or protocol"),
        (version_2(INET[:-1]), "too short"),
        (version_2(V6[:-1], family=0x21), "too short"),
        (version_2(bytes(215), family=0x31), "too short"),
        (with_tlvs(b"\1"), "cut off"),
        (with_tlvs(b"\1\0"), "cut off"),
        (with_tlvs(b"\1\0\1"), "cut off"),
        (with_tlvs(tlv(0xEE, b"x")[:-1]), "cut off"),
        (with_tlvs(tlv(5, bytes(129))), "unique ID is longer than 128 bytes"),
        (with_tlvs(tlv(2, b"\xff")), "authority is not UTF-8"),
        (with_tlvs(tlv(2, b"a\r\nb")), "authority contains a control character"),
        (with_tlvs(tlv(2, b"\xc2\x85")), "authority contains a control character"),
        (with_tlvs(tlv(3, bytes(3))), "CRC32c is not 4 bytes long"),
        (with_tlvs(tlv(3, bytes(4))), "wrong CRC32c"),
        (with_tlvs(tlv(0x20, bytes(4))), "SSL is too short"),
        (with_tlvs(tlv(0x20, bytes(5) + b"\x21\0\1")), "cut off"),
        (with_tlvs(tlv(0x20, bytes(5) + tlv(0x22, b"\0"))), "SSL CN contains a control character"),
        (with_tlvs(tlv(0x20, bytes(5) + tlv(0x22, b"\xff"))), "SSL CN is not UTF-8"),
        (with_tlvs(tlv(0x20, bytes(5) + tlv(0x23, "Zoë".encode()))), "SSL cipher is not ASCII"),
        (with_tlvs(tlv(0x20, bytes(5) + tlv(0x21, b"a") * 2)), "two TLVs of the type SSL version"),
        *((with_tlvs(tlv(kind, b"") * 2), "two TLVs") for kind in (1, 2, 5)),
        (write_v2(SOURCE, DESTINATION, TLVs(others=((3, b"\0\0\0\0"),)), checksum=True), "wrong CRC32c"),
    ],
)
def test_a_header_of_version_2_that_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(BadProxyHeader, match=why):
        read(data)
    assert isinstance(byte_by_byte(data)[1], BadProxyHeader)


def test_a_second_checksum_is_refused() -> None:
    """Even when the first one is right, which covers the second."""
    data = with_tlvs(tlv(3, bytes(4)), tlv(3, bytes(4)))
    data = data[:31] + crc32c(data).to_bytes(4, "big") + data[35:]
    with pytest.raises(BadProxyHeader, match="two TLVs of the type CRC32c"):
        read(data)


def test_the_longest_header() -> None:
    data = with_tlvs(tlv(4, bytes(4096 - 31)))
    assert len(data) == 4096
    assert read(data) is not None
    with pytest.raises(BadProxyHeader, match="longer than 4095 bytes"):
        read(data[:16], 4095)
    longest = with_tlvs(tlv(4, bytes(65535 - 15)))
    assert read(longest, 65551) is not None
    with pytest.raises(BadProxyHeader, match="longer than 4096 bytes"):
        read(longest)


# Whether there is a header.


@pytest.mark.parametrize("header", [b"PROXY TCP4 ", b"PROXY UNKNOWN\r\n", b"PROXY x", LOCAL, SIGNATURE])
def test_a_stream_that_begins_with_a_header(header: bytes) -> None:
    needed = 6 if header.startswith(b"P") else 12
    assert [begins_with_header(header[:size]) for size in range(len(header) + 1)] == [
        None if size < needed else True for size in range(len(header) + 1)
    ]


@pytest.mark.parametrize(
    "data", [b"GET /", b"POST /", b"PROPFIND", b"PROXY\r\n", b"\r\n\r\nGET", b"\r\nG", b"\x16\3\1", b"proxy ", b"\n"]
)
def test_a_stream_that_does_not(data: bytes) -> None:
    assert begins_with_header(data) is False
    with pytest.raises(BadProxyHeader, match="no PROXY header"):
        read(data)


# Checksums.


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # RFC 3720, appendix B.4, as the three below
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum


# Properties.

ports = st.integers(0, 65535)
ipv4 = st.tuples(st.ip_addresses(v=4).map(str), ports)
ipv6 = st.tuples(
    st.ip_addresses(v=6).filter(lambda one: isinstance(one, ipaddress.IPv6Address) and not one.ipv4_mapped).map(str),
    ports,
)
addresses = st.tuples(ipv4, ipv4) | st.tuples(ipv6, ipv6) | st.tuples(ipv4, ipv6) | st.tuples(ipv6, ipv4)
texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20)
tls = st.builds(
    lambda is_tls, has, had, verified, version, name, cipher: ProxiedTLS(
        is_tls, has, had, verified and (has or had), version, name, cipher
    ),
    st.booleans(), st.booleans(), st.booleans(), st.booleans(),
    st.none() | st.sampled_from(("TLSv1.2", "TLSv1.3")), st.none() | texts,
    st.none() | st.just("TLS_AES_128_GCM_SHA256"),
)  # fmt: skip
all_tlvs = st.builds(
    TLVs,
    st.none() | st.binary(max_size=20),
    st.none() | texts,
    st.none() | st.binary(max_size=128),
    st.none() | tls,
    st.lists(st.tuples(st.integers(0x30, 0xFF), st.binary(max_size=40)), max_size=3, unique_by=lambda one: one[0]).map(
        tuple
    ),
)
sizes = st.lists(st.integers(1, 40), max_size=8)


def fed(data: bytes, pieces: Iterable[int]) -> ProxyHeader | None:
    """The result of a reader that gets pieces of these sizes, and then the rest."""
    reader = ProxyHeaderReader()
    for size in pieces:
        if 0 < size < len(data):
            assert reader.feed(data[:size]) is None
            data = data[size:]
    return reader.feed(data)


@given(addresses, all_tlvs, st.booleans(), sizes)
def test_version_2_is_read_as_it_was_written(
    pair: tuple[Address, Address], tlvs: TLVs, checksum: bool, pieces: list[int]
) -> None:
    data = write_v2(*pair, tlvs, checksum=checksum)
    assert fed(data, pieces) == ProxyHeader(2, False, *pair, tlvs, len(data))
    seen = read_by_package(data)
    assert seen is not None
    assert_same(complete(data), seen)


@given(addresses, sizes)
def test_version_1_is_read_as_it_was_written(pair: tuple[Address, Address], pieces: list[int]) -> None:
    data = write_v1(*pair)
    assert len(data) <= 104
    assert fed(data, pieces) == ProxyHeader(1, False, *pair, NO_TLVS, len(data))
    seen = read_by_package(data)
    assert seen is not None
    assert_same(complete(data), seen)


@examples(300)
@given(
    st.sampled_from([*GOOD_V1, *(data for data, _ in GOOD_V2.values())]),
    st.integers(0, 60),
    st.binary(max_size=2),
    st.integers(0, 2),
)
def test_a_changed_header_is_refused_at_the_same_byte_in_every_split(
    data: bytes, place: int, put: bytes, removed: int
) -> None:
    data = data[:place] + put + data[place + removed :]
    size, result = byte_by_byte(data)
    if isinstance(result, BadProxyHeader):
        assert size == 1 or read(data[: size - 1]) is None
        with pytest.raises(BadProxyHeader):
            read(data)
    else:
        assert read(data) == result


def test_writing_addresses() -> None:
    assert write_v1(("192.0.2.1", 1), ("2001:db8::2", 2)) == b"PROXY TCP6 ::ffff:c000:201 2001:db8::2 1 2\r\n"
    assert write_v1(("fe80::1%eth0", 1), ("fe80::2%2", 2)) == b"PROXY TCP6 fe80::1 fe80::2 1 2\r\n"
    assert write_v1(("::ffff:192.0.2.1", 1), ("::1", 2)) == b"PROXY TCP6 ::ffff:c000:201 ::1 1 2\r\n"
    for source, destination in ((None, DESTINATION), (SOURCE, None), (None, None)):
        assert write_v1(source, destination) == b"PROXY UNKNOWN\r\n"
        assert write_v2(source, destination) == version_2(b"", family=0)
        assert write_v2(source, destination, TLVs(b"h2")) == version_2(tlv(1, b"h2"), family=0)


@pytest.mark.parametrize(
    "tlvs", [TLVs(unique_id=bytes(129)), TLVs(others=((0xE0, bytes(65536)),)), TLVs(others=((0xE0, bytes(65530)),))]
)
def test_tlvs_that_are_too_long_cannot_be_written(tlvs: TLVs) -> None:
    with pytest.raises(ValueError, match="longer than"):
        write_v2(SOURCE, DESTINATION, tlvs)


# The package proxy-protocol as an oracle.


@given(st.tuples(ipv4, ipv4) | st.tuples(ipv6, ipv6))
def test_version_1_of_the_package_is_read(pair: tuple[Address, Address]) -> None:
    source, destination = ((ipaddress.ip_address(host), port) for host, port in pair)
    kind = ProxyResultIPv4 if source[0].version == 4 else ProxyResultIPv6
    data = ProxyProtocolV1().pack(kind(source, destination))
    assert complete(data) == ProxyHeader(1, False, *pair, NO_TLVS, len(data))


@given(st.tuples(ipv4, ipv4) | st.tuples(ipv6, ipv6), all_tlvs)
def test_version_2_of_the_package_is_read(pair: tuple[Address, Address], tlvs: TLVs) -> None:
    assume(tlvs.tls != ProxiedTLS(is_tls=False))  # then the package leaves the whole TLV out
    of_tls = tlvs.tls and ProxyProtocolSSLTLV(
        has_ssl=tlvs.tls.is_tls,
        has_cert_conn=tlvs.tls.has_certificate,
        has_cert_sess=tlvs.tls.had_certificate,
        verified=tlvs.tls.is_verified,
        version=tlvs.tls.version,
        cn=tlvs.tls.common_name,
        cipher=tlvs.tls.cipher,
    )
    of_package = ProxyProtocolTLV(
        init=dict(tlvs.others), alpn=tlvs.alpn, authority=tlvs.authority, unique_id=tlvs.unique_id, ssl=of_tls
    )
    source, destination = ((ipaddress.ip_address(host), port) for host, port in pair)
    kind = ProxyResultIPv4 if source[0].version == 4 else ProxyResultIPv6
    data = ProxyProtocolV2().pack(kind(source, destination, protocol=SOCK_STREAM, tlv=of_package))
    known = evolve(tlvs, others=tuple(sorted(tlvs.others)))  # the package sorts them by type
    assert complete(data) == ProxyHeader(2, False, *pair, known, len(data))
    assert ProxyProtocolV2().pack(ProxyResultLocal()) == LOCAL


@examples(300)
@given(st.sampled_from([*GOOD_V1, *BAD_V1]), st.integers(0, 60), st.binary(max_size=2), st.integers(0, 2))
def test_what_is_accepted_of_version_1_the_package_accepts(line: bytes, place: int, put: bytes, removed: int) -> None:
    line = line[:place] + put + line[place + removed :]
    try:
        header = read(line)
    except BadProxyHeader:
        return
    if header is not None and not line.startswith(b"PROXY UNKNOWN"):
        seen = read_by_package(line[: header.size])
        assert seen is not None
        assert_same(header, seen)


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",  # no leading zeros (section 2.1)
        b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",  # int() takes more than digits
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1_0 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 \n1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",  # no zones
        b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n",  # at most 107 bytes
        version_2(INET, family=0x41),  # unspecified families must be rejected (section 2.2)
        version_2(INET, family=0x1F),  # and protocols
        with_tlvs(b"\1"),  # half a TLV
        with_tlvs(tlv(1, b"a") + tlv(1, b"b")),  # one of two
        with_tlvs(tlv(5, bytes(129))),  # at most 128 bytes (section 2.2.5)
        with_tlvs(tlv(3, bytes(4))),  # the checksum: verified only with another package (section 2.2.3)
    ],
)
def test_where_the_package_is_wrong(data: bytes) -> None:
    assert read_by_package(data) is not None
    with pytest.raises(BadProxyHeader):
        read(data)


def test_where_the_package_reads_more_or_less() -> None:
    """Addresses of datagrams are not those of this connection; TLVs of LOCAL are to be discarded with its addresses."""
    seen = read_by_package(version_2(INET, family=0x12))
    assert seen is not None
    assert seen.source == SOURCE
    assert complete(version_2(INET, family=0x12)).source is None
    seen = read_by_package(version_2(tlv(1, b"h2"), 0x20, 0))
    assert seen is not None
    assert seen.tlvs.alpn == b"h2"
    assert complete(version_2(tlv(1, b"h2"), 0x20, 0)).tlvs == NO_TLVS
