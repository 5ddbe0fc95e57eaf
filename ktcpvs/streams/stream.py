"""One end of a connection, as a Twisted protocol that reports events to its owner.

The owner sets `dataReceived`, `ended` and `lost`, and replaces them when the connection's state changes, so that data
goes to the handler of that state without a further look-up.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from ktcpvs.streams.contract import (
    BackpressuredWriter,
    Detached,
    NotDetachable,
    SocketAddress,
    TLSFacts,
    address_text,
)
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.streams.transport import StreamTransport
from ktcpvs.streams.transport import nothing as nothing
from ktcpvs.streams.twisted_transport import TwistedTransport
from ktcpvs.system.sockets import keep_alive
from ktcpvs.system.timer_wheel import Timer


@implementer(IHalfCloseableProtocol)
class Stream(Protocol):
    """A `ByteStream`; its methods may be called at any time.

    Callbacks: made(): connected. dataReceived(data). ended(): the peer has sent its FIN. lost(clean): the connection is
    closed; clean: False after a reset or another error. bulk_detected(): the peer has sent much at once; called at most
    once, and only if `reports_bulk`.

    called: the address that the client has called, where a proxy has told it; None: it is `local_address`.
    resting: the owner expects nothing from the peer now, and need not be notified at once when the peer disconnects.
    timer: of the close, cancelled when the connection is closed. peer_ended: `ended` has been called.
    """

    # Twisted's base class gives each stream a dictionary too, but it is made only where something else is set.
    __slots__ = (
        "bulk_detected", "called", "connected", "dataReceived", "ended", "is_open", "lost", "made", "peer_ended",
        "resting", "timer", "tls", "transport", "write",
    )  # fmt: skip

    def __init__(self, made: Callable[[], object] = nothing) -> None:
        self.transport: Any = None  # a StreamTransport while the stream is open, else None
        self.connected = 0
        self.timer: Timer | None = None
        self.peer_ended = False
        self.tls: TLSFacts | None = None
        self.called: SocketAddress = None
        self.dataReceived: Callable[[bytes], object] = nothing  # type: ignore[assignment]
        self.made = made
        self.ended: Callable[[], object] = nothing
        self.lost: Callable[[bool], object] = nothing
        self.bulk_detected: Callable[[], object] = nothing
        self.write: Callable[[bytes], object] = nothing
        self.is_open = False
        self.resting = False

    # Called by the transport.

    def makeConnection(self, transport: Any) -> None:
        """`transport` carries the stream from now on: a StreamTransport, or one of Twisted's."""
        self.use_transport(transport if isinstance(transport, StreamTransport) else TwistedTransport(transport))

    def use_transport(self, transport: StreamTransport) -> None:
        """`transport` carries the stream from now on."""
        self.connected = 1
        self.transport = transport
        self.write = transport.write
        self.connectionMade()

    def connectionMade(self) -> None:
        self.is_open = True
        made, self.made = self.made, nothing  # it would hold memory for as long as the stream lives
        made()

    def readConnectionLost(self) -> None:
        if not self.peer_ended:  # Twisted's transports report a FIN again after each `resume`
            self.peer_ended = True
            self.ended()

    def writeConnectionLost(self) -> None:
        """Do nothing: our FIN is sent."""

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.over(reason.check(ConnectionDone) is not None)

    def over(self, clean: bool) -> None:
        """The connection is closed. clean: both sides have ended it with a FIN."""
        self.is_open = False
        if self.timer is not None:
            self.timer.cancel()
        lost, self.lost, self.ended = self.lost, nothing, nothing
        self.dataReceived = self.write = nothing
        lost(clean)
        # Drop all references between the parts of a connection, so that memory is freed now and not by the garbage
        # collector.
        self.transport = None
        self.made = self.bulk_detected = nothing

    # Called by the owner.

    def writev(self, pieces: Sequence[bytes]) -> None:
        """Send these bytes one after another, without copying them together where the transport can."""
        if self.write is not nothing:
            self.transport.writev(pieces)

    def half_close(self) -> None:
        """Send what is buffered, then a FIN; reading continues."""
        if self.is_open:
            self.write = nothing
            self.transport.half_close()

    def close(self) -> bool:
        """Send what is buffered, then close. Return True if nothing is buffered, so that the peer cannot delay the
        close."""
        if self.is_open:
            self.write = nothing
            closes_now: bool = self.transport.close()
            return closes_now
        return True

    def close_with_reset(self) -> bool:
        """As `close`, but end with a reset, because what was sent to the peer is incomplete."""
        if self.is_open:
            self.write = nothing
            closes_now: bool = self.transport.close_with_reset()
            return closes_now
        return True

    def abort(self) -> None:
        """Drop what is buffered, and close with a reset."""
        if self.is_open:
            self.write = nothing
            self.transport.abort()

    def pause(self) -> None:
        """Stop reading until `resume`."""
        if self.is_open:
            self.transport.pause()

    def resume(self) -> None:
        """Read again."""
        if self.is_open:
            self.transport.resume()

    def set_backpressure(self, writer: BackpressuredWriter) -> None:
        """Pause `writer` while more than 64 KiB wait to be sent, and resume it when most of that has been sent."""
        if self.is_open:
            self.transport.set_backpressure(writer)

    def clear_backpressure(self) -> None:
        """Do not pause or resume it any more."""
        if self.is_open:
            self.transport.clear_backpressure()

    # State, for the owner.

    def unsent(self) -> int:
        """Return the bytes that the peer has not acknowledged, in this process and in the system; 0 if the stream is
        over."""
        unsent: int = self.transport.unsent() if self.is_open else 0
        return unsent

    def is_gone(self) -> bool:
        """Return whether the peer has reset the connection, even if that was not read yet."""
        return not self.is_open or self.transport.is_gone()

    def has_input(self) -> bool:
        """Return whether bytes, a FIN or a reset have come that were not read yet."""
        return not self.is_open or self.transport.has_input()

    def has_ended(self) -> bool:
        """Return whether the peer has sent its FIN, even if that was not read yet."""
        return self.is_open and self.transport.has_ended()

    @property
    def peer_address(self) -> SocketAddress:
        """The address of the other end; None if the stream is over."""
        address: SocketAddress = self.transport.peer_address if self.transport is not None else None
        return address

    @property
    def local_address(self) -> SocketAddress:
        """The address of this end; None if the stream is over."""
        address: SocketAddress = self.transport.local_address if self.transport is not None else None
        return address

    @property
    def failure(self) -> str:
        """The reason why TLS has broken the connection, in words, until `lost` has returned; "" otherwise."""
        failure: str = self.transport.failure if self.transport is not None else ""
        return failure

    @property
    def is_unix(self) -> bool:
        """Whether this is an open stream over a unix socket."""
        return self.is_open and self.transport.is_unix

    @property
    def reports_bulk(self) -> bool:
        """Whether the transport calls `bulk_detected`."""
        return self.is_open and self.transport.reports_bulk

    @property
    def poller(self) -> SocketPoller | None:
        """The poller that watches its bare socket; None for other transports."""
        poller: SocketPoller | None = self.transport.poller if self.is_open else None
        return poller

    def keep_urgent_data_in_place(self) -> None:
        """Read urgent data in its place among other data; otherwise reads skip it."""
        if self.is_open:
            self.transport.keep_urgent_data_in_place()

    @property
    def handle(self) -> Any:
        """Its socket with TCP, for options; None: it has none, or is not open."""
        handle = self.transport.getHandle() if self.is_open else None
        return None if handle is None or handle.family == socket.AF_UNIX else handle

    def keep_alive(self, seconds: int) -> None:
        """Probe the peer after this time of silence, if the stream has a socket with TCP."""
        handle = self.handle
        if handle is not None:
            keep_alive(handle, seconds)

    def read_small(self, small: bool) -> None:
        """Leave most of what comes in the socket from now on, for those who take it there; False: no longer."""
        if self.is_open:
            self.transport.read_small(small)

    # The hand-over to a relay engine.

    def detach_obstacle(self) -> NotDetachable | None:
        """Return None, or why `detach` is not possible now."""
        if not self.is_open:
            return NotDetachable.NOT_OPEN
        obstacle: NotDetachable | None = self.transport.detach_obstacle()
        return obstacle

    def duplicate_socket(self) -> socket.socket:
        """Return a duplicate of the stream's socket, non-blocking. Raises OSError."""
        sock: socket.socket = self.transport.duplicate_socket()
        return sock

    def detach(self, onto: Detached, sock: socket.socket | None = None) -> socket.socket | NotDetachable:
        """Give the socket to a relay engine; the stream continues over the transport `onto`.

        sock: from `duplicate_socket` of a stream without `detach_obstacle`; then this cannot fail. Returns the socket,
        which `onto` closes, or the obstacle. Raises OSError; then nothing has changed.
        """
        if sock is None:
            obstacle = self.detach_obstacle()
            if obstacle is not None:
                return obstacle
            sock = self.duplicate_socket()
        self.transport.release()
        onto.attach(self, sock)
        return sock

    def __repr__(self) -> str:
        name, transport = type(self).__name__, self.transport
        if transport is None:
            return f"<{name} {'closed' if self.connected else 'not connected'}>"
        addresses = f"{address_text(transport.local_address)} -> {address_text(transport.peer_address)}"
        return f"<{name} {addresses} {transport.state()}>"
