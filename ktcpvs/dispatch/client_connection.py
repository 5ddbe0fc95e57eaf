"""What every client connection has in common: its state by a table, the choice of its server, its lease, its timer.

`connection` serves a whole connection, `http_client` and `exchange` request by request. The scheduler is asked here,
and after a failed connect asked again: the next best server, then the redirect address, then nobody.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ktcpvs.dispatch.access_log import AccessLogEntry
from ktcpvs.model import connection, exchange
from ktcpvs.model.clients import NOWHERE
from ktcpvs.model.destination import Destination, Lease
from ktcpvs.model.scheduling import Choice, Request
from ktcpvs.model.service import COPY
from ktcpvs.relay.copy import CopyRelay
from ktcpvs.relay.engines import EngineRelay, Relay
from ktcpvs.relay.handover import Handover
from ktcpvs.streams.stream import Stream
from ktcpvs.system import log as levels
from ktcpvs.system.pending import cancel_pending
from ktcpvs.system.sockets import EXHAUSTED
from ktcpvs.system.timer_wheel import Timer

if TYPE_CHECKING:
    from ktcpvs.services.running import RunningService

JOINED_STATES = (connection.RELAYING, exchange.SWITCHED)

# States and events that both tables have.
CLOSED = "closed"
WAITING_STATES = ("choosing", "queued")
FULL = "servers full"
ROOM = "room at a server"
DRAINED = "drain timeout"
CLIENT_GONE = "client gone"
CONNECT_FAILED = "connect failed"


class ClientConnection(ABC):
    """client_name: the client's address as text, with its port. began: the wheel's tick at accept.

    choice: who serves, once that is known. relay: from the moment on when both sides are joined, else None. handover:
    while the relay copies and is to be another, else None.
    place: where it counts for its client's address; NOWHERE: nowhere. ending: why it ended, once that is known. entry:
    what the access log will say of it; None: there is no such log."""

    table: ClassVar[dict[str, dict[str, str]]]
    """state -> event -> state."""

    descriptors: ClassVar[int]
    """How many descriptors it counts for."""

    reserved: ClassVar[int] = 0
    """For how many more it may have need, which somebody else counts once it has them."""

    __slots__ = (
        "_asking", "_asks", "_calling", "_queued", "_since", "_timer", "_waits", "began", "choice",
        "client", "client_name", "context", "ending", "entry", "handover", "lease", "place", "relay", "request",
        "service", "state",
    )  # fmt: skip

    def __init__(self, service: RunningService, client_name: str, client_host: str, state: str) -> None:
        self.service = service
        self.context = service.context
        self.client_name = client_name
        self.began = self._since = self.context.wheel.now
        self.client = Stream(self._opened)
        self.request = Request(client_host, tried=service.down)
        self.choice: Choice | None = None
        self.lease: Lease | None = None
        self.relay: Relay | None = None
        self.handover: Handover | None = None
        self.state = state
        self.ending = ""
        self.entry: AccessLogEntry | None = None
        self._timer: Timer | None = None
        self._calling: Deferred[Stream] | None = None
        self._asks = True  # False when there is nothing to ask the scheduler about
        self._asking: Deferred[Any] | None = None  # the scheduler takes its time
        self._waits = False  # for the scheduler or for room at a server
        self.place = NOWHERE
        self._queued = 0  # the tick after the one when it began to wait for room

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
            self._transition(event)
        self._drop()

    def leave(self) -> None:
        """It is over and counts no more for its client's address."""
        self.service.gate.leave(self.place, 0)

    @abstractmethod
    def retire(self) -> None:
        """Its service listens no more: it may finish what it does."""

    def retire_gently(self) -> None:
        """The same, but a request that is on its way now is served: who is idle may send one more."""
        self.retire()

    @abstractmethod
    def rearm(self) -> None:
        """A timeout has changed."""

    # What the two kinds do.

    @abstractmethod
    def _opened(self) -> None:
        """The client is there."""

    @abstractmethod
    def _serve(self, choice: Choice) -> None:
        """That server shall serve; its lease has begun."""

    @abstractmethod
    def _rest_timer(self) -> None:
        """Nothing is waited for any more: the timer is as it is without."""

    @abstractmethod
    def _fail(self, status: int, why: str, later: int = 0) -> None:
        """There is none: refuse with an HTTP status. later: seconds until the client may come again; 0: not said."""

    @abstractmethod
    def _drop(self) -> None:
        """Close both sides at once."""

    @abstractmethod
    def _maybe_over(self) -> None:
        """When both sides are gone: count out."""

    # What they share.

    def _transition(self, event: str) -> None:
        before = self.state
        self.state = after = self.table[before][event]
        self._since = self.context.wheel.now
        if after == CLOSED:
            if not self.ending:
                self.ending = event
            if self.handover is not None:
                self.handover.cancel()
                self.handover = None
        if self._waits and after not in WAITING_STATES:
            self._waits_no_more()
        log = self.context.log
        if log.level >= levels.STATE:
            form = "{client}: {before}, {event}: {after}"
            log.event(levels.STATE, form, client=self.client_name, before=before, event=event, after=after)

    def _set_timer(self, seconds: float, due: Callable[[], object] | None = None) -> None:
        """The one timer of this connection: call `due` after `seconds`; None: no timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.context.wheel.after(seconds, due) if due is not None else None

    def _hand_over(self, relay: CopyRelay, finished: Callable[[], object]) -> None:
        """Both sides are joined: where the service has an engine it takes over, now or when it is worth it."""
        service = self.service
        service.joined[COPY] += 1
        if service.engine != COPY and self.state != CLOSED:
            self.handover = Handover(self, relay, finished, service.engine_after, self.context)

    # What the hand-over asks and tells.

    def wanted_engine(self) -> str:
        """The name of the relay that its service has now; COPY when the connection is ending."""
        return self.service.engine if self.state in JOINED_STATES else COPY

    def set_relay(self, relay: CopyRelay | EngineRelay) -> None:
        """`relay` carries the bytes from now on."""
        self.relay = relay

    def handed_over(self, engine: str) -> None:
        """The engine has taken over."""
        self.handover = None
        joined = self.service.joined
        joined[COPY] -= 1
        joined[engine] += 1

    def handover_failed(self, engine: str, error: OSError) -> None:
        """The engine could not be started: copying goes on."""
        form = "service {ident}: {client} is not relayed by {engine}: {why}"
        values = {"ident": self.service.ident, "client": self.client_name, "engine": engine}
        self.context.log.event(levels.NON_FATAL, form, why=error.strerror or str(error), **values)

    def handover_ended(self) -> None:
        """The connection is copied to its end."""
        self.handover = None

    # Who serves.

    def _request_ready(self) -> None:
        """The client has said what it wants."""
        self._choose()

    def _choose(self) -> None:
        """Ask who shall serve; `_serve`, a refusal or a wait follows."""
        request = self.request
        if not self._asks or self._has_tried_enough():
            self._decide(None)
            return
        try:
            answer = self.service.scheduler.choose(request)
        except Exception:
            self._scheduler_failed()
            return
        self._take(answer)

    def _retry_after(self, status: int, later: int) -> int:
        """What Retry-After says, in seconds: `later`, or what is usual when there is no server; 0: nothing."""
        return later or (self.context.settings.retry_after if status == 503 else 0)

    def _has_tried_enough(self) -> bool:
        return len(self.request.failed) >= self.context.settings.connect_tries

    def _take(self, answer: Any) -> None:
        """What the scheduler answers: a choice, or something that takes its time, or nonsense."""
        if answer is None or isinstance(answer, Choice):
            self._decide(answer)
            return
        if not isinstance(answer, Deferred):
            if not inspect.iscoroutine(answer):
                self._chose_nonsense(answer)
                return
            answer = Deferred.fromCoroutine(answer)
        self._asking = answer
        self._waits = True
        self._set_timer(self.context.settings.choose_timeout, self._choice_is_late)
        answer.addCallbacks(self._choice_came, self._choice_failed, (answer,), None, (answer,))

    def _choice_came(self, choice: Any, asked: Deferred[Any]) -> None:
        if self._asking is asked:
            self._asking = None
            self._take(choice)

    def _choice_failed(self, failure: Failure, asked: Deferred[Any]) -> None:
        if self._asking is asked:  # else it was given up here, and this is what came of it
            self._asking = None
            self._scheduler_failed(failure)

    def _choice_is_late(self) -> None:
        asked, self._asking = self._asking, None
        if asked is not None:
            cancel_pending(asked, self.context.log)
            self._fall_back(f"the scheduler took more than {self.context.settings.choose_timeout} seconds")

    def _scheduler_failed(self, failure: Failure | None = None) -> None:
        self.context.log.failure("scheduler of service {ident} failed", failure, ident=self.service.ident)
        self._fall_back("the scheduler failed")

    def _chose_nonsense(self, what: Any) -> None:
        form = "scheduler of service {ident} failed: it chose {what!r}, no server of the service"
        self.context.log.fault(form, ident=self.service.ident, what=what)
        self._fall_back("the scheduler failed")

    def _fall_back(self, why: str) -> None:
        self._decide(self.service.fall_back(self.request, why), why)

    def _decide(self, choice: Choice | None, why: str = "") -> None:
        """That is who the scheduler chose. why: there is nobody else, in words; "" where there is no more to say."""
        service, tried = self.service, self.request.tried
        if choice is not None:
            destination = choice.destination
            if destination not in service.usable:
                self._chose_nonsense(destination)
                return
            if destination in tried:
                choice = None
            elif destination.maxconn and destination.is_full:
                choice = service.instead_of_full(choice, self.request)
                if choice is None:
                    self._wait_for_room()
                    return
        if choice is None and self._tries_all_again():
            self._choose()
            return
        if choice is None and service.down and not self._has_tried_enough():
            choice = service.last_resort(self.request)
        if choice is None and service.redirect is not None and service.redirect not in tried:
            choice = Choice(service.redirect, "redirect, since no server was found")
        if choice is None:
            self._fail(503, why or self._why_nobody())
            return
        self._chosen(choice)
        self._serve(choice)

    def _tries_all_again(self) -> bool:
        """True when servers that refused this client may be called once more."""
        return False

    def _why_nobody(self) -> str:
        service = self.service
        if self.request.failed:
            return "no server answered"
        return (
            "all servers are down" if service.down and service.down >= service.usable else "no server for this request"
        )

    def _wait_for_room(self) -> None:
        self._transition(FULL)
        now = self.context.wheel.now
        if not self._queued:
            self._queued = now + 1  # 0: it does not wait
        self._waits = True
        self.service.wait_for_room(self)
        left = self.context.settings.queue_timeout + self._queued - 1 - now
        self._set_timer(max(left, 0), self._queue_is_late)

    def _queue_is_late(self) -> None:
        self._fail(503, f"no server had room within {self.context.settings.queue_timeout} seconds")

    def try_again(self) -> None:
        """There may be room at a server. A client that went away while it was not read takes none."""
        client = self.client
        if client.is_gone() or (self.service.config.abort_on_close == "on" and client.has_ended()):
            self.expire(CLIENT_GONE)
            return
        self._transition(ROOM)
        self.request.tried = self.request.tried | self.service.down
        self._choose()

    def _waits_no_more(self) -> None:
        self._waits = False
        self._queued = 0
        self.service.queue.leave(self)
        asked, self._asking = self._asking, None
        if asked is not None:
            cancel_pending(asked, self.context.log)
        self._rest_timer()

    def _chosen(self, choice: Choice) -> None:
        self.choice = choice
        self.lease = self._lease(choice.destination)
        if self.entry is not None:
            self.entry.chosen(choice)
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

    def _lease(self, destination: Destination) -> Lease:
        """A place there."""
        return destination.lease()

    def _not_connected(self, why: Failure) -> None:
        """The server that was called does not answer: the next one."""
        self._calling = None
        lease = self.lease
        assert lease is not None  # nobody is called without
        if CONNECT_FAILED not in self.table[self.state]:  # the call was given up here
            lease.end()
            self._maybe_over()
            return
        if getattr(why.value, "osError", None) in EXHAUSTED:  # the server has not heard of it
            lease.end()
            self._transition(CONNECT_FAILED)
            self._fail(503, f"no connection to a server can be made: {why.getErrorMessage()}")
            return
        lease.end(failed=True)
        lease.destination.retries += 1
        if self.entry is not None:
            self.entry.retried()
        self._has_failed(lease.destination, why.getErrorMessage())
        self.context.log.event(
            levels.NON_FATAL,
            "service {ident}: server {server} not connected: {why}",
            ident=self.service.ident,
            server=lease.destination.address,
            why=why.getErrorMessage(),
        )
        self._transition(CONNECT_FAILED)
        self._choose()

    def _has_failed(self, destination: Destination, why: str) -> None:
        """Not that one again for this request. why: in words."""
        request = self.request
        request.tried, request.failed = {*request.tried, destination}, request.failed | {destination}
        self.service.health.failed(destination, why)

    def _note_refusal(self, status: int, why: str) -> None:
        if status == 429:
            self.service.gate.limited += 1
        else:
            self.service.refused += 1
        refusals = self.service.refusals
        refusals[status] = refusals.get(status, 0) + 1
        self.context.log.event(
            levels.NON_FATAL,
            "service {ident}: {client} refused: {status} {why}",
            ident=self.service.ident,
            client=self.client_name,
            status=status,
            why=why,
        )
