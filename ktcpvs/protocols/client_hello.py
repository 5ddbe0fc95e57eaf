"""The ClientHello of TLS: its server name and what it offers, read from bytes as they come (RFC 8446, RFC 6066).

A hello is refused at the first byte with which it cannot become valid any more, in whatever pieces it comes, and each
byte is looked at once. The reader consumes nothing: `ClientHelloReader.received` holds every byte that came.

Nearly every hello comes whole, in one record. `read_whole` reads such a one at once where the compiled function is
installed, and leaves whatever is unusual to the reader.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Generator
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from attrs import frozen

MAX_HANDSHAKE_BYTES = 16384
"""The most bytes of a ClientHello, its header of 4 bytes included."""

MAX_RECORD_BYTES = 16384
"""The most bytes in a record that is not encrypted (RFC 8446, section 5.1)."""

MAX_SERVER_NAME_BYTES = 255
"""The most bytes of a name in DNS (RFC 1035, section 2.3.4)."""

SSL_3_0, TLS_1_0, TLS_1_1, TLS_1_2, TLS_1_3 = range(0x0300, 0x0305)

_ALERT_RECORD, _HANDSHAKE_RECORD = 21, 22  # content types (RFC 8446, section 5.1)
_RECORD_HEADER_BYTES = 5
_CLIENT_HELLO = 1  # handshake type (RFC 8446, section 4)
_HANDSHAKE_HEADER_BYTES = 4

# The least bytes that follow in a ClientHello: the whole of it, after session_id, after cipher_suites.
_MIN_BODY_BYTES = 2 + 32 + 1 + (2 + 2) + (1 + 1)
_MIN_AFTER_SESSION_BYTES = (2 + 2) + (1 + 1)
_MIN_AFTER_CIPHERS_BYTES = 1 + 1

_MAX_SESSION_ID_BYTES = 32

_SERVER_NAME, _ALPN, _SUPPORTED_VERSIONS, _ECH = 0, 16, 43, 0xFE0D  # extension types
_READ_EXTENSIONS = {_SERVER_NAME, _ALPN, _SUPPORTED_VERSIONS, _ECH}
_HOST_NAME = 0  # name type (RFC 6066, section 3)
_ECH_OUTER = 0  # ECHClientHelloType (RFC 9849, section 5)

_LABELS = re.compile(rb"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_ADDRESS = re.compile(rb"(?:.*\.)?[0-9]+", re.DOTALL)


class Alert(IntEnum):
    """AlertDescription: why a handshake ends (RFC 8446, section 6). These are the ones that a hello can cause."""

    UNEXPECTED_MESSAGE = 10
    RECORD_OVERFLOW = 22
    HANDSHAKE_FAILURE = 40
    ILLEGAL_PARAMETER = 47
    DECODE_ERROR = 50
    PROTOCOL_VERSION = 70
    INTERNAL_ERROR = 80
    UNRECOGNIZED_NAME = 112
    NO_APPLICATION_PROTOCOL = 120


def alert_record(alert: Alert, version: int = TLS_1_2) -> bytes:
    """Return the record with which a server refuses a hello: a fatal alert (RFC 8446, section 6.2).

    version: of the record; TLS 1.3 sends that of TLS 1.2 too, and clients ignore it in the first record.
    """
    return bytes((_ALERT_RECORD, version >> 8, version & 0xFF, 0, 2, 2, alert))


class BadHello(Exception):
    """A ClientHello that is refused; str() says why, in one line. alert: what the client is to be told."""

    def __init__(self, alert: Alert, why: str) -> None:
        super().__init__(why)
        self.alert = alert


class NotTLS(Exception):
    """The bytes are no TLS record of a handshake, but another protocol; no alert would be understood."""

    def __init__(self) -> None:
        super().__init__("this is not TLS")


@frozen
class ClientHello:
    """A complete ClientHello: the offers of a client.

    server_name: in lower case, without a trailing dot; None: no name, or an IP address instead of one. protocols: of
    ALPN, as the client prefers them. versions: as the client prefers them; a client that does not list them names its
    highest one only, at most TLS 1.2. has_ech: the hello is the outer one of Encrypted Client Hello, or pretends to be,
    and `server_name` is that of the outer one. size: bytes of all records of the hello. GREASE values (RFC 8701) are
    left out.
    """

    server_name: str | None
    protocols: tuple[bytes, ...]
    versions: tuple[int, ...]
    has_ech: bool
    size: int


def _scan_nothing(data: bytes) -> tuple[Any, ...] | None:
    return None


_scan: Callable[[bytes], tuple[Any, ...] | None] = _scan_nothing

IS_COMPILED = False

if not TYPE_CHECKING:
    try:
        from ktcpvs.protocols._compiled import scan_hello as _scan
    except ImportError:  # there was no C compiler when ktcpvs was installed
        pass
    else:
        IS_COMPILED = True


def read_whole(data: bytes) -> ClientHello | None:
    """Return the hello that these first bytes of a client begin with. None: a ClientHelloReader must decide, since the
    hello is not whole, not in one record, not valid, or of an unusual form; without the extension, always."""
    found = _scan(data)
    return None if found is None else ClientHello(*found)


class ClientHelloReader:
    """Collects bytes until a ClientHello is complete, and checks them as they come.

    max_size: bytes of the handshake message. A client that puts each byte of it into a record of its own sends six
    times as many.
    """

    __slots__ = (
        "_at", "_has_ech", "_legacy_version", "_max_size", "_message", "_message_size", "_parser", "_protocols",
        "_record_end", "_server_name", "_versions", "_wanted", "received",
    )  # fmt: skip

    def __init__(self, max_size: int = MAX_HANDSHAKE_BYTES) -> None:
        self.received = bytearray()
        self._at = 0  # in `received`: the bytes before it have been read
        self._record_end = 0  # in `received`: where the current record ends
        self._max_size = max_size
        self._message = bytearray()  # the handshake message, as far as it came
        self._message_size: int | None = None  # with its header; None: not known yet
        self._server_name: str | None = None
        self._protocols: tuple[bytes, ...] = ()
        self._versions: tuple[int, ...] | None = None
        self._legacy_version = 0
        self._has_ech = False
        self._parser = self._parse()
        self._wanted = next(self._parser)  # how long `_message` must be before the parser can go on

    def feed(self, data: bytes) -> ClientHello | None:
        """Take more bytes; return the hello when it is complete, else None. Raises BadHello and NotTLS."""
        received = self.received
        received += data
        while True:
            if self._at == self._record_end and not self._begin_record():
                return None
            end = min(len(received), self._record_end)
            if end == self._at:
                return None
            self._message += memoryview(received)[self._at : end]
            self._at = end
            try:
                while len(self._message) >= self._wanted:
                    self._wanted = next(self._parser)
            except StopIteration:
                return self._hello()

    def _hello(self) -> ClientHello:
        versions = self._versions
        if versions is None:
            # RFC 8446, section 4.2.1: without the extension this is TLS 1.2 at most, whatever legacy_version says.
            versions = (min(self._legacy_version, TLS_1_2),)
        return ClientHello(self._server_name, self._protocols, versions, self._has_ech, self._at)

    # Records.

    def _begin_record(self) -> bool:
        """Read the header of the next record. False: it is not complete."""
        header = self.received[self._at : self._at + _RECORD_HEADER_BYTES]
        if not self._at and not _may_be_tls(header):
            if not _may_be_ssl2(header):
                raise NotTLS
            if len(header) < _RECORD_HEADER_BYTES:
                return False
            raise BadHello(Alert.PROTOCOL_VERSION, "the hello is one of SSL 2.0")
        if header and header[0] != _HANDSHAKE_RECORD:
            raise BadHello(Alert.UNEXPECTED_MESSAGE, "a record of another type is within the hello")
        # RFC 8446, section 5.1, and RFC 5246, appendix E.1: any minor version in the record of a hello.
        if len(header) > 1 and header[1] != 3:
            raise BadHello(Alert.PROTOCOL_VERSION, "a record is of an unknown version")
        if len(header) < _RECORD_HEADER_BYTES:
            return False
        size = int.from_bytes(header[3:], "big")
        if size > MAX_RECORD_BYTES:
            raise BadHello(Alert.RECORD_OVERFLOW, "a record is too long")
        if not size:
            raise BadHello(Alert.DECODE_ERROR, "a record of the hello is empty")
        self._at += _RECORD_HEADER_BYTES
        self._record_end = self._at + size
        self._check_alignment()
        return True

    def _check_alignment(self) -> None:
        """Check that the current record holds nothing behind the hello (RFC 8446, section 5.1)."""
        end = len(self._message) + self._record_end - self._at
        if self._message_size is not None and end > self._message_size:
            raise BadHello(Alert.UNEXPECTED_MESSAGE, "something follows the hello in its record")

    # The handshake message. The parser yields how long the message must be before it can go on.

    def _parse(self) -> Generator[int, None, None]:
        """Read a ClientHello (RFC 8446, section 4.1.2)."""
        message = self._message
        yield 1
        if message[0] != _CLIENT_HELLO:
            raise BadHello(Alert.UNEXPECTED_MESSAGE, "the first handshake message is no ClientHello")
        yield _HANDSHAKE_HEADER_BYTES
        size = self._number(1, 3)
        end = _HANDSHAKE_HEADER_BYTES + size
        if end > self._max_size:
            raise BadHello(Alert.ILLEGAL_PARAMETER, f"the hello is longer than {self._max_size} bytes")
        if size < _MIN_BODY_BYTES:
            raise BadHello(Alert.DECODE_ERROR, "the hello is too short")
        self._message_size = end
        self._check_alignment()
        at = _HANDSHAKE_HEADER_BYTES
        yield at + 2
        self._legacy_version = self._number(at, 2)
        if self._legacy_version < SSL_3_0:
            raise BadHello(Alert.PROTOCOL_VERSION, "the hello is of an unknown version")
        at += 2 + 32  # the random follows
        yield at + 1
        if message[at] > min(_MAX_SESSION_ID_BYTES, end - at - 1 - _MIN_AFTER_SESSION_BYTES):
            raise BadHello(Alert.DECODE_ERROR, "session_id has a wrong length")
        at += 1 + message[at]
        yield at + 2
        size = self._number(at, 2)
        at += 2
        if size % 2 or not 2 <= size <= end - at - _MIN_AFTER_CIPHERS_BYTES:
            raise BadHello(Alert.DECODE_ERROR, "cipher_suites has a wrong length")
        at += size
        yield at + 1
        size = message[at]
        at += 1
        if not 1 <= size <= end - at:
            raise BadHello(Alert.DECODE_ERROR, "compression_methods has a wrong length")
        yield at + size
        if 0 not in message[at : at + size]:
            raise BadHello(Alert.ILLEGAL_PARAMETER, "compression_methods does not contain null")
        at += size
        if at < end:  # a hello of TLS 1.2 may have no extensions (RFC 5246, section 7.4.1.2)
            yield from self._parse_extensions(at, end)

    def _parse_extensions(self, at: int, end: int) -> Generator[int, None, None]:
        """Read the extensions; `at` is where their length stands (RFC 8446, section 4.2)."""
        yield from self._vector(at, 2, end, "extensions", may_be_empty=True)
        at += 2
        seen: set[int] = set()
        while at < end:
            if end - at < 4:
                raise BadHello(Alert.DECODE_ERROR, "an extension is cut off")
            yield at + 4
            kind, size = self._number(at, 2), self._number(at + 2, 2)
            at += 4
            if size > end - at:
                raise BadHello(Alert.DECODE_ERROR, "an extension has a wrong length")
            if kind in seen:
                raise BadHello(Alert.ILLEGAL_PARAMETER, "an extension occurs twice")
            seen.add(kind)
            if kind in _READ_EXTENSIONS:
                yield from self._parse_extension(kind, at, at + size)
            at += size
            yield at

    def _parse_extension(self, kind: int, at: int, end: int) -> Generator[int, None, None]:
        """Read the data of one extension."""
        if kind == _SERVER_NAME:
            yield from self._parse_server_names(at, end)
        elif kind == _ALPN:
            yield from self._parse_protocols(at, end)
        elif kind == _SUPPORTED_VERSIONS:
            yield from self._parse_versions(at, end)
        else:
            if at == end:
                raise BadHello(Alert.DECODE_ERROR, "encrypted_client_hello is empty")
            yield at + 1
            # A hello of the type "inner" comes from the server that has decrypted it; its name is the real one.
            self._has_ech = self._message[at] == _ECH_OUTER

    def _parse_server_names(self, at: int, end: int) -> Generator[int, None, None]:
        """Read a ServerNameList (RFC 6066, section 3). Names of unknown types are passed over."""
        yield from self._vector(at, 2, end, "server_name")
        at += 2
        seen: set[int] = set()
        while at < end:
            if end - at < 3:
                raise BadHello(Alert.DECODE_ERROR, "server_name is cut off")
            yield at + 3
            kind, size = self._message[at], self._number(at + 1, 2)
            at += 3
            if kind in seen:
                raise BadHello(Alert.ILLEGAL_PARAMETER, "server_name has two names of one type")
            seen.add(kind)
            if not size <= end - at or (kind == _HOST_NAME and not size):
                raise BadHello(Alert.DECODE_ERROR, "server_name has a wrong length")
            if kind == _HOST_NAME and size > MAX_SERVER_NAME_BYTES:
                raise BadHello(Alert.UNRECOGNIZED_NAME, "the server name is too long")
            yield at + size
            if kind == _HOST_NAME:
                self._server_name = host_name(bytes(self._message[at : at + size]))
            at += size

    def _parse_protocols(self, at: int, end: int) -> Generator[int, None, None]:
        """Read a ProtocolNameList (RFC 7301, section 3.1)."""
        yield from self._vector(at, 2, end, "ALPN")
        at += 2
        found = []
        while at < end:
            yield at + 1
            size = self._message[at]
            at += 1
            if not 1 <= size <= end - at:
                raise BadHello(Alert.DECODE_ERROR, "ALPN has a wrong length")
            yield at + size
            protocol = bytes(self._message[at : at + size])
            if size != 2 or not _is_grease(self._number(at, 2)):
                found.append(protocol)
            at += size
        self._protocols = tuple(found)

    def _parse_versions(self, at: int, end: int) -> Generator[int, None, None]:
        """Read supported_versions (RFC 8446, section 4.2.1)."""
        yield from self._vector(at, 1, end, "supported_versions")
        at += 1
        if (end - at) % 2:
            raise BadHello(Alert.DECODE_ERROR, "supported_versions has a wrong length")
        yield end
        offered = (self._number(place, 2) for place in range(at, end, 2))
        self._versions = tuple(version for version in offered if not _is_grease(version))

    def _vector(
        self, at: int, length_bytes: int, end: int, name: str, may_be_empty: bool = False
    ) -> Generator[int, None, None]:
        """Check that a vector begins at `at` with its length, and ends at `end`."""
        if end - at < length_bytes + (not may_be_empty):
            raise BadHello(Alert.DECODE_ERROR, f"{name} is too short")
        yield at + length_bytes
        if self._number(at, length_bytes) != end - at - length_bytes:
            raise BadHello(Alert.DECODE_ERROR, f"{name} has a wrong length")

    def _number(self, at: int, size: int) -> int:
        return int.from_bytes(self._message[at : at + size], "big")


def host_name(name: bytes) -> str | None:
    """Return a HostName in lower case, without a trailing dot (RFC 6066, section 3). Raises BadHello.

    None for an IP address, which is no HostName. Clients send them nevertheless, and servers ignore them.
    """
    host = name.lower().removesuffix(b".")
    if _ADDRESS.fullmatch(host) and _LABELS.fullmatch(host):
        return None  # RFC 1123, section 2.1: the last label of a name is never a number
    if not _LABELS.fullmatch(host):
        if _is_ipv6(host):
            return None
        raise BadHello(Alert.UNRECOGNIZED_NAME, "the server name is no host name")
    return host.decode("ascii")


def _is_ipv6(text: bytes) -> bool:
    """True for an IPv6 address, also in brackets and with a zone."""
    if text.startswith(b"[") and text.endswith(b"]"):
        text = text[1:-1]
    try:
        ipaddress.IPv6Address(text.decode("ascii"))
    except ValueError:
        return False
    return True


def _is_grease(value: int) -> bool:
    """True for the values that clients add so that servers stay able to ignore unknown ones (RFC 8701, section 2)."""
    return value & 0x0F0F == 0x0A0A and value >> 8 == value & 0xFF


def _may_be_tls(header: bytes | bytearray) -> bool:
    """True when these first bytes may begin a handshake record of SSL 3.0 or TLS."""
    return b"\x16\x03".startswith(bytes(header[:2]))


def _may_be_ssl2(header: bytes | bytearray) -> bool:
    """True when these first bytes may begin a hello in the form of SSL 2.0 (RFC 5246, appendix E.2)."""
    version = bytes(header[3:5])
    return (
        (not header or header[0] >= 0x80)
        and (len(header) < 3 or header[2] == _CLIENT_HELLO)
        and (version[:1] in (b"", b"\3") or b"\0\2".startswith(version))
    )
