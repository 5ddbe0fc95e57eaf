"""What every client connection has in common: its state by a table, the choice of its server, its lease, its timer.

`connection` serves a whole connection, `http_client` and `exchange` request by request. The scheduler is asked here,
and after a failed connect asked again: the next best server, then the redirect address, then nobody.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ktcpvs.model.destination import Destination, Lease
from ktcpvs.model.scheduling import Choice, Request
from ktcpvs.system import log as levels
from ktcpvs.transport.relay.copy import CopyRelay
from ktcpvs.transport.stream import Stream
from ktcpvs.transport.wheel import Timer

if TYPE_CHECKING:
    from ktcpvs.transport.live import LiveService

# States and events that both tables have.
CLOSED = "closed"
DRAINED = "drain timeout"
CONNECT_FAILED = "connect failed"


class Served(ABC):
    """client_name: the client's address as text, with its port. began: the wheel's tick at accept.

    choice: who serves, once that is known. relay: from the moment on when both sides are joined, else None.
    ending: why it ended, once that is known.
    """

    table: ClassVar[dict[str, dict[str, str]]]
    """state -> event -> state."""

    descriptors: ClassVar[int]
    """How many descriptors it counts for."""

    __slots__ = (
        "_calling", "_since", "_timer", "began", "choice", "client", "client_name", "context", "ending", "lease",
        "relay", "request", "service", "state",
    )  # fmt: skip

    def __init__(self, service: LiveService, client_name: str, client_host: str, state: str) -> None:
        self.service = service
        self.context = service.context
        self.client_name = client_name
        self.began = self._since = self.context.wheel.now
        self.client = Stream(self._opened)
        self.request = Request(client_host)
        self.choice: Choice | None = None
        self.lease: Lease | None = None
        self.relay: CopyRelay | None = None
        self.state = state
        self.ending = ""
        self._timer: Timer | None = None
        self._calling: Deferred[Stream] | None = None

    # What the rest of the switch asks.

    @abstractmethod
    def moved(self) -> tuple[int, int]:
        """Bytes from the client and to it, so far."""

    @abstractmethod
    def unsettled(self) -> tuple[int, int]:
        """What of them is not yet counted at the destination."""

    @property
    def destination(self) -> Destination | None:
        """Where it is connected or being connected to, now."""
        return self.lease.destination if self.lease is not None and not self.lease.ended else None

    def idle_since(self) -> int:
        """The wheel's tick at which something happened last."""
        return self._since if self.relay is None else max(self._since, self.relay.idle_since())

    def expire(self, event: str = DRAINED) -> None:
        """End it now, both sides."""
        if self.state != CLOSED:
            self._happened(event)
        self._drop()

    @abstractmethod
    def retire(self) -> None:
        """Its service listens no more: it may finish what it does."""

    @abstractmethod
    def rearm(self) -> None:
        """A timeout has changed."""

    # What the two kinds do.

    @abstractmethod
    def _opened(self) -> None:
        """The client is there."""

    @abstractmethod
    def _choose(self) -> None:
        """Find a server."""

    @abstractmethod
    def _fail(self, status: int, why: str) -> None:
        """There is none: refuse with an HTTP status."""

    @abstractmethod
    def _drop(self) -> None:
        """Close both sides at once."""

    @abstractmethod
    def _maybe_over(self) -> None:
        """When both sides are gone: count out."""

    # What they share.

    def _happened(self, event: str) -> None:
        before = self.state
        self.state = after = self.table[before][event]
        self._since = self.context.wheel.now
        if after == CLOSED and not self.ending:
            self.ending = event
        log = self.context.log
        if log.level >= levels.STATE:
            form = "{client}: {before}, {event}: {after}"
            log.event(levels.STATE, form, client=self.client_name, before=before, event=event, after=after)

    def _set_timer(self, seconds: float, due: Callable[[], object] | None = None) -> None:
        """The one timer of this connection: call `due` after `seconds`; None: no timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.context.wheel.after(seconds, due) if due is not None else None

    def _pick(self, ask: bool = True) -> Choice | None:
        """Whom the scheduler chooses, or the redirect address; None: the client has been refused.

        ask: False when there is nothing to ask the scheduler about. The choice's lease begins.
        """
        service, tried = self.service, self.request.tried
        choice: Choice | None = None
        if ask and len(tried) < self.context.settings.connect_tries:
            try:
                choice = service.choose(self.request)
            except Exception:
                self.context.log.failure("scheduler of service {ident} failed", ident=service.ident)
                self._fail(503, "the scheduler failed")
                return None
        if choice is None and service.redirect is not None and service.redirect not in tried:
            choice = Choice(service.redirect, "redirect, since no server was found")
        if choice is None:
            self._fail(503, "no server answered" if tried else "no server for this request")
            return None
        self._chosen(choice)
        return choice

    def _chosen(self, choice: Choice) -> None:
        self.choice = choice
        self.lease = choice.destination.lease()
        log = self.context.log
        if log.level >= levels.SCHEDULING:
            log.event(
                levels.SCHEDULING,
                "{client}: {path}: {server}: {why}",
                client=self.client_name,
                path=self.request.path,
                server=choice.destination.address,
                why=choice.reason,
            )

    def _not_connected(self, why: Failure) -> None:
        """The server that was called does not answer: the next one."""
        self._calling = None
        lease = self.lease
        assert lease is not None  # nobody is called without
        if self.state == CLOSED:
            lease.end()
            self._maybe_over()
            return
        lease.end(failed=True)
        self.request.tried.add(lease.destination)
        self.context.log.event(
            levels.NON_FATAL,
            "service {ident}: server {server} not connected: {why}",
            ident=self.service.ident,
            server=lease.destination.address,
            why=why.getErrorMessage(),
        )
        self._happened(CONNECT_FAILED)
        self._choose()

    def _note_refusal(self, status: int, why: str) -> None:
        self.service.refused += 1
        self.context.log.event(
            levels.NON_FATAL,
            "service {ident}: {client} refused: {status} {why}",
            ident=self.service.ident,
            client=self.client_name,
            status=status,
            why=why,
        )
