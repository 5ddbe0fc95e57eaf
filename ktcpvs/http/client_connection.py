"""The client side of a connection that is switched request by request.

It frames requests and handles them one at a time; pipelined requests wait. Heads and bodies are checked before any byte
of them is forwarded. A client that may send no further request gets its last response, and time to read it.
`http.exchange` handles each request.
"""

from __future__ import annotations

import re
from time import monotonic

from ktcpvs.dispatch.admission import RETRY_AFTER_HEAD
from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.dispatch.client_limits import TOO_MUCH_HEAD
from ktcpvs.dispatch.own_responses import http2_refusal, is_http2
from ktcpvs.dispatch.trusted_proxies import peer_of
from ktcpvs.http.exchange import Exchange
from ktcpvs.http.exchange_owner import CONNECTING, PENDING_IS_FULL, SERVER_IS_FULL, TURN_IS_OVER
from ktcpvs.http.fast_path import client_receiver
from ktcpvs.http.service import HTTPService
from ktcpvs.http.upgrade import Upgrade
from ktcpvs.http.websocket_relay import WebSocketRelay
from ktcpvs.model import exchange as life
from ktcpvs.model.outcome import TIMEOUT
from ktcpvs.model.scheduling import Choice, OwnResponse
from ktcpvs.model.why import of_status
from ktcpvs.protocols import http1
from ktcpvs.protocols.http1 import BadFrame, BadRequest, Chunked, Frame, HeadReader, OwnMessage
from ktcpvs.protocols.http1.plain import PlainRequest
from ktcpvs.protocols.http2.constants import ALPN, PREFACE
from ktcpvs.protocols.websocket import WEBSOCKET
from ktcpvs.streams.lingering_close import LingeringClose, Progress, may_still_send
from ktcpvs.streams.stream import Stream

_match_head = http1.REQUEST.match

MAX_PENDING_BYTES = 65536
"""The most bytes of pipelined requests that are held while another one is handled; beyond that, the client is not
read."""

MAX_REQUESTS_PER_TURN = 16
"""The most pipelined requests of one client in one turn of the reactor; then other connections have their turn."""


class HTTPClientConnection(ClientConnection):
    """One HTTP/1 client connection.

    exchange: of its current request, or its last one. It reads the attributes that `http.exchange.ExchangeOwner`
    describes.
    """

    table = life.TABLE
    descriptors = 1
    reserved = 1  # for its server connection, which the pool counts

    __slots__ = (
        "_body_bytes", "_head_began", "_http", "_is_retiring", "_is_serving_pending", "_is_turn_over", "_progress",
        "_reader", "body", "closes_after", "exchange", "has_ended", "held", "is_full", "is_last", "pending",
    )  # fmt: skip

    def __init__(self, http: HTTPService, client_name: str, client_host: str) -> None:
        super().__init__(http.context, client_name, client_host, life.IDLE)
        self._http = http
        self._reader: HeadReader | None = None  # of a head that arrives in pieces
        self._head_began = 0  # the tick when that head began
        self._body_bytes = 0  # of the current request's body, so far
        self._is_retiring = False  # `is_last` from the next request on
        self._is_serving_pending = False
        self._is_turn_over = False  # pending requests wait for the next turn
        self._progress: Progress | None = None  # of a client that does not read
        self.body: Frame | None = None
        self.closes_after = False
        self.has_ended = False
        self.held = 0
        self.is_full = False
        self.is_last = False
        self.pending = b""
        self.exchange = Exchange(http, self, self.dispatcher)

    # For the running service and its views.

    def moved(self) -> tuple[int, int]:
        exchange = self.exchange
        if self.relay is None:
            return exchange.bytes_in, exchange.bytes_out
        return exchange.bytes_in + self.relay.inward.bytes, exchange.bytes_out + self.relay.outward.bytes

    def unsettled(self) -> tuple[int, int]:
        moved, settled = self.moved(), self.exchange.settled
        return moved[0] - settled[0], moved[1] - settled[1]

    @property
    def request_size(self) -> int:
        message = self.exchange.message
        if message is None:
            return len(self._reader.received) if self._reader is not None else 0
        return message.size + (self._body_bytes if message.length else 0)

    def body_received(self, size: int) -> None:
        self._body_bytes = size

    @property
    def held_bytes(self) -> int:
        """The bytes of requests and responses that wait in this process, besides the buffers of transports."""
        reader = self._reader
        return len(self.pending) + self.exchange.held_bytes + (len(reader.received) if reader is not None else 0)

    def retire(self) -> None:
        self.is_last = True
        if self.state == life.IDLE and not self.pending and self._reader is None:
            self.transition(life.FINISHED)
            self._close_gracefully()
        else:
            self.end_relayed()

    def retire_gently(self) -> None:
        if self.state == life.ANSWERING:  # nothing has told the client that its connection ends with this response
            self._is_retiring = True
        else:
            self.is_last = True

    def end_relayed(self) -> None:
        relay = self.relay
        if self.can_close and isinstance(relay, WebSocketRelay):
            self.ending = "the switch has closed the WebSocket"
            relay.close(self.service.settings.websocket_close_timeout)

    @property
    def can_close(self) -> bool:
        is_websocket = isinstance(self.relay, WebSocketRelay) and not self.relay.is_closing
        return is_websocket and self.state == life.SWITCHED and self.service.settings.websocket_close_timeout > 0

    @property
    def can_reset(self) -> bool:
        is_closing = isinstance(self.relay, WebSocketRelay) and self.relay.is_closing
        return self.state == life.SWITCHED and not is_closing

    def rearm(self) -> None:
        if self.dispatcher.is_waiting:
            self.dispatcher.rearm()
        else:
            self._check_timeouts()

    # For the dispatcher.

    def serve(self, choice: Choice) -> None:
        self.exchange.serve(choice)

    def fail(self, status: int, reason: str, retry_after: int = 0, *, why: str = "") -> None:
        self.exchange.fail(status, reason, retry_after, why=why)

    def respond(self, response: OwnResponse) -> None:
        self.exchange.respond(response)

    # Requests.

    def _opened(self) -> None:
        client = self.client
        client.dataReceived = client_receiver(self, self.context.wheel)
        client.ended = self._client_ended
        client.lost = self._client_lost
        client.set_backpressure(self)
        self.dispatcher.request.connection = client
        self.restore_timer()

    def receive(self, data: bytes) -> None:
        """The client has sent `data`. `http/fast_path.py` does the same for plain requests."""
        self.last_activity = self.context.wheel.now
        cache = self._http.cache
        if self.state == life.IDLE and cache.is_enabled and self._reader is None and not self.is_last:
            request = self.read_plain(data)
            if request is not None and (self.limits is None or self.limits.allows(len(data))):
                self.exchange.start_plain(request)
                return
        if self.body is not None:
            data = self._read_body(data)
            if not data:
                return
        if self.state == life.IDLE:
            self._read_request(data)
        elif self.state != life.REFUSING:
            self._append_pending(data)

    def read_plain(self, data: bytes) -> PlainRequest | None:
        """Return `data` as a plain request; None if it is not one."""
        cache = self._http.cache
        if not cache.has_proxies:
            return cache.read(data, self.dispatcher.request.client)
        try:
            found = cache.read_proxied(data, peer_of(self.client_name), self._identified)
        except BadRequest:
            return None  # it is refused in the general way
        return None if self.is_denied else found

    def _identified(self, lines: bytes) -> str:
        self.identify(lines)
        return self.dispatcher.request.client

    def _client_data_while_blocked(self, data: bytes) -> None:
        """Receive data while the client is full or its turn is over, so that no request begins now."""
        self.last_activity = self.context.wheel.now
        if self.body is not None:
            data = self._read_body(data)
        if data:
            self._append_pending(data)

    def _append_pending(self, data: bytes) -> None:
        """Hold `data` until the requests before it have been handled."""
        self.pending += data
        if len(self.pending) > MAX_PENDING_BYTES:
            self.hold(PENDING_IS_FULL, True)

    @property
    def _is_blocked(self) -> bool:
        return self.is_full or self._is_turn_over

    def _follow_blocked(self) -> None:
        """Choose the handler of received data, after the client was blocked or unblocked."""
        if self.state not in (life.REFUSING, life.SWITCHED, life.CLOSED):
            is_blocked = self._is_blocked
            receive = self._client_data_while_blocked if is_blocked else client_receiver(self, self.context.wheel)
            self.client.dataReceived = receive

    def _serve_pending(self) -> None:
        """Handle pending requests, and read on when little is pending.

        No request of a client that does not read is handled, and only MAX_REQUESTS_PER_TURN in one turn: a client could
        otherwise cause many of the switch's own responses with a few bytes, which would fill memory and delay other
        clients.
        """
        if self._is_serving_pending:
            return
        self._is_serving_pending = True
        begun = 0
        try:
            while self.pending and self.state == life.IDLE and not self._is_blocked:
                if begun == MAX_REQUESTS_PER_TURN:
                    self._is_turn_over = True
                    self._follow_blocked()
                    self.context.reactor.callLater(0, self._next_turn)
                    break
                begun += 1
                data, self.pending = self.pending, b""
                self._read_request(data)
        finally:
            self._is_serving_pending = False
        if self.held & PENDING_IS_FULL and len(self.pending) <= MAX_PENDING_BYTES:
            self.hold(PENDING_IS_FULL, False)
        if self.has_ended and self.state == life.IDLE and not self.pending:
            self.transition(life.CLIENT_GONE)
            self._close_gracefully()

    def _next_turn(self) -> None:
        self._is_turn_over = False
        self._follow_blocked()
        self._serve_pending()

    def _read_request(self, data: bytes) -> None:
        """Read the head of a request, or a further part of it."""
        self._read_head(data)
        limits = self.limits
        if limits is not None:
            reads = self._reader is not None and self.state == life.IDLE
            if not limits.hold_head(len(self._reader.received) if reads and self._reader is not None else 0):
                self.transition(life.BAD_REQUEST)
                self.refuse(429, TOO_MUCH_HEAD, RETRY_AFTER_HEAD)
                self._reader = None

    def _read_head(self, data: bytes) -> None:
        found: re.Match[bytes] | None = None
        reader = self._reader
        try:
            if reader is None:
                found = _match_head(data)
                if found is not None and found.end() <= self.service.settings.head_size:
                    self._begin(http1.Request(found), data, found)
                    return
                settings = self.service.settings
                check = http1.EarlyCheck().feed
                reader = self._reader = HeadReader(settings.head_size, settings.head_lines, settings.uri_size, check)
                self._head_began = self.context.wheel.now
            if reader.feed(data) is None:
                return
            self._reader = None
            whole = bytes(reader.received).lstrip(b"\r\n")
            found = _match_head(whole)
            if found is None:
                raise BadRequest(400, "the head has a form that HTTP/1.1 forbids")
            self._begin(http1.Request(found), whole, found)
        except BadRequest as bad:
            if bad.status == 505 and reader is not None and self._may_begin_http2(reader.received):
                self._begin_http2(bytes(reader.received))
                return
            self.transition(life.BAD_REQUEST)
            if self.service.proxies.is_used:  # whose client it is cannot be told
                self.dispatcher.request.client = peer_of(self.client_name)
            if reader is not None and self.moved() == (0, 0) and is_http2(bad, reader.received):
                self.service.note_http2_refusal(self.client_name, str(bad))
                self.send_last(http2_refusal(str(bad)), str(bad), of_status(bad.status), received=len(reader.received))
                return
            method = found[2] if found is not None else reader.method if reader is not None else None
            received = len(data) if reader is None else len(reader.received)
            self.refuse(bad.status, str(bad), method=method, received=received)

    def take_over(self, stream: Stream, first: bytes) -> None:
        tls = stream.tls
        if tls is None or tls.alpn != ALPN:
            super().take_over(stream, first)
        else:
            super().take_over(stream, b"")
            self._begin_http2(first)

    def _may_begin_http2(self, received: bytearray) -> bool:
        """Return whether these bytes begin an HTTP/2 connection by prior knowledge (RFC 9113, section 3.3), and the
        service accepts it. Over TLS, ALPN alone decides (section 3.2)."""
        is_first = self.client.tls is None and self.moved() == (0, 0) and not self.has_ended
        is_preface = PREFACE.startswith(received[: len(PREFACE)])
        return is_first and is_preface and self.service.config.http2 == "on"

    def _begin_http2(self, received: bytes) -> None:
        """Give the client's stream to an HTTP/2 connection, and end this one."""
        client, self.client = self.client, Stream()
        limits, self.limits = self.limits, None  # it goes on to count the connection
        if limits is not None:
            limits.hold_head(0)
        host = self.dispatcher.request.client
        peer = (host, int(self.client_name.rpartition(":")[2])) if host else ""
        self._reader = None
        self.set_timer(0)
        client.clear_backpressure()
        self.ending = "the client speaks HTTP/2"
        self.transition(life.CLIENT_GONE)
        self._http.begin_http2(client, peer, limits, received)
        self.end_if_over()

    def _begin(self, message: http1.Request, data: bytes, found: re.Match[bytes]) -> None:
        """Begin a request whose head is complete. Nothing is sent before the bytes that came with it have been
        checked."""
        started, settings = monotonic(), self.service.settings
        end = found.end()
        if message.lines.count(b"\n") > settings.head_lines:
            raise BadRequest(431, f"the request has more than {settings.head_lines} header lines")
        if len(message.target) > settings.uri_size:
            raise BadRequest(414, f"the request target is longer than {settings.uri_size} bytes")
        if self.service.proxies.is_used:
            self.identify(message.lines)
        body = b""
        rest = data[end:] if end < len(data) else b""
        if message.length:
            frame = message.frame()
            try:
                taken = frame.feed(rest)
            except BadFrame as bad:
                raise BadRequest(400, str(bad)) from None
            if self._is_too_large(max(taken, message.length)):
                raise BadRequest(413, self._too_large())
            self._body_bytes = taken
            body, rest = rest[:taken], rest[taken:]
            if rest and not frame.done:
                self._read_later(rest)
                rest = b""
            message.note_body(body, frame.done)
            if frame.onward is not None:
                body = frame.onward
            if not frame.done:
                self.body = frame
        self.pending = rest
        if not message.keep_alive:
            self.is_last = self.closes_after = True
            self.client.resting = self.body is None
        self.exchange.start(message, body, started)

    def _read_body(self, data: bytes) -> bytes:
        """Read more of the request's body. Return the part of `data` that follows the body."""
        body, exchange = self.body, self.exchange
        assert body is not None
        try:
            taken = body.feed(data)
        except BadFrame as bad:
            self.body = None
            self._bad_body(400, str(bad))
            return b""
        piece = data if taken == len(data) else data[:taken]
        if not self._body_bytes and exchange.message is not None:
            exchange.message.note_body(piece, body.done)
        if body.onward is not None:
            piece = body.onward
        self._body_bytes += taken
        if self._is_too_large(self._body_bytes):
            self.body = None
            self._bad_body(413, self._too_large())
            return b""
        if body.done:
            self.body = None
        self._body_bytes += exchange.send_body(piece, body)
        if taken < len(data) and not body.done:
            self._read_later(data[taken:])
            return b""
        return data[taken:]

    def _read_later(self, data: bytes) -> None:
        """Read `data` in the next turn, so that other connections have theirs; the client is not read meanwhile."""
        self.hold(TURN_IS_OVER, True)
        self.context.reactor.callLater(0, self._read_now, data)

    def _read_now(self, data: bytes) -> None:
        self.hold(TURN_IS_OVER, False)
        self.client.dataReceived(data)

    def _is_too_large(self, size: int) -> bool:
        limit = self.service.settings.body_size
        return 0 < limit << 10 < size

    def _too_large(self) -> str:
        return f"the request's body is longer than {self.service.settings.body_size} KiB"

    def _bad_body(self, status: int, reason: str) -> None:
        """Refuse a request whose body is malformed or too large; its server must not take the request for complete."""
        self.exchange.release_server(reset=True)
        if self.state in (life.WAITING, life.ANSWERING):
            self.transition(life.BAD_REQUEST)
        else:
            self.transition(life.LAST)
        self.exchange.cancel_connecting()
        if self.state == life.REFUSING:
            self.refuse(status, reason)
        else:
            self.ending = reason
            self.drop()

    # The end of the client's side.

    def _client_ended(self) -> None:
        """The client has sent a FIN; it still gets the responses to its requests."""
        self.has_ended = True
        if self.state == life.IDLE:
            if not self.pending:
                self.transition(life.CLIENT_GONE)
                self._close_gracefully()
        elif self.body is not None or self._is_abandoned:
            self.expire(life.CLIENT_GONE)

    @property
    def _is_abandoned(self) -> bool:
        """Return whether the client's FIN ends the current request (`abort_on_close`): not if a server may have carried
        it out."""
        if self.service.config.abort_on_close != "on" or self.pending:
            return False
        if self.state in (life.CHOOSING, life.QUEUED, life.CONNECTING):
            return True
        message = self.exchange.message
        return self.state == life.WAITING and message is not None and message.method in http1.IDEMPOTENT

    def _client_lost(self, clean: bool) -> None:
        if self.state != life.CLOSED:
            self.transition(life.CLIENT_GONE)
        self.exchange.release_server(reset=True)
        self.exchange.cancel_connecting()
        self.end_if_over()

    # Back-pressure.

    def hold(self, reason: int, held: bool) -> None:
        """Add or remove a reason not to read the client, and read it while there is none."""
        before = self.held
        self.held = before | reason if held else before & ~reason
        if self.held and not before:
            self.client.pause()
        elif before and not self.held and not self.has_ended:
            self.client.resume()

    def pause_writing(self) -> None:
        """The client does not read: stop forwarding the response."""
        self.is_full = True
        self._follow_blocked()
        if self.exchange.server is not None:
            self.exchange.server.pause()

    def resume_writing(self) -> None:
        """The client reads again. Restart the server's timeout, since the server was not read meanwhile."""
        self.is_full = False
        self._progress = None
        self.last_activity = self.context.wheel.now
        self._follow_blocked()
        if self.exchange.server is not None:
            self.exchange.server.resume()
        if self.pending or self.has_ended:
            self._serve_pending()

    # Called by the exchange.

    def begin_entry(self) -> None:
        if self.dispatcher.entry is None:
            self.dispatcher.entry = self._http.access_log.begin(self.dispatcher.request, self.moved())

    def exchange_finished(self) -> None:
        if self.closes_after and not self.pending and self.body is None:
            self.transition(life.FINISHED)
            self._close_gracefully()
            return
        if self.is_last or (self.has_ended and not self.pending):
            self.transition(life.LAST)
            self._linger()
            return
        self.transition(life.ANSWERED)
        self.is_last = self._is_retiring
        self._serve_pending()

    def refused(self) -> None:
        self._serve_pending()

    def switch_protocols(self, response: http1.Response, protocols: bytes, rest: bytes) -> None:
        exchange, choice = self.exchange, self.dispatcher.choice
        server = exchange.server
        assert server is not None  # it has sent the response
        self.transition(life.UPGRADED)
        added = choice.answer_lines if choice is not None else b""
        head = response.head + added
        if exchange.edits is not None:
            head = exchange.edits.response_head(head)
        head += b"Connection: Upgrade\r\nUpgrade: %b\r\n\r\n" % protocols
        self.client.write(head)
        exchange.bytes_out += len(head)
        if self.dispatcher.entry is not None:
            self.dispatcher.entry.response_begun(response.status, len(head))
        body, self.body = self.body, None
        waiting, self.pending = self.pending, b""
        if isinstance(body, Chunked):
            waiting = body.held + waiting  # the rest of an incomplete body is relayed too
        self.held = 0
        upgrade = Upgrade(self.context, self, server, self._http.connections.closed)
        if self.service.settings.websocket_close_timeout and protocols.lower() == WEBSOCKET:
            upgrade.start_websocket(waiting, rest)
            if self.is_last:  # the service has stopped meanwhile
                self.end_relayed()
        else:
            upgrade.start(waiting, rest)

    def break_off(self) -> None:
        self._lingering_close().close_with_reset()

    # The end.

    def expire(self, event: str = life.DRAINED) -> None:
        if event == life.DRAINED and self.state == life.ANSWERING:
            self.service.counters.broken_responses += 1
        super().expire(event)

    def refuse(
        self, status: int, reason: str, retry_after: int = 0, method: bytes | None = None, received: int = 0
    ) -> None:
        """Send an error as the last response, and let the client read it. method, received: of a request whose head
        was refused, and its bytes."""
        self.service.note_refusal(self.client_name, status, reason)
        message, later = self.exchange.message, self.retry_after(status, retry_after)
        lines = message.lines if message is not None else b""
        message_out = self.service.own_responses.error(status, reason, later, lines=lines)
        self.send_last(message_out, reason, of_status(status), method, received)

    def send_last(
        self, response: OwnMessage, reason: str, why: str, method: bytes | None = None, received: int = 0
    ) -> None:
        """Send a response of the switch itself as the last one, and let the client read it. why: the reason as words of
        `model/why.py`. method, received: of a request whose head was refused, and its bytes."""
        exchange = self.exchange
        self.ending = f"{response.status}: {reason}"
        message = exchange.message
        if message is not None:
            method = message.method
        elif self._reader is not None:
            method = self._reader.method
        data = exchange.edited(response.encoded(method), why)
        exchange.end_with_own_response(response.status, data, why, received or self.request_size)
        self.client.write(data)
        self._linger()

    def _linger(self) -> None:
        """The last response has been sent: keep reading for a while, so that a reset does not destroy it."""
        self.body = None
        self.pending = b""
        self.held = 0
        closing = self._lingering_close()
        if self.has_ended:
            closing.close()
        else:
            closing.linger()

    def _close_gracefully(self) -> None:
        """Close once the client has read everything."""
        self.set_timer(0)
        if may_still_send(self.client):
            LingeringClose(self.client, self.context.wheel, self.service.settings).linger()
        elif not self.client.close():  # most clients have read everything already
            LingeringClose(self.client, self.context.wheel, self.service.settings).close()

    def _lingering_close(self) -> LingeringClose:
        self.set_timer(0)
        return LingeringClose(self.client, self.context.wheel, self.service.settings, self._lingered)

    def _lingered(self) -> None:
        if self.state == life.REFUSING:
            self.transition(life.FINISHED)

    def drop(self) -> None:
        self.client.abort()
        self.exchange.release_server(reset=True)
        self.exchange.cancel_connecting()
        self.end_if_over()

    def end_if_over(self) -> None:
        exchange = self.exchange
        if self.client.is_open or exchange.is_connecting or self.is_over:
            return
        if self.relay is not None and exchange.server is not None and exchange.server.is_open:
            return
        self.set_timer(0)
        if isinstance(self.relay, WebSocketRelay):
            self.relay.stop()
        exchange.settle()
        self.end()
        exchange.detach()

    # Timeouts. docs/timeouts.md has the table of states and their timeouts.

    def restore_timer(self) -> None:
        self.set_timer(self._http.check_interval, self._check_timeouts)

    def _check_timeouts(self) -> None:
        """Check all timeouts of the current state."""
        waited = self.context.wheel.now - self.idle_since()
        state = self.state
        limit = self.service.settings.request_timeout
        if limit and state in (life.WAITING, life.ANSWERING) and self.exchange.age >= limit:
            is_over = self._request_timed_out(state, limit)
        elif self.is_full and state != life.SWITCHED:
            is_over = self._check_full()
        elif state == life.IDLE:
            is_over = self._check_idle(waited)
        elif state == life.CHOOSING:
            is_over = self._check_prefix()
        else:
            is_over = self._check_server(state, waited)
        if is_over or self.state in (life.CLOSED, life.REFUSING):
            return
        if self.held and self.client.is_gone():  # while a client is not read, its FIN or reset is not reported
            self.expire(life.CLIENT_GONE)
            return
        if self.client.resting and not self.held:  # a slow request: notice when the client disconnects
            self.client.resting = False
            self.client.resume()
        self.restore_timer()

    def _request_timed_out(self, state: str, seconds: int) -> bool:
        """The request takes longer than request_timeout. Return True if the client was disconnected."""
        reason = f"the request took more than {seconds} seconds"
        self.dispatcher.timed_out()
        if state == life.WAITING:
            self.exchange.fail(504, reason)
            return False
        self.ending = reason
        self.service.counters.broken_responses += 1
        self.expire(life.READ_TIMEOUT)
        return True

    def _check_full(self) -> bool:
        """Check a client that does not read; the server's timeouts do not run meanwhile. Return True if it was
        disconnected."""
        limit = self.service.settings.read_timeout
        if self._progress is None:
            self._progress = Progress(self.client, self.context.wheel)
        if limit and self._progress.stalled() >= limit:
            self.expire(life.READ_TIMEOUT)
            return True
        return False

    def _check_prefix(self) -> bool:
        """Check a request that is held for its scheduler. Return True if the client was disconnected."""
        limit = self.service.settings.body_prefix_timeout
        if self.exchange.prefix_wait >= limit:
            self.exchange.fail(408, f"the beginning of the request's body did not come within {limit} seconds")
        return False

    def _check_idle(self, waited: int) -> bool:
        settings = self.service.settings
        if self._reader is None:
            if waited < settings.keepalive_timeout:
                return False
            self.transition(life.IDLE_TIMEOUT)
            self._close_gracefully()
            return True
        if self.context.wheel.now - self._head_began < settings.head_timeout:
            return False
        self.transition(life.SLOW_REQUEST)
        self.refuse(408, f"the request's head did not come within {settings.head_timeout} seconds")
        return True

    def _check_server(self, state: str, waited: int) -> bool:
        settings, exchange = self.service.settings, self.exchange
        limit = settings.read_timeout
        if state == life.WAITING and self.body is None and waited >= settings.response_timeout:
            self._http.retries.response_timed_out(exchange)
        elif self.body is not None and limit and waited > limit and state == life.WAITING:
            if self.held & SERVER_IS_FULL:
                reason = f"the server took none of the request's body for {limit} seconds"
                exchange.server_failed(reason, TIMEOUT)
                exchange.fail(504, reason)
            else:
                exchange.fail(408, f"the request's body did not come within {limit} seconds")
        elif limit and waited > limit and state in (life.ANSWERING, life.SWITCHED):
            if state == life.ANSWERING and (self.body is None or self.held & SERVER_IS_FULL):
                exchange.server_failed(f"the response stopped for {limit} seconds", TIMEOUT)
                self.service.counters.broken_responses += 1
            self.expire(life.READ_TIMEOUT)
            return True
        elif state == life.WAITING:
            self._http.retries.check_silence(exchange, waited)
        return False


class HTTP2OnlyClientConnection(HTTPClientConnection):
    """A client that must speak HTTP/2 (`http2 = only`): its first bytes are those of an HTTP/2 connection."""

    __slots__ = ()

    def _opened(self) -> None:
        super()._opened()
        self.client.dataReceived = self._begin_http2


__all__ = ["CONNECTING", "HTTP2OnlyClientConnection", "HTTPClientConnection"]
