"""Connect a stream over a bare socket, to a numeric address or to a unix socket."""

from __future__ import annotations

import socket
from collections.abc import Callable
from errno import EAGAIN, EINPROGRESS
from os import strerror
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.error import TimeoutError, getConnectError
from twisted.logger import Logger
from twisted.python.failure import Failure

from ktcpvs.model.address import Address, Unix
from ktcpvs.streams.bare_transport import ALL_EVENTS, BareTransport
from ktcpvs.streams.poller import ERR, OUT, SocketPoller
from ktcpvs.streams.stream import Stream
from ktcpvs.system.sockets import plain_socket_class

_log = Logger(namespace="ktcpvs")

RETRY_DELAY = 0.02
"""Seconds until a unix socket is tried again whose backlog is full: the kernel does not wait for room in it."""

_NONBLOCKING_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
_AF_UNIX, _AF_INET, _AF_INET6 = int(socket.AF_UNIX), int(socket.AF_INET), int(socket.AF_INET6)


def connect(
    poller: SocketPoller,
    address: Address,
    timeout: float,
    stream: Stream,
    connected: Callable[[Stream], object],
    failed: Callable[[Failure], object],
) -> BareAttempt:
    """Connect `stream` to `address`, which is not a name, over a socket that `poller` watches.

    timeout: seconds. Calls `connected` with the stream when it is open, or `failed` with ConnectError and the like, in
    a later turn; or `failed` with CancelledError when the attempt is cancelled.
    """
    attempt = BareAttempt(poller, address, stream, connected, failed)
    poller.expire_after(timeout, attempt)
    attempt.start()
    return attempt


class BareAttempt:
    """An attempt to connect."""

    __slots__ = ("_address", "_connected", "_failed", "_fd", "_is_over", "_poller", "_retry", "_sock", "_stream")

    def __init__(
        self,
        poller: SocketPoller,
        address: Address,
        stream: Stream,
        connected: Callable[[Stream], object],
        failed: Callable[[Failure], object],
    ) -> None:
        self._poller = poller
        self._address = address
        self._stream = stream
        self._connected = connected
        self._failed = failed
        self._sock: Any = None
        self._fd = -1  # while the poller watches it
        self._retry: Any = None
        self._is_over = False

    def start(self) -> None:
        """Create a socket and connect it."""
        address = self._address
        self._retry = None
        where: Any
        try:
            if isinstance(address, Unix):
                family, where = _AF_UNIX, address.path
            else:
                family, where = _AF_INET6 if ":" in address.host else _AF_INET, (address.host, address.port)
            sock = self._sock = plain_socket_class(family)(family, _NONBLOCKING_STREAM)
            error = sock.connect_ex(where)
            if error == EAGAIN:
                sock.close()
                self._retry = self._poller.call_later(RETRY_DELAY, self.start)
            elif error and error != EINPROGRESS:
                self._fail_soon(OSError(error, strerror(error)))
            else:
                fd = sock.fileno()
                self._poller.register(fd, ALL_EVENTS, self._ready)
                self._fd = fd
        except OSError as why:
            self._fail_soon(why)
        except ValueError as why:  # the poller is closed
            self._fail_soon(OSError(0, str(why)))

    def _ready(self, events: int) -> None:
        sock, poller = self._sock, self._poller
        if events & ERR:
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._fail(getConnectError(OSError(error, strerror(error))))
                return
        self._is_over = True
        poller.cancel_expiry(self)
        transport = BareTransport(poller, sock, None, ALL_EVENTS, sock.family != _AF_UNIX)
        poller.replace(self._fd, transport.ready)
        stream = self._stream
        try:
            transport.begin(stream)
            self._connected(stream)
        except Exception:
            _log.failure("a stream failed")
            transport.abort()
        if events != OUT:
            transport.ready(events)

    def cancel(self) -> None:
        """Stop, and fail with CancelledError."""
        if not self._is_over:
            self._fail(CancelledError())

    def expired(self) -> None:
        """The timeout is over."""
        self._fail(TimeoutError())

    def _fail_soon(self, error: OSError) -> None:
        """Fail, though not within the call that has begun the attempt."""
        self._poller.defer(lambda: self._fail(getConnectError(error)))

    def _fail(self, error: Exception) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._poller.cancel_expiry(self)
        if self._retry is not None:
            self._retry.cancel()
        if self._fd >= 0:
            self._poller.forget(self._fd)
        if self._sock is not None:
            self._sock.close()
        self._failed(Failure(error))
