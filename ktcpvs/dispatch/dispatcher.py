"""The dispatcher of one client connection: it selects a server for each request, waits if that takes time, and holds
the request's lease of its server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.error import TimeoutError as ConnectTimedOut
from twisted.python.failure import Failure

from ktcpvs.dispatch.measured_request import Completed, MeasuredRequest
from ktcpvs.dispatch.request_notes import RequestNotes
from ktcpvs.dispatch.selection import AGAIN, NOBODY, QUEUE, Decision
from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.model import why as words
from ktcpvs.model.destination import Destination, Lease
from ktcpvs.model.outcome import REFUSED, RESET, TIMEOUT
from ktcpvs.model.retry_on import CONNECT
from ktcpvs.model.scheduling import NONE, Choice, ModifiedChoice, OwnResponse, Request
from ktcpvs.runtime.descriptors import NoDescriptor
from ktcpvs.streams.connector import HTTP2Failed
from ktcpvs.streams.tls_connect import TLSFailed
from ktcpvs.system import log as levels
from ktcpvs.system.network_errors import network_reason
from ktcpvs.system.pending import cancel_pending
from ktcpvs.system.plugin_errors import raise_interrupt
from ktcpvs.system.sockets import EXHAUSTED

# Events and a state that the state machines of all client connections have.
SERVERS_FULL = "servers full"
ROOM_FREED = "room at a server"
CONNECT_FAILED = "connect failed"
CLIENT_GONE = "client gone"
CONNECTING = "connecting"


class DispatcherOwner(Protocol):
    """The part of a client connection that a dispatcher uses."""

    client_name: str
    state: str

    def transition(self, event: str) -> None:
        """Change the state."""

    def set_timer(self, seconds: float, due: Callable[[], object] | None = None) -> None:
        """Restart the connection's one timer."""

    def restore_timer(self) -> None:
        """The wait is over: start the timer of the new state."""

    def serve(self, choice: Choice) -> None:
        """Send the request to the chosen server, whose lease has begun."""

    def fail(self, status: int, reason: str, retry_after: int = 0, *, why: str = "") -> None:
        """Refuse the request with an HTTP status. retry_after: seconds; 0: no such field. why: the reason as words of
        `model/why.py`; "": that of the status."""

    def respond(self, response: OwnResponse) -> None:
        """Respond as a rule says, without a server."""

    def moved(self) -> tuple[int, int]:
        """Bytes from the client and to it, so far."""

    def is_client_gone(self) -> bool:
        """Return whether the client has disconnected, even if that was not read yet."""

    def expire(self, event: str) -> None:
        """End the connection."""


class Dispatcher:
    """The selection of a server for the current request of one client connection.

    request: as the scheduler sees it. choice: the server of the current request, or of the last one. lease: counts the
    request there. entry: notes it, for the access log and for its trace; None: nothing does. failed_connections:
    servers whose connection died with the current request. is_retry: the next lease counts against `retry_budget`.
    uses_scheduler: False when the client has sent nothing that the scheduler could use. completed: is called with the
    outcome of a request that takes the fast path; None: nothing is.
    """

    __slots__ = (
        "_log", "_owner", "_pending", "_queued_since", "_refused", "_service", "_settings_of", "choice",
        "completed", "entry", "failed_connections", "is_retry", "is_waiting", "lease", "request", "uses_scheduler",
    )  # fmt: skip

    def __init__(self, service: ServiceContext, owner: DispatcherOwner, client_host: str) -> None:
        self._service = service
        self._settings_of = service.context
        self._log = service.context.log
        self._owner = owner
        self._pending: Deferred[Any] | None = None  # the scheduler's answer
        self._queued_since = 0  # the tick when it began to wait for room, plus 1; 0: it does not wait
        # Servers that refused a connection for this request; None: they have been tried a second time.
        self._refused: frozenset[Destination] | None = NONE
        self.request = Request(client_host, tried=service.selector.excluded)
        self.choice: Choice | None = None
        self.lease: Lease | None = None
        self.completed: Completed | None = None
        self.entry: RequestNotes | None = None
        self.failed_connections: tuple[Destination, ...] = ()
        self.is_retry = False
        self.is_waiting = False  # for the scheduler or for room at a server
        self.uses_scheduler = True

    def __repr__(self) -> str:
        choice = self.choice
        server = "no server" if choice is None else f"{choice.destination.address}, {choice.reason}"
        return f"<Dispatcher of {self._service.ident}: {server}>"

    def detach(self) -> None:
        """The client connection is over: drop the reference to it, so that its memory is freed without a garbage
        collection."""
        del self._owner

    @property
    def destination(self) -> Destination | None:
        """The server that the current request has a lease of."""
        return self.lease.destination if self.lease is not None and not self.lease.ended else None

    def begin(self) -> None:
        """Begin a new request, which all servers that are up may serve."""
        request = self.request
        request.tried = self._service.selector.excluded
        request.failed = self._refused = NONE
        request.is_repeated = False
        self.failed_connections = ()
        self.is_retry = False

    # Selection.

    def select(self) -> None:
        """Select a server, and call `serve` or `fail` of the owner, at once or later."""
        selector = self._service.selector
        if self.uses_scheduler:
            self._handle(selector.select(self.request, self._allows_second_round))
        else:
            self._handle(selector.without_servers(self.request))

    def handle_answer(self, answer: Any) -> None:
        """Continue with a scheduler's answer that the caller already has, as `select` would."""
        self._handle(self._service.selector.judge(self.request, answer, self._allows_second_round))

    def scheduler_failed(self, failure: Failure) -> None:
        """Continue after an exception of the scheduler."""
        self._handle(self._service.selector.scheduler_failed(self.request, failure, self._allows_second_round))

    def _choice_failed(self, error: BaseException) -> None:
        raise_interrupt(error)
        self.scheduler_failed(Failure(error))

    def _handle(self, decision: Decision | Deferred[Any]) -> None:
        if isinstance(decision, Deferred):
            self._wait_for_scheduler(decision)
            return
        choice, response = decision.choice, decision.response
        rule = choice if isinstance(choice, ModifiedChoice) else response
        if rule is not None and rule.modifiers.rate is not None and self._is_undecided:
            wait = self._service.rule_rates.wait_time(rule.modifiers.rate, rule.rule, self.request)
            if wait:
                reason = f"more than {rule.modifiers.rate} requests for a rule"
                self._owner.fail(429, reason, wait, why=words.with_only_rule(rule.why, words.RULE_RATE))
                return
        if decision.outcome == QUEUE and choice is not None:
            self._wait_for_room(choice.destination)
        elif decision.outcome == AGAIN:
            self.select()
        elif response is not None:
            self._respond(response)
        elif decision.outcome == NOBODY or choice is None:
            self._owner.fail(503, decision.reason, why=self._with_way(decision.why))
        else:
            self.take(self._with_way_of(choice))

    @property
    def _is_undecided(self) -> bool:
        """Whether no server has been chosen for this request before, which has failed or is full."""
        return self._refused == NONE and not self.failed_connections and not self._queued_since

    def _with_way(self, why: str) -> str:
        """Return words with those for what has happened to the request before: it has waited, or servers have failed
        it."""
        has_waited, has_failed = bool(self._queued_since), bool(self.request.failed)
        return words.joined(why, words.QUEUE if has_waited else "", words.RETRY if has_failed else "")

    def _with_way_of(self, choice: Choice) -> Choice:
        if not self._queued_since and not self.request.failed:  # nearly always
            return choice
        return evolve(choice, why=self._with_way(choice.why))

    def take(self, choice: Choice) -> None:
        """Use this server: begin a lease and call the owner."""
        self.choice = choice
        selector, destination = self._service.selector, choice.destination
        if self.is_retry:
            self.is_retry = False
            self.lease = selector.retries.lease(destination)
        else:
            self.lease = destination.lease()
        if (
            selector.completed is not None
            or choice.completed is not None
            or destination.measured_latency is not None
            or destination.measured_errors is not None
        ):
            self.measure(choice, destination.clock(), self._owner.moved())
        if self.entry is not None:
            self.entry.server_chosen(choice)
        if self._log.level >= levels.SCHEDULING:
            self._log_decision(f"{choice.destination.address}: {choice.reason}")
        self._owner.serve(choice)

    def measure(self, choice: Choice, began: float, moved: tuple[int, int], connections: int = 0) -> None:
        """Measure the current request at this server, if a scheduler wants to know the outcome, or has read what is
        measured of the server. began: the monotonic time of the choice. moved: bytes from the client and to it before.
        connections: how many to this server the request has been sent on.
        """
        destination, entry = choice.destination, self.entry
        completed = self._service.selector.completed_by(choice, self.request)
        if completed is None and not destination.is_measured:
            return
        if not isinstance(entry, MeasuredRequest):
            entry = self.entry = MeasuredRequest(entry, self._service.selector.report, self._owner.moved)
        entry.begin(destination, completed, self.request.client, began, moved, connections)

    def timed_out(self) -> None:
        """The current request takes too long, and ends."""
        if isinstance(self.entry, MeasuredRequest):
            self.entry.reason = TIMEOUT

    def _respond(self, response: OwnResponse) -> None:
        """Let the owner respond as a rule says."""
        if self.entry is not None:
            self.entry.response_chosen(response)
        if self._log.level >= levels.SCHEDULING:
            self._log_decision(response.reason)
        self._owner.respond(response)

    def _log_decision(self, why: str) -> None:
        """Log what was decided for the request. why: in words, after the server if there is one."""
        form, client = "{client}: {path}: {why}", self._owner.client_name
        self._log.event(levels.SCHEDULING, form, client=client, path=self.request.path, why=why)

    # Asynchronous schedulers.

    def _wait_for_scheduler(self, answer: Deferred[Any]) -> None:
        self._pending = answer
        self.is_waiting = True
        self._service.queue.leave(self)  # the answer is checked for room when it comes
        self._owner.set_timer(self._settings_of.settings.choose_timeout, self._scheduler_timed_out)
        answer.addCallbacks(self._answered, self._answer_failed, (answer,), {}, (answer,))

    def _answered(self, result: Any, answer: Deferred[Any]) -> None:
        if self._pending is answer:
            self._pending = None
            self.handle_answer(result)

    def _answer_failed(self, failure: Failure, answer: Deferred[Any]) -> None:
        if self._pending is answer:  # else it was cancelled here
            self._pending = None
            selector = self._service.selector
            self._handle(selector.scheduler_failed(self.request, failure, self._allows_second_round))

    def _scheduler_timed_out(self) -> None:
        answer, self._pending = self._pending, None
        if answer is not None:
            cancel_pending(answer, self._log)
            self._handle(self._service.selector.scheduler_timed_out(self.request, self._allows_second_round))

    # The queue.

    def _wait_for_room(self, chosen: Destination) -> None:
        self._owner.transition(SERVERS_FULL)
        if not self._queued_since:
            self._queued_since = self._settings_of.wheel.now + 1
        self.is_waiting = True
        if self.entry is not None:
            self.entry.queued()
        self._service.wait_for_room(self, chosen)
        self._start_queue_timer()

    def _start_queue_timer(self) -> None:
        left = self._service.settings.queue_timeout + self._queued_since - 1 - self._settings_of.wheel.now
        self._owner.set_timer(max(left, 0), self._queue_timed_out)

    def rearm(self) -> None:
        """A timeout has changed while the client waits: for room, it waits by the new one since it came. What a
        scheduler has been asked before keeps its time."""
        if self._pending is None:
            self._start_queue_timer()

    def _queue_timed_out(self) -> None:
        reason = f"no server had room within {self._service.settings.queue_timeout} seconds"
        self._owner.fail(503, reason, why=words.QUEUE_TIMEOUT)

    def try_again(self) -> None:
        """Select again, because a server may have room. A client that has disconnected meanwhile takes no room."""
        owner = self._owner
        if owner.is_client_gone():
            owner.expire(CLIENT_GONE)
            return
        owner.transition(ROOM_FREED)
        self._renew_tried()
        self._service.queue.uncount(self)  # else it would find the server's queue full of itself
        self.select()

    def stop_waiting(self) -> None:
        """Stop waiting for room or for the scheduler."""
        self.is_waiting = False
        self._queued_since = 0
        self._service.queue.leave(self)
        answer, self._pending = self._pending, None
        if answer is not None:
            cancel_pending(answer, self._log)
        self._owner.restore_timer()

    # Failed servers.

    def exclude(self, destination: Destination, reason: str, kind: str = RESET) -> None:
        """Exclude a server that has failed this request from its further selections. kind: as for `server_failed`."""
        self.request.failed |= {destination}
        self.server_failed(destination, reason, kind)
        self._renew_tried()  # its ejection may have brought in servers that stood by

    def server_failed(self, destination: Destination, reason: str, kind: str = RESET) -> None:
        """Count and note that the current request has failed by the fault of this server. reason: in words. kind: one
        of the reasons of `model/outcome.py`."""
        entry = self.entry
        if entry is not None:
            entry.server_failed(destination, reason)
        self._service.server_failed(destination, reason)
        if isinstance(entry, MeasuredRequest):
            entry.end_at_server(kind)

    def connect_failed(self, why: Failure) -> None:
        """The connection to the selected server failed: select the next one, or refuse the request."""
        owner, lease = self._owner, self.lease
        assert lease is not None  # nothing is connected without one
        if isinstance(why.value, NoDescriptor) or getattr(why.value, "osError", None) in EXHAUSTED:
            # An error of this system, not of the server.
            lease.end()
            owner.transition(CONNECT_FAILED)
            reason = f"no connection to a server can be made: {network_reason(why)}"
            owner.fail(503, reason, why=words.NO_DESCRIPTORS)
            return
        destination, reason = lease.destination, network_reason(why)
        if self._refused is not None:
            self._refused |= {destination}
        lease.end(failed=True)
        destination.retries += 1
        if self.entry is not None:
            self.entry.retried()
        self.exclude(destination, reason, TIMEOUT if why.check(TimeoutError, ConnectTimedOut) else REFUSED)
        form = "service {ident}: server {server} not connected: {why}"
        if why.check(TLSFailed, HTTP2Failed):  # the server or the configuration must be changed
            self._service.note_server_fault(destination, reason)
        else:
            self._log.event(levels.NON_FATAL, form, ident=self._service.ident, server=destination.address, why=reason)
        owner.transition(CONNECT_FAILED)
        if CONNECT in self._service.config.retry_on:
            self.select()
        else:
            reason = "the server cannot be connected, and retry_on does not name connect"
            owner.fail(503, reason, why=words.SERVER_FAILED)

    def _allows_second_round(self) -> bool:
        """Return whether servers that refused the request may be tried again: after another server has died with it,
        some time has passed, and they may be back."""
        request, refused = self.request, self._refused
        if not self.failed_connections or not refused:
            return False
        self._refused = None  # only once; a server that died with the request does not get it again
        request.failed -= refused
        self._renew_tried()
        return True

    def _renew_tried(self) -> None:
        """Exclude the servers that are excluded now, and those that have failed this request, and no others."""
        self.request.tried = self._service.selector.excluded | self.request.failed
        self.request.is_repeated = True
