"""A connection leaves its transport and goes on: an engine has the bare socket, the stream a transport without bytes.

The old transport is closed by its own means while a duplicate of its descriptor is open, so the peer is sent nothing.
What the kernel has received stays there; what the transport has not sent would be lost, so nothing may be buffered.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet import tcp

from ktcpvs.streams.stream import Stream, nothing
from ktcpvs.streams.uv_transport import UVTransport
from ktcpvs.system.sockets import RESET_ON_CLOSE


class Engine(Protocol):
    """What carries the bytes of detached connections."""

    def holds(self, transport: Detached) -> bool:
        """True while bytes are on their way to it; the engine calls its `drained` when that ends."""

    def read_no_more(self, transport: Detached) -> None:
        """Its owner closes it: what else its peer sends belongs to nobody."""

    def forget(self, transport: Detached) -> None:
        """Its descriptor is about to be closed."""


class Detached:
    """The transport of a stream whose bytes an engine carries: for everything but bytes.

    As with other transports, the stream does not hear of its end within a call of its owner's but in a later turn.
    stream: None until it is detached, and when it is over.
    """

    __slots__ = ("_aborted", "_closing", "_engine", "_fin", "_shouldShutdown", "_sock", "_soon", "stream")

    def __init__(self, engine: Engine, soon: Callable[[Callable[[], object]], object]) -> None:
        """soon: calls what it is given in the reactor's next turn."""
        self.stream: Stream | None = None
        self._sock: Any = None
        self._engine: Engine | None = engine  # None from the moment on when it is left
        self._soon = soon
        self._fin = False  # our FIN is sent, or will be when nothing is held
        self._closing = False
        self._aborted = False
        self._shouldShutdown = True  # the name that Twisted's transports have for it: a FIN goes before the close

    # What the engine calls.

    def drained(self) -> None:
        """Nothing is on its way to it any more."""
        if self._closing:
            self._leave()
        elif self._fin:
            self._shut_down(socket.SHUT_WR)

    def broken(self) -> None:
        """The system says that the connection is gone. The stream hears of it at once."""
        if self.stream is not None:
            self._over(False)

    # What the stream and its owner call.

    def getHandle(self) -> Any:
        """The socket."""
        return self._sock

    def loseWriteConnection(self) -> None:
        """Send what is on its way, then a FIN; reading goes on."""
        if self._fin or self._engine is None or self._closing:
            return
        self._fin = True
        if not self._engine.holds(self):
            self._shut_down(socket.SHUT_WR)

    def loseConnection(self) -> bool:
        """Send what is on its way, then close. True: nothing is, and it is closed in the next turn."""
        if self._closing or self._engine is None:
            return False
        self._closing = True
        self._engine.read_no_more(self)
        if self._engine.holds(self):
            return False
        self._leave()
        return True

    def abortConnection(self) -> None:
        """Close at once, with a reset."""
        if self._aborted or self.stream is None:
            return
        self._aborted = True
        if self._sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # it is closed by its peer already
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._leave()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Nobody writes to it, so nobody is held back."""

    def unregisterProducer(self) -> None:
        pass

    def pauseProducing(self) -> None:
        """The engine reads when the other side takes it, and not else."""

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        self.loseConnection()

    # The end.

    def _leave(self) -> None:
        if self._engine is not None:
            self._forget()
            self._soon(self._close)

    def _forget(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.forget(self)

    def _close(self) -> None:
        if self.stream is None:
            return
        if self._shouldShutdown and not (self._aborted or self._fin):
            self._shut_down(socket.SHUT_RDWR)  # a close alone sends no FIN when something has not been read
        self._over(not self._aborted)

    def _over(self, clean: bool) -> None:
        self._forget()
        stream, self.stream = self.stream, None
        self._sock.close()
        if stream is not None:
            stream.over(clean)

    def _shut_down(self, how: int) -> None:
        with contextlib.suppress(OSError):  # it is closed by its peer already: reading will tell
            self._sock.shutdown(how)


def can_detach(stream: Stream) -> str | None:
    """None, or the reason why the connection cannot leave its transport, now or at all."""
    transport = stream.transport
    if not stream.is_open or transport is None:
        return "it is not open"
    if isinstance(transport, UVTransport):
        return _kept_by_uvloop(transport) if transport.stream is stream else "what came early has not been read"
    if isinstance(transport, tcp.Connection):
        return _kept_by_twisted(transport)
    return "its transport has no socket of its own"


def _kept_by_uvloop(transport: UVTransport) -> str | None:
    uv = transport._uv
    if transport._closing or transport._aborted or (uv is not None and uv.is_closing()):
        return "it is being closed"
    if transport._ended or transport._peer_ended:
        return "it has been ended" if transport._ended else "its peer has ended"
    return "it is just beginning" if transport._attaches and uv is None else None


def _kept_by_twisted(transport: Any) -> str | None:
    if transport.TLS:
        return "it speaks TLS"
    if not transport.connected or transport.disconnecting or transport._aborting:
        return "it is being closed"
    if transport._writeDisconnecting or transport._writeDisconnected:
        return "it has been ended"
    try:
        if not transport.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
            return "its peer has ended"  # whether its owner has heard of it, Twisted does not know
    except BlockingIOError:
        pass
    except OSError:
        return "it is broken"
    return None


def flushed(stream: Stream) -> bool:
    """True when the system has all that was written to the stream; False too when that cannot be known."""
    transport = stream.transport
    if isinstance(transport, UVTransport):
        uv = transport._uv  # it sends at once what the system takes
        return transport._early is None and (uv is None or not uv.get_write_buffer_size())
    if isinstance(transport, tcp.Connection):
        return len(transport.dataBuffer) == transport.offset and not transport._tempDataBuffer
    return False


def duplicate(stream: Stream) -> socket.socket:
    """The socket of a stream that can be detached, by another descriptor. Raises OSError."""
    handle = stream.transport.getHandle()
    fd = os.dup(handle.fileno())
    try:
        sock = socket.socket(handle.family, socket.SOCK_STREAM, 0, fd)
        sock.setblocking(False)
    except BaseException:
        os.close(fd)
        raise
    return sock


def detach(stream: Stream, transport: Detached, sock: socket.socket | None = None) -> socket.socket:
    """From now on `transport` is the transport of `stream`; its socket, which the transport closes.

    It must be possible, and nothing may be buffered: see can_detach and flushed. sock: a `duplicate` that was made
    before; then nothing can fail. Raises OSError else, and nothing has happened.
    """
    if sock is None:
        sock = duplicate(stream)
    old = stream.transport
    if isinstance(old, UVTransport):
        old.leave()
    else:
        _leave_twisted(old)
    transport.stream = stream
    transport._sock = sock
    stream.transport = transport
    return sock


def _leave_twisted(transport: Any) -> None:
    """What its connectionLost does, but that nobody hears of it. Its loseConnection would shut the connection down."""
    transport.stopReading()
    transport.stopWriting()
    transport.unregisterProducer()
    transport.connected = 0
    transport.disconnected = 1
    transport.doRead = transport.doWrite = nothing  # the reactor may be about to call them for what was ready
    transport.socket.close()
    del transport.protocol, transport.socket, transport.fileno
    if hasattr(transport, "connector"):
        del transport.connector  # it holds the transport, and would be held by it
