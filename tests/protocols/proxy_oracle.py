"""The package proxy-protocol as an oracle for the PROXY protocol."""

from __future__ import annotations

from dataclasses import dataclass

from attrs import evolve
from proxyprotocol import ProxyProtocolIncompleteError
from proxyprotocol.result import ProxyResultIPv4, ProxyResultIPv6
from proxyprotocol.tlv import ProxyProtocolTLV
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

from ktcpvs.protocols.proxy_protocol import Address, ProxiedTLS, ProxyHeader, TLVs


@dataclass
class Seen:
    """The facts that the package reads in a header."""

    is_local: bool
    source: Address | None
    destination: Address | None
    tlvs: ProxyProtocolTLV


def read_by_package(header: bytes) -> Seen | None:
    """Return the facts that the package reads in these bytes, which must be the header alone; None: it refuses them."""
    version_1 = header.startswith(b"PROXY")
    try:
        result = (ProxyProtocolV1() if version_1 else ProxyProtocolV2()).unpack(header)
    except (ValueError, KeyError, ProxyProtocolIncompleteError):
        return None
    if isinstance(result, ProxyResultIPv4 | ProxyResultIPv6):
        return Seen(False, _address(result.source), _address(result.dest), result.tlv)
    return Seen(not result.proxied, None, None, result.tlv)


def _address(pair: tuple[object, int]) -> Address:
    """The package leaves IPv4-mapped addresses as they are."""
    mapped = getattr(pair[0], "ipv4_mapped", None)
    return str(mapped or pair[0]), pair[1]


def assert_same(header: ProxyHeader, seen: Seen) -> None:
    """Compare what both have read in one header."""
    assert (header.is_local, header.source, header.destination) == (seen.is_local, seen.source, seen.destination)
    if header.source is not None:
        # Of several with one unknown type, the package knows the last one.
        others = tuple(dict(header.tlvs.others).items())
        assert evolve(header.tlvs, others=others) == _tlvs(seen.tlvs)


def _tlvs(tlvs: ProxyProtocolTLV) -> TLVs:
    known = (1, 2, 3, 4, 5, 0x20)
    ssl = tlvs.ssl
    tls = ProxiedTLS(
        ssl.has_ssl, ssl.has_cert_conn, ssl.has_cert_sess, ssl.verified and (ssl.has_cert_conn or ssl.has_cert_sess),
        ssl.version, ssl.cn, ssl.cipher, ssl.sig_alg, ssl.key_alg,
    )  # fmt: skip
    return TLVs(
        tlvs.alpn,
        tlvs.authority,
        tlvs.get(5),
        tls if 0x20 in tlvs else None,
        tuple((kind, tlvs[kind]) for kind in tlvs if kind not in known),
    )
