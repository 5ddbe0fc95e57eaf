"""A stream's transport over a bare socket, which the relays' poller polls.

A connection may carry a single request. It needs accept or connect, the reads and writes of its bytes, and close. This
transport avoids every other system call, or makes it only when it matters. It polls the socket edge-triggered, so that
pausing and resuming need no system call. `streams/compiled.py` replaces the methods that nearly every connection calls
by compiled ones, which leave what is unusual to the other methods here.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from ktcpvs.streams.contract import NotDetachable, SocketAddress
from ktcpvs.streams.poller import ERR, ET, HUP, IN, OUT, PRI, RDHUP, SocketPoller
from ktcpvs.streams.transport import (
    NONBLOCKING,
    SMALL_READ_SIZE,
    SocketTransport,
    nothing,
    open_state,
    peer_of,
    reset_on_close,
)
from ktcpvs.system.sockets import plain_socket_class, read_urgent_in_place, send_at_once

_log = Logger(namespace="ktcpvs")

READ_SIZE = 16 << 10
"""Bytes of one read from a peer that sends small messages."""

BULK_READ_SIZE = 128 << 10
"""Bytes of one read after a read of READ_SIZE was filled."""

BULK_SIZE = 64 << 10
"""A read that returns this many bytes is reported to the stream as bulk."""

HIGH_WATER, LOW_WATER = 64 << 10, 16 << 10
"""Back-pressure begins when more than HIGH_WATER bytes are unsent, and ends at LOW_WATER."""

MAX_PIECES = 64
"""The most pieces that one call sends."""

MAX_UNDIVIDED = 1200
"""Bytes that fit into one segment on any path: a first write of so many is sent at once, even without TCP_NODELAY."""

READ_EVENTS = IN | RDHUP | PRI | ET
ALL_EVENTS = READ_EVENTS | OUT

_INPUT = IN | RDHUP | PRI | ERR | HUP
_RARE = RDHUP | PRI | ERR | HUP
_WRITABLE = OUT | ERR | HUP

_AF_UNIX = int(socket.AF_UNIX)


class BareTransport(SocketTransport):
    """A transport on a bare socket. poller: polls the socket. stream: the Stream that it carries; None when the
    connection is over."""

    __slots__ = (
        "_aborted", "_closing", "_events", "_family", "_fd", "_fin_came", "_half_closed", "_has_input",
        "_has_written", "_is_delaying", "_is_reading", "_is_scheduled", "_paused", "_peer", "_peer_ended",
        "_puts_urgent_in_place", "_read_size", "_reads_on", "_reads_small", "_recv", "_send", "_sends_at_once",
        "_sends_fin", "_sock", "_unsent", "_unsent_size", "_was_bulk", "poller", "stream",
    )  # fmt: skip

    reports_bulk = True
    poller: SocketPoller

    def __init__(
        self,
        poller: SocketPoller,
        descriptor: int,
        family: int,
        peer: SocketAddress = None,
        events: int = 0,
        is_delaying: bool = False,
        /,
    ) -> None:
        """descriptor: of a socket, which the transport closes. family: of its address. peer: the address of the peer,
        where it is known. events: that the poller watches already. is_delaying: a TCP socket without TCP_NODELAY."""
        self.poller = poller
        self.stream: Any = None
        self._fd = descriptor  # -1 when it is closed
        self._family = family
        # Compiled methods make system calls themselves, so they begin without these three.
        sock: Any = plain_socket_class(family)(family, socket.SOCK_STREAM, 0, descriptor)
        self._sock = sock
        self._recv, self._send = sock.recv, sock.send
        self._peer = peer
        self._events = events
        self._is_delaying = is_delaying  # Nagle's algorithm is on
        self._has_written = False  # while it was
        self._sends_at_once = not is_delaying  # nothing is unsent, and there is no end of writing
        self._unsent: deque[bytes | memoryview] | None = None  # what the system has not taken yet
        self._unsent_size = 0
        self._read_size = READ_SIZE
        self._reads_small = False  # it is SMALL_READ_SIZE
        self._writer = None
        self._was_bulk = False  # its stream has heard of it
        self._is_reading = True  # not paused, and not at an end
        self._has_input = False  # there may be something to read, of which no further event tells
        self._is_scheduled = False  # reading goes on in the next turn
        self._reads_on = False  # until there is nothing to read: no event tells of the rest
        self._fin_came = False  # all that the peer has sent is there to be read
        self._paused = False
        self._peer_ended = False
        self._is_full = False  # the producer must wait
        self._half_closed = False  # our FIN is sent, or follows what is unsent
        self._sends_fin = True  # before the close
        self._closing = False
        self._aborted = False
        self._puts_urgent_in_place = False  # when urgent data comes

    def begin(self, stream: Any) -> None:
        """Carry `stream` from now on. Raises what its owner raises."""
        self.stream = stream
        try:
            stream.use_transport(self)
        except BaseException:
            self.abort()
            raise
        if self._is_reading and not self._events:
            # Most clients have sent their request already. Many of these need no watching: they get their response, and
            # the connection is closed.
            self.ready(IN)
            if self._is_reading and not self._events and not stream.resting:
                self._watch(READ_EVENTS)

    # Called by the poller.

    def ready(self, events: int) -> None:
        """The socket is ready for some of what it is watched for."""
        try:
            if not events & _RARE and self._is_reading and self._unsent is None:
                size = self._read_size  # as `_read`, without another call for each message
                try:
                    data = self._recv(size, NONBLOCKING)
                except OSError as error:
                    self._read_failed(error)
                    return
                if 0 < len(data) < size == READ_SIZE and not self._reads_on:
                    self._has_input = False
                    self.stream.dataReceived(data)
                else:
                    self._received(data, size)
                return
            if self._unsent is not None and events & _WRITABLE:
                self._flush()
            if events & _INPUT:
                if events & _RARE:
                    self._note(events)
                if self._is_reading:
                    self._read()
                else:
                    self._has_input = True
        except Exception as error:
            self._failed(error)

    def _note(self, events: int) -> None:
        if events & PRI and self._puts_urgent_in_place:
            self._puts_urgent_in_place = False
            read_urgent_in_place(self.getHandle())
        # A socket whose peer has sent a FIN gets no more bytes, so a short read is the last one. Not so when the read
        # stops at urgent data, or when a reset is to be read behind the bytes: no other event tells of what follows.
        self._fin_came = events & (RDHUP | PRI | ERR) == RDHUP
        self._reads_on = True

    def _read(self) -> None:
        size = self._read_size
        try:
            data = self._recv(size, NONBLOCKING)
        except OSError as error:
            self._read_failed(error)
        else:
            self._received(data, size)

    def _read_failed(self, error: OSError) -> None:
        if isinstance(error, BlockingIOError):
            self._has_input = self._reads_on = False
        else:
            self._over(False)

    def _received(self, data: bytes, size: int) -> None:
        """A read has returned `data`, of `size` bytes at most."""
        length = len(data)
        if not data:
            self._input_ended()
            return
        self._has_input = self._reads_on or length == size
        if not self._reads_small:
            self._read_size = READ_SIZE if length < READ_SIZE else BULK_READ_SIZE
        if length >= BULK_SIZE and not self._was_bulk:
            self._was_bulk = True
            self.stream.bulk_detected()
        self.stream.dataReceived(data)
        if not (self._has_input and self._is_reading):
            return
        if length < size:
            self._after_short_read()
        elif size == READ_SIZE:
            self._read()  # the rest, at one go
        else:
            self._read_soon()  # others have their turn

    def _after_short_read(self) -> None:
        """Read on after a short read: more may have come, and no event will report it."""
        if self._fin_came and not self.is_unix:  # whose reads stop where descriptors were sent
            self._input_ended()
        else:
            self._read()

    def _input_ended(self) -> None:
        self._peer_ended = True
        self._is_reading = self._has_input = False
        self.stream.readConnectionLost()

    def _read_soon(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self.poller.call_soon(self._read_on)

    def _read_on(self) -> None:
        self._is_scheduled = False
        if self._is_reading and self._has_input:
            try:
                self._read()
            except Exception as error:
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        """The stream's owner has raised an exception."""
        _log.failure("a stream failed", Failure(error))
        if self.stream is not None:
            self._reset_on_close()
            self._over(False)

    # Writing.

    def write(self, data: bytes) -> None:
        if not self._sends_at_once:
            self._write_otherwise(data)
            return
        try:
            sent = self._send(data, NONBLOCKING)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._write_failed()
            return
        if sent != len(data):
            self._hold_rest(data, sent)

    def writev(self, pieces: Sequence[bytes]) -> None:
        if not self._sends_at_once or len(pieces) > MAX_PIECES:
            self.write(b"".join(pieces))
            return
        try:
            sent = self.getHandle().sendmsg(pieces, (), NONBLOCKING)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._write_failed()
            return
        if sent != sum(map(len, pieces)):
            self._hold_rest(b"".join(pieces), sent)

    def _write_otherwise(self, data: bytes) -> None:
        """`write` while something is unsent, after the end of writing, or while Nagle's algorithm is on."""
        if self._half_closed or self._closing or self._aborted:
            return
        if self._unsent is not None:
            self._hold(data)
            return
        # Nagle's algorithm holds a segment back only behind others that are not acknowledged. So a small first write
        # needs no TCP_NODELAY, and a connection that carries one request never does.
        if self._has_written or len(data) > MAX_UNDIVIDED:
            self._stop_delaying()
        self._has_written = self._sends_at_once = True
        self.write(data)
        if self._is_delaying:
            self._sends_at_once = False

    def _stop_delaying(self) -> None:
        if self._is_delaying:
            self._is_delaying = False
            send_at_once(self.getHandle())

    def _hold_rest(self, data: bytes, sent: int) -> None:
        """Keep `data` without its first `sent` bytes, which the system has taken."""
        self._hold(memoryview(data)[sent:])

    def _hold(self, data: bytes | memoryview) -> None:
        """Keep what the system does not take now."""
        if not data:
            return
        if self._unsent is None:
            self._unsent = deque()
            self._sends_at_once = False
        self._unsent.append(data)
        self._unsent_size += len(data)
        if self._unsent_size > HIGH_WATER and not self._is_full:
            self._set_full(True)
        if not self._events & OUT:
            self._watch(ALL_EVENTS)

    def _flush(self) -> None:
        unsent = self._unsent
        assert unsent is not None
        sock = self.getHandle()
        while unsent:
            pieces = [unsent[place] for place in range(min(len(unsent), MAX_PIECES))]
            try:
                sent = sock.sendmsg(pieces, (), NONBLOCKING)
            except BlockingIOError:
                break
            except OSError:
                self._unsent = None
                self._unsent_size = 0
                self._end_of_writing()
                return
            self._unsent_size -= sent
            while unsent and sent >= len(unsent[0]):
                sent -= len(unsent.popleft())
            if sent:
                unsent[0] = memoryview(unsent[0])[sent:]
        if not unsent:
            self._unsent = None
            if self._closing:
                self._finish()
                return
            if self._half_closed:
                self._shut_down(socket.SHUT_WR)
            else:
                self._sends_at_once = not self._is_delaying
        if self._is_full and self._unsent_size <= LOW_WATER:
            self._set_full(False)

    def _write_failed(self) -> None:
        """The connection is gone. Its owner, who is writing, hears of it soon."""
        self._aborted = True
        self._is_reading = self._sends_at_once = False
        self._drop_writes()
        self.poller.defer(self._end_of_writing)

    def _end_of_writing(self) -> None:
        """Read the rest after a failed write. The bytes that the peer sent before its reset are still in the socket: a
        server that refuses an upload responds and closes with bytes unread, and the reset overtakes our reading."""
        self._aborted = True
        self._is_reading = self._sends_at_once = False
        self._drop_writes()
        sock = self.getHandle()
        try:
            while self.stream is not None and not self._peer_ended and not self._closing:
                data = sock.recv(BULK_READ_SIZE, NONBLOCKING)
                if not data:
                    break
                self.stream.dataReceived(data)
        except OSError:  # all of it has been read
            pass
        except Exception:
            _log.failure("a stream failed")
        self._over(False)

    def _drop_writes(self) -> None:
        """Drop everything that is written from now on."""
        if self.stream is not None:
            self.stream.write = nothing

    # This class must have the methods that `streams/compiled.py` replaces.
    set_backpressure = SocketTransport.set_backpressure
    clear_backpressure = SocketTransport.clear_backpressure

    # Reading.

    def pause(self) -> None:
        self._paused = True
        self._is_reading = False

    def resume(self) -> None:
        self._paused = False
        if self._peer_ended or self._closing or self._aborted:
            return
        self._is_reading = True
        if not self._events:
            self._watch(READ_EVENTS)
        elif self._has_input:
            self._read_soon()

    def _watch(self, events: int) -> None:
        try:
            if self._events:
                self.poller.modify(self._fd, events)
            else:
                self.poller.register(self._fd, events, self.ready)
        except (OSError, ValueError):  # no memory; the poller is closed
            _log.failure("a connection is lost: its socket cannot be watched")
            self.abort()
        else:
            self._events = events

    # The ends.

    def half_close(self) -> None:
        self._writer = None
        if self._half_closed or self._closing or self._aborted:
            return
        self._half_closed = True
        self._sends_at_once = False
        if self._unsent is not None:
            return
        if self._peer_ended:  # its owner is about to close it, which sends the FIN too
            self.poller.defer(self._send_fin)
        else:
            self._shut_down(socket.SHUT_WR)

    def _send_fin(self) -> None:
        if self._sends_fin and not (self._closing or self._aborted):
            self._shut_down(socket.SHUT_WR)

    def close(self) -> bool:
        if self._closing or self._aborted:
            return self._unsent is None
        self._writer = None
        self._closing = True
        self._is_reading = self._sends_at_once = False
        if self._unsent is not None:
            return False
        self.poller.defer(self._finish)
        return True

    def close_with_reset(self) -> bool:
        if not self.is_unix:
            self._reset_on_close()
            self._sends_fin = False
        return self.close()

    def abort(self) -> None:
        if self._aborted or self.stream is None:
            return
        self._aborted = True
        self._is_reading = self._sends_at_once = False
        self.poller.defer(self._finish)

    def _finish(self) -> None:
        """Close the socket."""
        if self.stream is None:
            return
        if self._aborted:
            self._reset_on_close()
        elif self._sends_fin and not self._peer_ended:
            self._shut_down(socket.SHUT_RDWR)  # a close alone sends no FIN when bytes are unread
        self._over(not self._aborted)

    def _over(self, clean: bool) -> None:
        stream, self.stream = self.stream, None
        if stream is None:
            return
        self._is_reading = self._has_input = False
        self._unsent = None
        self._unsent_size = 0
        if self._events:
            self.poller.forget(self._fd)
        self._close_descriptor()
        self._writer = None
        stream.over(clean)

    def _close_descriptor(self) -> None:
        descriptor, self._fd = self._fd, -1
        if self._sock is not None:
            self._sock.close()
        elif descriptor >= 0:
            os.close(descriptor)

    def _reset_on_close(self) -> None:
        handle = self.getHandle()
        if handle is not None:
            reset_on_close(handle)

    def _shut_down(self, how: int) -> None:
        self._sends_fin = False
        with contextlib.suppress(OSError):  # the peer has closed it already: reading will tell
            self.getHandle().shutdown(how)

    # The hand-over to a relay engine.

    def detach_obstacle(self) -> NotDetachable | None:
        if self._closing or self._aborted:
            return NotDetachable.CLOSING
        if self._half_closed:
            return NotDetachable.HALF_CLOSED
        if self._peer_ended:
            return NotDetachable.PEER_ENDED
        return NotDetachable.BUFFERED if self._unsent is not None else None

    def duplicate_socket(self) -> socket.socket:
        if self._puts_urgent_in_place:
            self._puts_urgent_in_place = False
            read_urgent_in_place(self.getHandle())
        self._stop_delaying()
        return super().duplicate_socket()

    def release(self) -> None:
        self.stream = self._writer = None
        self._aborted = True
        self._is_reading = self._sends_at_once = False
        if self._events:
            self.poller.unregister(self._fd)
        self._close_descriptor()

    # Bytes that pass by.

    def input_descriptor(self) -> int:
        return self._nonblocking() if self._is_reading and not (self._closing or self._aborted) else -1

    def output_descriptor(self) -> int:
        is_ending = self._half_closed or self._closing or self._aborted
        return self._nonblocking() if self._unsent is None and not is_ending else -1

    def _nonblocking(self) -> int:
        """Return the descriptor in non-blocking mode: splice(2) waits for a socket in another mode, whatever its flags
        say. An accepted socket may be in that mode."""
        os.set_blocking(self._fd, False)
        return self._fd

    def read_small(self, small: bool) -> None:
        if small != self._reads_small and (not small or self.input_descriptor() >= 0):
            self._reads_small = small
            self._read_size = SMALL_READ_SIZE if small else READ_SIZE

    def send_ahead(self, pieces: Sequence[bytes]) -> bool:
        size = sum(map(len, pieces))
        try:
            sent = self.getHandle().sendmsg(pieces, (), NONBLOCKING | socket.MSG_MORE)
        except OSError:  # full, or over: the next write will tell
            sent = 0
        if sent < size:
            self.write(b"".join(pieces)[sent:])
            return False
        return True

    # The socket.

    def keep_urgent_data_in_place(self) -> None:
        """As every StreamTransport; the socket's option is set when urgent data has come."""
        self._puts_urgent_in_place = True

    def buffered(self) -> int:
        return self._unsent_size

    def getHandle(self) -> Any:
        """The socket, for its options; None if it is closed."""
        if self._sock is None and self._fd >= 0:
            self._sock = plain_socket_class(self._family)(self._family, socket.SOCK_STREAM, 0, self._fd)
        return self._sock

    @property
    def is_unix(self) -> bool:
        return self._family == _AF_UNIX

    @property
    def peer_address(self) -> SocketAddress:
        return self._peer if self._peer is not None else peer_of(self.getHandle())

    def state(self) -> str:
        if self.stream is None:
            return "closed"
        if self._aborted or self._closing:
            return "aborted" if self._aborted else "closing"
        return open_state(self._half_closed, self._peer_ended, self._paused, self._is_full)
