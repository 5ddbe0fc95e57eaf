"""The stream contract: the behaviour of every byte stream of the switch, over any transport.

`tests/streams/test_stream_contract.py` checks it for every transport. `Stream` implements it over uvloop's transports,
over Twisted's, over bare sockets, over a socket that a relay engine reads and writes (`detached`), and in memory
(`memory`).
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Protocol

from attrs import frozen

SocketAddress = tuple[Any, ...] | str | None
"""An address as in the socket module: (host, port, ...) for TCP, the path of a unix socket ("" without one). None:
unknown, or there is none."""


def address_text(address: SocketAddress) -> str:
    """Format a socket's address: HOST:PORT, [IPV6]:PORT, unix:/PATH, or `unix` for a unix socket without a path."""
    if address is None:
        return "unknown"
    if isinstance(address, str):
        return f"unix:{address}" if address else "unix"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class NotDetachable(Enum):
    """Reasons why a stream cannot give its socket to a relay engine; the values are for logs."""

    NOT_OPEN = "it is not open"
    NO_SOCKET = "its transport has no socket of its own"
    TLS = "it speaks TLS"
    CLOSING = "it is being closed"
    HALF_CLOSED = "it has been half-closed"
    PEER_ENDED = "its peer has ended"
    BROKEN = "it is broken"
    UNREAD = "its transport holds bytes that its owner has not read"
    STARTING = "its transport is just starting"
    BUFFERED = "its transport holds bytes that are not sent"

    @property
    def is_temporary(self) -> bool:
        """Whether the obstacle disappears by itself, in the next turn or once the peer has read."""
        return self in _TEMPORARY


_TEMPORARY = frozenset((NotDetachable.STARTING, NotDetachable.BUFFERED))


@frozen
class TLSFacts:
    """The result of a stream's TLS handshake.

    version: `TLSv1.3`. sni, alpn: None when the client sent none. cipher: by its name in OpenSSL. is_resumed: an
    earlier session goes on. certificate: of the client, verified, in DER; None without one, and on a client's side.
    certificate_subject: its subject, in the form of RFC 4514.
    """

    version: str
    sni: str | None = None
    alpn: str | None = None
    cipher: str = ""
    is_resumed: bool = False
    certificate: bytes | None = None
    certificate_subject: str = ""

    @property
    def certificate_fingerprint(self) -> str:
        """The SHA-256 of the client's certificate, in hexadecimal; "" without one."""
        return hashlib.sha256(self.certificate).hexdigest() if self.certificate is not None else ""


class StreamEvents(Protocol):
    """The events that a transport reports to its stream."""

    resting: bool
    write: Callable[[bytes], object]

    @property
    def dataReceived(self) -> Callable[[bytes], object]:
        """Bytes have come."""

    @property
    def bulk_detected(self) -> Callable[[], object]:
        """The peer has sent much at once. Called at most once."""

    def readConnectionLost(self) -> None:
        """The peer has sent its FIN."""

    def over(self, clean: bool) -> None:
        """The connection is closed. clean: False after a reset or another error."""


class Detached(Protocol):
    """The transport of a stream whose bytes an engine moves; `DetachedTransport` is the only one."""

    def attach(self, stream: StreamEvents, sock: socket.socket) -> None:
        """Start to carry `stream`. sock: its socket, which this transport closes."""


class BackpressuredWriter(Protocol):
    """A writer to a stream that can wait."""

    def pause_writing(self) -> None:
        """The stream's peer does not take what is written."""

    def resume_writing(self) -> None:
        """Most of it has been sent."""


class ByteStream(Protocol):
    """One end of a connection.

    Its owner sets the callbacks `made`, `dataReceived`, `ended`, `lost` and `bulk_detected` (see `Stream`), and may set
    others at any time.
    No callback is called before the stream is connected, within a call of its owner that closes it, or after `lost`.
    """

    @property
    def write(self) -> Callable[[bytes], object]:
        """Send bytes. This is the transport's own bound method, since it is called for every message; look it up for
        each call, or again after `detach`. Bytes written after `half_close`, `close` or the end are dropped."""

    @property
    def writev(self) -> Callable[[Sequence[bytes]], object]:
        """Send several buffers, by one system call where possible."""

    def half_close(self) -> None:
        """Send what is buffered, then a FIN; reading continues."""

    def close(self) -> bool:
        """Send what is buffered, then close. Return True if nothing is buffered, so that the peer cannot delay the
        close; False otherwise, or if that is unknown."""

    def close_with_reset(self) -> bool:
        """As `close`, but end with a reset if the transport has one, so that the peer does not take what it got for
        complete."""

    def abort(self) -> None:
        """Drop what is buffered, and close with a reset. `lost(False)` follows in a later turn."""

    def pause(self) -> None:
        """Stop reading. Bytes and the FIN of the peer wait in the kernel."""

    def resume(self) -> None:
        """Read again."""

    def set_backpressure(self, writer: BackpressuredWriter) -> None:
        """Call `writer.pause_writing` when more than 64 KiB wait to be sent (at once if they do now), and
        `writer.resume_writing` when most of that has been sent. Replaces what was set before."""

    def clear_backpressure(self) -> None:
        """Call neither of them any more."""

    def unsent(self) -> int:
        """Return the bytes written that the peer's system has not acknowledged; 0 if the stream is over."""

    @property
    def is_open(self) -> bool:
        """True from `made` until `lost`."""

    def is_gone(self) -> bool:
        """Return whether the stream is over, or the peer has reset it, even if that was not read yet. On a unix socket,
        a reset can be detected only by reading."""

    def has_input(self) -> bool:
        """Return whether bytes, a FIN or a reset have come and were not read yet."""

    def has_ended(self) -> bool:
        """Return whether the peer has sent its FIN, even if that was not read yet, which cannot be detected on a unix
        socket."""

    @property
    def peer_address(self) -> SocketAddress:
        """The address of the other end."""

    @property
    def local_address(self) -> SocketAddress:
        """The address of this end."""

    @property
    def is_unix(self) -> bool:
        """Whether this is an open stream over a unix socket."""

    @property
    def reports_bulk(self) -> bool:
        """Whether `bulk_detected` is called; otherwise the owner itself must find out how much comes."""

    def keep_urgent_data_in_place(self) -> None:
        """Read urgent data in its place among other data; otherwise reads skip it."""

    @property
    def tls(self) -> TLSFacts | None:
        """None for a stream without TLS."""

    @property
    def failure(self) -> str:
        """The reason why TLS has broken the connection, in words, until `lost` has returned; "" otherwise."""

    def detach_obstacle(self) -> NotDetachable | None:
        """Return None, or why `detach` is not possible now."""

    def duplicate_socket(self) -> socket.socket:
        """Return a duplicate of the stream's socket, non-blocking. Raises OSError."""

    def detach(self, onto: Detached, sock: socket.socket | None = None) -> socket.socket | NotDetachable:
        """Give the socket to a relay engine, which moves its bytes from now on; everything else still uses this stream,
        over the transport `onto`. Unread bytes stay in the kernel, and the peer notices nothing.

        sock: from `duplicate_socket` of a stream without `detach_obstacle`; then this cannot fail. Returns the socket,
        which the stream closes, or the obstacle. Raises OSError if there is no descriptor left; then nothing has
        changed.
        """
