"""The interface of a stream's transport, and a base class of transports over sockets."""

from __future__ import annotations

import contextlib
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from ktcpvs.streams.contract import BackpressuredWriter, NotDetachable, SocketAddress, address_text
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.system import sockets
from ktcpvs.system.sockets import RESET_ON_CLOSE, read_urgent_in_place

NONBLOCKING = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
"""Flags for sending and receiving on a socket that may be in blocking mode."""


SMALL_READ_SIZE = 4 << 10
"""The most bytes of a small read: enough for the head of a response, and little to copy."""


def nothing(*_: Any) -> None:
    """Do nothing: the callback of an owner that ignores an event."""


class Backpressure:
    """A Twisted producer that pauses and resumes a writer, without repetition."""

    __slots__ = ("_is_paused", "_writer")

    def __init__(self, writer: BackpressuredWriter) -> None:
        self._writer = writer
        self._is_paused = False

    def pauseProducing(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._writer.pause_writing()

    def resumeProducing(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._writer.resume_writing()

    def stopProducing(self) -> None:
        """Do nothing: the stream notifies its owner of the end."""


class StreamTransport(ABC):
    """Base class of transports, each of which carries one stream. The methods are those of `ByteStream`, for an open
    stream.

    write: sends bytes. A transport that replaces it must replace `stream.write` too.

    A transport that keeps what cannot be sent now sets `_is_full`, whether so much waits that a writer must pause, and
    `_writer`, that writer; None: there is none.
    """

    __slots__ = ("_is_full", "_writer")

    reports_bulk: ClassVar[bool] = False
    """Whether it calls `bulk_detected`."""

    poller: SocketPoller | None = None
    """The poller that watches its bare socket; None for transports of an event loop."""

    failure: str = ""
    """The reason why the connection is broken, in words, where the transport knows more than that; else ""."""

    write: Callable[[bytes], object]

    @property
    @abstractmethod
    def writev(self) -> Callable[[Sequence[bytes]], object]: ...

    @abstractmethod
    def half_close(self) -> None: ...

    @abstractmethod
    def close(self) -> bool: ...

    @abstractmethod
    def close_with_reset(self) -> bool: ...

    @abstractmethod
    def abort(self) -> None: ...

    @abstractmethod
    def pause(self) -> None: ...

    @abstractmethod
    def resume(self) -> None: ...

    _is_full: bool
    _writer: BackpressuredWriter | None

    def set_backpressure(self, writer: BackpressuredWriter) -> None:
        self._writer = writer
        if self._is_full:
            writer.pause_writing()

    def clear_backpressure(self) -> None:
        self._writer = None

    def _set_full(self, is_full: bool) -> None:
        """Pause the writer, as much waits to be sent; False: resume it, as most of that has been sent."""
        self._is_full = is_full
        if self._writer is None:
            return
        if is_full:
            self._writer.pause_writing()
        else:
            self._writer.resume_writing()

    @abstractmethod
    def unsent(self) -> int: ...

    @abstractmethod
    def is_gone(self) -> bool: ...

    @abstractmethod
    def has_input(self) -> bool: ...

    @abstractmethod
    def has_ended(self) -> bool: ...

    @abstractmethod
    def take_input(self, size: int) -> bytes | None:
        """Read at most `size` bytes that have come and were not read yet, although reading may be paused: a transport
        on top must look at them to tell what they are. None: there are none."""

    @property
    @abstractmethod
    def peer_address(self) -> SocketAddress: ...

    @property
    @abstractmethod
    def local_address(self) -> SocketAddress: ...

    @abstractmethod
    def detach_obstacle(self) -> NotDetachable | None: ...

    @abstractmethod
    def release(self) -> None:
        """Close this descriptor of the socket without notification. While a duplicate is open, the peer notices
        nothing."""

    # Bytes that `relay.body_relay` moves from socket to socket past this transport. Not every transport allows it.

    def input_descriptor(self) -> int:
        """Return the descriptor of the socket, if bytes may be taken from it past this transport now; else -1."""
        return -1

    def output_descriptor(self) -> int:
        """Return the descriptor of the socket, if bytes may be sent on it past this transport now, because nothing is
        buffered; else -1."""
        return -1

    def read_small(self, small: bool) -> None:  # noqa: B027 - only those with an `input_descriptor` do it
        """Read at most SMALL_READ_SIZE bytes at once, so that the socket keeps most of what comes. False: read large
        pieces again."""

    def send_ahead(self, pieces: Sequence[bytes]) -> bool:
        """Send `pieces` at once, in one packet with the bytes that are sent past this transport next. Return False if
        the socket has not accepted them all; then the rest is buffered. A transport without an `output_descriptor`
        buffers them."""
        self.writev(pieces)
        return False

    @abstractmethod
    def getHandle(self) -> Any:
        """Return the socket, for its options; None if there is none."""

    @abstractmethod
    def state(self) -> str:
        """Return its state in a few words, for logs."""

    @property
    def is_unix(self) -> bool:
        """Whether this is a unix socket."""
        handle = self.getHandle()
        return handle is not None and handle.family == socket.AF_UNIX

    def keep_urgent_data_in_place(self) -> None:
        """Read urgent data in its place among other data; otherwise reads skip it."""
        handle = self.getHandle()
        if handle is not None:
            read_urgent_in_place(handle)

    def duplicate_socket(self) -> socket.socket:
        """As `ByteStream.duplicate_socket`."""
        handle = self.getHandle()
        descriptor = os.dup(handle.fileno())
        try:
            sock = socket.socket(handle.family, socket.SOCK_STREAM, 0, descriptor)
            sock.setblocking(False)
        except BaseException:
            os.close(descriptor)
            raise
        return sock

    def __repr__(self) -> str:
        addresses = f"{address_text(self.local_address)} -> {address_text(self.peer_address)}"
        return f"<{type(self).__name__} {addresses} {self.state()}>"


class SocketTransport(StreamTransport):
    """A transport over a socket, which answers questions about the peer from the socket's state."""

    __slots__ = ()

    @abstractmethod
    def buffered(self) -> int:
        """Return the bytes written that the system has not accepted yet."""

    def unsent(self) -> int:
        handle = self.getHandle()
        return (0 if handle is None else sockets.unsent(handle)) + self.buffered()

    def is_gone(self) -> bool:
        handle = self.getHandle()
        return handle is not None and sockets.is_over(handle)

    def has_input(self) -> bool:
        handle = self.getHandle()
        return handle is not None and sockets.has_input(handle)

    def has_ended(self) -> bool:
        handle = self.getHandle()
        return handle is not None and sockets.has_fin(handle)

    def take_input(self, size: int) -> bytes | None:
        handle = self.getHandle()
        return sockets.receive_now(handle, size) if handle is not None and not self.is_gone() else None

    @property
    def peer_address(self) -> SocketAddress:
        return peer_of(self.getHandle())

    @property
    def local_address(self) -> SocketAddress:
        return local_of(self.getHandle())


def open_state(is_half_closed: bool, has_peer_ended: bool, is_paused: bool, is_full: bool) -> str:
    """Return the state of an open transport in words, for logs."""
    more = ("peer has ended", has_peer_ended), ("paused", is_paused), ("full", is_full)
    return ", ".join(["half-closed" if is_half_closed else "open", *(word for word, holds in more if holds)])


def peer_of(sock: Any) -> SocketAddress:
    """Return the address of a socket's peer; None if the peer has disconnected."""
    try:
        address: SocketAddress = sock.getpeername()
    except (OSError, AttributeError):
        return None
    return address


def local_of(sock: Any) -> SocketAddress:
    """Return a socket's own address; None if it is closed."""
    try:
        address: SocketAddress = sock.getsockname()
    except (OSError, AttributeError):
        return None
    return address


def reset_on_close(sock: Any) -> None:
    """Make close(2) drop unsent bytes and reset the peer. A unix socket has no resets."""
    if sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):  # the peer has already closed it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
