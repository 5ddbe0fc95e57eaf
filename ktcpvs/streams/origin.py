"""The client for which a server connection is made, and the header of the PROXY protocol that tells the server."""

from __future__ import annotations

import re
import secrets

from attrs import frozen

from ktcpvs.protocols.proxy_protocol import LOCAL, Address, ProxiedTLS, TLVs, write_v1, write_v2
from ktcpvs.streams.contract import SocketAddress, TLSFacts
from ktcpvs.streams.stream import Stream

UNIQUE_ID_BYTES = 16
"""Random bytes of a unique ID, which is sent in hexadecimal."""

_ATTRIBUTES = re.compile(r"(?:\\.|[^\\,+])+", re.DOTALL)
_ESCAPES = re.compile(rb"\\(?:([0-9A-F]{2})|(.))", re.DOTALL)


@frozen
class Origin:
    """A client.

    source: its address. destination: the address that it has called. None for both: it has no IP address, as on a unix
    socket. server_name: the one in its ClientHello, where that is passed on; None: there is none. tls: of its
    connection, where TLS ends here; None: it does not.
    """

    source: Address | None = None
    destination: Address | None = None
    server_name: str | None = None
    tls: TLSFacts | None = None


def proxy_header(version: str, origin: Origin | None, stream: Stream) -> bytes:
    """Return the header for a server connection that has just been made.

    version: v1 or v2. origin: its client; None: the switch itself, as for health checks. stream: the connection.
    """
    if version == "v1":
        if origin is None:  # servers may refuse unknown clients (proxy-protocol.txt, section 2.1)
            return write_v1(_tcp_address(stream.local_address), _tcp_address(stream.peer_address))
        return write_v1(origin.source, origin.destination)
    if origin is None:
        return LOCAL
    return write_v2(origin.source, origin.destination, _tlvs(origin))


def _tcp_address(address: SocketAddress) -> Address | None:
    return (address[0], address[1]) if isinstance(address, tuple) else None


def _tlvs(origin: Origin) -> TLVs:
    tls = origin.tls
    return TLVs(
        alpn=tls.alpn.encode() if tls is not None and tls.alpn is not None else None,
        authority=tls.sni if tls is not None else origin.server_name,
        unique_id=secrets.token_hex(UNIQUE_ID_BYTES).encode(),
        tls=None if tls is None else _proxied(tls),
    )


def _proxied(tls: TLSFacts) -> ProxiedTLS:
    has_certificate = tls.certificate is not None  # one that was shown has been verified
    return ProxiedTLS(
        has_certificate=has_certificate and not tls.is_resumed,
        had_certificate=has_certificate,
        is_verified=has_certificate,
        version=tls.version,
        cipher=tls.cipher or None,
        common_name=common_name(tls.certificate_subject),
    )


def common_name(subject: str) -> str | None:
    """Return the most specific common name of a subject in the form of RFC 4514. None: it has none, or one with control
    characters, which receivers may refuse."""
    value = next((found[3:] for found in _ATTRIBUTES.findall(subject) if found.startswith("CN=")), None)
    if value is None:
        return None
    raw = _ESCAPES.sub(lambda escape: bytes.fromhex(escape[1].decode()) if escape[1] else escape[2], value.encode())
    name = raw.decode(errors="replace")
    return name if name.isprintable() else None
