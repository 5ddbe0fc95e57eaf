"""A connection on uvloop's own transport: what Twisted's transports do for a stream, with less in between.

`write` is uvloop's own; what comes goes to the stream's `dataReceived` of that moment. uvloop may take a reset that
comes after data for an orderly end, closes without a FIN when something is unread, and reads even what was paused as
soon as it was connected. Here it is as Twisted has it.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from ktcpvs.streams.stream import Stream, nothing
from ktcpvs.system.sockets import RESET_ON_CLOSE

_log = Logger(namespace="ktcpvs")

MUCH = 64 << 10
"""Who sends so many bytes at once is read in pieces from then on: uvloop itself reads 250 KiB at once, and all of it is
in memory until its last byte has been sent to a slow reader."""

FIRST = 16 << 10
"""How much of a new client is read at once, in bytes: its request, and not all of an upload."""

AT_ONCE = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
"""How to send and receive on a bare socket, which nobody has made non-blocking."""

_buffer = memoryview(bytearray(128 << 10))
"""What is read in pieces is read into here; nothing stays in it."""


class UVTransport:
    """The protocol that uvloop calls (`data_received` and the like) and the transport that the stream's owner calls
    (`loseConnection` and the like), in one.

    stream: who hears of everything; None when it is over. sock: the socket where it is ours, else None.
    write: bytes to be sent. What is written after `loseWriteConnection` or after the end is dropped.
    """

    __slots__ = (
        "_aborted", "_attaches", "_closing", "_early", "_ended", "_fin", "_full", "_loop", "_paused", "_peer_ended",
        "_producer", "_shouldShutdown", "_sock", "_uv", "stream", "write",
    )  # fmt: skip

    def __init__(self, stream: Stream | _Held | None, sock: socket.socket | None = None) -> None:
        self.stream = stream
        self._sock: Any = sock
        self._uv: Any = None  # uvloop's transport, when there is one
        self._loop: AbstractEventLoop | None = None  # that gets the socket, should it be worth it
        self._attaches = False  # it gets it
        self._early: list[bytes] | None = None  # what was written before and could not be sent at once
        self.write: Callable[[bytes], object] = self._write_early
        self._producer: Any = None
        self._full = False  # the producer is to wait
        self._paused = False
        self._peer_ended = False
        self._ended = False  # our FIN is to be sent after what is buffered
        self._fin = False  # and nothing was buffered
        self._closing = False
        self._aborted = False  # by us, or by the peer where uvloop says it was an end
        self._shouldShutdown = True  # the name that Twisted's transports have for it: a FIN goes before the close

    # How a connection that was accepted begins: on its bare socket. Many a client has sent its request already, gets
    # its answer by one write, and is gone: it is not worth what `loop` does to take a socket.

    def start(self, loop: AbstractEventLoop) -> None:
        """Read what has come already, if the stream reads; give the socket to `loop`, unless that was all it wants.

        Raises what `dataReceived` raises.
        """
        self._loop = loop
        if self._closing or self._aborted:
            loop.call_soon(self._close_bare)
            return
        if not self._paused and self._early is None:
            try:
                data = self._sock.recv(FIRST, AT_ONCE)
            except BlockingIOError:
                data = b""
            except OSError:
                self.abortConnection()
                return
            if data:
                self.stream.dataReceived(data)  # type: ignore[union-attr]
        stream: Any = self.stream  # None when it has left
        if stream is not None and (self._early is not None or self._ended or not stream.resting):
            self._attach()

    def _attach(self) -> None:
        """Give the socket to the loop."""
        loop = self._loop
        if self._attaches or loop is None or self.stream is None or self._closing or self._aborted:
            return
        self._attaches = True
        # A coroutine that waits once, for what `loop` does in its next turn: we come right after that, before anything
        # is read, where a task would come one turn later.
        attaching = loop.connect_accepted_socket(self._itself, self._sock)
        try:
            attaching.send(None)
        except Exception:
            _log.failure("a connection is lost")
            self._attaches = False
            self.abortConnection()
            return
        loop.call_soon(self._attached, attaching)

    def _itself(self) -> Any:
        return self

    def _attached(self, attaching: Coroutine[Any, Any, Any]) -> None:
        """uvloop would read from now on; what the owner asked for meanwhile is done first."""
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
            if self._ended:
                self._end()
            if self._paused:
                self._uv.pause_reading()

    def _write_early(self, data: bytes) -> None:
        if self._uv is not None:  # somebody has kept what `write` was
            self.write(data)
            return
        if self._ended or self._closing or self._aborted:
            return
        if self._early is None:
            sent = 0
            if not self._attaches:
                with contextlib.suppress(OSError):  # it is full, or over: the loop will tell
                    sent = self._sock.send(data, AT_ONCE)
            if sent == len(data):
                return
            self._early = [data[sent:]]
            self._attach()
        else:
            self._early.append(data)

    def _close_bare(self) -> None:
        """The end of one that the loop never had."""
        if self._aborted:
            self._reset_on_close()
        elif self._shouldShutdown:
            self._shut_down()
        self._sock.close()
        self._over(not self._aborted)

    # What uvloop calls.

    def connection_made(self, uv: Any) -> None:
        self._uv = uv
        self.write = nothing if self._ended else uv.write

    def data_received(self, data: bytes) -> None:
        if len(data) >= MUCH:
            self._uv.set_protocol(_InPieces(self))
            self.stream.much()  # type: ignore[union-attr]
        self.stream.dataReceived(data)  # type: ignore[union-attr]

    def piece_received(self, size: int) -> None:
        """`data_received` of a connection that is read in pieces."""
        self.stream.dataReceived(_buffer[:size].tobytes())  # type: ignore[union-attr]

    def eof_received(self) -> bool:
        """An end; or a reset that came while data was still waiting, which libuv 1.48 takes for an end."""
        if self.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) not in (0, errno.EPIPE):
            self._aborted = True
            self._uv.abort()
        else:
            self._peer_ended = True
            self.stream.readConnectionLost()  # type: ignore[union-attr]
        return True  # uvloop shall not close it

    def pause_writing(self) -> None:
        self._full = True
        if self._producer is not None:
            self._producer.pauseProducing()

    def resume_writing(self) -> None:
        self._full = False
        if self._producer is not None:
            self._producer.resumeProducing()

    def connection_lost(self, error: BaseException | None) -> None:
        """error: of the system, or what a stream has raised; None when it was closed or aborted."""
        if error is not None and error.__traceback__ is not None:
            self._reset_on_close()
            if isinstance(error, OSError):  # uvloop takes it for one of the connection's own, and says nothing
                _log.failure("a stream failed", Failure(error))
        elif error is not None and not (self._aborted or self._peer_ended):
            self._read_the_rest()
        elif error is None and self._shouldShutdown and not (self._aborted or self._fin or self._peer_ended):
            self._shut_down()
        self._over(error is None and not self._aborted)

    def _read_the_rest(self) -> None:
        """Writing failed. What the peer had sent before it reset the connection is still in the socket: a server that
        refuses an upload sends its response and closes with bytes unread, and the reset overtakes our reading."""
        self.write = nothing
        if type(self.stream) is _Held:
            self.stream.give_back()
        handle = self.getHandle()
        sock = socket.socket(handle.family, handle.type, 0, handle.fileno())
        try:
            while self.stream is not None and (data := sock.recv(len(_buffer), AT_ONCE)):
                self.stream.dataReceived(data)
        except OSError:  # it was read to its end
            return
        except Exception:
            _log.failure("a stream failed")
        finally:
            sock.detach()

    def _over(self, clean: bool) -> None:
        stream, self.stream = self.stream, None
        self.write = nothing
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        if stream is not None:
            stream.over(clean)

    # What the stream and its owner call.

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Write all of `data`, at best by one call to the system."""
        if self._uv is None or self._ended or self.stream is None:
            self.write(b"".join(data))
        else:
            self._uv.writelines(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """`producer` is paused while more than 64 KiB wait to be sent, and resumed when all is sent."""
        if self._producer is not None:
            raise RuntimeError(f"{producer} cannot be registered: {self._producer} is")
        if self.stream is None:
            producer.stopProducing()
            return
        self._producer = producer
        if self._full:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    def pauseProducing(self) -> None:
        """Read no more."""
        self._paused = True
        if self._uv is not None:
            self._uv.pause_reading()

    def resumeProducing(self) -> None:
        """Read again, unless the peer has ended."""
        self._paused = False
        stream = self.stream
        if type(stream) is _Held:
            stream.release()
        elif self._uv is None:
            self._attach()
        elif not self._peer_ended:
            self._uv.resume_reading()

    def stopProducing(self) -> None:
        self.loseConnection()

    def loseWriteConnection(self) -> None:
        """Send what is buffered, then a FIN; reading goes on."""
        if self._ended or self._closing or self._aborted or self.stream is None:
            return
        self._ended = True
        if self._uv is not None:
            self.write = nothing
            self._end()
        else:
            self._attach()

    def _end(self) -> None:
        self._fin = not self._uv.get_write_buffer_size()
        self._uv.write_eof()

    def loseConnection(self) -> bool:
        """Send what is buffered, then close. True: nothing is buffered, and it is closed in the next turn for sure."""
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

    def abortConnection(self) -> None:
        """Close at once, with a reset."""
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

    # How a connection leaves it and goes on elsewhere.

    def leave(self) -> None:
        """Close our descriptor and tell nobody. While a duplicate is open, the system sends the peer nothing."""
        self.stream = self._producer = None
        self._aborted = self._paused = True
        self.write = nothing
        if self._uv is None:
            self._sock.close()
        else:
            self._uv.abort()  # reading stops now, the descriptor goes in the next turn

    # The socket.

    def buffered(self) -> int:
        """Bytes that were written and that the system has not taken yet."""
        early = sum(map(len, self._early)) if self._early is not None else 0
        return early + (self._uv.get_write_buffer_size() if self._uv is not None else 0)

    def getHandle(self) -> Any:
        """The socket, for its options."""
        if self._sock is None:
            self._sock = self._uv.get_extra_info("socket")
        return self._sock

    def _reset_on_close(self) -> None:
        self._shouldShutdown = False
        handle = self.getHandle()
        if handle.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # it is closed by its peer already
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

    def _shut_down(self) -> None:
        """A FIN before the close, which is none when something has not been read."""
        handle = self.getHandle()
        ours = isinstance(handle, socket.socket)
        sock = handle if ours else socket.socket(handle.family, handle.type, 0, handle.fileno())
        try:
            with contextlib.suppress(OSError):  # it is closed by its peer already
                sock.shutdown(socket.SHUT_RDWR)
        finally:
            if not ours:
                sock.detach()


class _InPieces:
    """The protocol that uvloop calls for a connection that is read in pieces of 128 KiB: into a buffer of ours."""

    __slots__ = ("buffer_updated", "connection_lost", "eof_received", "pause_writing", "resume_writing")

    def __init__(self, transport: UVTransport) -> None:
        self.buffer_updated = transport.piece_received
        self.connection_lost = transport.connection_lost
        self.eof_received = transport.eof_received
        self.pause_writing = transport.pause_writing
        self.resume_writing = transport.resume_writing

    def get_buffer(self, size: int) -> memoryview:
        """Where to read to; size: what libuv suggests."""
        return _buffer


class _Held:
    """Stands before a stream that was paused when its connection was made.

    uvloop begins to read then, whatever one says; so the first that comes is kept until the stream goes on.
    """

    __slots__ = ("_data", "_ended", "_released", "_stream", "_transport")

    def __init__(self, transport: UVTransport, stream: Stream) -> None:
        self._transport = transport
        self._stream = stream
        self._data = b""
        self._ended = False
        self._released = False

    def dataReceived(self, data: bytes) -> None:
        self._data = data
        self._transport.pauseProducing()

    def much(self) -> None:
        self._stream.much()

    def readConnectionLost(self) -> None:
        self._ended = True

    def over(self, clean: bool) -> None:
        self._stream.over(clean)

    def give_back(self) -> None:
        """The stream stands in its place again, and gets what was kept."""
        transport, data, self._data = self._transport, self._data, b""
        transport.stream = self._stream
        if data:
            self._stream.dataReceived(data)

    def release(self) -> None:
        """The stream goes on: in the next turn it gets what was kept."""
        if not self._released:
            self._released = True
            get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        transport, stream = self._transport, self._stream
        self._released = False
        if transport.stream is not self or transport._paused:
            return  # it is over, or was paused again
        transport.stream = stream
        transport.resumeProducing()
        try:
            if self._data:
                stream.dataReceived(self._data)
            if self._ended:
                stream.readConnectionLost()
        except Exception:
            _log.failure("a stream failed")
            transport.abortConnection()


class UVCaller(UVTransport):
    """The same for a connection that we make. connected: called with it when there is one; it may `begin` it."""

    __slots__ = ("_connected",)

    def __init__(self, connected: Callable[[UVCaller], object]) -> None:
        super().__init__(None)
        self._connected: Callable[[UVCaller], object] | None = connected

    def connection_made(self, uv: Any) -> None:
        super().connection_made(uv)
        connected, self._connected = self._connected, None
        if connected is not None:
            connected(self)
        if self.stream is None:
            uv.abort()  # nobody wants it any more

    def begin(self, stream: Stream, made: Callable[[Stream], object]) -> None:
        """`stream` speaks over it from now on; then `made(stream)`."""
        self.stream = stream
        try:
            stream.makeConnection(self)  # type: ignore[no-untyped-call]
            made(stream)
        except Exception:
            _log.failure("a stream failed")
            self.abortConnection()
        if self._paused and self.stream is stream:
            self.stream = _Held(self, stream)


def adopt(loop: AbstractEventLoop, sock: socket.socket, stream: Stream) -> None:
    """From now on `stream` speaks over an accepted socket. Raises what its owner raises, or the system."""
    transport = UVTransport(stream, sock)
    try:
        stream.makeConnection(transport)  # type: ignore[no-untyped-call]
    except BaseException:
        transport.abortConnection()
        raise
    finally:
        transport.start(loop)
