"""Fuzz targets for what comes before a protocol: a TLS ClientHello, and a header of the PROXY protocol.

Each target takes any bytes and returns; an AssertionError or any other exception is a find.
"""

from __future__ import annotations

from collections.abc import Callable

from ktcpvs.protocols.client_hello import (
    MAX_HANDSHAKE_BYTES,
    BadHello,
    ClientHello,
    ClientHelloReader,
    NotTLS,
    host_name,
    read_whole,
)
from ktcpvs.protocols.proxy_protocol import (
    BadProxyHeader,
    ProxyHeader,
    ProxyHeaderReader,
    begins_with_header,
    write_v1,
    write_v2,
)
from tests.fuzz.messages import SIZES, only, pieces
from tests.protocols.hello_oracle import NEVER, seen_by_openssl
from tests.protocols.proxy_oracle import assert_same, read_by_package

# ClientHello.


def hello(data: bytes) -> None:
    """A ClientHello: read in one way however it is split and in both forms, and OpenSSL sees the same names."""
    found = only([_hello(data, size) for size in SIZES])
    assert read_whole(data) in (None, found)
    if not isinstance(found, ClientHello):
        return
    assert 0 < found.size <= min(len(data), 6 * MAX_HANDSHAKE_BYTES)
    assert found.server_name is None or host_name(found.server_name.encode()) == found.server_name
    offered = [one.decode("ascii") for one in found.protocols if one.isascii()]
    seen = seen_by_openssl(data[: found.size], *(offered or ["h2"]))
    if seen.name is None:
        assert found.server_name is None
    elif seen.name != NEVER:
        assert host_name(seen.name.encode()) == found.server_name, seen
    if seen.failure is None:
        assert seen.protocol == (offered[0] if offered else None), seen


def _hello(data: bytes, size: int) -> ClientHello | tuple[int, str] | str:
    """The outcome of a reader for `data` in pieces."""
    reader = ClientHelloReader()
    fed = b""
    try:
        for piece in pieces(data, size):
            fed += piece
            found = reader.feed(piece)
            assert reader.received == fed, "a reader looks and never eats"
            if found is not None:
                return found
    except BadHello as bad:
        assert str(bad).isprintable()
        return bad.alert, str(bad)
    except NotTLS:
        assert data[:2] != b"\x16\x03"
        return "not TLS"
    return "begun"


# The PROXY protocol.


def proxy(data: bytes) -> None:
    """A header: read in one way however it is split, written as it was read, and a package reads the same."""
    found = only([_proxy(data, size) for size in SIZES])
    begins = begins_with_header(data)
    if begins is not True:
        assert found == ("begun" if begins is None else "refused")
    if isinstance(found, ProxyHeader):
        _survives(found)
        seen = read_by_package(data[: found.size])
        # What is to be ignored, the package reads: TLVs of LOCAL, addresses of unix sockets and datagrams.
        if seen is not None and found.source is not None:
            assert_same(found, seen)
        assert seen is not None or found.source is None, "the package refuses it"


def _proxy(data: bytes, size: int) -> ProxyHeader | str:
    """The outcome of a reader for `data` in pieces."""
    reader = ProxyHeaderReader()
    fed = b""
    try:
        for piece in pieces(data, size):
            fed += piece
            found = reader.feed(piece)
            assert reader.received == fed, "a reader looks and never eats"
            if found is not None:
                assert reader.rest == fed[found.size :]
                return found
    except BadProxyHeader as bad:
        assert str(bad).isprintable()
        return "refused"
    return "begun"


def _survives(header: ProxyHeader) -> None:
    if header.source is None:
        return
    for again in (
        write_v2(header.source, header.destination, header.tlvs),
        write_v2(header.source, header.destination, header.tlvs, checksum=True),
    ):
        read = ProxyHeaderReader(1 << 16).feed(again)
        assert read is not None
        assert (read.source, read.destination, read.tlvs) == (header.source, header.destination, header.tlvs)
    read = ProxyHeaderReader().feed(write_v1(header.source, header.destination))
    assert read is not None
    assert (read.source, read.destination) == (header.source, header.destination)


TARGETS: dict[str, Callable[[bytes], None]] = {"hello": hello, "proxy": proxy}
