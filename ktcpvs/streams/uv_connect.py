"""Connect to a server over uvloop's own transports, trying a name's addresses until one responds (RFC 8305).

The next address is tried when one has failed, or has not responded within ATTEMPT_DELAY seconds.
"""

from __future__ import annotations

import socket
from asyncio import AbstractEventLoop, Task, TimerHandle
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, DNSLookupError, TimeoutError, getConnectError
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from ktcpvs.model.address import Address, Unix
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.uv_transport import ConnectingProtocol, UVTransport

ATTEMPT_DELAY = 0.3
"""Seconds after which the next address of a name is tried too."""

RETRY_DELAY = 0.02
"""Seconds until a unix socket is tried again whose backlog is full, since the kernel does not wait for room in it."""

NumericAddress = tuple[str, int] | str
"""A numeric host and its port, or the path of a unix socket."""


def connect(
    reactor: Any, loop: AbstractEventLoop, address: Address, timeout: float, stream: Stream
) -> Deferred[Stream]:
    """As `ktcpvs.streams.connect.connect`."""
    connected: Deferred[Stream] = Deferred(lambda _: running.cancel())
    running = HappyEyeballs(loop, timeout, stream, connected)
    if isinstance(address, Unix):
        running.try_all([address.path])
    elif not address.is_name:
        assert address.port is not None  # a configured address is complete
        running.try_all([(address.host, address.port)])
    else:
        look_up = (address.host, address.port, 0, socket.SOCK_STREAM)
        found = deferToThreadPool(reactor, reactor.getThreadPool(), socket.getaddrinfo, *look_up)
        found.addCallbacks(running.found, running.not_found)
    return connected


class HappyEyeballs:
    """Connects a stream to the first of several addresses that responds (RFC 8305, section 5).

    connected: fires with the stream, or fails with the error of the last attempt. timeout: seconds for each attempt.
    """

    __slots__ = ("_attempts", "_connected", "_left", "_loop", "_stagger", "_stream", "_timeout")

    def __init__(self, loop: AbstractEventLoop, timeout: float, stream: Stream, connected: Deferred[Stream]) -> None:
        self._loop = loop
        self._timeout = timeout
        self._stream = stream
        self._connected: Deferred[Stream] | None = connected  # None when it is over
        self._attempts: list[_Attempt] = []
        self._left: list[NumericAddress] = []
        self._stagger: TimerHandle | None = None

    def found(self, addresses: list[tuple[Any, ...]]) -> None:
        """Try the addresses that getaddrinfo has found."""
        self.try_all([address[:2] for *_, address in addresses])

    def not_found(self, why: Failure) -> None:
        """Fail: the name has no address."""
        self._fail(DNSLookupError(why.getErrorMessage()))

    def try_all(self, addresses: list[NumericAddress]) -> None:
        """Try the addresses in this order."""
        self._left = addresses[::-1]
        self._try_next()

    def cancel(self) -> None:
        """Stop all attempts; `connected` does not fire."""
        self._connected = None
        self._cancel_attempts()

    def _try_next(self) -> None:
        if self._connected is None:
            return
        self._stop_stagger()
        self._attempts.append(_Attempt(self, self._loop, self._left.pop(), self._timeout))
        if self._left:
            self._stagger = self._loop.call_later(ATTEMPT_DELAY, self._try_next)

    def connected(self, attempt: _Attempt, transport: UVTransport) -> None:
        """Use the connection of the first attempt that succeeds, and stop the others."""
        connected, self._connected = self._connected, None
        self._attempts.remove(attempt)
        self._cancel_attempts()
        if connected is not None:
            transport.begin(self._stream, connected.callback)

    def failed(self, attempt: _Attempt, error: Exception) -> None:
        """Try the next address; without one, fail with the error of the last attempt to end."""
        self._attempts.remove(attempt)
        if self._left:
            self._try_next()
        elif not self._attempts:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        connected, self._connected = self._connected, None
        if connected is not None:
            connected.errback(Failure(error))

    def _cancel_attempts(self) -> None:
        self._stop_stagger()
        attempts, self._attempts = self._attempts, []
        for attempt in attempts:
            attempt.cancel()

    def _stop_stagger(self) -> None:
        if self._stagger is not None:
            self._stagger.cancel()
            self._stagger = None


class _Attempt:
    """An attempt to connect to one address."""

    __slots__ = ("_address", "_connecting", "_late", "_loop", "_owner", "_task")

    def __init__(self, owner: HappyEyeballs, loop: AbstractEventLoop, address: NumericAddress, timeout: float) -> None:
        self._owner: HappyEyeballs | None = owner  # None when it is over
        self._loop = loop
        self._address = address
        self._connecting: ConnectingProtocol | None = None
        self._task: Task[Any] | None = None
        self._late: TimerHandle | None = loop.call_later(timeout, self._too_late)
        self._start()

    def _start(self) -> None:
        if self._owner is None:
            return
        self._connecting = ConnectingProtocol(self._connected)
        address = self._address
        if isinstance(address, str):
            self._task = self._loop.create_task(self._loop.create_unix_connection(self._protocol, address))
        else:
            self._task = self._loop.create_task(self._loop.create_connection(self._protocol, *address))
        self._task.add_done_callback(self._tried)

    def _protocol(self) -> Any:
        return self._connecting

    def cancel(self) -> None:
        """Stop, without notifying the owner."""
        self._over()

    def _over(self) -> HappyEyeballs | None:
        owner, self._owner = self._owner, None
        self._connecting = None
        late, self._late = self._late, None
        if late is not None:
            late.cancel()
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
        return owner

    def _connected(self, transport: UVTransport) -> None:
        self._task = None  # the task is about to end, and would close the connection if it were cancelled
        owner = self._over()
        if owner is not None:
            owner.connected(self, transport)

    def _tried(self, task: Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._owner is None or error is None:
            return
        self._task = None
        if isinstance(error, BlockingIOError):
            self._loop.call_later(RETRY_DELAY, self._start)
        else:
            self._failed(getConnectError(error) if isinstance(error, OSError) else ConnectError(string=str(error)))

    def _too_late(self) -> None:
        self._late = None
        self._failed(TimeoutError())

    def _failed(self, error: Exception) -> None:
        owner = self._over()
        if owner is not None:
            owner.failed(self, error)
