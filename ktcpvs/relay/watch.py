"""Watches the bare sockets of relays: an epoll instance of our own, which the reactor watches as one descriptor.

A socket that reads and writes by itself needs neither a transport nor the reactor's ways for each event: one turn of
the reactor asks once for all that are ready.
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

AT_ONCE = 64
"""So many descriptors are told in one turn of the reactor; the kernel gives those next who have waited longest."""


@implementer(IReadDescriptor)
class Watch:
    """Whoever is ready is told of it, level-triggered (epoll(7)).

    A descriptor must be forgotten before it is closed. One for which nothing is wanted must be forgotten too: errors
    and hang-ups are always told.
    """

    __slots__ = ("_epoll", "_forgotten", "_leave", "_reactor", "_tell", "soon")

    def __init__(self, reactor: Any) -> None:
        """Raises OSError when there are no more descriptors."""
        self._epoll = select.epoll()
        self._tell: dict[int, Callable[[int], object]] = {}
        self._forgotten: set[int] = set()  # in this turn
        self._reactor = reactor
        self.soon: Callable[[Callable[[], object]], object] = self._later
        """Calls what it is given in the reactor's next turn."""
        self._leave: Callable[[], object] = partial(reactor.removeReader, self)
        loop = getattr(reactor, "uv", None)
        if loop is None:
            reactor.addReader(self)
        else:
            self.soon = loop.call_soon
            self._join(loop)

    def _join(self, loop: Any) -> None:
        """Be called by uvloop itself: Twisted's way and a look for errors after each call, which epoll has none of,
        cost more than half of what is done here for one event."""
        from uvloop import Loop

        Loop.add_reader(loop, self._epoll.fileno(), self.doRead)
        at_end = self._reactor.addSystemEventTrigger("after", "shutdown", self.close)

        def leave() -> None:
            Loop.remove_reader(loop, self._epoll.fileno())
            with contextlib.suppress(ValueError):  # it is the reactor that closes it
                self._reactor.removeSystemEventTrigger(at_end)

        self._leave = leave

    def _later(self, call: Callable[[], object]) -> None:
        self._reactor.callLater(0, call)

    def __len__(self) -> int:
        """How many descriptors are watched."""
        return len(self._tell)

    def after(self, seconds: float, call: Callable[..., object], *arguments: Any) -> Any:
        """Call it later: an IDelayedCall."""
        return self._reactor.callLater(seconds, call, *arguments)

    def add(self, fd: int, events: int, tell: Callable[[int], object]) -> None:
        """Call `tell` with what is ready of `events` (select.EPOLLIN and the like), EPOLLERR and EPOLLHUP.

        When it raises, that is logged and `fd` forgotten. Raises OSError, FileExistsError when it is watched already.
        """
        self._epoll.register(fd, events)
        self._tell[fd] = tell

    def change(self, fd: int, events: int) -> None:
        """From now on `events` are wanted. Raises OSError, FileNotFoundError when it is not watched."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """It is told nothing more, whatever was ready by now; nothing happens when it is not watched."""
        if self._tell.pop(fd, None) is not None:
            self._forgotten.add(fd)
            self._epoll.unregister(fd)

    def close(self) -> None:
        """Watch nobody any more; safe to call twice."""
        if self._epoll.closed:
            return
        self._leave()
        self._leave = self._epoll.close
        self._forgotten.update(self._tell)
        self._tell.clear()
        self._epoll.close()

    # What the reactor calls.

    def fileno(self) -> int:
        return -1 if self._epoll.closed else self._epoll.fileno()

    def doRead(self) -> None:
        """Tell those who are ready."""
        forgotten, tell = self._forgotten, self._tell
        forgotten.clear()
        for fd, events in self._epoll.poll(0, AT_ONCE):
            # Who was forgotten is not told, nor whoever has got its number since: what is ready is another's.
            if fd in forgotten:
                continue
            try:
                tell[fd](events)
            except Exception:
                _log.failure("a relay failed")
                self.forget(fd)

    def connectionLost(self, reason: Any) -> None:
        """The reactor has stopped."""
        self.close()

    def logPrefix(self) -> str:
        return "relays"
