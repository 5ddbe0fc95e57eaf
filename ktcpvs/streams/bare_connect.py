"""Connect a stream over a bare socket, to a numeric address or to a unix socket."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.error import TimeoutError, getConnectError
from twisted.logger import Logger
from twisted.python.failure import Failure

from ktcpvs.model.address import Address, Unix
from ktcpvs.streams.bare_transport import ALL_EVENTS, BareTransport
from ktcpvs.streams.poller import ERR, OUT, SocketPoller
from ktcpvs.streams.stream import Stream
from ktcpvs.system.sockets import begin_connection, pending_error

_log = Logger(namespace="ktcpvs")

RETRY_DELAY = 0.02
"""Seconds until a unix socket is tried again whose backlog is full: the kernel does not wait for room in it."""

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
    attempt.begin(timeout)
    return attempt


class BareAttempt:
    """An attempt to connect."""

    __slots__ = ("_address", "_connected", "_failed", "_family", "_fd", "_is_over", "_poller", "_retry", "_stream")

    def __init__(
        self,
        poller: SocketPoller,
        address: Address,
        stream: Stream,
        connected: Callable[[Stream], object],
        failed: Callable[[Failure], object],
        /,
    ) -> None:
        self._poller = poller
        self._address = address
        self._stream = stream
        self._connected = connected
        self._failed = failed
        self._family = _AF_UNIX
        self._fd = -1  # of the socket, which the poller watches
        self._retry: Any = None
        self._is_over = False

    def begin(self, timeout: float) -> None:
        """Begin to connect. timeout: seconds."""
        self._poller.expire_after(timeout, self)
        self.start()

    def start(self) -> None:
        """Create a socket and connect it."""
        address = self._address
        self._retry = None
        where: Any
        if isinstance(address, Unix):
            where = address.path
        else:
            self._family = _AF_INET6 if ":" in address.host else _AF_INET
            where = address.host, address.port
        try:
            fd = begin_connection(self._family, where)
        except OSError as why:
            if why.errno == errno.EAGAIN:
                self._retry = self._poller.call_later(RETRY_DELAY, self.start)
            else:
                self._fail_soon(why)
            return
        try:
            self._poller.register(fd, ALL_EVENTS, self._ready)
        except (OSError, ValueError) as why:  # no memory; the poller is closed
            os.close(fd)
            self._fail_soon(why if isinstance(why, OSError) else OSError(0, str(why)))
        else:
            self._fd = fd

    def _ready(self, events: int) -> None:
        fd, family, poller = self._fd, self._family, self._poller
        if events & ERR:
            error = pending_error(fd, family)
            if error:
                self._fail(getConnectError(OSError(error, os.strerror(error))))
                return
        self._is_over = True
        poller.cancel_expiry(self)
        transport = BareTransport(poller, fd, family, None, ALL_EVENTS, family != _AF_UNIX)
        poller.replace(fd, transport.ready)
        stream = self._stream
        try:
            transport.begin(stream)
            self._connected(stream)
        except Exception as error:
            self._stream_failed(error, transport)
        if events != OUT:
            transport.ready(events)

    def _stream_failed(self, error: Exception, transport: BareTransport) -> None:
        """The stream's owner has raised an exception."""
        _log.failure("a stream failed", Failure(error))
        transport.abort()

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
            os.close(self._fd)
        self._failed(Failure(error))
