"""The PROXY protocol, versions 1 and 2: a header with which a proxy tells a server who its client is.

The specification is HAProxy's proxy-protocol.txt, whose sections are named here. A reader must not guess whether a
stream begins with a header (section 5): the caller knows which clients must send one, and `begins_with_header` finds
the header of a client that must not.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator

from attrs import frozen

Address = tuple[str, int]
"""IP address and port."""

MAX_V1_BYTES = 107
"""The longest header of version 1, CR LF included (section 2.1)."""

MAX_UNIQUE_ID_BYTES = 128
"""Section 2.2.5."""

_V1_BEGIN = b"PROXY "
_V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V2_HEADER_BYTES = 16
_V2_LOCAL, _V2_PROXY = 0x20, 0x21  # version and command

_UNSPECIFIED, _INET, _INET6, _UNIX = range(4)  # address families; also 0: unspecified protocol
_STREAM, _DGRAM = 1, 2
_ADDRESS_BYTES = {_UNSPECIFIED: 0, _INET: 12, _INET6: 36, _UNIX: 216}

# Types of TLVs (section 2.2), and of those within that of TLS (section 2.2.6).
_ALPN, _AUTHORITY, _CRC32C, _NOOP, _UNIQUE_ID, _TLS = 0x01, 0x02, 0x03, 0x04, 0x05, 0x20
_KNOWN = (_ALPN, _AUTHORITY, _CRC32C, _UNIQUE_ID, _TLS)
_VERSION, _COMMON_NAME, _CIPHER, _SIGNATURE_ALGORITHM, _KEY_ALGORITHM = range(0x21, 0x26)
_TLS_TEXTS = (_VERSION, _COMMON_NAME, _CIPHER, _SIGNATURE_ALGORITHM, _KEY_ALGORITHM)  # as the fields of ProxiedTLS
_NAMES = {
    _ALPN: "ALPN",
    _AUTHORITY: "authority",
    _CRC32C: "CRC32c",
    _UNIQUE_ID: "unique ID",
    _TLS: "SSL",
    _VERSION: "SSL version",
    _COMMON_NAME: "SSL CN",
    _CIPHER: "SSL cipher",
    _SIGNATURE_ALGORITHM: "SSL signature algorithm",
    _KEY_ALGORITHM: "SSL key algorithm",
}
_IS_TLS, _CERTIFICATE_CONNECTION, _CERTIFICATE_SESSION = 1, 2, 4  # bits of `client`

_CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f]")

# A line of version 1 (section 2.1). What has come of one matches _V1_BEGUN.
_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rb"(?:%b\.){3}%b" % (_OCTET, _OCTET)
_IPV6 = rb"[0-9A-Fa-f:.]+"  # ipaddress checks its form; RFC 5952 writes IPv4-mapped addresses with dots
_PORT = rb"(?:0|[1-9][0-9]{0,4})"
_V1 = re.compile(
    rb"PROXY (?:UNKNOWN(?: .*)?|TCP4 (%b) (%b) (%b) (%b)|TCP6 (%b) (%b) (%b) (%b))\r\n"
    % (_IPV4, _IPV4, _PORT, _PORT, _IPV6, _IPV6, _PORT, _PORT),
    re.DOTALL,
)
_V1_FAMILIES = (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN ", b"PROXY UNKNOWN\r\n")
_V1_BEGUN = re.compile(rb"PROXY (?:UNKNOWN .*|TCP4 [0-9. ]*\r?|TCP6 [0-9A-Fa-f:. ]*\r?)", re.DOTALL)


class BadProxyHeader(Exception):
    """A header that breaks the protocol; str() says how, in one line. The connection must be closed (section 2)."""


@frozen
class ProxiedTLS:
    """The TLS connection of the client to the proxy (section 2.2.6).

    is_tls: the client came over TLS. has_certificate: it has shown a certificate on this connection;
    had_certificate: or on an earlier one of the same session. is_verified: the proxy has verified it. version, cipher:
    such as TLSv1.3. common_name: of the certificate's subject. signature_algorithm, key_algorithm: of the proxy's own
    certificate. None: not told.
    """

    is_tls: bool = True
    has_certificate: bool = False
    had_certificate: bool = False
    is_verified: bool = False
    version: str | None = None
    common_name: str | None = None
    cipher: str | None = None
    signature_algorithm: str | None = None
    key_algorithm: str | None = None


@frozen
class TLVs:
    """The TLVs of a header of version 2. None: the header has no such TLV.

    alpn: the protocol of the connection. authority: the host that the client has named, such as the server name of TLS.
    unique_id: identifies the connection. others: type and value of those that are not known here, as they came.
    """

    alpn: bytes | None = None
    authority: str | None = None
    unique_id: bytes | None = None
    tls: ProxiedTLS | None = None
    others: tuple[tuple[int, bytes], ...] = ()


NO_TLVS = TLVs()


@frozen
class ProxyHeader:
    """A header.

    version: 1 or 2. is_local: the proxy itself is the client, as with health checks. source, destination: the client's
    address and the one that it has called; None: they are those of the connection, or not of TCP. size: bytes of the
    header.
    """

    version: int
    is_local: bool
    source: Address | None
    destination: Address | None
    tlvs: TLVs
    size: int


def begins_with_header(data: bytes | bytearray) -> bool | None:
    """True when the stream that begins with `data` begins with a header of either version. None: more is needed."""
    if data.startswith((_V1_BEGIN, _V2_SIGNATURE)):
        return True
    begun = bytes(data[: len(_V2_SIGNATURE)])
    return None if _V1_BEGIN.startswith(begun) or _V2_SIGNATURE.startswith(begun) else False


class ProxyHeaderReader:
    """Collects bytes until a header is complete.

    max_size: bytes of a header of version 2, TLVs included. It consumes nothing: `received` holds every byte that came.
    """

    __slots__ = ("_header", "_max_size", "_size", "received")

    def __init__(self, max_size: int = 4096) -> None:
        self.received = bytearray()
        self._header: ProxyHeader | None = None
        self._max_size = max_size
        self._size: int | None = None  # of a header of version 2; None: not known yet

    @property
    def rest(self) -> bytes:
        """The bytes received after the complete header."""
        return b"" if self._header is None else bytes(self.received[self._header.size :])

    def feed(self, data: bytes) -> ProxyHeader | None:
        """Take more bytes; return the header when it is complete, else None. Raises BadProxyHeader."""
        self.received += data
        begins = begins_with_header(self.received)
        if begins is False:
            raise BadProxyHeader("this is no PROXY header")
        if begins:
            self._header = self._version_1() if self.received[0] == _V1_BEGIN[0] else self._version_2()
        return self._header

    def _version_1(self) -> ProxyHeader | None:
        line = bytes(self.received[:MAX_V1_BYTES])
        size = line.find(b"\r\n") + 2
        if size >= 2:
            return _read_v1(line[:size])
        if len(line) == MAX_V1_BYTES:
            raise BadProxyHeader(f"no CR LF within {MAX_V1_BYTES} bytes")
        if not (any(family.startswith(line) for family in _V1_FAMILIES) or _V1_BEGUN.fullmatch(line)):
            raise BadProxyHeader("malformed header of version 1")
        return None

    def _version_2(self) -> ProxyHeader | None:
        received = self.received
        if self._size is None:
            begun = received[len(_V2_SIGNATURE) : _V2_HEADER_BYTES]
            if begun and begun[0] not in (_V2_LOCAL, _V2_PROXY):
                raise BadProxyHeader("unknown version or command")
            is_local = begun[:1] == b"\x20"  # then the family is ignored
            if len(begun) > 1 and not is_local and (begun[1] >> 4 > _UNIX or begun[1] & 15 > _DGRAM):
                raise BadProxyHeader("unknown address family or protocol")
            if len(received) < _V2_HEADER_BYTES:
                return None
            size = int.from_bytes(begun[2:], "big")
            if _V2_HEADER_BYTES + size > self._max_size:
                raise BadProxyHeader(f"the header is longer than {self._max_size} bytes")
            if not is_local and begun[1] & 15 and size < _ADDRESS_BYTES[begun[1] >> 4]:
                raise BadProxyHeader("the header is too short for its addresses")
            self._size = _V2_HEADER_BYTES + size
        return _read_v2(bytes(received[: self._size])) if len(received) >= self._size else None


def _read_v1(line: bytes) -> ProxyHeader:
    found = _V1.fullmatch(line)
    if found is None:
        raise BadProxyHeader("malformed header of version 1")
    fields = [field.decode("ascii") for field in found.groups() if field is not None]
    if not fields:
        return ProxyHeader(1, False, None, None, NO_TLVS, len(line))
    try:
        kind = ipaddress.IPv4Address if line.startswith(_V1_FAMILIES[0]) else ipaddress.IPv6Address
        addresses = [_address_text(kind(field)) for field in fields[:2]]
    except ValueError:
        raise BadProxyHeader("malformed address") from None
    ports = [int(port) for port in fields[2:]]
    if max(ports) > 65535:
        raise BadProxyHeader("a port is higher than 65535")
    return ProxyHeader(1, False, (addresses[0], ports[0]), (addresses[1], ports[1]), NO_TLVS, len(line))


def _address_text(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """An IPv4-mapped address becomes the IPv4 address, as in the addresses that accept() returns."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _read_v2(header: bytes) -> ProxyHeader:
    """Read a complete header, whose first 16 bytes have been checked."""
    is_local = header[12] == _V2_LOCAL
    family, protocol = header[13] >> 4, header[13] & 15
    if is_local or family == _UNSPECIFIED or protocol == _UNSPECIFIED:
        # The rest is to be ignored; without a family, nothing says where TLVs would begin.
        return ProxyHeader(2, is_local, None, None, NO_TLVS, len(header))
    at = _V2_HEADER_BYTES + _ADDRESS_BYTES[family]
    tlvs = _read_tlvs(header, at)
    if family == _UNIX or protocol != _STREAM:
        return ProxyHeader(2, False, None, None, tlvs, len(header))
    addresses = header[_V2_HEADER_BYTES : at - 4]
    half = len(addresses) // 2
    hosts = [_address_text(ipaddress.ip_address(packed)) for packed in (addresses[:half], addresses[half:])]
    ports = [int.from_bytes(header[place : place + 2], "big") for place in (at - 4, at - 2)]
    return ProxyHeader(2, False, (hosts[0], ports[0]), (hosts[1], ports[1]), tlvs, len(header))


def _vectors(data: bytes, at: int, known: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
    """The TLVs of `data` from `at` to its end: type, place of the value, value (section 2.2).

    Those of the types in `known` may occur once each: nothing says which one of two counts.
    """
    seen: set[int] = set()
    while at < len(data):
        begin = at + 3
        end = begin + int.from_bytes(data[at + 1 : begin], "big")
        if begin > len(data) or end > len(data):
            raise BadProxyHeader("a TLV is cut off")
        kind = data[at]
        if kind in seen and kind in known:
            raise BadProxyHeader(f"two TLVs of the type {_NAMES[kind]}")
        seen.add(kind)
        yield kind, begin, data[begin:end]
        at = end


def _read_tlvs(header: bytes, at: int) -> TLVs:
    found: dict[int, bytes] = {}
    others = []
    for kind, place, value in _vectors(header, at, _KNOWN):
        if kind == _CRC32C:
            _check_crc32c(header, place, value)
        elif kind in (_ALPN, _AUTHORITY, _UNIQUE_ID, _TLS):
            found[kind] = value
        elif kind != _NOOP:
            others.append((kind, value))
    if len(found.get(_UNIQUE_ID, b"")) > MAX_UNIQUE_ID_BYTES:
        raise BadProxyHeader(f"the unique ID is longer than {MAX_UNIQUE_ID_BYTES} bytes")
    authority = _text(_AUTHORITY, found.get(_AUTHORITY))
    tls = _read_tls(found[_TLS]) if _TLS in found else None
    return TLVs(found.get(_ALPN), authority, found.get(_UNIQUE_ID), tls, tuple(others))


def _read_tls(value: bytes) -> ProxiedTLS:
    """Read the TLV of TLS; others than the known ones within it are passed over (section 2.2.6)."""
    if len(value) < 5:
        raise BadProxyHeader("the TLV of the type SSL is too short")
    client = value[0]
    found = {kind: _text(kind, inner) for kind, _, inner in _vectors(value, 5, _TLS_TEXTS) if kind in _TLS_TEXTS}
    has, had = bool(client & _CERTIFICATE_CONNECTION), bool(client & _CERTIFICATE_SESSION)
    # `verify` is 0 also when there was no certificate to verify: OpenSSL's result is X509_V_OK then.
    is_verified = (has or had) and not any(value[1:5])
    return ProxiedTLS(bool(client & _IS_TLS), has, had, is_verified, *(found.get(kind) for kind in _TLS_TEXTS))


def _text(kind: int, value: bytes | None) -> str | None:
    """The text of a TLV. Control characters are refused, since texts appear in logs and header fields."""
    if value is None:
        return None
    encoding = "UTF-8" if kind in (_AUTHORITY, _COMMON_NAME) else "ASCII"
    try:
        text = value.decode(encoding)
    except UnicodeDecodeError:
        raise BadProxyHeader(f"the TLV of the type {_NAMES[kind]} is not {encoding}") from None
    if _CONTROL.search(text):
        raise BadProxyHeader(f"the TLV of the type {_NAMES[kind]} contains a control character")
    return text


# CRC32c (RFC 9260, appendix A; section 2.2.3).


def _crc32c_table() -> Iterator[int]:
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


_TABLE = tuple(_crc32c_table())


def crc32c(data: bytes) -> int:
    """Return the CRC32c checksum of `data`."""
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = checksum >> 8 ^ _TABLE[(checksum ^ byte) & 0xFF]
    return checksum ^ 0xFFFFFFFF


def _check_crc32c(header: bytes, at: int, value: bytes) -> None:
    if len(value) != 4:
        raise BadProxyHeader("the TLV of the type CRC32c is not 4 bytes long")
    if crc32c(header[:at] + bytes(4) + header[at + 4 :]) != int.from_bytes(value, "big"):
        raise BadProxyHeader("wrong CRC32c")


# Writing.

LOCAL = _V2_SIGNATURE + bytes((_V2_LOCAL, 0, 0, 0))
"""A header of version 2 for connections that the switch makes on its own account, such as health checks."""


def write_v1(source: Address | None, destination: Address | None) -> bytes:
    """Return a header of version 1; that of an unknown client without addresses, as of one on a unix socket.

    Health checks name the addresses of their own connection (section 2.1): servers may refuse unknown clients.
    """
    addresses = _packed(source, destination)
    if source is None or destination is None or addresses is None:
        return b"PROXY UNKNOWN\r\n"
    if len(addresses[0]) == 4:
        family, texts = "TCP4", [str(ipaddress.IPv4Address(packed)) for packed in addresses]
    else:
        family, texts = "TCP6", [_groups(packed) for packed in addresses]
    return f"PROXY {family} {texts[0]} {texts[1]} {source[1]} {destination[1]}\r\n".encode("ascii")


def write_v2(
    source: Address | None, destination: Address | None, tlvs: TLVs = NO_TLVS, *, checksum: bool = False
) -> bytes:
    """Return a header of version 2. Without addresses its family is unspecified, and receivers may ignore the TLVs.

    checksum: add a CRC32c. Raises ValueError when a TLV or the header is too long.
    """
    addresses = _packed(source, destination)
    if source is None or destination is None or addresses is None:
        family, block = _UNSPECIFIED, b""
    else:
        family = (_INET if len(addresses[0]) == 4 else _INET6) << 4 | _STREAM
        block = b"".join((*addresses, source[1].to_bytes(2, "big"), destination[1].to_bytes(2, "big")))
    block += _write_tlvs(tlvs) + (_tlv(_CRC32C, bytes(4)) if checksum else b"")
    if len(block) > 0xFFFF:
        raise ValueError("the header is longer than 65551 bytes")
    header = _V2_SIGNATURE + bytes((_V2_PROXY, family)) + len(block).to_bytes(2, "big") + block
    return header[:-4] + crc32c(header).to_bytes(4, "big") if checksum else header


def _packed(source: Address | None, destination: Address | None) -> tuple[bytes, bytes] | None:
    """Both addresses in one family: IPv4 beside IPv6 becomes IPv4-mapped. Zones are left out: they are local."""
    if source is None or destination is None:
        return None
    first, second = (ipaddress.ip_address(address[0].partition("%")[0]).packed for address in (source, destination))
    if len(first) != len(second):
        first, second = (bytes(10) + b"\xff\xff" + one if len(one) == 4 else one for one in (first, second))
    return first, second


def _groups(packed: bytes) -> str:
    """An IPv6 address without dots: version 1 knows hexadecimal digits only, and str() differs between Pythons."""
    address = ipaddress.IPv6Address(packed)
    if address.ipv4_mapped is None:
        return str(address)
    return f"::ffff:{int.from_bytes(packed[12:14], 'big'):x}:{int.from_bytes(packed[14:], 'big'):x}"


def _tlv(kind: int, value: bytes) -> bytes:
    if len(value) > 0xFFFF:
        raise ValueError("a TLV is longer than 65535 bytes")
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def _write_tlvs(tlvs: TLVs) -> bytes:
    if tlvs.unique_id is not None and len(tlvs.unique_id) > MAX_UNIQUE_ID_BYTES:
        raise ValueError(f"the unique ID is longer than {MAX_UNIQUE_ID_BYTES} bytes")
    authority = None if tlvs.authority is None else tlvs.authority.encode("utf-8")
    tls = None if tlvs.tls is None else _write_tls(tlvs.tls)
    known = ((_ALPN, tlvs.alpn), (_AUTHORITY, authority), (_UNIQUE_ID, tlvs.unique_id), (_TLS, tls))
    return b"".join(_tlv(kind, value) for kind, value in (*known, *tlvs.others) if value is not None)


def _write_tls(tls: ProxiedTLS) -> bytes:
    client = tls.is_tls * _IS_TLS | tls.has_certificate * _CERTIFICATE_CONNECTION
    client |= tls.had_certificate * _CERTIFICATE_SESSION
    texts = (tls.version, tls.common_name, tls.cipher, tls.signature_algorithm, tls.key_algorithm)
    inner = [_tlv(kind, text.encode("utf-8")) for kind, text in zip(_TLS_TEXTS, texts, strict=True) if text is not None]
    return b"".join((bytes((client, 0, 0, 0, not tls.is_verified)), *inner))
