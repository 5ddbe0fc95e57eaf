"""Accepting clients from one listening socket, as many as may come and no more.

While there are too many clients, or no descriptors, the listener rests: further clients wait in the kernel's
backlog and nobody is turned away.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from ktcpvs.runtime.context import Context
from ktcpvs.system import log as levels
from ktcpvs.system.handshakes import handshakes
from ktcpvs.system.periodic import PeriodicJob
from ktcpvs.system.sockets import (
    EXHAUSTED,
    close_listener,
    drop_handshakes,
    is_dual_stack,
    plain_socket_class,
    read_urgent_in_place,
    release_listener,
    send_at_once,
    unmapped,
)

BATCH = 64
"""How many clients are accepted in one turn, before the others get theirs."""

RETRY = 1.0
"""Seconds until a listener looks again after the system had no descriptor for it."""

RETIRING = 0.9
"""Seconds that handshakes may take to their end before a listener is closed that another one follows on the same port.
Who calls meanwhile is not heard, and calls again one second later."""

LOOK = 0.002
"""Seconds between two looks whether they are over."""


@implementer(IReadDescriptor)
class Listener:
    """name: of its service, for the log. admit: asked before each client whether there is room for one.
    accepted: gets each client's socket and its peer's address; it may be replaced."""

    def __init__(
        self,
        context: Context,
        name: str,
        sock: socket.socket,
        admit: Callable[[], bool],
        accepted: Callable[[socket.socket, Any], object],
    ) -> None:
        self._context = context
        self._name = name
        self.socket: Any = sock
        self._admit = admit
        self.accepted = accepted
        self._family = int(sock.family)
        self._kind = plain_socket_class(sock.family)
        self._is_dual_stack = is_dual_stack(sock)
        self._reading = False
        self._exhausted = False
        self._again = PeriodicJob(context.reactor, self.resume, self._resume_failed, RETRY)
        self._retired: Deferred[None] | None = None  # once it retires
        self._left: frozenset[bytes] | None = None  # handshakes, then; None: the system does not tell
        self._deadline = 0.0  # when it is closed, whatever is left
        self._looks = PeriodicJob(context.reactor, self._look, self._look_failed, LOOK)
        self.closed = False
        read_urgent_in_place(sock)
        send_at_once(sock)
        context.descriptors.listening += 1

    def start(self) -> None:
        self.resume()

    def resume(self) -> None:
        """There may be room again. Where the system does not let the socket be watched, it is tried again later."""
        if self._reading or self.closed or not self._context.is_accepting:
            return
        try:
            self._context.reactor.addReader(self)
        except Exception:
            self._resume_failed(Failure())
            self._again.start(RETRY)
        else:
            self._reading = True

    def _resume_failed(self, why: Failure) -> None:
        self._context.log.failure("service {ident}: the listening socket cannot be watched", why, ident=self._name)

    def pause(self) -> None:
        """Accept nobody until `resume`."""
        if self._reading:
            self._reading = False
            self._context.reactor.removeReader(self)

    def retire(self) -> Deferred[None]:
        """Another one listens on the same port from now on. Take in those whose handshake has begun, then close; fires
        when it is closed. Closed at once, it would reset them: their last packet would come to the other one."""
        retired = self._retired = Deferred()
        self._deadline = self._context.reactor.seconds() + RETIRING
        if not self._context.steps.run(f"service {self._name}: look for handshakes", self._begin_to_retire):
            self.close()
        return retired

    def _begin_to_retire(self) -> None:
        """The first look comes a moment later: a SYN that was under way just before would not show yet."""
        drop_handshakes(self.socket)
        self._looks.start(LOOK)

    def _look(self) -> float | None:
        if self._context.reactor.seconds() < self._deadline:
            found = handshakes(self.socket)
            self._left = found if self._left is None else self._left & (found or frozenset())
            if self._left != frozenset():
                return LOOK
        self.close()
        return None

    def _look_failed(self, why: Failure) -> None:
        self._context.log.failure("service {ident}: handshakes cannot be looked for", why, ident=self._name)

    def close(self) -> None:
        """Take in the clients who wait already and for whom there is room, then listen no more."""
        if not self.closed:
            self._context.steps.run(f"service {self._name}: accept who waits", self._accept_backlog)
        self._end(close_listener)

    def _accept_backlog(self) -> None:
        drop_handshakes(self.socket)
        self._accept(self._backlog())
        drop_handshakes(self.socket, False)  # another process may have the socket too, and listen on

    def release(self) -> None:
        """Listen no more: another process has the socket too, and takes in who waits."""
        self._end(release_listener)

    def _end(self, close: Callable[[socket.socket], None]) -> None:
        if not self.closed:
            run = self._context.steps.run
            run(f"service {self._name}: stop accepting", self.pause)
            self.closed = True
            self._looks.stop()
            self._context.descriptors.waiting.discard(self)
            self._context.descriptors.listening -= 1
            self._again.stop()
            run(f"service {self._name}: close the socket", close, self.socket)
            if self._retired is not None:
                self._retired.callback(None)

    def _backlog(self) -> int:
        return self._context.settings.max_backlog

    def doRead(self) -> None:
        self._accept(BATCH)

    def _accept(self, most: int) -> None:
        for _ in range(most):
            if not self._admit():
                self.pause()
                return
            try:
                descriptor, peer = self.socket._accept()
                client = self._kind(self._family, socket.SOCK_STREAM, 0, descriptor)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._rest(error)
                    return
                continue  # this client went away while it waited
            self._exhausted = False
            self.accepted(client, unmapped(peer) if self._is_dual_stack else peer)

    def _rest(self, error: OSError) -> None:
        if not self._exhausted:
            self._exhausted = True
            self._context.log.warn(
                "service {ident}: cannot accept ({why}); clients wait in the backlog",
                ident=self._name,
                why=error.strerror,
            )
        self.pause()
        if not self._again.is_scheduled:
            self._again.start(RETRY)

    @property
    def port(self) -> int | None:
        """Of TCP; None: it is a unix socket."""
        return None if self._family == socket.AF_UNIX else int(self.socket.getsockname()[1])

    def fileno(self) -> int:
        return -1 if self.closed else self.socket.fileno()

    def connectionLost(self, reason: Failure) -> None:
        self._context.log.event(levels.NON_FATAL, "listener of {ident} lost: {why}", ident=self._name, why=reason.value)
        self._reading = False

    def logPrefix(self) -> str:
        return f"listener {self._name}"
