"""The exchange of one request and its response: select a server, connect, send, retry, forward the response, settle.

A client connection has one exchange object, which it uses for one request after the other. Bodies stream in both
directions at once with back-pressure and are never collected. A request that a server connection lost before any
response is sent again if that is safe (RFC 9110, section 9.2.2), else never.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from secrets import token_hex
from time import monotonic
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ktcpvs.dispatch.access_log import AccessLogWriter
from ktcpvs.dispatch.client_limits import TOO_MANY_REQUESTS
from ktcpvs.dispatch.dispatcher import CONNECT_FAILED, Dispatcher
from ktcpvs.dispatch.selection import is_choice
from ktcpvs.dispatch.template_values import TemplateValues
from ktcpvs.dispatch.trusted_proxies import peer_of
from ktcpvs.http.exchange_owner import CONNECTING, SERVER_IS_FULL, TURN_IS_OVER, ExchangeOwner
from ktcpvs.http.fast_path import SENT, WHOLE
from ktcpvs.http.head_cache import CLOSE, KEEP_ALIVE, MAX_CACHED_HEAD, CachedResponse
from ktcpvs.http.message_edits import MessageEdits
from ktcpvs.http.retries import UNANSWERED
from ktcpvs.http.server_connection import ServerConnection
from ktcpvs.http.service import HTTPService
from ktcpvs.model import exchange as life
from ktcpvs.model.destination import Destination, Lease
from ktcpvs.model.latency import BUCKETS
from ktcpvs.model.options import OFF
from ktcpvs.model.scheduling import Choice, ModifiedChoice, OwnResponse
from ktcpvs.protocols import http1
from ktcpvs.protocols.forwarding import certificate_line
from ktcpvs.protocols.http1 import BadFrame, BadRequest, BadResponse, Chunked, Frame, Length, OwnMessage
from ktcpvs.protocols.http1.hop_by_hop import without
from ktcpvs.protocols.http1.plain import PlainRequest
from ktcpvs.protocols.http1.request_id import known_request_id
from ktcpvs.protocols.http1.target import https_url
from ktcpvs.protocols.http1.upgrade import accepted
from ktcpvs.relay.body_relay import MIN_BODY_SIZE, MIN_READ_SIZE, BodyRelay
from ktcpvs.system import log as levels

MAX_INTERIM_PER_TURN = 16
"""The most interim responses (1xx) of one server in one turn of the reactor; then other connections have their turn."""

MAX_JOINED_BODY = 4096
"""The most bytes of a body that are copied behind its head; a longer beginning is sent as a separate buffer."""

REQUEST_ID_BYTES = 16
"""The random bytes of a request's ID, which are written as hexadecimal digits."""

NO_NAMES: frozenset[bytes] = frozenset()

NO_MATCH: tuple[str, tuple[bytes, ...]] = ("", ())
"""The label and the groups of no rule."""

TO_HTTPS = "https only"
"""Why a request without TLS is redirected."""


MISDIRECTED = "this connection is not for that host, which demands other things of TLS; connect to the host itself"
"""Why a request for a host of another TLS profile is not served (RFC 9110, section 15.5.20)."""


class Exchange:
    """The exchanges of one client connection, one at a time.

    dispatcher: selects the server. server: the connection to it, while there is one. response: the response's head,
    once it has arrived. bytes_in, bytes_out: from the client and to it, of this exchange and earlier ones. settled: the
    part of them that has been counted at a destination.
    """

    __slots__ = (
        "_bodies", "_body_start", "_connecting", "_edits", "_http", "_is_repeatable", "_matched", "_message", "_owner",
        "_plain", "_plain_log", "_received", "_request_id", "_started", "bytes_in", "bytes_out", "dispatcher",
        "response", "server", "settled",
    )  # fmt: skip

    def __init__(self, http: HTTPService, owner: ExchangeOwner, dispatcher: Dispatcher) -> None:
        self._http = http
        self._owner = owner
        self._message: http1.Request | None = None  # the current request, unless it is in `_plain`
        self._plain: PlainRequest | None = None  # the current request, until it needs more than the fast path
        # Its log, the time when it began, and the bytes moved before it; None: it is not logged, or has an entry.
        self._plain_log: tuple[AccessLogWriter, tuple[float, float], tuple[int, int]] | None = None
        self._edits: MessageEdits | None = None  # of the current request and its response
        self._matched: tuple[str, tuple[bytes, ...]] = NO_MATCH  # the rule that has edits, and its pattern's groups
        self._request_id = b""  # of the current request; made when a template needs it
        self._started = 0.0  # the monotonic time when its head was complete
        self._body_start = b""  # the part of its body that came before there was a server connection
        self._is_repeatable = False  # it may be sent again if the server connection dies now
        self._received = b""  # the beginning of a response's head
        self._bodies: BodyRelay | None = None  # moves the body of the current response; None: it is copied
        self._connecting: Deferred[ServerConnection] | None = None
        self.dispatcher = dispatcher
        self.server: ServerConnection | None = None
        self.response: http1.Response | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self.settled = (0, 0)

    def __repr__(self) -> str:
        server = self.server.destination.address if self.server is not None else "no server"
        return f"<Exchange of {self._http.context.ident} with {server}, {self.bytes_in} in, {self.bytes_out} out>"

    def detach(self) -> None:
        """The client connection is over: drop the reference to it, so that its memory is freed without a garbage
        collection."""
        del self._owner

    @property
    def message(self) -> http1.Request | None:
        """The current request."""
        if self._plain is not None:
            self.leave_fast_path()
        return self._message

    @message.setter
    def message(self, message: http1.Request | None) -> None:
        self._message, self._plain = message, None

    @property
    def is_plain(self) -> bool:
        """Whether the current request is plain and has not been parsed."""
        return self._plain is not None

    @property
    def age(self) -> float:
        """The seconds since the head of the current request was complete."""
        return monotonic() - self._started

    @property
    def is_connecting(self) -> bool:
        return self._connecting is not None

    @property
    def held_bytes(self) -> int:
        """The bytes of the request's body and of the response's head that wait here."""
        return len(self._body_start) + len(self._received)

    # The fast path: a plain request on a kept connection, and a plain response that comes as a whole. It changes the
    # state without `transition` and looks each attribute up once; docs/performance.md has its cost.

    def start_plain(self, plain: PlainRequest) -> None:
        """Begin with a plain request."""
        self._started = monotonic()
        owner, dispatcher, http = self._owner, self.dispatcher, self._http
        selector = http.selector
        request = dispatcher.request
        request.method, request.lines = plain.method, plain.lines
        request.target = request.path = plain.target
        request.tried = selector.excluded
        if request.failed or dispatcher.failed_connections:
            dispatcher.begin()
        self._message, self._plain = None, plain
        writer = http.access_log.writer
        if writer is not None:
            self._plain_log = writer, writer.start(), (self.bytes_in, self.bytes_out)
        if not plain.keep_alive:
            owner.is_last = owner.closes_after = owner.client.resting = True
        try:
            choice = selector.scheduler.choose(request)
        except Exception as error:
            self.plain_choice_failed(error)
            return
        if type(choice) is Choice and is_choice(choice):
            destination = choice.destination
            kept = http.kept.get(destination)
            if kept and destination in selector.usable and not destination.maxconn:
                server = kept.pop()
                dispatcher.choice = choice
                dispatcher.lease = Lease(destination)
                destination.total += 1
                destination.reused += 1
                self._is_repeatable = True
                self.server = server
                server.exchange = self
                owner.state = SENT
                out = plain.out if choice.lines is None else self._with_lines(plain, choice.lines)
                self.bytes_in += len(out)
                server.write(out)
                if owner.is_full:
                    server.pause()
                return
        self.plain_choice_unusual(choice)

    def plain_choice_unusual(self, choice: Any) -> None:
        """Go on after a choice of the scheduler that the fast path does not handle."""
        self.leave_fast_path()
        self._owner.transition(life.REQUEST)
        self.dispatcher.handle_answer(choice)

    def plain_choice_failed(self, error: Exception) -> None:
        """Go on after an exception of the scheduler."""
        self.leave_fast_path()
        self._owner.transition(life.REQUEST)
        self.dispatcher.scheduler_failed(Failure(error))

    def leave_fast_path(self) -> None:
        """Parse the current request and begin its entry in the access log, because it needs more than the fast path.
        Does nothing for a request that has already left it."""
        plain, logged = self._plain, self._plain_log
        if plain is not None:
            found = http1.REQUEST.match(plain.data)
            assert found is not None  # as when it was received
            self._message, self._plain = http1.Request(found), None
            self._begin_edits()
            if logged is not None:
                self._plain_log = None
                self._begin_entry_late(plain, *logged)

    def _begin_edits(self) -> None:
        """Take the edits of messages that no rule has taken yet."""
        self._edits, self._matched, self._request_id = self._http.edits.own, NO_MATCH, b""

    def _begin_entry_late(
        self, plain: PlainRequest, writer: AccessLogWriter, started: tuple[float, float], moved: tuple[int, int]
    ) -> None:
        """Begin the access log entry of a request that was plain until now."""
        dispatcher = self.dispatcher
        client = dispatcher.request.client
        entry = dispatcher.entry = writer.begin(client, self._owner.client.tls, moved, started)
        entry.head_complete(plain.method, plain.target, plain.minor, plain.lines)
        if self.server is not None and dispatcher.choice is not None:
            entry.server_chosen(dispatcher.choice)
            entry.connected(is_reused=True)

    def _with_lines(self, plain: PlainRequest, lines: bytes) -> bytes:
        """Return the head of a plain request with other header lines, which the scheduler has returned."""
        cache = self._http.cache
        added = cache.added(self.dispatcher.request.client, plain.host, plain.minor)
        again = cache.scan(b"%b %b HTTP/1.1\r\n%b\r\n" % (plain.method, plain.target, lines), added)
        if again is not None:  # nearly always
            return again.out
        lines = without(lines, NO_NAMES, cache.forwarding.replaced)
        return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (plain.method, plain.target, lines, added)

    def _plain_response(self, server: ServerConnection, data: bytes) -> CachedResponse | None:
        """Return `data` as a plain response; None if it is not one whole plain response."""
        known = server.cached_response
        if known is not None and known.total > len(data) and data.startswith(known.start):
            return None
        scanned = self._http.cache.scan_response(data) if server.is_reusable else None
        if scanned is None:
            return None
        status, size, length, head = scanned
        if size > self._http.cache.head_size:
            return None
        is_long = length >= MIN_BODY_SIZE and self._http.context.relay.bodies is not None
        if size + length != len(data) and not is_long:
            return None
        row = server.destination.latencies.row(status)
        response = CachedResponse(status, data[:size], head, size + length, row)
        if size <= MAX_CACHED_HEAD:
            server.cached_response = response
        server.read_small(is_long)
        return response if size + length == len(data) else None

    def _pass_whole(self, server: ServerConnection, plain: PlainRequest, response: CachedResponse, data: bytes) -> None:
        """Forward a whole plain response. data: its head and body, as received."""
        owner, choice = self._owner, self.dispatcher.choice
        added = b"" if choice is None else choice.answer_lines
        if owner.is_last or not plain.minor or added or not response.as_is:
            data = self._plain_head(plain, response) + data[len(response.start) :]
        self.bytes_out += len(data)
        owner.client.write(data)
        self._finish_plain(server, response)

    def _plain_head(self, plain: PlainRequest, response: CachedResponse) -> bytes:
        """Return the head of a plain response as the client gets it."""
        owner, choice = self._owner, self.dispatcher.choice
        added = b"" if choice is None else choice.answer_lines
        end = CLOSE if owner.is_last else b"\r\n" if plain.minor else KEEP_ALIVE
        return response.head + added + end

    def _pass_long(self, server: ServerConnection, plain: PlainRequest, data: bytes) -> bool:
        """Forward a plain response whose body is long and not read to its end yet. data: its beginning. Return False if
        it is another response."""
        bodies, known = self._http.context.relay.bodies, server.cached_response
        if bodies is None or known is None or len(data) < MIN_READ_SIZE or not data.startswith(known.start):
            return False
        left = known.total - len(data)
        if left <= 0 or known.total - len(known.start) < MIN_BODY_SIZE:
            return False
        owner = self._owner
        head, body = self._plain_head(plain, known), data[len(known.start) :]
        moved = bodies.pass_on(server, owner.client, (head, body), left)
        self.bytes_out += len(head) + len(body) + moved
        if moved == left and not server.has_input():
            self._finish_plain(server, known)
            return True
        self.leave_fast_path()  # the rest follows later, or unexpected bytes after the response
        server.destination.heard = owner.last_activity
        message = self.message
        assert message is not None
        found = http1.read_response(known.start, message.method, len(known.start), 0, message.minor)
        assert found is not None  # as a plain response
        response, _ = found
        assert isinstance(response.frame, Length)
        response.frame.left = left - moved
        self._begin_response(message, response)
        if response.frame.done:
            response.keep_alive = False
            self._response_complete(response)
        return True

    def _finish_plain(self, server: ServerConnection, response: CachedResponse) -> None:
        """Settle a plain request whose plain response has been written."""
        owner, body_size = self._owner, response.total - len(response.start)
        if not owner.is_last or owner.closes_after:  # else it is the last response, though the client did not ask
            owner.state = WHOLE
        self.server = None
        if owner.is_full:
            server.resume()
        self._http.connections.put(server)
        lease = self.dispatcher.lease
        if lease is not None:
            lease.end()
            destination = lease.destination
            destination.heard = owner.last_activity
            if destination.errors:
                destination.errors = 0
            took = monotonic() - self._started
            response.row[bisect_left(BUCKETS, took)] += 1
            destination.latencies.seconds += took
            moved_in, moved_out = self.bytes_in, self.bytes_out
            destination.bytes_in += moved_in - self.settled[0]
            destination.bytes_out += moved_out - self.settled[1]
            self.settled = moved_in, moved_out
        if self._plain_log is not None:
            self._write_plain_log(response, body_size)
        self._plain = None
        if owner.is_last:
            self._finish()

    def _write_plain_log(self, response: CachedResponse, body_size: int) -> None:
        """Write the access log's line of a plain request that ends now."""
        logged, plain, choice = self._plain_log, self._plain, self.dispatcher.choice
        self._plain_log = None
        if logged is not None and plain is not None and choice is not None:
            writer, started, before = logged
            moved = self.bytes_in - before[0], self.bytes_out - before[1], body_size
            client = self.dispatcher.request.client, self._owner.client.tls
            writer.write_plain(plain, client, started, response.status, choice, moved)

    # The request.

    def start(self, message: http1.Request, body: bytes, started: float) -> None:
        """Begin with a request. body: the received part of its body, as it is forwarded. started: the monotonic
        time."""
        self._started = started
        self.message = message
        self._body_start = body
        self._begin_edits()
        owner, dispatcher = self._owner, self.dispatcher
        dispatcher.begin()
        request = dispatcher.request
        request.method, request.target, request.path = message.method, message.target, message.path
        request.lines = message.lines
        owner.begin_entry()
        if dispatcher.entry is not None:
            dispatcher.entry.head_complete(message.method, message.target, message.minor, message.lines)
        owner.transition(life.REQUEST)
        wait = owner.limits.wait_time(request) if owner.limits is not None else 0
        if wait:
            self.fail(429, TOO_MANY_REQUESTS, wait)
        elif self._http.https_port is not None:
            self._redirect_to_https(message, self._http.https_port)
        elif self._http.foreign_hosts is not None and (request.host or b"") in self._http.foreign_hosts:
            self.fail(421, MISDIRECTED)
        else:
            dispatcher.select()

    def _redirect_to_https(self, message: http1.Request, port: int) -> None:
        if message.host:
            self.fail(308, TO_HTTPS, location=https_url(message.host, message.path, port))
        else:
            self.fail(400, "https only, and the request names no host to which it could be redirected")

    def send_body(self, data: bytes, body: Frame) -> int:
        """Send more of the request's body, as it is forwarded. body: its framing, which has taken `data`. Return how
        many bytes after these were moved to the server without being read."""
        moved = 0
        if self.server is not None:
            owner, bodies = self._owner, self._http.context.relay.bodies
            if bodies is not None and isinstance(body, Length) and body.left >= MIN_BODY_SIZE:
                moved = bodies.pass_on(owner.client, self.server, (data,), body.left)
                body.left -= moved
            else:
                owner.client.read_small(False)
                self.server.write(data)
            self.bytes_in += len(data) + moved
            if body.done:
                owner.body = None
                if self.response is not None and self.response.frame.done:
                    self._response_complete(self.response)  # the response was complete before the upload
        elif self._owner.state in (life.CHOOSING, life.QUEUED, life.CONNECTING):
            self._body_start += data
            self._owner.hold(CONNECTING, True)  # until there is a connection to send it on
        return moved

    def serve(self, choice: Choice) -> None:
        """Send the request to this server; its lease has begun."""
        message, destination = self.message, choice.destination
        assert message is not None  # nothing is selected without a request
        edits = self._http.edits
        self._edits, self._matched = edits.own, NO_MATCH
        if isinstance(choice, ModifiedChoice):
            self._edits, self._matched = edits.of(choice.modifiers), (choice.rule, choice.groups)
        kept = self._http.connections.take(destination, is_repeatable=message.is_repeatable)
        if kept is None:
            self.connect(destination)
            return
        self._owner.transition(life.REUSED)
        destination.reused += 1
        if self.dispatcher.entry is not None:
            self.dispatcher.entry.connected(is_reused=True)
        self._send(kept)

    def connect(self, destination: Destination) -> None:
        """Send the request to this server, on a new connection."""
        self._owner.transition(life.CHOSEN)
        self._connecting = connecting = self._http.connections.connect(
            destination, self._http.context.connector(destination), self._owner.origin
        )
        connecting.addCallbacks(self._connected, self._not_connected)

    def _connected(self, connection: ServerConnection) -> None:
        self._connecting = None
        if self._owner.state != life.CONNECTING:
            connection.abort()
            self.settle()
            self._owner.end_if_over()
            return
        self._owner.transition(life.CONNECTED)
        if self.dispatcher.entry is not None:
            self.dispatcher.entry.connected(is_reused=False)
        self._send(connection)

    def _not_connected(self, why: Failure) -> None:
        self._connecting = None
        if CONNECT_FAILED in life.TABLE[self._owner.state]:
            self.dispatcher.connect_failed(why)
            return
        if self.dispatcher.lease is not None:  # the attempt was cancelled here
            self.dispatcher.lease.end()
        self._owner.end_if_over()

    def cancel_connecting(self) -> None:
        """Cancel the connection attempt, if there is one."""
        if self._connecting is not None:
            self._connecting.cancel()

    def _send(self, server: ServerConnection) -> None:
        """Send the request on `server`."""
        self.server = server
        server.exchange = self
        message, lease, owner = self.message, self.dispatcher.lease, self._owner
        assert message is not None
        assert lease is not None
        lease.made()
        head = self._request_head(message, lease.destination)
        out = head + self._body_start
        self.bytes_in += len(out)
        server.write(out)
        self._body_start = b""
        # May it be sent again if this connection dies before any response? A POST must never reach two servers.
        self._is_repeatable = message.is_repeatable
        if owner.held:
            owner.hold(CONNECTING, False)
        if owner.is_full:
            server.pause()

    def _request_head(self, message: http1.Request, destination: Destination) -> bytes:
        """Return the request's head as the selected server gets it."""
        cache, mode, choice = self._http.cache, self._http.context.config.upgrade, self.dispatcher.choice
        lines = choice.lines if choice is not None else None
        host = b"" if message.has_host else destination.host_field
        proxy = peer_of(self._owner.client_name) if self._http.context.proxies.is_used else None
        added = cache.added(self.dispatcher.request.client, message.host, message.minor, proxy)
        tls = self._owner.client.tls
        if tls is not None and tls.certificate is not None and self._http.context.config.client_cert_header != OFF:
            added += certificate_line(tls.certificate)
        replaced, target, edits = cache.forwarding.replaced, None, self._edits
        if edits is not None:
            values = self._template_values()
            added += edits.request.added(values)
            replaced |= edits.request.removed
            target = edits.target(message.path, values)
        return message.head(added, replaced, lines, host, mode, target)

    def _template_values(self) -> Callable[[str], bytes]:
        """Return the function that gives the values of variables for the current request."""
        lease = self.dispatcher.lease
        server = str(lease.destination.address) if lease is not None and not lease.ended else ""
        values = TemplateValues(self.dispatcher.request, self._owner.client_name, *self._matched, server)
        return lambda name: self.request_id if name == "request_id" else values.of(name)

    @property
    def request_id(self) -> bytes:
        """The ID of the current request: that which a trusted proxy has given it, or a random one."""
        if not self._request_id:
            proxies, request = self._http.context.proxies, self.dispatcher.request
            if proxies.is_used and proxies.trusts(peer_of(self._owner.client_name)):
                self._request_id = known_request_id(request.lines)
            self._request_id = self._request_id or token_hex(REQUEST_ID_BYTES).encode("ascii")
        return self._request_id

    def edited(self, data: bytes) -> bytes:
        """Return a response of the switch itself with the edits for the current request."""
        edits = self._edits
        if edits is None or self.message is None or not edits.response:
            return data
        head, _, body = data.partition(b"\r\n\r\n")
        return b"%b\r\n%b" % (edits.response.edited(head + b"\r\n", self._template_values()), body)

    # The response.

    def server_data(self, data: bytes) -> None:
        """The server has sent `data`."""
        owner = self._owner
        before, owner.last_activity = owner.last_activity, self._http.context.context.wheel.now
        response, server = self.response, self.server
        if response is None:
            plain = self._plain
            if plain is not None and server is not None:
                if not (self._received or owner.has_ended or owner.pending or owner.held):
                    known = server.cached_response
                    if known is None or len(data) != known.total or not data.startswith(known.start):
                        known = self._plain_response(server, data)
                    if known is not None:
                        self._pass_whole(server, plain, known, data)
                        return
                    if self._pass_long(server, plain, data):
                        return
                self.leave_fast_path()
            if server is not None:
                server.destination.heard = owner.last_activity
            self._read_response_head(data)
            if self.response is None and owner.state == life.WAITING:
                # Interim responses and a head that drips do not extend response_timeout.
                owner.last_activity = before
            return
        if server is not None:
            server.destination.heard = owner.last_activity
        try:
            taken = response.frame.feed(data)
        except BadFrame as bad:
            self._break_off(f"the server's response: {bad}")
            return
        if taken < len(data) and not response.frame.done:
            data = self._read_server_later(data, taken)
        self._pass_on(response, data, taken)

    def _read_server_later(self, data: bytes, taken: int) -> bytes:
        """Return the first `taken` bytes; the others are read in the next turn."""
        if self.server is not None:
            self.server.read_later(data[taken:])
        return data[:taken]

    def _read_response_head(self, data: bytes) -> None:
        """Read the head of a response, or a further part of it, and the interim responses before it."""
        message, owner = self.message, self._owner
        assert message is not None
        looked = len(self._received)
        data = self._received + data
        self._received = b""
        interim = 0
        while True:
            try:
                size = self._http.context.settings.head_size
                read = http1.read_response(data, message.method, size, looked, message.minor)
            except BadResponse as bad:
                self.server_failed(f"unreadable response: {bad}")
                self.fail(502, str(bad))
                return
            if read is None:
                self._received = data
                return
            response, end = read
            data, looked = data[end:], 0
            if response.status >= 200:
                break
            if response.status == 101:
                self._switch_protocols(message, response, data)
                return
            if not response.keep_alive and self.server is not None:
                self.server.is_reusable, self.server.cached_response = False, None
            if message.minor:  # an HTTP/1.0 client knows no interim responses
                owner.client.write(response.head + b"\r\n")
            if not data:
                return
            interim += 1
            if interim == MAX_INTERIM_PER_TURN and self.server is not None:
                self.server.read_later(data)
                return
        if response.status < 502 or not self._http.retries.retry_status(self, response.status):
            self._take_response(message, response, data)

    def _take_response(self, message: http1.Request, response: http1.Response, data: bytes) -> None:
        """Forward the beginning of a response. data: what has come after its head."""
        try:
            taken = response.frame.feed(data)
        except BadFrame as bad:
            self.server_failed(f"unreadable response: {bad}")
            self.fail(502, f"the server's answer: {bad}")
            return
        if taken < len(data) and not response.frame.done:
            data = self._read_server_later(data, taken)
        self._pass_on(response, data, taken, self._begin_response(message, response))

    def _begin_response(self, message: http1.Request, response: http1.Response) -> bytes:
        """Begin a response whose head is complete. Return the head as the client gets it."""
        owner, server = self._owner, self.server
        self._is_repeatable = False
        owner.transition(life.ANSWER)
        self.response = response
        if server is not None and response.status >= 500:
            self._http.context.server_failed(server.destination, f"status {response.status}")
        if not response.is_delimited or (owner.body is not None and not response.keep_alive):
            owner.is_last = True  # the second: after an early response the server does not get the rest of the request
        choice = self.dispatcher.choice
        added = choice.answer_lines if choice is not None else b""
        head = response.head + added
        edits = self._edits
        if edits is not None and edits.response:
            head = edits.response.edited(head, self._template_values())
        head += CLOSE if owner.is_last else b"\r\n" if message.minor else KEEP_ALIVE
        self._bodies = self._http.context.relay.bodies if (response.length or 0) >= MIN_BODY_SIZE else None
        if server is not None:
            server.read_small(self._bodies is not None)
        if self.dispatcher.entry is not None:
            self.dispatcher.entry.response_begun(response.status, len(head))
        return head

    def _pass_on(self, response: http1.Response, data: bytes, taken: int, head: bytes = b"") -> None:
        """Forward `data` to the client: `taken` bytes of it belong to the response."""
        has_extra = taken < len(data)
        if response.frame.onward is not None:
            data = response.frame.onward
        elif has_extra:
            data = data[:taken]
        size = len(head) + len(data)
        if size:
            self.bytes_out += size
            client, server, frame = self._owner.client, self.server, response.frame
            if self._bodies is not None and server is not None and isinstance(frame, Length) and frame.left:
                moved = self._bodies.pass_on(server, client, (head, data) if head else (data,), frame.left)
                frame.left -= moved
                self.bytes_out += moved
                has_extra = frame.done and server.has_input()  # what copying would have read together with the end
            elif head and len(data) > MAX_JOINED_BODY:
                client.writev((head, data))
            else:
                client.write(head + data if head else data)
        if has_extra:
            response.keep_alive = False  # unexpected bytes after the response
        if response.frame.done:
            self._response_complete(response)

    def _response_complete(self, response: http1.Response) -> None:
        """The whole response has been written to the client."""
        server, message, owner = self.server, self.message, self._owner
        assert message is not None
        if owner.body is not None:
            if response.keep_alive and server is not None:
                message.leaves_doubt = True  # the server has not waited for the body
                return  # the rest of the upload is still sent to the server; `send_body` calls this again
            owner.is_last = True
            self.release_server(reset=True)
            self._finish()
            return
        if message.length and message.method in http1.BODILESS and (message.leaves_doubt or response.status >= 400):
            response.keep_alive = False  # a server that ignores the body would read it as another request
        if server is not None and response.keep_alive and server.is_reusable:
            self.server = None
            owner.hold(SERVER_IS_FULL, False)
            if owner.is_full:
                server.resume()
            self._http.connections.put(server)
        else:
            self.release_server(reset=False)
        self._finish()

    def _finish(self) -> None:
        """Settle the finished exchange, and let the client connection continue."""
        response, lease = self.response, self.dispatcher.lease
        if response is not None and self.dispatcher.entry is not None:
            frame = response.frame
            trailers = frame.trailer_lines if isinstance(frame, Chunked) else b""
            self.dispatcher.entry.response_ended(response.head, trailers)
        if response is not None and lease is not None:
            lease.destination.latencies.count(response.status, monotonic() - self._started)
            if response.status < 500:
                lease.destination.errors = 0
        self.settle("answered")
        self.response = self.message = None
        self._received = b""
        self._owner.exchange_finished()

    def _switch_protocols(self, message: http1.Request, response: http1.Response, rest: bytes) -> None:
        """The server has answered an upgrade with 101 (RFC 9110, section 7.8)."""
        protocols = accepted(response.upgrade, message.upgrades(self._http.context.config.upgrade))
        if self._owner.held & TURN_IS_OVER:
            self.fail(502, "the server switched protocols while the request's body was still being read")
        elif protocols:
            assert self.server is not None
            self.server.destination.latencies.count(response.status, monotonic() - self._started)
            self.server.read_small(False)
            self._owner.switch_protocols(response, b", ".join(protocols), rest)
        else:
            self.fail(502, "the server switched to a protocol that it was not asked for")

    # The end of the server connection.

    def server_ended(self) -> None:
        """The server has sent a FIN."""
        response = self.response
        if self._owner.state == life.SWITCHED:
            return
        if response is not None and response.until_close:
            self._owner.body = None
            self.release_server(reset=False)
            self._finish()
            return
        self.server_lost(True)

    def server_lost(self, clean: bool) -> None:
        """The server connection is over. clean: False after a reset or another error."""
        self.leave_fast_path()
        owner = self._owner
        server, self.server = self.server, None
        failure = f"TLS: {server.failure}" if server is not None and server.failure else ""
        if server is not None:
            server.exchange = None
            server.close()
        if owner.state == life.WAITING:
            if server is not None and self.may_be_repeated:
                self._http.retries.repeat(self, server, failure)
            else:
                self.server_failed(UNANSWERED if server is None else self._http.retries.explain(server, failure))
                self.fail(502, UNANSWERED)
        elif owner.state == life.ANSWERING:
            response = self.response
            if response is not None and response.until_close and clean:
                self._finish()
            elif response is not None and response.frame.done:
                owner.body = None
                owner.is_last = True
                self._finish()
            else:
                more = failure and f": {failure}"
                self._break_off(f"the server closed the connection in the middle of its response{more}")
        elif owner.state == life.CLOSED:
            owner.end_if_over()

    def _break_off(self, reason: str) -> None:
        """End a response that is incomplete: the client gets the received part, and must notice that the rest is
        missing."""
        owner, service = self._owner, self._http.context
        form = "service {ident}: {client}: {why}"
        log = service.context.log
        log.event(levels.NON_FATAL, form, ident=service.ident, client=owner.client_name, why=reason)
        self.server_failed(reason)
        owner.ending = reason
        owner.transition(life.RESET)
        self.release_server(reset=True)
        owner.break_off()
        owner.end_if_over()

    def server_failed(self, reason: str) -> None:
        """Count a request that has failed by its server's fault."""
        lease = self.dispatcher.lease
        if lease is not None and not lease.ended:
            lease.destination.failures += 1
            self.dispatcher.server_failed(lease.destination, reason)

    def release_server(self, reset: bool) -> None:
        """Close or reset the server connection, which cannot be used again."""
        self.leave_fast_path()
        server, self.server = self.server, None
        self._owner.hold(SERVER_IS_FULL, False)
        if server is not None:
            server.exchange = None
            if reset:
                server.abort()
            else:
                server.close()

    # For retries.

    @property
    def may_be_repeated(self) -> bool:
        """Whether the request can be sent again: its method is idempotent, and no part of a response has come."""
        return self._is_repeatable and not self._received

    @property
    def last_activity(self) -> int:
        """The tick at which bytes last came from the client or the server."""
        return self._owner.last_activity

    def transition(self, event: str) -> None:
        """Change the state of the client connection, for something unusual."""
        self.leave_fast_path()
        self._owner.transition(event)

    # Back-pressure.

    def hold_client(self, held: bool) -> None:
        """Stop reading the client while the server's buffer is full."""
        self._owner.hold(SERVER_IS_FULL, held)

    def resume_server(self) -> None:
        """Read the server again, unless the client is full."""
        if self.server is not None and not self._owner.is_full:
            self.server.resume()

    # The end.

    def fail(self, status: int, reason: str, retry_after: int = 0, location: str = "") -> None:
        """Respond with an error of the switch itself, or with a redirect. retry_after: seconds; 0: no such field.
        location: the URL to which a redirect leads."""
        self.leave_fast_path()
        owner, dispatcher = self._owner, self.dispatcher
        if status == 503 and dispatcher.failed_connections:
            status, reason = 502, UNANSWERED  # there was a server
        later = owner.retry_after(status, retry_after)
        self._http.context.note_refusal(owner.client_name, status, reason)
        closes = status == 400 or (bool(owner.pending) and self._ends_pipeline(status))
        lines = self.message.lines if self.message is not None else b""
        response = self._http.context.own_responses.error(status, reason, later, location, lines)
        self._send_own(response, reason, closes)

    def respond(self, own: OwnResponse) -> None:
        """Respond as a rule says, without a server."""
        self.leave_fast_path()
        responses = self._http.context.own_responses
        try:
            response = responses.message(own, self.dispatcher.request, self._owner.client_name)
        except BadRequest as bad:
            self.fail(bad.status, str(bad))
            return
        responses.count(own.rule, response.status)
        self._edits, self._matched = self._http.edits.of(own.modifiers), (own.rule, own.groups)
        self._send_own(response, own.reason)

    def _send_own(self, response: OwnMessage, reason: str, closes: bool = False) -> None:
        """Send a response of the switch itself. closes: the connection ends with it."""
        owner, message = self._owner, self.message
        self.release_server(reset=True)
        self.response = None
        self._received = self._body_start = b""
        owner.hold(CONNECTING, False)
        ends = closes or owner.is_last or (owner.has_ended and not owner.pending)
        if owner.body is not None or ends or message is None:
            owner.transition(life.LAST)
            owner.send_last(response, reason)
            return
        data = self.edited(response.encoded(message.method, keep_alive=True, minor=message.minor))
        self.note_own_response(response.status, data)
        self.settle(f"{response.status}: {reason}")
        owner.client.write(data)
        self.message = None
        owner.transition(life.REFUSED)
        owner.refused()

    def _ends_pipeline(self, status: int) -> bool:
        """Return whether an error is the last response although more requests wait: servers could not be reached, or
        failed. Each of these requests would be tried at all servers, and a client can send 40,000 in one MiB."""
        return status in (502, 504) or bool(self.dispatcher.request.failed)

    def note_own_response(self, status: int, response: bytes) -> None:
        """Note a response of the switch itself in the access log, even if there was no valid request."""
        self._owner.begin_entry()
        if self.dispatcher.entry is not None:
            self.dispatcher.entry.refused(status, response)

    def settle(self, ending: str = "") -> None:
        """End the lease of the current request, and log it. ending: why it ended; "": for the same reason as the
        connection."""
        self.leave_fast_path()
        dispatcher = self.dispatcher
        lease = dispatcher.lease
        if lease is not None and not lease.ended:
            lease.end()
            moved = self._owner.moved()
            lease.destination.bytes_in += moved[0] - self.settled[0]
            lease.destination.bytes_out += moved[1] - self.settled[1]
            self.settled = moved
        if dispatcher.entry is not None:
            dispatcher.entry.end(self._owner.moved(), ending or self._owner.ending)
            dispatcher.entry = None
