"""The way of one request to its server: take or make a connection, send the head, then the body as it comes."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ktcpvs.dispatch.dispatcher import CONNECT_FAILED, Dispatcher
from ktcpvs.dispatch.trusted_proxies import peer_of
from ktcpvs.http.body_prefix import CONTINUE, BodyPrefix
from ktcpvs.http.exchange_owner import CONNECTING, ExchangeOwner
from ktcpvs.http.message_edits import MessageEdits
from ktcpvs.http.request_edits import RequestEdits
from ktcpvs.http.server_connection import ServerConnection, ServerConnectionUser
from ktcpvs.http.service import HTTPService
from ktcpvs.model import exchange as life
from ktcpvs.model.destination import Destination
from ktcpvs.model.options import OFF
from ktcpvs.model.scheduling import Choice, ModifiedChoice
from ktcpvs.model.why import BODY_PREFIX_MEMORY
from ktcpvs.protocols import http1
from ktcpvs.protocols.forwarding import certificate_line
from ktcpvs.protocols.http1 import Frame, Length
from ktcpvs.relay.body_relay import MIN_BODY_SIZE


class SentExchange(ServerConnectionUser, Protocol):
    """The part of an exchange that the sending of its request uses. L{ktcpvs.http.exchange.Exchange} describes the
    attributes."""

    http: HTTPService
    owner: ExchangeOwner
    dispatcher: Dispatcher
    message: http1.Request | None
    edits: RequestEdits | None
    server: ServerConnection | None
    is_repeatable: bool
    bytes_in: int

    @property
    def response(self) -> http1.Response | None: ...

    def use_edits(self, edits: MessageEdits | None, rule: str = "", groups: tuple[bytes, ...] = ()) -> None:
        """Edit the messages of the current request in this way."""

    def response_complete(self, response: http1.Response) -> None:
        """The whole response has been written to the client, and the request has been sent."""

    def settle(self, ending: str = "") -> None:
        """End the lease of the current request, and log it."""

    def fail(self, status: int, reason: str, retry_after: int = 0, *, why: str = "") -> None:
        """Respond with an error of the switch itself."""


class RequestSender:
    """The sending of one request that does not take the fast path.

    body_start: the part of its body that has come before there is a server connection.
    """

    __slots__ = ("_connecting", "_exchange", "_memory", "_prefix", "body_start")

    def __init__(self, exchange: SentExchange, body_start: bytes = b"") -> None:
        self._exchange = exchange
        self._connecting: Deferred[ServerConnection] | None = None
        self._prefix: BodyPrefix | None = None  # while the request is held for the scheduler
        self._memory = 0  # counted for this request in Context.body_prefixes
        self.body_start = body_start

    @property
    def is_connecting(self) -> bool:
        return self._connecting is not None

    # Before a server is chosen.

    def hold_for_scheduler(self, size: int) -> None:
        """Select a server when so many bytes of the body have come, or its end."""
        exchange = self._exchange
        message, owner = exchange.message, exchange.owner
        assert message is not None
        self._prefix = BodyPrefix(size, message.length, exchange.http.context.context.wheel.now)
        if message.expect and not self.body_start:
            message.fields.fulfil_expectation()
            owner.client.write(CONTINUE)
        self._add_to_prefix(self._prefix, self.body_start)

    def _add_to_prefix(self, prefix: BodyPrefix, data: bytes) -> None:
        exchange = self._exchange
        prefix.feed(data)
        context = exchange.http.context.context
        if not context.body_prefixes.has_room(prefix.memory - self._memory, context.settings.body_prefix_memory):
            ident = exchange.http.context.ident
            context.log.fault("service {ident}: bodies held for schedulers exceed body_prefix_memory", ident)
            reason = "the bodies of requests that wait for a scheduler exceed body_prefix_memory"
            exchange.fail(503, reason, why=BODY_PREFIX_MEMORY)
            return
        self._count_memory(prefix.memory)
        if exchange.owner.body is None or prefix.is_complete:
            self._prefix = None
            self.body_start = bytes(prefix.held)
            content = exchange.dispatcher.request.body_prefix = prefix.content
            self._count_memory(len(self.body_start) + len(content))
            exchange.dispatcher.select()

    def _count_memory(self, size: int) -> None:
        """Count so many bytes for this request, in place of those that were counted before."""
        self._exchange.http.context.context.body_prefixes.used += size - self._memory
        self._memory = size

    def release_prefix(self) -> None:
        """The request has ended, so no scheduler needs the beginning of its body any more. Safe to call twice."""
        if self._memory:
            self._count_memory(0)

    @property
    def prefix_began(self) -> int | None:
        """The tick when the request began to be held for the scheduler; None: it is not."""
        return None if self._prefix is None else self._prefix.began

    @property
    def held_bytes(self) -> int:
        """The bytes of the body that wait here."""
        return len(self.body_start) + (0 if self._prefix is None else len(self._prefix.held))

    def drop_body(self) -> None:
        """Drop what waits of the body."""
        self.body_start, self._prefix = b"", None

    # At a server.

    def serve(self, choice: Choice) -> None:
        """Send the request to this server; its lease has begun."""
        exchange = self._exchange
        message, destination = exchange.message, choice.destination
        assert message is not None  # nothing is selected without a request
        if isinstance(choice, ModifiedChoice):
            exchange.use_edits(exchange.http.edits.of(choice.modifiers), choice.rule, choice.groups)
        else:
            exchange.use_edits(exchange.http.edits.own)
        kept = exchange.http.connections.take(destination, is_repeatable=message.is_repeatable)
        if kept is None:
            self.connect(destination)
            return
        exchange.owner.transition(life.REUSED)
        destination.reused += 1
        if exchange.dispatcher.entry is not None:
            exchange.dispatcher.entry.connected(is_reused=True)
        self._send(kept)

    def connect(self, destination: Destination) -> None:
        """Send the request to this server, on a new connection."""
        exchange = self._exchange
        exchange.owner.transition(life.CHOSEN)
        self._connecting = connecting = exchange.http.connections.connect(
            destination, exchange.http.context.connector(destination), exchange.owner.origin
        )
        connecting.addCallbacks(self._connected, self._not_connected)

    def _connected(self, connection: ServerConnection) -> None:
        exchange = self._exchange
        self._connecting = None
        if exchange.owner.state != life.CONNECTING:
            connection.abort()
            exchange.settle()
            exchange.owner.end_if_over()
            return
        exchange.owner.transition(life.CONNECTED)
        if exchange.dispatcher.entry is not None:
            exchange.dispatcher.entry.connected(is_reused=False)
        self._send(connection)

    def _not_connected(self, why: Failure) -> None:
        exchange = self._exchange
        self._connecting = None
        if CONNECT_FAILED in life.TABLE[exchange.owner.state]:
            exchange.dispatcher.connect_failed(why)
            return
        if exchange.dispatcher.lease is not None:  # the attempt was cancelled here
            exchange.dispatcher.lease.end()
        exchange.owner.end_if_over()

    def cancel_connecting(self) -> None:
        """Cancel the connection attempt, if there is one."""
        if self._connecting is not None:
            self._connecting.cancel()

    def _send(self, server: ServerConnection) -> None:
        """Send the request on `server`."""
        exchange = self._exchange
        exchange.server = server
        server.exchange = exchange
        message, lease, owner = exchange.message, exchange.dispatcher.lease, exchange.owner
        assert message is not None
        assert lease is not None
        lease.made()
        head = self._request_head(message, lease.destination)
        out = head + self.body_start
        exchange.bytes_in += len(out)
        server.write(out)
        self.body_start = b""
        if self._memory:  # the scheduler chooses again if this server fails
            self._count_memory(len(exchange.dispatcher.request.body_prefix))
        # May it be sent again if this connection dies before any response? A POST must never reach two servers.
        exchange.is_repeatable = message.is_repeatable
        if owner.held:
            owner.hold(CONNECTING, False)
        if owner.is_full:
            server.pause()

    def _request_head(self, message: http1.Request, destination: Destination) -> bytes:
        """Return the request's head as the selected server gets it."""
        exchange = self._exchange
        cache, mode, choice = exchange.http.cache, exchange.http.context.config.upgrade, exchange.dispatcher.choice
        lines = choice.lines if choice is not None else None
        host = b"" if message.has_host else destination.host_field
        proxy = peer_of(exchange.owner.client_name) if exchange.http.context.proxies.is_used else None
        added = cache.added(exchange.dispatcher.request.client, message.host, message.minor, proxy)
        tls = exchange.owner.client.tls
        if tls is not None and tls.certificate is not None and exchange.http.context.config.client_cert_header != OFF:
            added += certificate_line(tls.certificate)
        if exchange.edits is None:
            return message.head(added, cache.forwarding.replaced, lines, host, mode)
        more, removed, target = exchange.edits.of_request(message.path)
        return message.head(added + more, cache.forwarding.replaced | removed, lines, host, mode, target)

    def send_body(self, data: bytes, body: Frame) -> int:
        """Send more of the request's body, as it is forwarded. body: its framing, which has taken `data`. Return how
        many bytes after these were moved to the server without being read."""
        exchange = self._exchange
        moved = 0
        if exchange.server is not None:
            owner, bodies = exchange.owner, exchange.http.context.relay.bodies
            if bodies is not None and isinstance(body, Length) and body.left >= MIN_BODY_SIZE:
                moved = bodies.pass_on(owner.client, exchange.server, (data,), body.left)
                body.left -= moved
            else:
                owner.client.read_small(False)
                exchange.server.write(data)
            exchange.bytes_in += len(data) + moved
            if body.done:
                owner.body = None
                if exchange.response is not None and exchange.response.frame.done:
                    exchange.response_complete(exchange.response)  # the response was complete before the upload
        elif self._prefix is not None:
            self._add_to_prefix(self._prefix, data)
        elif exchange.owner.state in (life.CHOOSING, life.QUEUED, life.CONNECTING):
            self.body_start += data
            exchange.owner.hold(CONNECTING, True)  # until there is a connection to send it on
        return moved
