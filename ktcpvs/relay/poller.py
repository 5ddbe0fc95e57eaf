"""Polls the sockets of relays: an epoll instance of its own, which the reactor watches as one descriptor.

Relays read and write their sockets themselves, so they need no transport, and no call of the reactor for each event: in
one turn, the reactor reports all sockets that are ready.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from zope.interface import implementer

_log = Logger(namespace="ktcpvs")

IN: int = getattr(select, "EPOLLIN", 1)
OUT: int = getattr(select, "EPOLLOUT", 4)
ERR: int = getattr(select, "EPOLLERR", 8)
HUP: int = getattr(select, "EPOLLHUP", 16)
RDHUP: int = getattr(select, "EPOLLRDHUP", 8192)

MAX_EVENTS = 64
"""The most descriptors that are handled in one turn of the reactor; the kernel then reports those that have waited
longest."""


@implementer(IReadDescriptor)
class SocketPoller:
    """Calls back for each descriptor that is ready, level-triggered (epoll(7)).

    A descriptor must be unregistered before it is closed, and while none of its events is to be handled: epoll always
    reports errors and hang-ups.
    """

    __slots__ = ("_callbacks", "_epoll", "_leave_reactor", "_reactor", "_unregistered", "call_soon")

    def __init__(self, reactor: Any) -> None:
        """Raises OSError if there are no descriptors left."""
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], object]] = {}
        self._unregistered: set[int] = set()  # in this turn
        self._reactor = reactor
        self.call_soon: Callable[[Callable[[], object]], object] = self._call_soon
        """Calls its argument in the reactor's next turn."""
        self._leave_reactor: Callable[[], object] = partial(reactor.removeReader, self)
        loop = getattr(reactor, "uv", None)
        if loop is None:
            reactor.addReader(self)
        else:
            self.call_soon = loop.call_soon
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

    def call_later(self, seconds: float, call: Callable[..., object], *arguments: Any) -> Any:
        """Call `call` after `seconds`. Return an IDelayedCall."""
        return self._reactor.callLater(seconds, call, *arguments)

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

    def close(self) -> None:
        """Unregister all; safe to call twice."""
        if self._epoll.closed:
            return
        self._leave_reactor()
        self._leave_reactor = self._epoll.close
        self._unregistered.update(self._callbacks)
        self._callbacks.clear()
        self._epoll.close()

    # Called by the reactor.

    def fileno(self) -> int:
        return -1 if self._epoll.closed else self._epoll.fileno()

    def doRead(self) -> None:
        """Call back for the descriptors that are ready."""
        unregistered, callbacks = self._unregistered, self._callbacks
        unregistered.clear()
        for fd, events in self._epoll.poll(0, MAX_EVENTS):
            # A descriptor that was unregistered in this turn may already be another socket's, to which these events do
            # not belong.
            if fd in unregistered:
                continue
            try:
                callbacks[fd](events)
            except Exception:
                _log.failure("a relay failed")
                self.unregister(fd)

    def connectionLost(self, reason: Any) -> None:
        """The reactor has stopped."""
        self.close()

    def logPrefix(self) -> str:
        return "relays"
