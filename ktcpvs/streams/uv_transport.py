"""A stream's transport over uvloop's own transports, with less overhead than Twisted's transports.

`write` is uvloop's own method, and received data goes directly to the stream's current `dataReceived`. To behave as
Twisted does, this module works around three properties of uvloop: it may report a reset that follows data as a clean
end, closes without a FIN if bytes are unread, and reads from a new connection even while reading is paused.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from ktcpvs.streams.contract import NotDetachable, SocketAddress
from ktcpvs.streams.transport import (
    NONBLOCKING,
    SMALL_READ_SIZE,
    SocketTransport,
    nothing,
    open_state,
    peer_of,
    reset_on_close,
)
from ktcpvs.system.sockets import give_descriptor

_log = Logger(namespace="ktcpvs")

BULK_READ_SIZE = 64 << 10
"""A peer that sends this many bytes at once is read in smaller pieces from then on: uvloop itself reads 250 KiB at
once, all of which stays in memory until its last byte has been sent to a slow reader."""

FIRST_READ_SIZE = 16 << 10
"""The most bytes of the first read from a new client: enough for a request, but not for a whole upload."""

_buffer = memoryview(bytearray(128 << 10))
"""The buffer for reading in pieces, shared by all; nothing stays in it."""

_small_buffer = _buffer[:SMALL_READ_SIZE]


class UVTransport(SocketTransport):
    """A stream's transport, which is also the protocol that uvloop calls (`data_received` and the like).

    stream: the Stream that it carries, or its substitute while its first bytes are held; None when it is over. sock:
    the socket if this object owns it, else None.
    """

    __slots__ = (
        "_aborted", "_attaches", "_closing", "_descriptor", "_early", "_fin_sent", "_half_closed", "_loop",
        "_paused", "_peer", "_peer_ended", "_pieces", "_reported_bulk", "_sends_fin", "_sock", "_uv",
        "stream", "write",
    )  # fmt: skip

    reports_bulk = True

    def __init__(self, stream: Any, sock: socket.socket | None = None, peer: SocketAddress = None) -> None:
        """peer: the address from accept(), for an accepted socket."""
        self.stream = stream
        self._sock: Any = sock
        self._peer = peer
        self._uv: Any = None  # uvloop's transport, once there is one
        self._loop: AbstractEventLoop | None = None  # gets the socket, unless the connection ends before
        self._attaches = False  # the loop has the socket, or is about to get it
        self._early: list[bytes] | None = None  # written before that, and not sent at once
        self.write: Callable[[bytes], object] = self._write_early
        self._writer = None
        self._is_full = False  # the producer must wait
        self._paused = False
        self._peer_ended = False
        self._half_closed = False  # our FIN follows what is buffered
        self._fin_sent = False  # nothing was buffered when it was requested
        self._closing = False
        self._aborted = False  # by us, or by the peer when uvloop reports an end
        self._sends_fin = True  # before closing
        self._pieces: _PieceReader | None = None  # reads, once much has come at once or small reads were requested
        self._reported_bulk = False
        self._descriptor = 0  # of the socket, once it was asked for

    # An accepted connection begins on its bare socket. Many clients have sent their request already, get their response
    # by one write, and disconnect: for these, giving the socket to the loop would be wasted work.

    def start(self, loop: AbstractEventLoop) -> None:
        """Read what has already come, if the stream reads; then give the socket to `loop`, unless the connection is
        over.

        Raises what `dataReceived` raises.
        """
        self._loop = loop
        if self._closing or self._aborted:
            loop.call_soon(self._close_bare)
            return
        if not self._paused and self._early is None:
            try:
                data = self._sock.recv(FIRST_READ_SIZE, NONBLOCKING)
            except BlockingIOError:
                data = b""
            except OSError:
                self.abort()
                return
            if data:
                self.stream.dataReceived(data)
        stream = self.stream  # None when the socket has been released
        if stream is not None and (self._early is not None or self._half_closed or not stream.resting):
            self._attach()

    def _attach(self) -> None:
        """Give the socket to the loop."""
        loop = self._loop
        if self._attaches or loop is None or self.stream is None or self._closing or self._aborted:
            return
        self._attaches = True
        # This coroutine waits once, for the loop's next turn. Our callback runs right after that, before anything is
        # read; a task would run one turn later.
        attaching = loop.connect_accepted_socket(self._as_protocol, self._sock)
        try:
            attaching.send(None)
        except Exception:
            _log.failure("a connection is lost: uvloop did not take its socket")
            self._attaches = False
            self.abort()
            return
        give_descriptor(self._sock)
        loop.call_soon(self._attached, attaching)

    def _as_protocol(self) -> Any:
        return self

    def _attached(self, attaching: Coroutine[Any, Any, Any]) -> None:
        """The loop has the socket and would read from now on: first do what the owner has requested meanwhile."""
        with contextlib.suppress(StopIteration):
            attaching.send(None)
        early, self._early = self._early, None
        if early is not None:
            self._uv.writelines(early)
        if self._aborted:
            self._abort()
        elif self._closing:
            self._uv.close()
        else:
            if self._half_closed:
                self._send_fin()
            if self._paused:
                self._uv.pause_reading()

    def _write_early(self, data: bytes) -> None:
        if self._uv is not None:  # called through a reference to an older `write`
            self.write(data)
            return
        if self._half_closed or self._closing or self._aborted:
            return
        if self._early is None:
            sent = 0
            if not self._attaches:
                with contextlib.suppress(OSError):  # full, or over: the loop will report it
                    sent = self._sock.send(data, NONBLOCKING)
            if sent == len(data):
                return
            self._early = [data[sent:]]
            self._attach()
        else:
            self._early.append(data)

    def _close_bare(self) -> None:
        """Close a connection whose socket the loop never got."""
        if self._aborted:
            self._reset_on_close()
        elif self._sends_fin:
            self._shut_down()
        self._sock.close()
        self._over(not self._aborted)

    # Called by uvloop.

    def connection_made(self, uv: Any) -> None:
        self._uv = uv
        if self._half_closed:
            self._drop_writes()
            return
        write = self.write = uv.write
        stream = self.stream
        if stream is not None and not (self._closing or self._aborted):
            stream.write = write

    def begin(self, stream: Any, made: Callable[[Any], object]) -> None:
        """Carry `stream` from now on, and call `made(stream)`."""
        self.stream = stream
        try:
            stream.makeConnection(self)
            made(stream)
        except Exception:
            _log.failure("a stream failed")
            self.abort()
        if self._paused and self.stream is stream:
            self.stream = _HeldStream(self, stream)

    def data_received(self, data: bytes) -> None:
        if len(data) >= BULK_READ_SIZE:
            self._read_pieces()
            self._reported_bulk = True
            self.stream.bulk_detected()
        self.stream.dataReceived(data)

    def _read_pieces(self) -> _PieceReader:
        pieces = self._pieces = _PieceReader(self)
        self._uv.set_protocol(pieces)
        return pieces

    def piece_received(self, size: int) -> None:
        """`data_received` of a connection that is read in pieces."""
        if size >= BULK_READ_SIZE and not self._reported_bulk:
            self._reported_bulk = True
            self.stream.bulk_detected()
        self.stream.dataReceived(_buffer[:size].tobytes())

    def eof_received(self) -> bool:
        """The peer has sent a FIN; or it has reset the connection while data was waiting, which libuv 1.48 reports in
        the same way."""
        if self.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) not in (0, errno.EPIPE):
            self._aborted = True
            self._uv.abort()
        else:
            self._peer_ended = True
            self.stream.readConnectionLost()
        return True  # uvloop must not close the connection

    def pause_writing(self) -> None:
        self._set_full(True)

    def resume_writing(self) -> None:
        self._set_full(False)

    def connection_lost(self, error: BaseException | None) -> None:
        """See asyncio.Protocol. error: of the system, or raised by the stream's owner; None when the connection was
        closed or aborted."""
        if error is not None and error.__traceback__ is not None:
            self._reset_on_close()
            if isinstance(error, OSError):  # uvloop treats it as an error of the connection, and logs nothing
                _log.failure("a stream failed", Failure(error))
        elif error is not None and not (self._aborted or self._peer_ended):
            self._read_the_rest()
        elif error is None and self._sends_fin and not (self._aborted or self._fin_sent or self._peer_ended):
            self._shut_down()
        self._over(error is None and not self._aborted)

    def _read_the_rest(self) -> None:
        """Writing failed. What the peer had sent before it reset the connection is still in the socket: a server that
        refuses an upload sends its response and closes with bytes unread, and the reset overtakes our reading."""
        self._drop_writes()
        if type(self.stream) is _HeldStream:
            self.stream.give_back()
        handle = self.getHandle()
        sock = socket.socket(handle.family, handle.type, 0, handle.fileno())
        try:
            while self.stream is not None and (data := sock.recv(len(_buffer), NONBLOCKING)):
                self.stream.dataReceived(data)
        except OSError:  # everything has been read
            return
        except Exception:
            _log.failure("a stream failed")
        finally:
            sock.detach()

    def _over(self, clean: bool) -> None:
        stream, self.stream = self.stream, None
        self.write = nothing
        self._pieces = None
        self._writer = None
        if stream is not None:
            stream.over(clean)

    # Called by the stream and its owner.

    def _drop_writes(self) -> None:
        """Drop everything that is written from now on."""
        self.write = nothing
        if self.stream is not None:
            self.stream.write = nothing

    @property
    def writev(self) -> Callable[[Sequence[bytes]], object]:
        if self._uv is None:
            return self._writev_early
        writelines: Callable[[Sequence[bytes]], object] = self._uv.writelines
        return nothing if self.write is nothing else writelines

    def _writev_early(self, pieces: Sequence[bytes]) -> None:
        self.write(b"".join(pieces))

    def pause(self) -> None:
        self._paused = True
        if self._uv is not None:
            self._uv.pause_reading()

    def resume(self) -> None:
        self._paused = False
        stream = self.stream
        if type(stream) is _HeldStream:
            stream.release()
        elif self._uv is None:
            self._attach()
        elif not self._peer_ended:
            self._uv.resume_reading()

    def half_close(self) -> None:
        self._writer = None
        if self._half_closed or self._closing or self._aborted or self.stream is None:
            return
        self._half_closed = True
        if self._uv is not None:
            self._drop_writes()
            self._send_fin()
        else:
            self._attach()

    def _send_fin(self) -> None:
        self._fin_sent = not self._uv.get_write_buffer_size()
        self._uv.write_eof()

    def close(self) -> bool:
        self._writer = None
        if self._closing or self._aborted or self.stream is None:
            return False
        self._closing = True
        if self._uv is not None:
            self._uv.close()
            return not self._uv.get_write_buffer_size()
        if not self._attaches and self._loop is not None:
            self._loop.call_soon(self._close_bare)
            return True
        return False

    def close_with_reset(self) -> bool:
        if not self.is_unix:
            self._reset_on_close()
        return self.close()

    def abort(self) -> None:
        if self._aborted or self.stream is None:
            return
        self._aborted = True
        if self._uv is not None:
            self._abort()
        elif not (self._attaches or self._closing) and self._loop is not None:
            self._loop.call_soon(self._close_bare)

    def _abort(self) -> None:
        self._reset_on_close()
        self._uv.abort()

    # The hand-over to a relay engine.

    def detach_obstacle(self) -> NotDetachable | None:
        uv = self._uv
        if type(self.stream) is _HeldStream:
            return NotDetachable.UNREAD
        if self._closing or self._aborted or (uv is not None and uv.is_closing()):
            return NotDetachable.CLOSING
        if self._half_closed:
            return NotDetachable.HALF_CLOSED
        if self._peer_ended:
            return NotDetachable.PEER_ENDED
        if self._attaches and uv is None:
            return NotDetachable.STARTING
        return NotDetachable.BUFFERED if self.buffered() else None

    def release(self) -> None:
        self.stream = self._writer = self._pieces = None
        self._aborted = self._paused = True
        self.write = nothing
        if self._uv is None:
            self._sock.close()
        else:
            self._uv.abort()  # it stops reading now, and closes the descriptor in the next turn

    # Bytes that pass by.

    def input_descriptor(self) -> int:
        uv = self._uv
        if uv is None or uv.is_closing() or self._paused or self._peer_ended or self._closing or self._aborted:
            return -1
        return self._descriptor or self._find_descriptor()

    def output_descriptor(self) -> int:
        uv = self._uv
        if uv is None or uv.is_closing() or self._closing or self._aborted:
            return -1
        if self.write is nothing or uv.get_write_buffer_size():
            return -1
        return self._descriptor or self._find_descriptor()

    def _find_descriptor(self) -> int:
        descriptor: int = self.getHandle().fileno()
        self._descriptor = descriptor
        return descriptor

    def read_small(self, small: bool) -> None:
        pieces = self._pieces
        if pieces is None:
            if not small or self.input_descriptor() < 0:
                return
            pieces = self._read_pieces()
        pieces.buffer = _small_buffer if small else _buffer

    def send_ahead(self, pieces: Sequence[bytes]) -> bool:
        size = sum(map(len, pieces))
        handle = self.getHandle()
        ours = isinstance(handle, socket.socket)
        sock = handle if ours else socket.socket(handle.family, handle.type, 0, handle.fileno())
        try:
            sent = sock.sendmsg(pieces, (), NONBLOCKING | socket.MSG_MORE)
        except OSError:  # full, or over: the loop will report it
            sent = 0
        finally:
            if not ours:
                sock.detach()
        if sent < size:
            self.write(b"".join(pieces)[sent:])
            return False
        return True

    # The socket.

    def buffered(self) -> int:
        early = sum(map(len, self._early)) if self._early is not None else 0
        return early + (self._uv.get_write_buffer_size() if self._uv is not None else 0)

    def getHandle(self) -> Any:
        """The socket, for its options."""
        if self._sock is None:
            self._sock = self._uv.get_extra_info("socket")
        return self._sock

    @property
    def peer_address(self) -> SocketAddress:
        return self._peer if self._peer is not None else peer_of(self.getHandle())

    @property
    def is_paused(self) -> bool:
        """Whether the owner has paused reading."""
        return self._paused

    def state(self) -> str:
        if self.stream is None:
            return "closed"
        if self._aborted or self._closing:
            return "aborted" if self._aborted else "closing"
        return open_state(self._half_closed, self._peer_ended, self._paused, self._is_full)

    def _reset_on_close(self) -> None:
        self._sends_fin = False
        reset_on_close(self.getHandle())

    def _shut_down(self) -> None:
        """Send a FIN before closing, since close(2) sends none if bytes are unread."""
        handle = self.getHandle()
        ours = isinstance(handle, socket.socket)
        sock = handle if ours else socket.socket(handle.family, handle.type, 0, handle.fileno())
        try:
            with contextlib.suppress(OSError):  # the peer has already closed it
                sock.shutdown(socket.SHUT_RDWR)
        finally:
            if not ours:
                sock.detach()


class _PieceReader:
    """The protocol that uvloop calls for a connection that is read in pieces of 128 KiB, into one shared buffer.

    buffer: the part of it that is read into.
    """

    __slots__ = ("buffer", "buffer_updated", "connection_lost", "eof_received", "pause_writing", "resume_writing")

    def __init__(self, transport: UVTransport) -> None:
        self.buffer = _buffer
        self.buffer_updated = transport.piece_received
        self.connection_lost = transport.connection_lost
        self.eof_received = transport.eof_received
        self.pause_writing = transport.pause_writing
        self.resume_writing = transport.resume_writing

    def get_buffer(self, size: int) -> memoryview:
        """Return the buffer to read into. size: suggested by libuv."""
        return self.buffer


class _HeldStream:
    """The substitute for a stream that was paused when its connection was made.

    uvloop begins to read nevertheless, so the first bytes are held until the stream is resumed.
    """

    __slots__ = ("_data", "_ended", "_released", "_stream", "_transport")

    def __init__(self, transport: UVTransport, stream: Any) -> None:
        self._transport = transport
        self._stream = stream
        self._data = b""
        self._ended = False
        self._released = False

    @property
    def write(self) -> Callable[[bytes], object]:
        write: Callable[[bytes], object] = self._stream.write
        return write

    @write.setter
    def write(self, write: Callable[[bytes], object]) -> None:
        self._stream.write = write

    def dataReceived(self, data: bytes) -> None:
        self._data = data
        self._transport.pause()

    def bulk_detected(self) -> None:
        self._stream.bulk_detected()

    def readConnectionLost(self) -> None:
        self._ended = True

    def over(self, clean: bool) -> None:
        self._stream.over(clean)

    def give_back(self) -> None:
        """Restore the stream, and pass it the held bytes."""
        transport, data, self._data = self._transport, self._data, b""
        transport.stream = self._stream
        if data:
            self._stream.dataReceived(data)

    def release(self) -> None:
        """The stream was resumed: pass it the held bytes in the next turn."""
        if not self._released:
            self._released = True
            get_running_loop().call_soon(self._resume_stream)

    def _resume_stream(self) -> None:
        transport, stream = self._transport, self._stream
        self._released = False
        if transport.stream is not self or transport.is_paused:
            return  # it is over, or was paused again
        transport.stream = stream
        transport.resume()
        try:
            if self._data:
                stream.dataReceived(self._data)
            if self._ended:
                stream.readConnectionLost()
        except Exception:
            _log.failure("a stream failed")
            transport.abort()


class ConnectingProtocol:
    """The protocol of a connection that is being established; a UVTransport replaces it when the connection is open."""

    __slots__ = ("_connected",)

    def __init__(self, connected: Callable[[UVTransport], object]) -> None:
        """connected: called with the transport; unless it calls its `begin`, the connection is closed."""
        self._connected = connected

    def connection_made(self, uv: Any) -> None:
        transport = UVTransport(None)
        uv.set_protocol(transport)
        transport.connection_made(uv)
        self._connected(transport)
        if transport.stream is None:
            uv.abort()

    def connection_lost(self, error: BaseException | None) -> None:
        """The connection was lost before there was a transport."""


def adopt_socket(loop: AbstractEventLoop, sock: socket.socket, peer: SocketAddress, stream: Any) -> None:
    """Attach `stream` to an accepted socket. Raises what the stream's owner or the system raises.

    peer: its address, which is not kept: the stream asks the system for it.
    """
    transport = UVTransport(stream, sock)
    try:
        stream.makeConnection(transport)
    except BaseException:
        transport.abort()
        raise
    finally:
        transport.start(loop)
