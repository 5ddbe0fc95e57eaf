"""The exchange of one request and its response: select a server, connect, send, forward the response, settle.

A client connection has one exchange object, which it uses for one request after the other. Bodies stream in both
directions at once with back-pressure and are never collected. A request that a server connection lost before any
response is sent again if that is safe (RFC 9110, section 9.2.2), else never.

Its parts are modules of their own: the fast path (`plain_path`), the request (`request_sender`), the response
(`response_forwarder`), edits (`request_edits`), the switch's own responses (`own_response_sender`), retries
(`retries`).
"""

from __future__ import annotations

from time import monotonic

from ktcpvs.dispatch.admission import DENIED
from ktcpvs.dispatch.client_limits import TOO_MANY_REQUESTS
from ktcpvs.dispatch.dispatcher import Dispatcher
from ktcpvs.http.exchange_owner import SERVER_IS_FULL, ExchangeOwner
from ktcpvs.http.message_edits import MessageEdits
from ktcpvs.http.plain_path import PlainLog
from ktcpvs.http.request_edits import RequestEdits
from ktcpvs.http.request_sender import RequestSender
from ktcpvs.http.response_forwarder import ResponseForwarder
from ktcpvs.http.retries import UNANSWERED
from ktcpvs.http.server_connection import ServerConnection
from ktcpvs.http.service import HTTPService
from ktcpvs.model import exchange as life
from ktcpvs.model.destination import Destination
from ktcpvs.model.outcome import RESET
from ktcpvs.model.scheduling import Choice, OwnResponse
from ktcpvs.model.why import HTTPS_ONLY
from ktcpvs.protocols import http1
from ktcpvs.protocols.http1 import Chunked, Frame
from ktcpvs.protocols.http1.plain import PlainRequest
from ktcpvs.protocols.http1.target import https_url
from ktcpvs.system import log as levels

TO_HTTPS = "https only"
"""The reason why a request without TLS is redirected."""


MISDIRECTED = "this connection is not for that host, which demands other things of TLS; connect to the host itself"
"""The reason why a request for a host of another TLS profile is not served (RFC 9110, section 15.5.20)."""


class Exchange:
    """The exchanges of one client connection, one at a time.

    http: the service. owner: the client connection. dispatcher: selects the server. server: the connection to it, while
    there is one. plain: the current request, until it needs more than the fast path. plain_log: its access log; None:
    it is not logged, or has an entry. edits: of the current request and its response; None: there are none. sender: of
    the request; None: it takes the fast path, or there is none. forwarder: of the response; None: nothing of it has
    come outside of the fast path. started: the monotonic time when the head of the current request was complete.
    is_repeatable: the request may be sent again if the server connection dies now. bytes_in, bytes_out: from the client
    and to it, of this exchange and earlier ones. settled: the part of them that has been counted at a destination,
    or is of responses of the switch itself.
    """

    __slots__ = (
        "_message", "bytes_in", "bytes_out", "dispatcher", "edits", "forwarder", "http",
        "is_repeatable", "owner", "plain", "plain_log", "sender", "server", "settled", "started",
    )  # fmt: skip

    def __init__(self, http: HTTPService, owner: ExchangeOwner, dispatcher: Dispatcher) -> None:
        self.http = http
        self.owner = owner
        self.dispatcher = dispatcher
        self._message: http1.Request | None = None  # the current request, unless it is in `plain`
        self.plain: PlainRequest | None = None
        self.plain_log: PlainLog | None = None
        self.edits: RequestEdits | None = None
        self.sender: RequestSender | None = None
        self.forwarder: ResponseForwarder | None = None
        self.server: ServerConnection | None = None
        self.started = 0.0
        self.is_repeatable = False
        self.bytes_in = 0
        self.bytes_out = 0
        self.settled = (0, 0)

    def __repr__(self) -> str:
        server = self.server.destination.address if self.server is not None else "no server"
        return f"<Exchange of {self.http.context.ident} with {server}, {self.bytes_in} in, {self.bytes_out} out>"

    def detach(self) -> None:
        """The client connection is over: drop the reference to it, so that its memory is freed without a garbage
        collection."""
        del self.owner
        self.sender = self.forwarder = None

    @property
    def message(self) -> http1.Request | None:
        """The current request."""
        if self.plain is not None:
            self.http.plain_path.leave(self, self.plain)
        return self._message

    @message.setter
    def message(self, message: http1.Request | None) -> None:
        self._message, self.plain = message, None

    @property
    def response(self) -> http1.Response | None:
        """The head of the response, once it has arrived outside of the fast path."""
        return self.forwarder.response if self.forwarder is not None else None

    @property
    def is_plain(self) -> bool:
        """Whether the current request is plain and has not been parsed."""
        return self.plain is not None

    @property
    def age(self) -> float:
        """The seconds since the head of the current request was complete."""
        return monotonic() - self.started

    @property
    def is_connecting(self) -> bool:
        return self.sender is not None and self.sender.is_connecting

    @property
    def prefix_wait(self) -> int:
        """The ticks since the switch has begun to wait for the first bytes of the body, for the scheduler; 0: it does
        not."""
        began = self.sender.prefix_began if self.sender is not None else None
        return 0 if began is None else self.http.context.context.wheel.now - began

    @property
    def held_bytes(self) -> int:
        """The bytes of the request's body and of the response's head that wait here."""
        return (self.sender.held_bytes if self.sender is not None else 0) + len(self._received)

    @property
    def _received(self) -> bytes:
        """The beginning of a response's head."""
        return self.forwarder.received if self.forwarder is not None else b""

    # The request.

    def start_plain(self, plain: PlainRequest) -> None:
        """Begin with a plain request, which takes the fast path while nothing unusual happens."""
        self.http.plain_path.start(self, plain)

    def leave_fast_path(self) -> None:
        """Go on as with any other request. Does nothing for a request that has already left the fast path."""
        if self.plain is not None:
            self.http.plain_path.leave(self, self.plain)

    def hold_body(self, body: bytes) -> None:
        """Hold the whole body of a request until it is sent with its head."""
        self.owner.body_received(len(body))
        self.sender = RequestSender(self, body)

    def start(self, message: http1.Request, body: bytes, started: float) -> None:
        """Begin with a request. body: the received part of its body, as it is forwarded. started: the monotonic
        time."""
        self.started = started
        self.message = message
        self.sender = RequestSender(self, body)
        self.begin_edits()
        owner, dispatcher = self.owner, self.dispatcher
        dispatcher.begin()
        request = dispatcher.request
        request.method, request.target, request.path = message.method, message.target, message.path
        request.lines = message.lines
        owner.begin_entry()
        if self.edits is not None:
            dispatcher.entry = self.edits.noted(dispatcher.entry, self.age)
        if dispatcher.entry is not None:
            dispatcher.entry.head_complete(message.method, message.target, message.minor, message.lines)
        owner.transition(life.REQUEST)
        challenges = self.http.context.challenges
        if challenges is not None and message.path in challenges and message.method in (b"GET", b"HEAD"):
            self.edits = None  # a CA reads the response as it is
            self.http.own_responses.respond_to_challenge(self, challenges[message.path])
            return
        if owner.is_denied:
            self.fail(403, DENIED)
            return
        wait = owner.limits.wait_time(request) if owner.limits is not None else 0
        if wait:
            self.fail(429, TOO_MANY_REQUESTS, wait)
        elif self.http.https_port is not None:
            self._redirect_to_https(message, self.http.https_port)
        elif self.http.foreign_hosts is not None and (request.host or b"") in self.http.foreign_hosts:
            self.fail(421, MISDIRECTED)
        elif self.http.context.body_prefix and message.length:
            self.sender.hold_for_scheduler(self.http.context.body_prefix)
        else:
            dispatcher.select()

    def _redirect_to_https(self, message: http1.Request, port: int) -> None:
        if message.host:
            location = https_url(message.host, message.path, port)
            self.http.own_responses.fail(self, 308, TO_HTTPS, HTTPS_ONLY, location=location)
        else:
            self.fail(400, "https only, and the request names no host to which it could be redirected")

    # The way to the server.

    def _sending(self) -> RequestSender:
        """Return what sends the current request."""
        if self.sender is None:
            self.sender = RequestSender(self)
        return self.sender

    def serve(self, choice: Choice) -> None:
        """Send the request to this server; its lease has begun."""
        self._sending().serve(choice)

    def connect(self, destination: Destination) -> None:
        """Send the request to this server, on a new connection."""
        self._sending().connect(destination)

    def send_body(self, data: bytes, body: Frame) -> int:
        """Send more of the request's body. See L{RequestSender.send_body}."""
        return self._sending().send_body(data, body)

    def cancel_connecting(self) -> None:
        """Cancel the connection attempt, if there is one."""
        if self.sender is not None:
            self.sender.cancel_connecting()

    # Edits.

    def begin_edits(self) -> None:
        """Take the edits of messages that no rule has taken yet."""
        self.edits = None
        self.use_edits(self.http.edits.own)

    def use_edits(self, edits: MessageEdits | None, rule: str = "", groups: tuple[bytes, ...] = ()) -> None:
        """Edit the messages of the current request in this way. rule: the label of the rule that has the edits; "":
        none. groups: those of its pattern."""
        if self.edits is not None:
            self.edits.use(edits, rule, groups)
        elif edits is not None:
            proxies = self.http.context.proxies
            self.edits = RequestEdits(self.dispatcher, self.owner.client_name, proxies, edits, rule, groups)

    def edited(self, data: bytes, why: str) -> bytes:
        """Return a response of the switch itself with the edits for the current request. why: its reason as words of
        `model/why.py`."""
        if self.edits is None or self.message is None:
            return data
        head, _, body = data.partition(b"\r\n\r\n")
        return b"%b\r\n%b" % (self.edits.response_head(head + b"\r\n", why), body)

    # The response.

    def server_data(self, data: bytes) -> None:
        """The server has sent `data`."""
        owner, forwarder, server = self.owner, self.forwarder, self.server
        before, owner.last_activity = owner.last_activity, self.http.context.context.wheel.now
        if forwarder is None:
            if self.plain is not None and server is not None:
                if self.http.plain_path.receive(self, self.plain, server, data):
                    return
                self.leave_fast_path()
            forwarder = self.forwarder = ResponseForwarder(self)
        if server is not None:
            server.destination.heard = owner.last_activity
        had_head = forwarder.response is not None
        forwarder.receive(data)
        is_same = self.forwarder is forwarder and self.server is server  # and not the next request
        if is_same and not had_head and self.response is None and owner.state == life.WAITING:
            owner.last_activity = before  # interim responses and a head that drips do not extend response_timeout

    def continue_response(self, response: http1.Response) -> None:
        """Forward the rest of a response of which the fast path has forwarded some bytes."""
        assert self.message is not None
        self.forwarder = ResponseForwarder(self)
        self.forwarder.continue_response(self.message, response)

    def response_complete(self, response: http1.Response) -> None:
        """The whole response has been written to the client."""
        server, message, owner = self.server, self.message, self.owner
        assert message is not None
        if owner.body is not None:
            if response.keep_alive and server is not None:
                message.leaves_doubt = True  # the server has not waited for the body
                return  # the rest of the upload is still sent to the server; `send_body` calls this again
            owner.is_last = True
            self.release_server(reset=True)
            self.finish()
            return
        if message.length and message.method in http1.BODILESS and (message.leaves_doubt or response.status >= 400):
            response.keep_alive = False  # a server that ignores the body would read it as another request
        if server is not None and response.keep_alive and server.is_reusable:
            self.server = None
            owner.hold(SERVER_IS_FULL, False)
            if owner.is_full:
                server.resume()
            self.http.connections.put(server)
        else:
            self.release_server(reset=False)
        self.finish()

    def finish(self) -> None:
        """Settle the finished exchange, and let the client connection continue."""
        response, lease = self.response, self.dispatcher.lease
        if response is not None and self.dispatcher.entry is not None:
            frame = response.frame
            trailers = frame.trailer_lines if isinstance(frame, Chunked) else b""
            self.dispatcher.entry.response_ended(response.head, trailers)
        if response is not None and lease is not None:
            lease.destination.latencies.count(response.status, monotonic() - self.started)
            if response.status < 500:
                lease.destination.succeeded(monotonic())
        self.settle("answered")
        self.message = self.sender = self.forwarder = None
        self.owner.exchange_finished()

    # The end of the server connection.

    def server_ended(self) -> None:
        """The server has sent a FIN."""
        response = self.response
        if self.owner.state == life.SWITCHED:
            return
        if response is not None and response.until_close:
            self.owner.body = None
            self.release_server(reset=False)
            self.finish()
            return
        self.server_lost(True)

    def server_lost(self, clean: bool) -> None:
        """The server connection is over. clean: False after a reset or another error."""
        self.leave_fast_path()
        owner = self.owner
        server, self.server = self.server, None
        failure = f"TLS: {server.failure}" if server is not None and server.failure else ""
        if server is not None:
            server.exchange = None
            server.close()
        if owner.state == life.WAITING:
            if server is not None and self.may_be_repeated:
                self.http.retries.repeat(self, server, failure)
            else:
                self.server_failed(UNANSWERED if server is None else self.http.retries.explain(server, failure))
                self.fail(502, UNANSWERED)
        elif owner.state == life.ANSWERING:
            response = self.response
            if response is not None and response.until_close and clean:
                self.finish()
            elif response is not None and response.frame.done:
                owner.body = None
                owner.is_last = True
                self.finish()
            else:
                more = failure and f": {failure}"
                self.break_off(f"the server closed the connection in the middle of its response{more}")
        elif owner.state == life.CLOSED:
            owner.end_if_over()

    def break_off(self, reason: str, kind: str = RESET) -> None:
        """End a response that is incomplete: the client gets the received part, and must notice that the rest is
        missing. kind: as for `server_failed`."""
        owner, service = self.owner, self.http.context
        form = "service {ident}: {client}: {why}"
        log = service.context.log
        log.event(levels.NON_FATAL, form, ident=service.ident, client=owner.client_name, why=reason)
        self.server_failed(reason, kind)
        service.counters.broken_responses += 1
        owner.ending = reason
        owner.transition(life.RESET)
        self.release_server(reset=True)
        owner.break_off()
        owner.end_if_over()

    def server_failed(self, reason: str, kind: str = RESET) -> None:
        """Count a request that has failed by its server's fault. kind: one of the reasons of `model/outcome.py`."""
        lease = self.dispatcher.lease
        if lease is not None and not lease.ended:
            lease.destination.failures += 1
            self.dispatcher.server_failed(lease.destination, reason, kind)

    def release_server(self, reset: bool) -> None:
        """Close or reset the server connection, which cannot be used again."""
        self.leave_fast_path()
        server, self.server = self.server, None
        self.owner.hold(SERVER_IS_FULL, False)
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
        return self.is_repeatable and not self._received

    @property
    def last_activity(self) -> int:
        """The tick at which bytes last came from the client or the server."""
        return self.owner.last_activity

    def transition(self, event: str) -> None:
        """Change the state of the client connection, for something unusual."""
        self.leave_fast_path()
        self.owner.transition(event)

    # Back-pressure.

    def hold_client(self, held: bool) -> None:
        """Stop reading the client while the server's buffer is full."""
        self.owner.hold(SERVER_IS_FULL, held)

    def resume_server(self) -> None:
        """Read the server again, unless the client is full."""
        if self.server is not None and not self.owner.is_full:
            self.server.resume()

    # The end.

    def fail(self, status: int, reason: str, retry_after: int = 0, *, why: str = "") -> None:
        """Respond with an error of the switch itself. retry_after: seconds; 0: no such field. why: the reason as words
        of `model/why.py`; "": that of the status."""
        self.leave_fast_path()
        self.http.own_responses.fail(self, status, reason, why, retry_after)

    def respond(self, own: OwnResponse) -> None:
        """Respond as a rule says, without a server."""
        self.leave_fast_path()
        self.http.own_responses.respond(self, own)

    def discard(self) -> None:
        """Reset the server connection, and drop what is held of the request and of the server's response."""
        self.release_server(reset=True)
        self.forwarder = None
        if self.sender is not None:
            self.sender.drop_body()

    def end_with_own_response(self, status: int, response: bytes, why: str, received: int, ending: str = "") -> None:
        """Count a response of the switch itself, and end the current request with it, even if that was no valid one.
        response: its bytes. why: its reason as words of `model/why.py`. received: the bytes of the request. ending: as
        for `settle`."""
        self.owner.begin_entry()
        if self.dispatcher.entry is not None:
            self.dispatcher.entry.decided(why)
            self.dispatcher.entry.refused(status, response)
        was_sent = self.bytes_in != self.settled[0]  # to a server, which counts the request
        self.settle(ending)
        if not was_sent:
            self.http.context.counters.requests += 1
            self.bytes_in += received
        self.bytes_out += len(response)
        self.settled = self.bytes_in, self.bytes_out

    def settle(self, ending: str = "") -> None:
        """End the lease of the current request, and log it. ending: why it ended; "": for the same reason as the
        connection."""
        self.leave_fast_path()
        dispatcher = self.dispatcher
        lease = dispatcher.lease
        if dispatcher.request.body_prefix:
            dispatcher.request.body_prefix = b""
        if self.sender is not None:
            self.sender.release_prefix()
        if lease is not None and not lease.ended:
            lease.end()
            moved = self.owner.moved()
            lease.destination.bytes_in += moved[0] - self.settled[0]
            lease.destination.bytes_out += moved[1] - self.settled[1]
            self.settled = moved
        if dispatcher.entry is not None:
            dispatcher.entry.end(self.owner.moved(), ending or self.owner.ending)
            dispatcher.entry = None
