"""Accepts clients from one listening socket while there is room for them.

While the service is full or the process has no descriptors left, the listener pauses: further clients wait in the
kernel's backlog, and none is rejected.
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
from ktcpvs.streams.accept import accept
from ktcpvs.system import log as levels
from ktcpvs.system.handshakes import handshakes
from ktcpvs.system.network_errors import network_reason
from ktcpvs.system.periodic import PeriodicJob
from ktcpvs.system.sockets import (
    EXHAUSTED,
    close_listener,
    drop_handshakes,
    is_dual_stack,
    read_urgent_in_place,
    release_listener,
    send_at_once,
    unmapped,
)

MAX_ACCEPTS_PER_TURN = 64
"""The most clients that are accepted in one turn of the reactor; then other sockets have their turn."""

RETRY_DELAY = 1.0
"""Seconds until a listener resumes after the system had no descriptor left."""

HANDSHAKE_TIMEOUT = 0.9
"""Seconds for which a retiring listener waits for TCP handshakes in progress. New SYNs are dropped meanwhile; the
client retransmits them a second later, to the listener that replaces this one."""

HANDSHAKE_POLL_INTERVAL = 0.002
"""Seconds between two checks whether these handshakes are complete."""

Accepted = Callable[[int, int, Any], object]
"""Called with the descriptor, the address family and the address of each client."""


@implementer(IReadDescriptor)
class Listener:
    """Accepts clients from one socket. name: of the service, for the log. admit: returns for how many clients there is
    room now. accepted: gets each client; it may be replaced.
    is_reading: whether it accepts clients now."""

    def __init__(
        self,
        context: Context,
        name: str,
        sock: socket.socket,
        admit: Callable[[], int],
        accepted: Accepted,
    ) -> None:
        self._context = context
        self._name = name
        self.socket: Any = sock
        self._admit = admit
        self.accepted = accepted
        self._family = int(sock.family)
        self._is_dual_stack = is_dual_stack(sock)
        self.is_reading = False
        self._exhausted = False
        self._retry_job = PeriodicJob(context.reactor, self.resume, self._resume_failed, RETRY_DELAY)
        self._retired: Deferred[None] | None = None  # fires when a retiring listener is closed
        self._handshakes: frozenset[bytes] | None = None  # those in progress since then; None: not known
        self._deadline = 0.0  # when a retiring listener is closed at the latest
        self._handshake_job = PeriodicJob(
            context.reactor, self._poll_handshakes, self._poll_failed, HANDSHAKE_POLL_INTERVAL
        )
        self.closed = False
        read_urgent_in_place(sock)
        send_at_once(sock)
        context.descriptors.listening += 1

    def start(self) -> None:
        drop_handshakes(self.socket, False)  # a listener that has retired may have shared this socket
        self.resume()

    def resume(self) -> None:
        """Accept clients again. Retries later if the reactor cannot watch the socket."""
        if self.is_reading or self.closed or not self._context.is_accepting:
            return
        try:
            self._context.reactor.addReader(self)
        except Exception:
            self._resume_failed(Failure())
            self._retry_job.start(RETRY_DELAY)
        else:
            self.is_reading = True

    def _resume_failed(self, why: Failure) -> None:
        self._context.log.failure("service {ident}: the listening socket cannot be watched", why, ident=self._name)

    def pause(self) -> None:
        """Accept no clients until `resume`."""
        if self.is_reading:
            self.is_reading = False
            self._context.reactor.removeReader(self)

    def retire(self) -> Deferred[None]:
        """Close, because another listener has the same port from now on; fires when that is done. Before, wait for
        handshakes in progress and accept their clients: after an immediate close, their last packet would reach the
        other listener, which would reset them."""
        retired = self._retired = Deferred()
        self._deadline = self._context.reactor.seconds() + HANDSHAKE_TIMEOUT
        if not self._context.steps.run(f"service {self._name}: find handshakes", self._begin_to_retire):
            self.close()
        return retired

    def _begin_to_retire(self) -> None:
        """Start the checks, the first one after a moment: a SYN that has just arrived is not in the kernel's list
        yet."""
        drop_handshakes(self.socket)
        self._handshake_job.start(HANDSHAKE_POLL_INTERVAL)

    def _poll_handshakes(self) -> float | None:
        if self._context.reactor.seconds() < self._deadline:
            found = handshakes(self.socket)
            self._handshakes = found if self._handshakes is None else self._handshakes & (found or frozenset())
            if self._handshakes != frozenset():
                return HANDSHAKE_POLL_INTERVAL
        self.close()
        return None

    def _poll_failed(self, why: Failure) -> None:
        self._context.log.failure("service {ident}: cannot list handshakes", why, ident=self._name)

    def close(self) -> None:
        """Accept the clients in the backlog as far as there is room, then stop listening."""
        if not self.closed:
            self._context.steps.run(f"service {self._name}: accept the backlog", self._accept_backlog)
        self._end(close_listener)

    def _accept_backlog(self) -> None:
        drop_handshakes(self.socket)
        self._accept(self._backlog())
        if self._retired is None:
            drop_handshakes(self.socket, False)  # another process may share the socket and keep listening
        # Behind a listener that retires nobody accepts. A supervisor has the socket open for a moment longer: a client
        # whose handshake it completed would be reset.

    def release(self) -> None:
        """Stop listening; another process shares the socket and accepts the clients in its backlog."""
        self._end(release_listener)

    def _end(self, close: Callable[[socket.socket], None]) -> None:
        if not self.closed:
            run = self._context.steps.run
            run(f"service {self._name}: stop accepting", self.pause)
            self.closed = True
            self._handshake_job.stop()
            self._context.descriptors.waiting.discard(self)
            self._context.descriptors.listening -= 1
            self._retry_job.stop()
            run(f"service {self._name}: close the socket", close, self.socket)
            if self._retired is not None:
                self._retired.callback(None)

    def _backlog(self) -> int:
        return self._context.settings.max_backlog

    def doRead(self) -> None:
        self._accept(MAX_ACCEPTS_PER_TURN)

    def _accept(self, most: int) -> None:
        room = 0
        for _ in range(most):
            if room == 0:
                room = self._admit()
                if room == 0:
                    self.pause()
                    return
            try:
                accepted = accept(self.socket, self._family)
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._pause_and_retry(error)
                    return
                continue  # this client has disconnected meanwhile
            if accepted is None:
                return
            self._exhausted = False
            room -= 1
            descriptor, peer = accepted
            self.accepted(descriptor, self._family, unmapped(peer) if self._is_dual_stack else peer)

    def _pause_and_retry(self, error: OSError) -> None:
        if not self._exhausted:
            self._exhausted = True
            self._context.log.warn(
                "service {ident}: cannot accept ({why}); clients wait in the backlog",
                ident=self._name,
                why=error.strerror,
            )
        self.pause()
        if not self._retry_job.is_scheduled:
            self._retry_job.start(RETRY_DELAY)

    @property
    def lacks_descriptors(self) -> bool:
        """Whether it accepts no clients because the process has no file descriptors for them."""
        return self in self._context.descriptors.waiting or self._retry_job.is_scheduled

    @property
    def port(self) -> int | None:
        """The TCP port; None: it is a unix socket."""
        return None if self._family == socket.AF_UNIX else int(self.socket.getsockname()[1])

    def fileno(self) -> int:
        return -1 if self.closed else self.socket.fileno()

    def connectionLost(self, reason: Failure) -> None:
        self._context.log.event(
            levels.NON_FATAL, "listener of {ident} lost: {why}", ident=self._name, why=network_reason(reason)
        )
        self.is_reading = False

    def logPrefix(self) -> str:
        return f"listener {self._name}"
