"""Calling a server over uvloop's own transports: a call tries a name's addresses until one answers.

The next address is tried when one has failed, or has not answered for a moment (RFC 8305, section 5).
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
from ktcpvs.streams.uv_transport import UVCaller

STAGGER = 0.3
"""Seconds that an address of a name has before the next is tried too."""

BUSY = 0.02
"""Seconds until a unix socket is tried again whose backlog is full: the kernel does not wait for it."""

Where = tuple[str, int] | str
"""A numeric host and its port, or the path of a unix socket."""


def call(reactor: Any, loop: AbstractEventLoop, address: Address, timeout: float, stream: Stream) -> Deferred[Stream]:
    """As streams.connect.connect."""
    answer: Deferred[Stream] = Deferred(lambda _: running.cancel_pending())
    running = _Call(loop, timeout, stream, answer)
    if isinstance(address, Unix):
        running.try_all([address.path])
    elif not address.is_name:
        assert address.port is not None  # a configured address is complete
        running.try_all([(address.host, address.port)])
    else:
        look_up = (address.host, address.port, 0, socket.SOCK_STREAM)
        found = deferToThreadPool(reactor, reactor.getThreadPool(), socket.getaddrinfo, *look_up)
        found.addCallbacks(running.found, running.not_found)
    return answer


class _Call:
    """One call, by as many attempts as it takes. timeout: seconds for each of them."""

    __slots__ = ("_answer", "_attempts", "_left", "_loop", "_stagger", "_stream", "_timeout")

    def __init__(self, loop: AbstractEventLoop, timeout: float, stream: Stream, answer: Deferred[Stream]) -> None:
        self._loop = loop
        self._timeout = timeout
        self._stream = stream
        self._answer: Deferred[Stream] | None = answer  # None when it is over
        self._attempts: list[_Attempt] = []
        self._left: list[Where] = []
        self._stagger: TimerHandle | None = None

    def found(self, addresses: list[tuple[Any, ...]]) -> None:
        """What getaddrinfo says."""
        self.try_all([where[:2] for *_, where in addresses])

    def not_found(self, why: Failure) -> None:
        self._fail(DNSLookupError(why.getErrorMessage()))

    def try_all(self, addresses: list[Where]) -> None:
        """Try them in this order."""
        self._left = addresses[::-1]
        self._try_next()

    def cancel_pending(self) -> None:
        """Nobody waits for it any more."""
        self._answer = None
        self._part_with_all()

    def _try_next(self) -> None:
        if self._answer is None:
            return
        self._stop_stagger()
        self._attempts.append(_Attempt(self, self._loop, self._left.pop(), self._timeout))
        if self._left:
            self._stagger = self._loop.call_later(STAGGER, self._try_next)

    def connected(self, attempt: _Attempt, transport: UVCaller) -> None:
        """The first attempt that gets there wins."""
        answer, self._answer = self._answer, None
        self._attempts.remove(attempt)
        self._part_with_all()
        if answer is not None:
            transport.begin(self._stream, answer.callback)

    def failed(self, attempt: _Attempt, error: Exception) -> None:
        """The next one; the call fails with the last one's error."""
        self._attempts.remove(attempt)
        if self._left:
            self._try_next()
        elif not self._attempts:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.errback(Failure(error))

    def _part_with_all(self) -> None:
        self._stop_stagger()
        attempts, self._attempts = self._attempts, []
        for attempt in attempts:
            attempt.cancel_pending()

    def _stop_stagger(self) -> None:
        if self._stagger is not None:
            self._stagger.cancel()
            self._stagger = None


class _Attempt:
    """To connect to one address."""

    __slots__ = ("_call", "_late", "_loop", "_task", "_transport", "_where")

    def __init__(self, call: _Call, loop: AbstractEventLoop, where: Where, timeout: float) -> None:
        self._call: _Call | None = call  # None when it is over
        self._loop = loop
        self._where = where
        self._transport: UVCaller | None = None
        self._task: Task[Any] | None = None
        self._late: TimerHandle | None = loop.call_later(timeout, self._too_late)
        self._start()

    def _start(self) -> None:
        if self._call is None:
            return
        self._transport = UVCaller(self._connected)
        where = self._where
        if isinstance(where, str):
            self._task = self._loop.create_task(self._loop.create_unix_connection(self._itself, where))
        else:
            self._task = self._loop.create_task(self._loop.create_connection(self._itself, *where))
        self._task.add_done_callback(self._tried)

    def _itself(self) -> Any:
        return self._transport

    def cancel_pending(self) -> None:
        """Nobody waits for it any more."""
        self._over()

    def _over(self) -> _Call | None:
        call, self._call = self._call, None
        self._transport = None
        late, self._late = self._late, None
        if late is not None:
            late.cancel()
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
        return call

    def _connected(self, transport: UVCaller) -> None:
        self._task = None  # it is about to end by itself, and takes the connection along if it is cancelled
        call = self._over()
        if call is not None:
            call.connected(self, transport)

    def _tried(self, task: Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._call is None or error is None:
            return
        self._task = None
        if isinstance(error, BlockingIOError):
            self._loop.call_later(BUSY, self._start)
        else:
            self._failed(getConnectError(error) if isinstance(error, OSError) else ConnectError(string=str(error)))

    def _too_late(self) -> None:
        self._late = None
        self._failed(TimeoutError())

    def _failed(self, error: Exception) -> None:
        call = self._over()
        if call is not None:
            call.failed(self, error)
