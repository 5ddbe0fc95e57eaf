"""The forwarding of one response: read its head, then pass its body on, at the speed at which the client reads."""

from __future__ import annotations

from time import monotonic
from typing import Protocol

from ktcpvs.http.exchange_owner import TURN_IS_OVER, ExchangeOwner
from ktcpvs.http.head_cache import CLOSE, KEEP_ALIVE
from ktcpvs.http.request_edits import RequestEdits
from ktcpvs.http.retries import RetriedExchange
from ktcpvs.http.server_connection import ServerConnection
from ktcpvs.http.service import HTTPService
from ktcpvs.model import exchange as life
from ktcpvs.model.outcome import BAD_RESPONSE, RESET
from ktcpvs.protocols import http1
from ktcpvs.protocols.http1 import BadFrame, BadResponse, Length
from ktcpvs.protocols.http1.upgrade import accepted
from ktcpvs.relay.body_relay import MIN_BODY_SIZE, BodyRelay

MAX_INTERIM_PER_TURN = 16
"""The most interim responses (1xx) of one server in one turn of the reactor; then other connections have their turn."""

MAX_JOINED_BODY = 4096
"""The most bytes of a body that are copied behind its head; a longer beginning is sent as a separate buffer."""


class ForwardedExchange(RetriedExchange, Protocol):
    """The part of an exchange that the forwarding of its response uses. L{ktcpvs.http.exchange.Exchange} describes the
    attributes."""

    http: HTTPService
    owner: ExchangeOwner
    server: ServerConnection | None
    message: http1.Request | None
    edits: RequestEdits | None
    started: float
    is_repeatable: bool
    bytes_out: int

    def response_complete(self, response: http1.Response) -> None:
        """The whole response has been written to the client."""

    def break_off(self, reason: str, kind: str = RESET) -> None:
        """End a response that is incomplete. kind: one of the reasons of `model/outcome.py`."""


class ResponseForwarder:
    """The forwarding of the response to one request, which no server has answered on the fast path.

    response: its head, once it is complete. received: the beginning of that head until then.
    """

    __slots__ = ("_bodies", "_exchange", "received", "response")

    def __init__(self, exchange: ForwardedExchange) -> None:
        self._exchange = exchange
        self._bodies: BodyRelay | None = None  # moves the body; None: it is copied
        self.response: http1.Response | None = None
        self.received = b""

    def receive(self, data: bytes) -> None:
        """The server has sent `data`."""
        response = self.response
        if response is None:
            self._read_head(data)
            return
        try:
            taken = response.frame.feed(data)
        except BadFrame as bad:
            self._exchange.break_off(f"the server's response: {bad}", BAD_RESPONSE)
            return
        if taken < len(data) and not response.frame.done:
            data = self._read_later(data, taken)
        self._pass_on(response, data, taken)

    def _read_later(self, data: bytes, taken: int) -> bytes:
        """Return the first `taken` bytes; the others are read in the next turn."""
        server = self._exchange.server
        if server is not None:
            server.read_later(data[taken:])
        return data[:taken]

    def _read_head(self, data: bytes) -> None:
        """Read the head of a response, or a further part of it, and the interim responses before it."""
        exchange = self._exchange
        message, owner, http = exchange.message, exchange.owner, exchange.http
        assert message is not None
        looked = len(self.received)
        data = self.received + data
        self.received = b""
        interim = 0
        while True:
            try:
                size = http.context.settings.head_size
                read = http1.read_response(data, message.method, size, looked, message.minor)
            except BadResponse as bad:
                exchange.server_failed(f"unreadable response: {bad}", BAD_RESPONSE)
                exchange.fail(502, str(bad))
                return
            if read is None:
                self.received = data
                return
            response, end = read
            data, looked = data[end:], 0
            if response.status >= 200:
                break
            if response.status == 101:
                self._switch_protocols(message, response, data)
                return
            server = exchange.server
            if not response.keep_alive and server is not None:
                server.is_reusable, server.cached_response = False, None
            if message.minor:  # an HTTP/1.0 client knows no interim responses
                owner.client.write(response.head + b"\r\n")
            if not data:
                return
            interim += 1
            if interim == MAX_INTERIM_PER_TURN and server is not None:
                server.read_later(data)
                return
        if response.status < 502 or not http.retries.retry_status(exchange, response.status):
            self._take_response(message, response, data)

    def _take_response(self, message: http1.Request, response: http1.Response, data: bytes) -> None:
        """Forward the beginning of a response. data: what has come after its head."""
        try:
            taken = response.frame.feed(data)
        except BadFrame as bad:
            self._exchange.server_failed(f"unreadable response: {bad}", BAD_RESPONSE)
            self._exchange.fail(502, f"the server's answer: {bad}")
            return
        if taken < len(data) and not response.frame.done:
            data = self._read_later(data, taken)
        self._pass_on(response, data, taken, self._begin(message, response))

    def continue_response(self, message: http1.Request, response: http1.Response) -> None:
        """Forward the rest of a response whose head and first bytes have been forwarded on the fast path."""
        self._begin(message, response)
        if response.frame.done:
            response.keep_alive = False
            self._exchange.response_complete(response)

    def _begin(self, message: http1.Request, response: http1.Response) -> bytes:
        """Begin a response whose head is complete. Return the head as the client gets it."""
        exchange = self._exchange
        owner, server, dispatcher = exchange.owner, exchange.server, exchange.dispatcher
        context = exchange.http.context
        exchange.is_repeatable = False
        owner.transition(life.ANSWER)
        self.response = response
        if server is not None and response.status >= 500:
            context.server_failed(server.destination, f"status {response.status}")
        if not response.is_delimited or (owner.body is not None and not response.keep_alive):
            owner.is_last = True  # the second: after an early response the server does not get the rest of the request
        choice = dispatcher.choice
        head = response.head + (choice.answer_lines if choice is not None else b"")
        if exchange.edits is not None:
            head = exchange.edits.response_head(head)
        head += CLOSE if owner.is_last else b"\r\n" if message.minor else KEEP_ALIVE
        self._bodies = context.relay.bodies if (response.length or 0) >= MIN_BODY_SIZE else None
        if server is not None:
            server.read_small(self._bodies is not None)
        if dispatcher.entry is not None:
            dispatcher.entry.response_begun(response.status, len(head))
        return head

    def _pass_on(self, response: http1.Response, data: bytes, taken: int, head: bytes = b"") -> None:
        """Forward `data` to the client: `taken` bytes of it belong to the response."""
        exchange = self._exchange
        has_extra = taken < len(data)
        if response.frame.onward is not None:
            data = response.frame.onward
        elif has_extra:
            data = data[:taken]
        size = len(head) + len(data)
        if size:
            exchange.bytes_out += size
            client, server, frame = exchange.owner.client, exchange.server, response.frame
            if self._bodies is not None and server is not None and isinstance(frame, Length) and frame.left:
                moved = self._bodies.pass_on(server, client, (head, data) if head else (data,), frame.left)
                frame.left -= moved
                exchange.bytes_out += moved
                has_extra = frame.done and server.has_input()  # what copying would have read together with the end
            elif head and len(data) > MAX_JOINED_BODY:
                client.writev((head, data))
            else:
                client.write(head + data if head else data)
        if has_extra:
            response.keep_alive = False  # unexpected bytes after the response
        if response.frame.done:
            exchange.response_complete(response)

    def _switch_protocols(self, message: http1.Request, response: http1.Response, rest: bytes) -> None:
        """The server has answered an upgrade with 101 (RFC 9110, section 7.8)."""
        exchange = self._exchange
        owner, server = exchange.owner, exchange.server
        protocols = accepted(response.upgrade, message.upgrades(exchange.http.context.config.upgrade))
        if owner.held & TURN_IS_OVER:
            exchange.fail(502, "the server switched protocols while the request's body was still being read")
        elif protocols:
            assert server is not None
            server.destination.latencies.count(response.status, monotonic() - exchange.started)
            server.read_small(False)
            owner.switch_protocols(response, b", ".join(protocols), rest)
        else:
            exchange.fail(502, "the server switched to a protocol that it was not asked for")
