"""The requests of one service's HTTP/2 streams that wait for a descriptor for a connection to their server.

It is first in, first out. A request that has waited for `queue_timeout` gets none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ktcpvs.http.server_connection import ServerConnection
from ktcpvs.model.destination import Destination
from ktcpvs.model.settings import Settings
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import NoDescriptor, StreamDescriptors

CHECK_INTERVAL = 0
"""Seconds between two checks of those that wait: the next tick of the wheel."""


class _Waiter:
    """A request. since: the tick when it began to wait. destination: the server, to which an idle connection would do;
    None: it needs a new one. ready: fires with an idle connection, or with None when it may connect."""

    __slots__ = ("destination", "ready", "since")

    def __init__(self, since: int, destination: Destination | None, cancelled: Callable[[_Waiter], None]) -> None:
        self.since = since
        self.destination = destination
        self.ready: Deferred[ServerConnection | None] = Deferred(lambda _: cancelled(self))


class DescriptorQueue:
    """The queue. waiting: the requests, the first one first."""

    def __init__(self, context: Context, descriptors: StreamDescriptors, settings: Callable[[], Settings]) -> None:
        """settings: returns those in force."""
        self._wheel = context.wheel
        self._descriptors = descriptors
        self._settings = settings
        self._is_serving = False
        self._is_checking = False
        self.waiting: dict[_Waiter, None] = {}
        descriptors.freed = self._serve

    def __repr__(self) -> str:
        return f"<DescriptorQueue {len(self.waiting)} waiting>"

    @property
    def must_wait(self) -> bool:
        """Whether a request that needs a server connection must wait. The first one closes idle connections."""
        if self.waiting:
            return True
        if not self._descriptors.may_connect:
            self._descriptors.close_idle()
        return not self._descriptors.may_connect

    def enter(self, destination: Destination | None) -> Deferred[ServerConnection | None]:
        """Let a request wait; fires as `_Waiter` says, and fails with NoDescriptor. Cancelling it ends the wait."""
        waiter = _Waiter(self._wheel.now, destination, self._cancelled)
        self.waiting[waiter] = None
        self._descriptors.wait()
        if not self._is_checking:
            self._is_checking = True
            self._wheel.repeat(CHECK_INTERVAL, self._check)
        return waiter.ready

    def _cancelled(self, waiter: _Waiter) -> None:
        self.waiting.pop(waiter, None)

    def offer(self, connection: ServerConnection) -> bool:
        """Give the first request a connection that has become idle. Return False if it needs another one: it is for
        another server, or the server has sent a FIN or unexpected bytes."""
        waiter = next(iter(self.waiting))
        if waiter.destination is not connection.destination or connection.has_input():
            return False
        del self.waiting[waiter]
        waiter.ready.callback(connection)
        return True

    def _serve(self) -> None:
        """Let requests connect while they may."""
        if self._is_serving:
            return  # a loop, not a recursion: a connection that fails at once gives its descriptor back
        self._is_serving = True
        try:
            while self.waiting and self._descriptors.may_connect:
                self._first().callback(None)
        finally:
            self._is_serving = False
            if self.waiting:
                self._descriptors.wait()

    def _first(self) -> Deferred[Any]:
        waiter = next(iter(self.waiting))
        del self.waiting[waiter]
        return waiter.ready

    def _check(self) -> bool:
        """Refuse those that have waited too long. Return True while any wait."""
        timeout = self._settings().queue_timeout
        oldest = self._wheel.now - timeout
        while self.waiting and next(iter(self.waiting)).since < oldest:
            self._first().errback(Failure(NoDescriptor(timeout)))
        if self.waiting and not self._descriptors.may_connect:
            self._descriptors.close_idle()
        self._serve()
        self._is_checking = bool(self.waiting)
        return self._is_checking
