"""Twisted protocols as owners of streams, which make a connector a Twisted endpoint."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost, NoProtocol
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    ITCPTransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from ktcpvs.streams.contract import SocketAddress
from ktcpvs.streams.stream import Stream, nothing


def twisted_address(address: SocketAddress) -> IAddress:
    """Return a socket's address as an IAddress of Twisted."""
    if isinstance(address, tuple):
        kind: Any = IPv6Address if ":" in address[0] else IPv4Address
        made: IAddress = kind("TCP", *address[:4])
        return made
    return UNIXAddress(address.encode(errors="surrogateescape") if address else None)


class TLSBroken(ConnectionLost):
    """TLS has broken the connection; str() is the reason, such as `TLS: the peer sent an alert: certificate
    required`."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    def __str__(self) -> str:
        return f"TLS: {self.reason}"


class StreamOwner:
    """A protocol built by `factory`, as the owner of a stream.

    stream: None until it is connected. sent, received: the bytes that the protocol has sent and received. first_sent,
    first_received: called with the first of each. over: called when the connection is closed, after the protocol; its
    argument is that of `Stream.lost`.
    """

    def __init__(self, factory: IProtocolFactory) -> None:
        self.stream: Stream | None = None
        self.sent = self.received = 0
        self.first_sent: Callable[[], object] = nothing
        self.first_received: Callable[[], object] = nothing
        self.over: Callable[[bool], object] = nothing
        self._factory = factory
        self._protocol: Any = None
        self._is_aborted = False
        self._peer_closed = False
        factory.doStart()

    def begin(self, stream: Stream) -> IProtocol:
        """Build the protocol for a stream that is connected. Raises NoProtocol, and what the factory raises; then the
        stream is aborted, and `over` follows."""
        self.stream = stream
        stream.lost = self._connection_lost
        try:
            protocol: Any = self._factory.buildProtocol(twisted_address(stream.peer_address))
            if protocol is None:
                raise NoProtocol()
            self._protocol = protocol
            stream.dataReceived = self._data_received
            stream.ended = self._peer_ended
            protocol.makeConnection(StreamITransport(self, stream))
        except BaseException:
            self._protocol = None
            stream.dataReceived = nothing
            stream.abort()
            raise
        made: IProtocol = protocol
        return made

    def stop(self) -> None:
        """Tell the factory that no connection was made."""
        self._factory.doStop()

    def write(self, stream: Stream, data: bytes) -> None:
        if not self.sent:
            self.first_sent()
        self.sent += len(data)
        stream.write(data)

    def abort(self) -> None:
        """The protocol wants its connection to be reset."""
        self._is_aborted = True
        if self.stream is not None:
            self.stream.abort()

    def _data_received(self, data: bytes) -> None:
        if not self.received:
            self.first_received()
        self.received += len(data)
        self._protocol.dataReceived(data)

    def _peer_ended(self) -> None:
        if IHalfCloseableProtocol.providedBy(self._protocol):
            self._protocol.readConnectionLost()
        elif self.stream is not None:
            self._peer_closed = True
            self.stream.close()

    def _connection_lost(self, clean: bool) -> None:
        protocol, self._protocol = self._protocol, None
        failure = self.stream.failure if self.stream is not None else ""
        try:
            if protocol is not None:
                # After the peer's close, epoll reports an error of a unix socket that is about to be closed.
                is_done = clean or (self._peer_closed and not self._is_aborted)
                lost = TLSBroken(failure) if failure else ConnectionLost()
                reason = ConnectionDone() if is_done else ConnectionAborted() if self._is_aborted else lost
                protocol.connectionLost(Failure(reason))
            self._factory.doStop()
        finally:
            self.over(clean)


@implementer(ITCPTransport, IConsumer, IPushProducer)
class StreamITransport:
    """A stream as the ITCPTransport of a protocol. TCP's options do nothing on a stream without a socket of TCP."""

    def __init__(self, owner: StreamOwner, stream: Stream) -> None:
        self._owner = owner
        self._stream = stream
        self._producer: Any = None
        self.disconnecting = False

    def write(self, data: bytes) -> None:
        self._owner.write(self._stream, data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self._owner.write(self._stream, b"".join(data))

    def loseConnection(self) -> None:
        """Close once all is sent, and once the producer has unregistered itself, if there is one."""
        self.disconnecting = True
        if self._producer is None:
            self._stream.close()

    def loseWriteConnection(self) -> None:
        self._stream.half_close()

    def abortConnection(self) -> None:
        self._owner.abort()

    def getPeer(self) -> IAddress:  # type: ignore[override]
        return twisted_address(self._stream.peer_address)

    def getHost(self) -> IAddress:  # type: ignore[override]
        return twisted_address(self._stream.local_address)

    def getTcpNoDelay(self) -> bool:
        return self._option(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    def setTcpNoDelay(self, enabled: bool) -> None:
        self._set_option(socket.IPPROTO_TCP, socket.TCP_NODELAY, enabled)

    def getTcpKeepAlive(self) -> bool:
        return self._option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self._set_option(socket.SOL_SOCKET, socket.SO_KEEPALIVE, enabled)

    def _option(self, level: int, option: int) -> bool:
        handle = self._stream.handle
        return handle is not None and bool(handle.getsockopt(level, option))

    def _set_option(self, level: int, option: int, enabled: bool) -> None:
        handle = self._stream.handle
        if handle is not None:
            with suppress(OSError):  # the peer has disconnected, which reading will report
                handle.setsockopt(level, option, int(enabled))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Register a push producer (IConsumer). streaming: True; pull producers are not supported."""
        if not streaming:
            raise ValueError(f"{producer} cannot be registered: pull producers are not supported")
        if self._producer is not None:
            raise RuntimeError(f"{producer} cannot be registered: {self._producer} is")
        if not self._stream.is_open:
            producer.stopProducing()
            return
        self._producer = producer
        self._stream.set_backpressure(self)

    def pause_writing(self) -> None:
        self._producer.pauseProducing()

    def resume_writing(self) -> None:
        self._producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self._producer = None
        self._stream.clear_backpressure()
        if self.disconnecting:
            self._stream.close()

    def pauseProducing(self) -> None:
        self._stream.pause()

    def resumeProducing(self) -> None:
        self._stream.resume()

    def stopProducing(self) -> None:
        self.loseConnection()
