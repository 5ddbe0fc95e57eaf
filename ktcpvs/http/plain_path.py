"""The fast path of plain requests: a request on a kept connection, and a plain response that comes as a whole.

It changes the state of an exchange without `transition` and looks each attribute up once; docs/performance.md has its
cost. `_fast_path.c` does the same in C. Whatever is unusual leaves it, and goes on as any other request.
"""

from __future__ import annotations

from bisect import bisect_left
from time import monotonic
from typing import Any, Protocol

from twisted.python.failure import Failure

from ktcpvs.dispatch.access_log import AccessLogWriter, plain_record, tls_of
from ktcpvs.dispatch.dispatcher import Dispatcher
from ktcpvs.dispatch.live_trace_writer import RequestLog
from ktcpvs.dispatch.request_notes import RequestNotes
from ktcpvs.dispatch.selection import is_choice
from ktcpvs.dispatch.service_access_log import ServiceAccessLog
from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.dispatch.traced_request import ANSWERED
from ktcpvs.dispatch.trusted_proxies import peer_of
from ktcpvs.http.exchange_owner import ExchangeOwner
from ktcpvs.http.fast_path import SENT, WHOLE
from ktcpvs.http.head_cache import CLOSE, KEEP_ALIVE, MAX_CACHED_HEAD, CachedResponse, HeadCache
from ktcpvs.http.message_edits import ServiceEdits
from ktcpvs.http.request_edits import RequestEdits
from ktcpvs.http.server_connection import ServerConnection, ServerConnectionUser
from ktcpvs.http.server_connections import ServerConnections
from ktcpvs.model import exchange as life
from ktcpvs.model.destination import Lease
from ktcpvs.model.latency import BUCKETS
from ktcpvs.model.outcome import OK, Outcome
from ktcpvs.model.scheduling import Choice, ModifiedChoice
from ktcpvs.protocols import http1
from ktcpvs.protocols.http1 import Length
from ktcpvs.protocols.http1.hop_by_hop import without
from ktcpvs.protocols.http1.plain import PlainRequest
from ktcpvs.relay.body_relay import MIN_BODY_SIZE, MIN_READ_SIZE
from ktcpvs.system.plugin_errors import raise_interrupt

NO_NAMES: frozenset[bytes] = frozenset()

NO_RULE: tuple[str, tuple[bytes, ...]] = ("", ())
"""The label and the groups of no rule."""

NO_TIME = (0.0, 0.0)
"""In place of the time when a request began that has no access log."""

PlainLog = tuple[RequestLog | None, tuple[float, float], tuple[int, int]]
"""The access log of a plain request, the time when the request began, and the bytes moved before it. None: the request
has none, but spans."""


class PlainExchange(ServerConnectionUser, Protocol):
    """The part of an exchange that the fast path uses. L{ktcpvs.http.exchange.Exchange} describes the attributes."""

    owner: ExchangeOwner
    dispatcher: Dispatcher
    message: http1.Request | None
    plain: PlainRequest | None
    plain_log: PlainLog | None
    edits: RequestEdits | None
    server: ServerConnection | None
    started: float
    is_repeatable: bool
    bytes_in: int
    bytes_out: int
    settled: tuple[int, int]

    def begin_edits(self) -> None:
        """Take the edits of messages that no rule has taken yet."""

    def hold_body(self, body: bytes) -> None:
        """Hold the whole body of a request until it is sent with its head."""

    def leave_fast_path(self) -> None:
        """Go on as with any other request."""

    def continue_response(self, response: http1.Response) -> None:
        """Forward the rest of a response of which some bytes have been forwarded here."""

    def finish(self) -> None:
        """The response has been forwarded, and the connection ends with it."""


class PlainPath:
    """The fast path of one service's requests."""

    __slots__ = ("_access_log", "_cache", "_connections", "_edits", "_kept", "_service")

    def __init__(
        self,
        service: ServiceContext,
        connections: ServerConnections,
        cache: HeadCache,
        edits: ServiceEdits,
        access_log: ServiceAccessLog,
    ) -> None:
        self._service = service
        self._connections = connections
        self._kept = connections.pool.kept
        self._cache = cache
        self._edits = edits
        self._access_log = access_log

    # The request.

    def start(self, exchange: PlainExchange, plain: PlainRequest) -> None:
        """Begin an exchange with a plain request."""
        exchange.started = monotonic()
        owner, dispatcher, selector = exchange.owner, exchange.dispatcher, self._service.selector
        request = dispatcher.request
        request.method, request.lines = plain.method, plain.lines
        request.target = request.path = plain.target
        request.tried = selector.excluded
        if request.is_repeated or request.failed or dispatcher.failed_connections:
            dispatcher.begin()
        exchange.message, exchange.plain, exchange.edits = None, plain, None
        writer = self._access_log.writer
        if writer is not None:
            exchange.plain_log = writer, writer.start(), (exchange.bytes_in, exchange.bytes_out)
        if not plain.keep_alive:
            owner.is_last = owner.closes_after = owner.client.resting = True
        try:
            choice = selector.scheduler.choose(request)
        except BaseException as error:
            self.choice_failed(exchange, error)
            return
        if self._is_simple(choice, plain) and is_choice(choice):
            destination = choice.destination
            kept = self._kept.get(destination)
            if kept and destination in selector.usable and not destination.maxconn:
                server = kept.pop()
                if plain.body and server.has_input():  # it cannot be sent again: `serve` looks for another connection
                    kept.append(server)
                    self.choice_unusual(exchange, choice)
                    return
                dispatcher.choice = choice
                dispatcher.lease = Lease(destination)
                if selector.completed is not None or choice.completed is not None:
                    dispatcher.completed = selector.completed_by(choice, request)
                destination.total += 1
                destination.reused += 1
                exchange.is_repeatable = not plain.body
                exchange.server = server
                server.exchange = exchange
                owner.state = SENT
                out = self.request_head(exchange, plain, choice)
                exchange.bytes_in += len(out)
                server.write(out)
                if owner.is_full:
                    server.pause()
                return
        self.choice_unusual(exchange, choice)

    def _is_simple(self, choice: Any, plain: PlainRequest) -> bool:
        """Return whether a scheduler's answer is a choice that the fast path knows: it counts no rates of rules, and
        the head of a request with a body goes on as it came."""
        if plain.body:
            return type(choice) is Choice and choice.lines is None and self._edits.own is None
        return type(choice) is Choice or (type(choice) is ModifiedChoice and choice.modifiers.rate is None)

    def choice_unusual(self, exchange: PlainExchange, choice: Any) -> None:
        """Go on after a choice of the scheduler that the fast path does not handle."""
        exchange.leave_fast_path()
        exchange.owner.transition(life.REQUEST)
        exchange.dispatcher.handle_answer(choice)

    def choice_failed(self, exchange: PlainExchange, error: BaseException) -> None:
        """Go on after an exception of the scheduler."""
        raise_interrupt(error)
        exchange.leave_fast_path()
        exchange.owner.transition(life.REQUEST)
        exchange.dispatcher.scheduler_failed(Failure(error))

    def leave(self, exchange: PlainExchange, plain: PlainRequest) -> None:
        """Parse the current request, begin its entry in the access log and measure it, because it needs more than the
        fast path."""
        self._leave(exchange, plain)
        dispatcher = exchange.dispatcher
        dispatcher.completed = None
        if exchange.server is not None and dispatcher.choice is not None:
            dispatcher.measure(dispatcher.choice, exchange.started, exchange.settled, connections=1)

    def _leave(self, exchange: PlainExchange, plain: PlainRequest) -> None:
        found = http1.REQUEST.match(plain.data)
        assert found is not None  # as when it was received
        exchange.message = http1.Request(found)  # which is not plain any more
        if exchange.edits is None:  # else the server has got the request with them
            exchange.begin_edits()
        if plain.body and exchange.server is None:
            exchange.hold_body(plain.body)
        logged, dispatcher, edits = exchange.plain_log, exchange.dispatcher, exchange.edits
        exchange.plain_log = None
        notes: RequestNotes | None = None
        if logged is not None and logged[0] is not None:
            writer, started, moved = logged[0], logged[1], logged[2]
            notes = writer.begin(dispatcher.request, moved, started)
        if edits is not None and edits.observed is not None:  # which knows everything already
            if notes is not None:
                self._note(exchange, plain, notes)
            dispatcher.entry = edits.noted(notes, 0)
            return
        if edits is not None:
            notes = edits.noted(notes, monotonic() - exchange.started)
        if notes is not None:
            dispatcher.entry = notes
            self._note(exchange, plain, notes)

    def _note(self, exchange: PlainExchange, plain: PlainRequest, notes: RequestNotes) -> None:
        """Note what has happened to a plain request so far."""
        notes.head_complete(plain.method, plain.target, plain.minor, plain.lines)
        if exchange.server is not None and exchange.dispatcher.choice is not None:
            notes.server_chosen(exchange.dispatcher.choice)
            notes.connected(is_reused=True)

    def request_head(self, exchange: PlainExchange, plain: PlainRequest, choice: Choice) -> bytes:
        """Return the head of a plain request as the chosen server gets it."""
        edits = self._edits.own
        rule, groups = NO_RULE
        if isinstance(choice, ModifiedChoice):
            edits, rule, groups = self._edits.of(choice.modifiers), choice.rule, choice.groups
        if edits is not None:
            client_name, proxies = exchange.owner.client_name, self._service.proxies
            exchange.edits = RequestEdits(exchange.dispatcher, client_name, proxies, edits, rule, groups)
            if exchange.edits.changes_request:
                head = self._edited_head(exchange, plain, choice.lines, exchange.edits)
                if edits.tracing is not None:
                    self._observe(exchange, plain, exchange.edits)
                return head
        return plain.out if choice.lines is None else self.with_lines(exchange, plain, choice.lines)

    def _observe(self, exchange: PlainExchange, plain: PlainRequest, edits: RequestEdits) -> None:
        """Let a plain request have spans, if it is recorded."""
        observed = edits.observe(monotonic() - exchange.started)
        if observed is not None:
            self._note(exchange, plain, observed)
            if exchange.plain_log is None:
                exchange.plain_log = None, NO_TIME, (exchange.bytes_in, exchange.bytes_out)

    def _edited_head(
        self, exchange: PlainExchange, plain: PlainRequest, lines: bytes | None, edits: RequestEdits
    ) -> bytes:
        """Return the edited head of a plain request. lines: those that the scheduler has returned; None: none."""
        cache, client = self._cache, exchange.dispatcher.request.client
        more, removed, target = edits.of_request(plain.target)
        proxy = peer_of(exchange.owner.client_name) if cache.has_proxies else None
        added = cache.added(client, plain.host, plain.minor, proxy) + more
        data, target = plain.data, plain.target if target is None else target
        if lines is not None or target != plain.target:
            lines = plain.lines if lines is None else lines
            data = b"%b %b HTTP/1.1\r\n%b\r\n" % (plain.method, target, lines)
        edited = cache.edited(data, removed, added)
        if edited is not None:  # nearly always
            return edited
        lines = without(plain.lines if lines is None else lines, NO_NAMES, cache.forwarding.replaced | removed)
        return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (plain.method, target, lines, added)

    def with_lines(self, exchange: PlainExchange, plain: PlainRequest, lines: bytes) -> bytes:
        """Return the head of a plain request with other header lines, which the scheduler has returned."""
        cache = self._cache
        proxy = peer_of(exchange.owner.client_name) if cache.has_proxies else None
        added = cache.added(exchange.dispatcher.request.client, plain.host, plain.minor, proxy)
        again = cache.scan(b"%b %b HTTP/1.1\r\n%b\r\n" % (plain.method, plain.target, lines), added)
        if again is not None:  # nearly always
            return again.out
        lines = without(lines, NO_NAMES, cache.forwarding.replaced)
        return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (plain.method, plain.target, lines, added)

    # The response.

    def receive(self, exchange: PlainExchange, plain: PlainRequest, server: ServerConnection, data: bytes) -> bool:
        """Forward the beginning of the server's response. Return False if it is unusual, and nothing has happened."""
        owner = exchange.owner
        is_logged = plain.body and exchange.plain_log is not None  # `write_log` knows GET alone
        if is_logged or owner.has_ended or owner.pending or owner.held:
            return False
        known = server.cached_response
        if known is None or len(data) != known.total or not data.startswith(known.start):
            known = self.scanned(server, data, plain.minor)
        if known is None:
            return self._pass_long(exchange, plain, server, data)
        self._pass_whole(exchange, plain, server, known, data)
        return True

    def scanned(self, server: ServerConnection, data: bytes, minor: bool = True) -> CachedResponse | None:
        """Return `data` as a plain response; None if it is not one whole plain response. minor: False for a client of
        HTTP/1.0."""
        known = server.cached_response
        if known is not None and known.total > len(data) and data.startswith(known.start):
            return None
        scanned = self._cache.scan_response(data) if server.is_reusable else None
        if scanned is None:
            is_read = minor and server.is_reusable and self._access_log.writer is None  # which wants the trailers
            return self._chunked(server, data) if is_read else None
        status, size, length, head = scanned
        if size > self._cache.head_size:
            return None
        is_long = length >= MIN_BODY_SIZE and self._service.relay.bodies is not None
        if size + length != len(data) and not is_long:
            return None
        row = server.destination.latencies.row(status)
        response = CachedResponse(status, data[:size], head, size + length, row)
        if size <= MAX_CACHED_HEAD:
            server.cached_response = response
        server.read_small(is_long)
        return response if size + length == len(data) else None

    def _chunked(self, server: ServerConnection, data: bytes) -> CachedResponse | None:
        """Return `data` as a whole chunked response that goes on as it came; None if it is anything else."""
        found = self._cache.whole_responses.read(data)
        if found is None:
            return None
        status, size, head = found
        if size > self._cache.head_size:
            return None
        return CachedResponse(status, data[:size], head, len(data), server.destination.latencies.row(status))

    def _pass_whole(
        self, exchange: PlainExchange, plain: PlainRequest, server: ServerConnection, known: CachedResponse, data: bytes
    ) -> None:
        """Forward a whole plain response. known: its head. data: its head and body, as received."""
        owner, choice = exchange.owner, exchange.dispatcher.choice
        added = b"" if choice is None else choice.answer_lines
        if owner.is_last or not plain.minor or added or not known.as_is or exchange.edits is not None:
            data = self.response_head(exchange, plain, known) + data[len(known.start) :]
        exchange.bytes_out += len(data)
        owner.client.write(data)
        self._finish(exchange, server, known)

    def _pass_long(self, exchange: PlainExchange, plain: PlainRequest, server: ServerConnection, data: bytes) -> bool:
        """Forward a plain response whose body is long and not read to its end yet. data: its beginning. Return False if
        it is another response."""
        bodies, known = self._service.relay.bodies, server.cached_response
        if bodies is None or known is None or len(data) < MIN_READ_SIZE or not data.startswith(known.start):
            return False
        left = known.total - len(data)
        if left <= 0 or known.total - len(known.start) < MIN_BODY_SIZE:
            return False
        owner = exchange.owner
        head, body = self.response_head(exchange, plain, known), data[len(known.start) :]
        moved = bodies.pass_on(server, owner.client, (head, body), left)
        exchange.bytes_out += len(head) + len(body) + moved
        if moved == left and not server.has_input():
            self._finish(exchange, server, known)
            return True
        exchange.leave_fast_path()  # the rest follows later, or unexpected bytes after the response
        server.destination.heard = owner.last_activity
        message = exchange.message
        assert message is not None
        found = http1.read_response(known.start, message.method, len(known.start), 0, message.minor)
        assert found is not None  # as a plain response
        response, _ = found
        assert isinstance(response.frame, Length)
        response.frame.left = left - moved
        exchange.continue_response(response)
        return True

    def response_head(self, exchange: PlainExchange, plain: PlainRequest, response: CachedResponse) -> bytes:
        """Return the head of a plain response as the client gets it."""
        choice, edits = exchange.dispatcher.choice, exchange.edits
        added = b"" if choice is None else choice.answer_lines
        end = CLOSE if exchange.owner.is_last else b"\r\n" if plain.minor else KEEP_ALIVE
        head = response.head + added if edits is None else edits.cached_response_head(response, added)
        return head + end

    def _finish(self, exchange: PlainExchange, server: ServerConnection, response: CachedResponse) -> None:
        """Settle a plain request whose plain response has been written."""
        owner, body_size = exchange.owner, response.total - len(response.start)
        if not owner.is_last or owner.closes_after:  # else it is the last response, though the client did not ask
            owner.state = WHOLE
        exchange.server = None
        if owner.is_full:
            server.resume()
        self._connections.put(server)
        lease = exchange.dispatcher.lease
        if lease is not None:
            lease.end()
            destination = lease.destination
            destination.heard = owner.last_activity
            now = monotonic()
            took = now - exchange.started
            if destination.measured_errors is not None or destination.errors:
                destination.succeeded(now)
            if destination.measured_latency is not None:
                destination.measured_latency.record(took, now)
            response.row[bisect_left(BUCKETS, took)] += 1
            destination.latencies.seconds += took
            moved_in, moved_out = exchange.bytes_in, exchange.bytes_out
            destination.bytes_in += moved_in - exchange.settled[0]
            destination.bytes_out += moved_out - exchange.settled[1]
            settled, exchange.settled = exchange.settled, (moved_in, moved_out)
            completed = exchange.dispatcher.completed
            if completed is not None:
                exchange.dispatcher.completed = None
                moved = moved_in - settled[0], moved_out - settled[1]
                client = exchange.dispatcher.request.client
                outcome = Outcome(destination, response.status, took, took, *moved, 0, OK, client)
                self._service.selector.report(completed, outcome)
        if exchange.plain_log is not None:
            self.write_log(exchange, response, body_size)
        exchange.plain = None
        if owner.is_last:
            exchange.finish()

    def write_log(self, exchange: PlainExchange, response: CachedResponse, body_size: int) -> None:
        """Write the access log's line of a plain request that ends now."""
        logged, plain, choice = exchange.plain_log, exchange.plain, exchange.dispatcher.choice
        exchange.plain_log = None
        if logged is not None and plain is not None and choice is not None:
            writer, started, before = logged
            edits = exchange.edits
            if writer is not None:
                moved = exchange.bytes_in - before[0], exchange.bytes_out - before[1], body_size
                trace = None if edits is None else edits.trace_ids
                request = exchange.dispatcher.request
                if trace is None and isinstance(writer, AccessLogWriter):
                    client = request.client, tls_of(request)
                    writer.write_plain(plain, client, started, response.status, choice, moved)
                else:
                    record = plain_record(writer, plain, request, started, response.status, choice, moved, trace)
                    writer.write_ended(request, record)
            if edits is not None and edits.observed is not None:
                edits.observed.response_begun(response.status, 0)
                edits.observed.end((exchange.bytes_in, exchange.bytes_out), ANSWERED)
