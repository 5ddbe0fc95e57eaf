"""A client connection that is relayed as a whole.

Depending on the scheduler's unit, the connection first reads the head of a request or calls the scheduler at once. It
connects to servers until one accepts, and joins both sides in a relay. Until then it reads no more than that head; the
rest waits in the kernel.
"""

from __future__ import annotations

from functools import partial
from time import monotonic

from twisted.python.failure import Failure

from ktcpvs.dispatch.admission import DENIED, RETRY_AFTER_HEAD
from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.dispatch.client_limits import TOO_MANY_REQUESTS, TOO_MUCH_HEAD
from ktcpvs.dispatch.dispatcher import CONNECT_FAILED
from ktcpvs.dispatch.measured_request import MeasuredRequest
from ktcpvs.dispatch.own_responses import CHALLENGE_ANSWERED, challenge_response, http2_refusal, is_http2
from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.interfaces import CLIENT_HELLO
from ktcpvs.interfaces import CONNECTION as PER_CONNECTION
from ktcpvs.model import connection as life
from ktcpvs.model import why as words
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Choice, OwnResponse
from ktcpvs.model.tls import REFUSE
from ktcpvs.protocols import postgresql
from ktcpvs.protocols.client_hello import Alert, BadHello, ClientHelloReader, NotTLS, alert_record
from ktcpvs.protocols.http1 import (
    NO_HTTP_1,
    BadRequest,
    HeadReader,
    OwnMessage,
    RequestHead,
    read_whole_head,
)
from ktcpvs.relay.copy import CopyRelay
from ktcpvs.streams.connect import Connecting
from ktcpvs.streams.lingering_close import LingeringClose, close_gracefully
from ktcpvs.streams.stream import Stream, nothing
from ktcpvs.tcp.first_byte import FirstByte
from ktcpvs.tcp.ssl_request import SSLRequestAttempt

TLS_REQUIRED = "this service requires TLS: connect with sslmode=require, or a stricter one"


class TCPClientConnection(ClientConnection):
    """One client connection whose server is chosen once.

    server: the stream to the server, once it is connected.
    """

    table = life.TABLE
    descriptors = 2  # the client's and the server's

    __slots__ = (
        "_alert", "_beginning", "_connecting", "_first", "_first_byte", "_hello_reader", "_is_settled", "_reader",
        "_sent_ssl_request", "server",
    )  # fmt: skip

    def __init__(self, service: ServiceContext, client_name: str, client_host: str) -> None:
        super().__init__(service, client_name, client_host, life.OPENING[service.unit])
        self.server: Stream | None = None
        self._connecting: Connecting | None = None
        self._first = b""  # what was received before there is a server, unless a reader has it
        self._first_byte: FirstByte | None = None  # of a server that is measured
        self._reader: HeadReader | None = None  # of a head that comes in pieces
        self._hello_reader: ClientHelloReader | None = None
        self._beginning: postgresql.BeginningReader | None = None  # with `starttls`, before the ClientHello
        self._sent_ssl_request = False  # and got the answer that allows TLS
        self._alert: Alert | None = Alert.HANDSHAKE_FAILURE  # that tells a client of TLS that it is refused
        self._is_settled = False

    # For the running service and its views.

    def moved(self) -> tuple[int, int]:
        return (self.relay.inward.bytes, self.relay.outward.bytes) if self.relay is not None else (0, 0)

    def unsettled(self) -> tuple[int, int]:
        return (0, 0) if self._is_settled else self.moved()

    def retire(self) -> None:
        """Do nothing: a relayed connection has no further requests."""

    def end_relayed(self) -> None:
        """Do nothing: the switch does not know the protocol."""

    @property
    def can_reset(self) -> bool:
        return self.state == life.RELAYING

    def rearm(self) -> None:
        if self.state == life.RELAYING:
            self._check_idle()
        elif self.dispatcher.is_waiting:
            self.dispatcher.rearm()

    # The client.

    def take_over(self, stream: Stream, first: bytes) -> None:
        if self.service.unit == PER_CONNECTION:
            self._first, first = first, b""
        super().take_over(stream, first)

    def _opened(self) -> None:
        self.client.lost = self._client_lost
        dispatcher = self.dispatcher
        dispatcher.request.connection = self.client
        if self.service.access_log.writer is not None:
            dispatcher.entry = self.service.access_log.begin(dispatcher.request, self.moved())
        if self.service.unit == PER_CONNECTION:
            self.client.pause()
            dispatcher.select()
            return
        settings = self.service.settings
        if self.service.unit == CLIENT_HELLO:
            self._hello_reader = ClientHelloReader()
            self.client.dataReceived = self._hello_received
            if self.service.config.starttls == postgresql.STARTTLS:
                self._beginning = postgresql.BeginningReader()
                self.client.dataReceived = self._beginning_received
            self.client.ended = self._ended_early
            self.set_timer(settings.tls_handshake_timeout, self._hello_timed_out)
            return
        self.client.dataReceived = self._first_received
        self.client.ended = self._ended_early
        self.set_timer(settings.head_timeout, self._head_timed_out)

    def _ended_early(self) -> None:
        """The client has sent a FIN before its head was complete: there is no request to handle."""
        self.transition(life.CLIENT_GONE)
        self.set_timer(0)
        self.client.close()

    def _client_lost(self, clean: bool) -> None:
        if self.state != life.CLOSED:
            self.transition(life.CLIENT_GONE)
        if self._connecting is not None:
            self._connecting.cancel()
        self._close_other(self.server, clean)
        self._end_if_over()

    def _server_lost(self, clean: bool) -> None:
        if self.state != life.CLOSED:
            if self.server is not None and self.server.failure:
                self._note_failure(f"TLS: {self.server.failure}")
            self.transition(life.RESET)
        self._close_other(self.client, clean)
        self._end_if_over()

    def _note_failure(self, reason: str) -> None:
        """TLS has broken the server connection. A server that has sent nothing has not accepted it, as one that demands
        another certificate: TLS 1.3 tells that only after the handshake."""
        self.ending = reason
        lease, has_answered = self.dispatcher.lease, self.moved()[1] > 0
        if lease is None or has_answered:
            return
        lease.destination.failures += 1
        self.dispatcher.server_failed(lease.destination, reason)
        self.service.note_server_fault(lease.destination, reason)

    def _close_other(self, other: Stream | None, clean: bool) -> None:
        """One side is closed: close the other side in the same way."""
        if other is None or not other.is_open or self.state != life.CLOSED:
            return
        self.set_timer(0)
        if clean or other is self.client:
            close_gracefully(other, self.context.wheel, self.service.settings, clean)
        else:
            other.abort()

    # The head.

    def _first_received(self, data: bytes) -> None:
        """Read the beginning of the first request, which nearly always is a whole head."""
        settings = self.service.settings
        head = read_whole_head(data, settings.head_size, settings.head_lines, settings.uri_size)
        if head is not None:
            self._first = data
            self._head_complete(head)
            return
        self._reader = HeadReader(settings.head_size, settings.head_lines, settings.uri_size)
        self.client.dataReceived = self._head_received
        self._head_received(data)

    def _head_received(self, data: bytes) -> None:
        assert self._reader is not None  # this is the client's dataReceived only while there is a reader
        try:
            head = self._reader.feed(data)
        except BadRequest as bad:
            self._bad_head(bad)
        else:
            if head is not None:
                self._head_complete(head)
        limits = self.limits
        if limits is not None:
            reads = self._reader is not None and self.state == life.READING_HEAD
            if not limits.hold_head(len(self._reader.received) if reads and self._reader is not None else 0):
                self.transition(life.BAD_HEAD)
                self._refuse(429, TOO_MUCH_HEAD, RETRY_AFTER_HEAD)

    def _head_complete(self, head: RequestHead) -> None:
        self.set_timer(0)
        self.client.pause()
        self.client.ended = nothing
        dispatcher = self.dispatcher
        request = dispatcher.request
        request.method, request.target, request.path = head.method, head.target, head.path
        request.lines = head.lines
        if self.service.proxies.is_used:
            try:
                self.identify(head.lines)
            except BadRequest as bad:
                self.transition(life.BAD_HEAD)
                self._refuse(bad.status, str(bad))
                return
        if dispatcher.entry is not None:
            dispatcher.entry.client_found(request.client)
            dispatcher.entry.head_complete(head.method, head.target, head.minor, head.lines)
        self.transition(life.HEAD)
        challenges = self.service.challenges
        if challenges is not None and head.path in challenges and head.method in (b"GET", b"HEAD"):
            self.ending = f"200: {CHALLENGE_ANSWERED}"
            self.transition(life.NO_SERVER)
            self._send_last(challenge_response(challenges[head.path]), words.CHALLENGE)
            return
        wait = self.limits.wait_time(request) if self.limits is not None and not self.is_denied else 0
        if self.is_denied:
            self.fail(403, DENIED)
        elif wait:
            self.fail(429, TOO_MANY_REQUESTS, wait)
        else:
            dispatcher.select()

    def _bad_head(self, bad: BadRequest) -> None:
        redirect = self.service.selector.redirect
        if bad.status in NO_HTTP_1 and redirect is not None:
            self.set_timer(0)
            self.client.pause()
            self.transition(life.HEAD)
            self.dispatcher.uses_scheduler = False
            self.dispatcher.take(Choice(redirect, f"redirect, since {bad}", why=words.REDIRECT_SERVER))
            return
        self.transition(life.BAD_HEAD)
        assert self._reader is not None  # it has raised `bad`
        if is_http2(bad, self._reader.received):
            self.ending = f"{bad.status}: {bad}"
            self.service.note_http2_refusal(self.client_name, str(bad))
            self.set_timer(0)
            self._send_last(http2_refusal(str(bad)), words.of_status(bad.status))
            return
        self._refuse(bad.status, str(bad))

    def _head_timed_out(self) -> None:
        self.transition(life.SLOW_HEAD)
        seconds = self.service.settings.head_timeout
        self._refuse(408, f"the request's head did not come within {seconds} seconds")

    # The request of a client of PostgreSQL for TLS.

    def _beginning_received(self, data: bytes) -> None:
        reader = self._beginning
        assert reader is not None  # this is the client's dataReceived only while there is a reader
        try:
            found = reader.feed(data)
        except postgresql.BadBeginning as bad:
            self._refuse_hello(None, str(bad))
            return
        if found is postgresql.Beginning.GSS:
            self._beginning = postgresql.BeginningReader()
            self.client.write(postgresql.DENY)
        elif found is postgresql.Beginning.SSL:
            self._sent_ssl_request = True
            self._read_hello(b"")
            self.client.write(postgresql.ACCEPT)
        elif found is postgresql.Beginning.NEITHER:
            if self.service.config.not_tls == REFUSE and postgresql.is_startup(reader.received):
                self.client.write(postgresql.error_response(TLS_REQUIRED))
            self._read_hello(reader.received)

    def _read_hello(self, data: bytes) -> None:
        self._beginning = None
        self.client.dataReceived = self._hello_received
        if data:
            self._hello_received(data)

    # The ClientHello.

    def _hello_received(self, data: bytes) -> None:
        reader = self._hello_reader
        assert reader is not None  # this is the client's dataReceived only while there is a reader
        try:
            hello = reader.feed(data)
        except BadHello as bad:
            self._refuse_hello(bad.alert, str(bad))
            return
        except NotTLS as bad:
            if self.service.config.not_tls == REFUSE or self._sent_ssl_request:
                self._refuse_hello(None, str(bad))
            else:
                self._hello_complete()
            return
        if hello is not None:
            request = self.dispatcher.request
            request.server_name, request.protocols = hello.server_name, hello.protocols
            self._hello_complete()
        elif self.limits is not None and not self.limits.hold_head(len(reader.received)):
            self._refuse_hello(Alert.INTERNAL_ERROR, TOO_MUCH_HEAD, 429)

    def _hello_complete(self) -> None:
        self.set_timer(0)
        self.client.pause()
        self.client.ended = nothing
        if self.limits is not None:
            self.limits.hold_head(0)
        self.transition(life.HEAD)
        wait = self.limits.wait_time(self.dispatcher.request) if self.limits is not None else 0
        if wait:
            self.fail(429, TOO_MANY_REQUESTS, wait)
        else:
            self.dispatcher.select()

    def _hello_timed_out(self) -> None:
        self.transition(life.SLOW_HEAD)
        seconds = self.service.settings.tls_handshake_timeout
        self._refuse(408, f"the ClientHello did not come within {seconds} seconds")

    def _refuse_hello(self, alert: Alert | None, why: str, status: int = 400) -> None:
        """Refuse a client for its first bytes. alert: what it is told; None: it does not speak TLS."""
        self._alert = alert
        self.transition(life.BAD_HEAD)
        self._refuse(status, why)

    # The server.

    def fail(self, status: int, reason: str, retry_after: int = 0, *, why: str = "") -> None:
        self.transition(life.NO_SERVER)
        self._refuse(status, reason, retry_after, why)

    def respond(self, response: OwnResponse) -> None:
        responses, request = self.service.own_responses, self.dispatcher.request
        try:
            message = responses.message(response, request, self.client_name)
        except BadRequest as bad:
            self.fail(bad.status, str(bad))
            return
        responses.count(response.rule, message.status)
        self.ending = f"{message.status}: {response.reason}"
        self.transition(life.NO_SERVER)
        self.set_timer(0)
        self._send_last(message, response.why)

    def serve(self, choice: Choice) -> None:
        self.transition(life.CHOSEN)
        server = self.service.take_preconnected(choice.destination)
        if server is not None:
            self._connected(server)
            return
        connector = self.service.connector(choice.destination)
        self._connecting = connector.begin(
            Stream(), self._connected, self._not_connected, self.client.poller, self.origin
        )

    def _not_connected(self, why: Failure) -> None:
        self._connecting = None
        if CONNECT_FAILED in self.table[self.state]:
            self.dispatcher.connect_failed(why)
            return
        if self.dispatcher.lease is not None:  # the attempt was cancelled here
            self.dispatcher.lease.end()
        self._end_if_over()

    def _connected(self, server: Stream) -> None:
        if not self._sent_ssl_request or self.state == life.CLOSED:
            self._server_ready(server)
            return
        timeout = self.service.settings.connect_timeout
        outcomes = self._server_ready, self._not_connected
        self._connecting = attempt = SSLRequestAttempt(server, self.context.wheel, timeout, *outcomes)
        attempt.begin()

    def _server_ready(self, server: Stream) -> None:
        is_preconnected = self._connecting is None
        self._connecting = None
        dispatcher = self.dispatcher
        lease = dispatcher.lease
        assert lease is not None  # nothing is connected without one
        if self.state == life.CLOSED:
            server.abort()
            lease.end()
            self._end_if_over()
            return
        self.server = server
        server.lost = self._server_lost
        self.transition(life.CONNECTED)
        lease.made()
        lease.destination.succeeded(monotonic())
        if dispatcher.entry is not None:
            dispatcher.entry.connected(is_preconnected)
        relay = self.relay = CopyRelay(self.client, server, self.context.wheel, self._finished)
        reader = self._reader or self._hello_reader
        head = bytes(reader.received) if reader is not None else self._first
        self._reader, self._hello_reader, self._first = None, None, b""
        dispatcher.request.lines = b""
        self.set_timer(self.service.settings.read_timeout, self._check_idle)
        relay.start(head)
        self.client.resume()
        if isinstance(dispatcher.entry, MeasuredRequest):
            soon = partial(self.context.reactor.callLater, 0)
            self._first_byte = FirstByte(dispatcher.entry, relay, self.service.relay, self.join, soon)
            self._first_byte.watch(is_new=not head)
        else:
            self.join(relay)

    def _finished(self) -> None:
        """Both directions have ended: close both sides when their peers have read what is buffered."""
        self.transition(life.FINISHED)
        self.set_timer(0)
        close_gracefully(self.client, self.context.wheel, self.service.settings)
        close_gracefully(self.server, self.context.wheel, self.service.settings)

    def restore_timer(self) -> None:
        self.set_timer(0)

    def _check_idle(self) -> None:
        """End a relay on which no byte has come for `read_timeout`, or schedule the next check."""
        timeout = self.service.settings.read_timeout
        if timeout == 0 or self.relay is None:
            self.set_timer(0)
            return
        idle = self.context.wheel.now - self.relay.idle_since()
        if idle > timeout:  # more than, since the first of these ticks may have followed the last bytes at once
            self.expire(life.IDLE)
        else:
            self.set_timer(timeout - idle, self._check_idle)

    # The end.

    def _refuse(self, status: int, reason: str, retry_after: int = 0, why: str = "") -> None:
        """Respond with an error if the client speaks HTTP, keep reading for a while so that the response arrives, and
        close. why: the reason as words of `model/why.py`; "": that of the status."""
        why = why or words.of_status(status)
        if self.dispatcher.entry is not None:
            self.dispatcher.entry.decided(why)
        self.ending = f"{status}: {reason}"
        self.service.note_refusal(self.client_name, status, reason)
        self.set_timer(0)
        if self.service.unit == PER_CONNECTION:
            self.client.dataReceived = nothing
            self.client.close()
            return
        if self.service.unit == CLIENT_HELLO:
            if self._alert is not None:
                self.client.write(alert_record(self._alert))
            LingeringClose(self.client, self.context.wheel, self.service.settings, self._lingered).linger()
            return
        self._send_last(self.service.own_responses.error(status, reason, self.retry_after(status, retry_after)), why)

    def _send_last(self, response: OwnMessage, why: str) -> None:
        """Send a response of the switch itself, and let the client read it. why: the reason as words."""
        method = self.dispatcher.request.method or (self._reader.method if self._reader is not None else None)
        data = response.encoded(method)
        if self.dispatcher.entry is not None:
            self.dispatcher.entry.decided(why)
            self.dispatcher.entry.refused(response.status, data)
        self.client.write(data)
        LingeringClose(self.client, self.context.wheel, self.service.settings, self._lingered).linger()

    def _lingered(self) -> None:
        if self.state == life.REFUSING:
            self.transition(life.FINISHED)

    def drop(self) -> None:
        self.set_timer(0)
        if self._connecting is not None:
            self._connecting.cancel()
        self.client.abort()
        if self.server is not None:
            self.server.abort()
        self._end_if_over()

    def _end_if_over(self) -> None:
        """End the connection, and write its log line, if both sides are closed."""
        server_is_open = self.server is not None and self.server.is_open
        if self.client.is_open or self._connecting is not None or server_is_open or self.is_over:
            return
        self.set_timer(0)
        lease, entry = self.dispatcher.lease, self.dispatcher.entry
        if lease is not None:
            lease.end()
            if not self._is_settled:
                self._is_settled = True
                bytes_in, bytes_out = self.moved()
                lease.destination.bytes_in += bytes_in
                lease.destination.bytes_out += bytes_out
            if self.server is not None and not self.moved()[1]:
                self._explain_silence(lease.destination)
        if self._first_byte is not None:
            self._first_byte.end()
            self._first_byte = None
        if entry is not None:
            entry.end(self.moved(), self.ending)
            self.dispatcher.entry = None
        self.end()
        self.relay = self.server = None

    def _explain_silence(self, destination: Destination) -> None:
        """The server has sent nothing: perhaps it did not understand how the connection began."""
        hint = self.service.connector(destination).hint
        if hint:
            self.ending = f"{self.ending}; the server has sent nothing{hint}"
