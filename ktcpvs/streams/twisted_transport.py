"""A stream over any of Twisted's transports: TCP, unix, or one without a socket, as in tests."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet import tcp
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from ktcpvs.streams.contract import BackpressuredWriter, NotDetachable, SocketAddress
from ktcpvs.streams.transport import NONBLOCKING, Backpressure, SocketTransport, nothing, reset_on_close


class TwistedTransport(SocketTransport):
    """A transport on one of Twisted's. twisted: the transport that Twisted gave the stream, an ITransport."""

    __slots__ = ("twisted", "write", "writev")

    def __init__(self, twisted: Any) -> None:
        self.twisted = twisted
        self.write: Callable[[bytes], object] = twisted.write
        self.writev: Callable[[Sequence[bytes]], object] = twisted.writeSequence
        set_no_delay = getattr(twisted, "setTcpNoDelay", None)
        if set_no_delay is not None:
            with contextlib.suppress(
                OSError
            ):  # a unix socket, or a peer that has disconnected, which reading will report
                set_no_delay(True)

    def half_close(self) -> None:
        self.twisted.unregisterProducer()
        self.twisted.loseWriteConnection()

    def close(self) -> bool:
        """As `ByteStream.close`; False, because Twisted sends in a later turn."""
        twisted = self.twisted
        twisted.unregisterProducer()
        if getattr(twisted, "_writeDisconnected", False) and twisted.connected and not twisted.disconnecting:
            # Twisted would report the end within this call if it sent the FIN now.
            twisted.stopReading()
            twisted.stopWriting()
            twisted.disconnecting = 1
            twisted.reactor.callLater(0, self._close_now)
        else:
            twisted.loseConnection()
        return False

    def _close_now(self) -> None:
        if self.twisted.connected and not self.twisted._aborting:
            self.twisted.connectionLost(Failure(ConnectionDone()))

    def close_with_reset(self) -> bool:
        handle = self.getHandle()
        if handle is not None and handle.family != socket.AF_UNIX:
            reset_on_close(handle)
            self.twisted._shouldShutdown = False  # a FIN before the reset would look like a clean end
        return self.close()

    def abort(self) -> None:
        self.twisted.abortConnection()

    def pause(self) -> None:
        self.twisted.pauseProducing()

    def resume(self) -> None:
        self.twisted.resumeProducing()

    def set_backpressure(self, writer: BackpressuredWriter) -> None:
        twisted = self.twisted
        twisted.unregisterProducer()
        producer = Backpressure(writer)
        twisted.registerProducer(producer, True)
        if isinstance(twisted, FileDescriptor):
            twisted._maybePauseProducer()  # Twisted itself checks only when something is written

    def clear_backpressure(self) -> None:
        self.twisted.unregisterProducer()

    def buffered(self) -> int:
        twisted = self.twisted
        if isinstance(twisted, FileDescriptor):
            return len(twisted.dataBuffer) - twisted.offset + twisted._tempDataLen
        tell: Callable[[], int] | None = getattr(twisted, "buffered", None)
        return tell() if tell is not None else 0

    @property
    def peer_address(self) -> SocketAddress:
        return _socket_address(self.twisted.getPeer())

    @property
    def local_address(self) -> SocketAddress:
        try:
            return _socket_address(self.twisted.getHost())
        except OSError:
            return None

    def detach_obstacle(self) -> NotDetachable | None:
        twisted = self.twisted
        if not isinstance(twisted, tcp.Connection):
            return NotDetachable.NO_SOCKET
        if twisted.TLS:
            return NotDetachable.TLS
        if not twisted.connected or twisted.disconnecting or twisted._aborting:
            return NotDetachable.CLOSING
        if twisted._writeDisconnecting or twisted._writeDisconnected:
            return NotDetachable.HALF_CLOSED
        try:
            # Twisted does not record whether the stream's owner was notified of a FIN.
            if not twisted.socket.recv(1, socket.MSG_PEEK | NONBLOCKING):
                return NotDetachable.PEER_ENDED
        except BlockingIOError:
            pass
        except OSError:
            return NotDetachable.BROKEN
        return NotDetachable.BUFFERED if self.buffered() else None

    def release(self) -> None:
        """As Twisted's connectionLost, without notifying the protocol. loseConnection would shut the socket down."""
        twisted = self.twisted
        twisted.stopReading()
        twisted.stopWriting()
        twisted.unregisterProducer()
        twisted.connected = 0
        twisted.disconnected = 1
        twisted.doRead = twisted.doWrite = nothing  # the reactor may be about to call them for a ready event
        twisted.socket.close()
        del twisted.protocol, twisted.socket, twisted.fileno
        if hasattr(twisted, "connector"):
            del twisted.connector  # breaks a reference cycle

    def getHandle(self) -> Any:
        """Return the socket; None if the transport has none."""
        get = getattr(self.twisted, "getHandle", None)
        handle = get() if get is not None else None
        return handle if hasattr(handle, "family") else None

    def state(self) -> str:
        twisted = self.twisted
        if getattr(twisted, "_aborting", False):
            return "aborted"
        if getattr(twisted, "disconnecting", False):
            return "closing"
        is_half_closed = getattr(twisted, "_writeDisconnecting", False) or getattr(twisted, "_writeDisconnected", False)
        words = ["half-closed" if is_half_closed else "open"]
        if isinstance(twisted, FileDescriptor) and twisted not in twisted.reactor.getReaders():
            words.append("paused")
        return ", ".join(words)


def _socket_address(address: Any) -> SocketAddress:
    """Convert an IAddress of Twisted to an address as in the socket module."""
    if isinstance(address, (IPv4Address, IPv6Address)):
        return address.host, address.port
    if isinstance(address, UNIXAddress):
        return address.name.decode(errors="surrogateescape") if address.name else ""
    return None
