"""Polls bare sockets: an epoll instance of its own, which the reactor watches as one descriptor.

Relays and bare transports read and write their sockets themselves, so they need no call of the reactor for each event:
in one turn, the reactor reports all sockets that are ready.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any, Protocol

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

_log = Logger(namespace="ktcpvs")

IN: int = getattr(select, "EPOLLIN", 1)
PRI: int = getattr(select, "EPOLLPRI", 2)
OUT: int = getattr(select, "EPOLLOUT", 4)
ERR: int = getattr(select, "EPOLLERR", 8)
HUP: int = getattr(select, "EPOLLHUP", 16)
RDHUP: int = getattr(select, "EPOLLRDHUP", 8192)
ET: int = getattr(select, "EPOLLET", 1 << 31)

MAX_EVENTS = 64
"""The most descriptors that are handled in one turn of the reactor; the kernel then reports those that have waited
longest."""
MIN_DELAY = 0.001
"""Seconds: a timer that is due a moment before its deadline is set again for so long."""


class Expiring(Protocol):
    """Something that takes too long after some time."""

    def expired(self) -> object:
        """It has taken too long. Called once, and not after `cancel_expiry`."""


has_forked = False
"""This process has forked: a child that has not executed its program yet holds all descriptors, so that closing one of
ours does not unregister it."""


def _note_fork(is_forked: bool) -> None:
    global has_forked
    has_forked = is_forked


os.register_at_fork(before=partial(_note_fork, True), after_in_child=partial(_note_fork, False))


@implementer(IReadDescriptor)
class SocketPoller:
    """Calls back for each descriptor that is ready: level-triggered, or with ET edge-triggered (epoll(7)).

    A descriptor must be unregistered before it is closed. One that is level-triggered must also be unregistered while
    none of its events is to be handled: epoll always reports errors and hang-ups.
    """

    __slots__ = (
        "_alarm", "_alarm_at", "_callbacks", "_deadlines", "_deferred", "_descriptor", "_epoll", "_is_polling",
        "_leave_reactor", "_reactor", "_time", "_unregistered", "call_later", "call_soon",
    )  # fmt: skip

    def __init__(self, reactor: Any) -> None:
        """Raises OSError if there are no descriptors left."""
        self._epoll = select.epoll()
        self._descriptor = self._epoll.fileno()
        self._callbacks: dict[int, Callable[[int], object]] = {}
        self._unregistered: set[int] = set()  # in this turn
        self._reactor = reactor
        self._deferred: list[Callable[[], object]] = []
        self._is_polling = False
        self._deadlines: dict[Expiring, float] = {}
        self._alarm: Any = None  # goes off at the first of them, or before
        self._alarm_at = inf
        self._time: Callable[[], float] = reactor.seconds
        self.call_soon: Callable[[Callable[[], object]], object] = self._call_soon
        """Calls its argument in the reactor's next turn."""
        self.call_later: Callable[..., Any] = reactor.callLater
        """Calls its second argument after so many seconds, with the arguments behind it. Returns an object with
        `cancel`."""
        self._leave_reactor: Callable[[], object] = partial(reactor.removeReader, self)
        loop = getattr(reactor, "uv", None)
        if loop is None:
            reactor.addReader(self)
        else:
            self.call_soon, self.call_later, self._time = loop.call_soon, loop.call_later, loop.time
            self._join_loop(loop)

    def _join_loop(self, loop: Any) -> None:
        """Let uvloop itself call `doRead`. Twisted's call, and its check for errors after each call, which an epoll
        instance never has, would take more than half of the time for one event."""
        from uvloop import Loop

        Loop.add_reader(loop, self._epoll.fileno(), self.doRead)
        at_end = self._reactor.addSystemEventTrigger("after", "shutdown", self.close)

        def leave() -> None:
            Loop.remove_reader(loop, self._epoll.fileno())
            with contextlib.suppress(ValueError):  # the reactor itself closes it
                self._reactor.removeSystemEventTrigger(at_end)

        self._leave_reactor = leave

    def _call_soon(self, call: Callable[[], object]) -> None:
        self._reactor.callLater(0, call)

    def __len__(self) -> int:
        """Return the number of registered descriptors."""
        return len(self._callbacks)

    def expire_after(self, seconds: float, attempt: Expiring) -> None:
        """Call `attempt.expired` after so many seconds. Cheaper than a timer where nearly all are cancelled."""
        due = self._time() + seconds
        self._deadlines[attempt] = due
        if due < self._alarm_at:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm_at = due
            self._alarm = self.call_later(seconds, self._expire)

    def cancel_expiry(self, attempt: Expiring) -> None:
        """Do not call it; safe to call twice."""
        self._deadlines.pop(attempt, None)

    def _expire(self) -> None:
        self._alarm, self._alarm_at = None, inf
        now = self._time()
        for attempt in [attempt for attempt, due in self._deadlines.items() if due <= now]:
            del self._deadlines[attempt]
            attempt.expired()
        if self._deadlines:
            due = min(self._deadlines.values())
            if due < self._alarm_at:
                self._alarm_at = due
                self._alarm = self.call_later(max(due - now, MIN_DELAY), self._expire)

    def defer(self, call: Callable[[], object]) -> None:
        """Call it soon, and not before the current callback has returned. It must not raise."""
        self._deferred.append(call)
        if not self._is_polling and len(self._deferred) == 1:
            self.call_soon(self._call_deferred)

    def _call_deferred(self) -> None:
        deferred, self._deferred = self._deferred, []
        for call in deferred:
            try:
                call()
            except Exception as error:
                self._deferred_failed(error)

    def _deferred_failed(self, error: Exception) -> None:
        _log.failure("a deferred call failed", Failure(error))

    def register(self, fd: int, events: int, ready: Callable[[int], object]) -> None:
        """Call `ready` with the events that are ready, of `events` (IN and the like), ERR and HUP.

        If `ready` raises, that is logged and `fd` unregistered. Raises OSError; FileExistsError if `fd` is registered.
        """
        self._epoll.register(fd, events)
        self._callbacks[fd] = ready

    def modify(self, fd: int, events: int) -> None:
        """Poll for `events` from now on. Raises OSError; FileNotFoundError if `fd` is not registered."""
        self._epoll.modify(fd, events)

    def unregister(self, fd: int) -> None:
        """Report no more events of `fd`, even if it is ready now. Does nothing if `fd` is not registered."""
        if self._callbacks.pop(fd, None) is not None:
            self._unregistered.add(fd)
            self._epoll.unregister(fd)

    def replace(self, fd: int, ready: Callable[[int], object]) -> None:
        """Call `ready` for a registered descriptor from now on."""
        self._callbacks[fd] = ready

    def forget(self, fd: int) -> None:
        """As `unregister`, for a registered descriptor that is about to be closed and has no duplicate: the system
        unregisters it when it is closed."""
        if has_forked:
            self.unregister(fd)
        elif self._callbacks.pop(fd, None) is not None:
            self._unregistered.add(fd)

    def close(self) -> None:
        """Unregister all; safe to call twice."""
        if self._epoll.closed:
            return
        self._leave_reactor()
        self._leave_reactor = self._epoll.close
        if self._alarm is not None:
            self._alarm.cancel()
        self._deadlines.clear()
        self._unregistered.update(self._callbacks)
        self._callbacks.clear()
        self._descriptor = -1
        self._epoll.close()

    # Called by the reactor.

    def fileno(self) -> int:
        return -1 if self._epoll.closed else self._epoll.fileno()

    def doRead(self) -> None:
        """Call back for the descriptors that are ready."""
        unregistered, callbacks = self._unregistered, self._callbacks
        unregistered.clear()
        ready = self._epoll.poll(0, MAX_EVENTS)
        self._is_polling = True
        try:
            for fd, events in ready:
                # A descriptor that was unregistered in this turn may already be another socket's, to which these events
                # do not belong.
                if fd in unregistered:
                    continue
                try:
                    callbacks[fd](events)
                except Exception as error:
                    self._callback_failed(error, fd)
        finally:
            self._is_polling = False
        if self._deferred:
            self._call_deferred()

    def _callback_failed(self, error: Exception, fd: int) -> None:
        _log.failure("a relay failed", Failure(error))
        self.unregister(fd)

    def connectionLost(self, reason: Any) -> None:
        """The reactor has stopped."""
        self.close()

    def logPrefix(self) -> str:
        return "relays"
