"""What a stream asks of its transport, and what transports over sockets have in common."""

from __future__ import annotations

import contextlib
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from ktcpvs.streams.contract import NotDetachable, SocketAddress, address_text
from ktcpvs.system import sockets
from ktcpvs.system.sockets import RESET_ON_CLOSE, read_urgent_in_place

NONBLOCKING = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
"""Flags for sending and receiving on a socket that may be in blocking mode."""


def nothing(*_: Any) -> None:
    """The callback of an owner that does not want to hear of something."""


class Backpressure:
    """A producer of Twisted's that calls two functions, each once when things have changed."""

    __slots__ = ("_is_paused", "_paused", "_resumed")

    def __init__(self, paused: Callable[[], object], resumed: Callable[[], object]) -> None:
        self._paused = paused
        self._resumed = resumed
        self._is_paused = False

    def pauseProducing(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._paused()

    def resumeProducing(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._resumed()

    def stopProducing(self) -> None:
        """The transport is gone: the stream tells its owner."""


class StreamTransport(ABC):
    """What carries the bytes of one stream. The methods are those of `ByteStream`, for a stream that is open.

    write: sends bytes. A transport that replaces it sets it in its stream too (`stream.write`).
    """

    __slots__ = ()

    reports_bulk: ClassVar[bool] = False
    """True when it calls `bulk_detected`."""

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

    @abstractmethod
    def set_backpressure(self, paused: Callable[[], object], resumed: Callable[[], object]) -> None: ...

    @abstractmethod
    def clear_backpressure(self) -> None: ...

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
        """Close this descriptor of the socket and tell nobody. While a duplicate is open, the peer notices nothing."""

    @abstractmethod
    def getHandle(self) -> Any:
        """The socket, for its options; None when there is none."""

    @abstractmethod
    def state(self) -> str:
        """Its state in a word or a few, for logs."""

    @property
    def is_unix(self) -> bool:
        """True for a unix socket."""
        handle = self.getHandle()
        return handle is not None and handle.family == socket.AF_UNIX

    def keep_urgent_data_in_place(self) -> None:
        """Read urgent data where it stands among the rest; else reads leave it out."""
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
    """A transport over a socket, which knows what its owner asks about the peer."""

    __slots__ = ()

    @abstractmethod
    def buffered(self) -> int:
        """Bytes that were written and that the system has not taken yet."""

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


def peer_of(sock: Any) -> SocketAddress:
    """The address of a socket's peer; None when the peer is gone."""
    try:
        address: SocketAddress = sock.getpeername()
    except (OSError, AttributeError):
        return None
    return address


def local_of(sock: Any) -> SocketAddress:
    """A socket's own address; None when it is closed."""
    try:
        address: SocketAddress = sock.getsockname()
    except (OSError, AttributeError):
        return None
    return address


def reset_on_close(sock: Any) -> None:
    """From now on closing the socket drops what was not sent and resets the peer. A unix socket has no resets."""
    if sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):  # the peer has closed it already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
