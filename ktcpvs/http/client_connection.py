"""The client's side of a connection that is switched request by request: what it sends becomes requests, one at a time.

Heads and bodies are checked here before anything of them goes on; later requests wait; a client that may not go on gets
its last answer, and time to read it. Whom a request goes to is the business of `exchange`.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from time import monotonic
from typing import TYPE_CHECKING

from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.http.head_cache import CachedRequest
from ktcpvs.http.pool import ServerStream
from ktcpvs.model import exchange as life
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import NONE
from ktcpvs.protocols import messages
from ktcpvs.protocols.framing import BadFrame, Frame
from ktcpvs.protocols.http1 import BadRequest, HeadReader, error_response
from ktcpvs.streams.lingering_close import LingeringClose, Progress

if TYPE_CHECKING:
    from ktcpvs.services.running import RunningService

SLASH = ord("/")

_head = messages.REQUEST.match

PENDING = 65536
"""Bytes of later requests that are held while one is answered; then the client is not read."""

WATCH = 5
"""Seconds between two looks whether something takes too long."""

REQUESTS_PER_TURN = 16
"""Pipelined requests of one client that are served before other connections get their turn."""

SERVER_IS_FULL, PENDING_IS_FULL, CONNECTING, TURN_IS_OVER = 1, 2, 4, 8
"""Reasons not to read the client, as bits: the server takes no more, enough is pending, the server is being called, and
what has come costs more time than one turn."""


class HTTPClientConnection(ClientConnection):
    """One client connection that is served request by request; `choice`: who serves now, or served last."""

    table = life.TABLE
    descriptors = 1
    reserved = 1  # its server connection is counted by the pool, which must find a descriptor for it

    __slots__ = (
        "_again", "_answer", "_asked", "_body", "_body_bytes", "_found", "_full", "_going_on", "_head_began", "_held",
        "_kept", "_last", "_leaves", "_may_repeat", "_minor", "_no_more", "_out", "_pending", "_progress", "_reader",
        "_received", "_refused", "_retries", "_turn_is_over", "bytes_in", "bytes_out", "server", "settled",
    )  # fmt: skip

    def __init__(self, service: RunningService, client_name: str, client_host: str) -> None:
        super().__init__(service, client_name, client_host, life.IDLE)
        self.server: ServerStream | None = None
        self._body: Frame | None = None  # of the request, while some of it is still to come
        self._held = 0  # reasons not to read the client
        self._no_more = False  # the client has sent its FIN
        self._pending = b""  # of later requests
        self.bytes_in = 0  # of the current request and those before
        self.bytes_out = 0
        self.settled = (0, 0)  # what of them has been counted at a destination
        self._kept: messages.Request | None = None  # the current request, unless it stands in `_found`
        self._found: bytes | None = None  # as it came, not read any further yet
        self._minor = True  # while it stands there: False for HTTP/1.0
        self._answer: messages.Response | None = None
        self._received = b""  # the beginning of an answer's head
        self._out = b""  # what came of the body before there was somewhere to send it
        self._may_repeat = False  # the request may go on another connection if this one dies
        self._body_bytes = 0  # of the current request's body, so far
        self._reader: HeadReader | None = None  # of a head that comes in pieces
        self._asked = 0.0  # when the current request's head was there
        self._again: tuple[Destination, ...] = ()  # whose connections have died with this request
        # Servers that could not be connected to for this request; None: they have been called a second time.
        self._refused: frozenset[Destination] | None = NONE
        self._retries = False  # its next server is one more that works on it
        self._last = False  # the client connection ends with this answer
        self._leaves = False  # since the client wants it so
        self._full = False  # the client takes no more
        self._progress: Progress | None = None  # whether a full client takes something
        self._going_on = False  # pending requests are being served
        self._turn_is_over = False  # pending requests wait for the next turn
        self._head_began = 0  # the tick when the head began that comes in pieces

    # What the rest of the switch asks.

    def moved(self) -> tuple[int, int]:
        """Bytes from the client and to it, so far."""
        if self.relay is None:
            return self.bytes_in, self.bytes_out
        return self.bytes_in + self.relay.inward.bytes, self.bytes_out + self.relay.outward.bytes

    def unsettled(self) -> tuple[int, int]:
        """What of them is not yet counted at the destination."""
        moved = self.moved()
        return moved[0] - self.settled[0], moved[1] - self.settled[1]

    def retire(self) -> None:
        """Serve the current request and no further one."""
        self._last = True
        if self.state == life.IDLE and not self._pending and self._reader is None:
            self._transition(life.FINISHED)
            self._close_gracefully()

    def retire_gently(self) -> None:
        """Serve the current request, or where there is none the next one, and no further one."""
        self._last = True

    def rearm(self) -> None:
        """A timeout has changed."""
        self._watch()

    @property
    def _message(self) -> messages.Request | None:
        """The current request."""
        if self._found is not None:
            found = messages.REQUEST.match(self._found)
            assert found is not None  # as it was when it came first
            self._kept, self._found = messages.Request(found), None
        return self._kept

    @_message.setter
    def _message(self, message: messages.Request | None) -> None:
        self._kept, self._found = message, None

    # What is done with a request.

    @abstractmethod
    def _fast_path(self, known: CachedRequest) -> None:
        """A request has come of which it is known what it says."""

    @abstractmethod
    def _answered(self, answer: messages.Response) -> None:
        """The whole answer has gone out, and now the whole request too."""

    @abstractmethod
    def _release_server(self, reset: bool) -> None:
        """Part with the server's connection."""

    @abstractmethod
    def _settle(self, ending: str = "") -> None:
        """Count out the current request. ending: why it ended; "": as the connection does."""

    @abstractmethod
    def _server_failed(self, why: str) -> None:
        """The current request failed by its server's fault."""

    @abstractmethod
    def _is_unanswered(self) -> None:
        """Its server has not begun its response within response_timeout."""

    @abstractmethod
    def _is_silent(self, waited: int) -> None:
        """Its server has said nothing for so many seconds."""

    # What happens to it.

    def _opened(self) -> None:
        client = self.client
        client.dataReceived = self._client_data
        client.ended = self._client_ended
        client.lost = self._client_lost
        client.transport.registerProducer(self, True)
        self._rest_timer()

    def _client_data(self, data: bytes) -> None:
        self._since = self.context.wheel.now
        service = self.service
        if self.state == life.IDLE and service.is_quick and self._reader is None and not self._last:
            request = service.requests.get(data)
            if request is not None:
                self._fast_path(request)
                return
            found = _head(data)
            if found is not None:
                groups = found.groups()
                lines = groups[4] if groups[3] == b"1" else (groups[3], groups[4])
                known = service.known.get((lines, self.request.client) if service.forwards else lines)
                if (
                    known is not None
                    and groups[1] == b"GET"
                    and found.end() == len(data) <= service.head_size
                    and len(groups[2]) <= service.uri_size
                    and groups[2][0] == SLASH
                ):
                    self._fast_path(service.remember(data, groups, known))
                    return
        if self._body is not None:
            data = self._more_body(data)
            if not data:
                return
        if self.state == life.IDLE:
            self._next(data)
        elif self.state != life.REFUSING:
            self._append(data)

    def _client_data_while_blocked(self, data: bytes) -> None:
        """What the client sends while it is full or its turn is over: no request of it begins now."""
        self._since = self.context.wheel.now
        if self._body is not None:
            data = self._more_body(data)
        if data:
            self._append(data)

    def _append(self, data: bytes) -> None:
        """`data` waits until the requests before it have been answered."""
        self._pending += data
        if len(self._pending) > PENDING:
            self._hold(PENDING_IS_FULL, True)

    @property
    def _is_blocked(self) -> bool:
        return self._full or self._turn_is_over

    def _block(self) -> None:
        """The client is full, or its turn is over, or not any more."""
        if self.state not in (life.REFUSING, life.SWITCHED, life.CLOSED):
            self.client.dataReceived = self._client_data_while_blocked if self._is_blocked else self._client_data

    def _go_on(self) -> None:
        """Serve pending requests, and read on when little is pending.

        A client that takes no more is served nothing, and no client is served more than some requests in one turn: the
        switch's own responses cost the client nothing but a few bytes, and would fill memory and hold up all others.
        """
        if self._going_on:
            return
        self._going_on = True
        begun = 0
        try:
            while self._pending and self.state == life.IDLE and not self._is_blocked:
                if begun == REQUESTS_PER_TURN:
                    self._turn_is_over = True
                    self._block()
                    self.context.reactor.callLater(0, self._next_turn)
                    break
                begun += 1
                data, self._pending = self._pending, b""
                self._next(data)
        finally:
            self._going_on = False
        if self._held & PENDING_IS_FULL and len(self._pending) <= PENDING:
            self._hold(PENDING_IS_FULL, False)
        if self._no_more and self.state == life.IDLE and not self._pending:
            self._transition(life.CLIENT_GONE)
            self._close_gracefully()

    def _next_turn(self) -> None:
        self._turn_is_over = False
        self._block()
        self._go_on()

    def _next(self, data: bytes) -> None:
        """A request begins with `data`, or goes on with it while its head is not complete."""
        found: re.Match[bytes] | None = None
        reader = self._reader
        try:
            if reader is None:
                found = messages.REQUEST.match(data)
                if found is not None and found.end() <= self.context.settings.head_size:
                    self._begin(messages.Request(found), data, found)
                    return
                settings = self.context.settings
                check = messages.EarlyCheck().feed
                reader = self._reader = HeadReader(settings.head_size, settings.head_lines, settings.uri_size, check)
                self._head_began = self.context.wheel.now
            if reader.feed(data) is None:
                return
            self._reader = None
            whole = bytes(reader.received).lstrip(b"\r\n")
            found = messages.REQUEST.match(whole)
            if found is None:
                raise BadRequest(400, "the head has a form that HTTP/1.1 forbids")
            self._begin(messages.Request(found), whole, found)
        except BadRequest as bad:
            self._transition(life.BAD_REQUEST)
            method = found[2] if found is not None else reader.method if reader is not None else None
            self._refuse(bad.status, str(bad), method=method)

    def _begin(self, message: messages.Request, data: bytes, found: re.Match[bytes]) -> None:
        """A head is complete. Nothing is sent before what came with it has been checked."""
        self._asked = monotonic()
        end = found.end()
        if message.lines.count(b"\n") > self.context.settings.head_lines:
            raise BadRequest(431, f"the request has more than {self.context.settings.head_lines} header lines")
        if len(message.target) > self.context.settings.uri_size:
            raise BadRequest(414, f"the request target is longer than {self.context.settings.uri_size} bytes")
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
                self._body = frame
        self._pending = rest
        self._message = message
        self._again = ()
        if not message.keep_alive:
            self._last = self._leaves = True
            self.client.resting = self._body is None
        request = self.request
        request.method, request.target, request.path = message.method, message.target, message.path
        request.lines = message.lines
        request.tried = self.service.down
        request.failed = self._refused = NONE
        self._out = body
        if self.service.journal is not None:
            self.entry = self.service.journal.begin(self)
            self.entry.asked(message.method, message.target, message.minor, message.lines)
        self._transition(life.REQUEST)
        self._request_ready()

    def _more_body(self, data: bytes) -> bytes:
        """More of the request's body; what of `data` is not."""
        body = self._body
        assert body is not None
        try:
            taken = body.feed(data)
        except BadFrame as bad:
            self._body = None
            self._broken(400, str(bad))
            return b""
        mine = data if taken == len(data) else data[:taken]
        if not self._body_bytes and self._message is not None:
            self._message.note_body(mine, body.done)
        if body.onward is not None:
            mine = body.onward
        self._body_bytes += taken
        if self._is_too_large(self._body_bytes):
            self._body = None
            self._broken(413, self._too_large())
            return b""
        if body.done:
            self._body = None
        if self.server is not None:
            self.bytes_in += len(mine)
            self.server.transport.write(mine)
            if body.done and self._answer is not None and self._answer.frame.done:
                self._answered(self._answer)  # the answer was there before the upload had ended
        elif self.state in (life.CHOOSING, life.QUEUED, life.CONNECTING):
            self._out += mine
            self._hold(CONNECTING, True)  # no more until there is somewhere to send it
        if taken < len(data) and not body.done:
            self._read_later(data[taken:])
            return b""
        return data[taken:]

    def _read_later(self, data: bytes) -> None:
        """Others have their turn before `data` is read, and the client is not read meanwhile."""
        self._hold(TURN_IS_OVER, True)
        self.context.reactor.callLater(0, self._read_now, data)

    def _read_now(self, data: bytes) -> None:
        self._hold(TURN_IS_OVER, False)
        self.client.dataReceived(data)

    def _is_too_large(self, size: int) -> bool:
        limit = self.context.settings.body_size
        return 0 < limit << 10 < size

    def _too_large(self) -> str:
        return f"the request's body is longer than {self.context.settings.body_size} KiB"

    def _broken(self, status: int, why: str) -> None:
        """The client's body cannot be taken to its end: no server may believe that the request was complete."""
        if self.server is not None:
            server, self.server = self.server, None
            server.exchange = None
            server.reset()
        if self.state in (life.WAITING, life.ANSWERING):
            self._transition(life.BAD_REQUEST)
        else:
            self._transition(life.LAST)
        if self._calling is not None:
            self._calling.cancel()
        if self.state == life.REFUSING:
            self._refuse(status, why)
        else:
            self.ending = why
            self._drop()

    def _client_ended(self) -> None:
        """The client sends no more; what it asked for it still gets."""
        self._no_more = True
        if self.state == life.IDLE:
            if not self._pending:
                self._transition(life.CLIENT_GONE)
                self._close_gracefully()
        elif self._body is not None or self._is_abandoned:
            self.expire(life.CLIENT_GONE)

    @property
    def _is_abandoned(self) -> bool:
        """Does the client's FIN end the current request (`abort_on_close`)? Not if it may have been carried out."""
        if self.service.config.abort_on_close != "on" or self._pending:
            return False
        if self.state in (life.CHOOSING, life.QUEUED, life.CONNECTING):
            return True
        message = self._message
        return self.state == life.WAITING and message is not None and message.method in messages.IDEMPOTENT

    def _client_lost(self, clean: bool) -> None:
        if self.state != life.CLOSED:
            self._transition(life.CLIENT_GONE)
        if self._calling is not None:
            self._calling.cancel()
        self._release_server(reset=True)
        self._maybe_over()

    # Back-pressure.

    def _hold(self, reason: int, held: bool) -> None:
        before = self._held
        self._held = before | reason if held else before & ~reason
        if self._held and not before:
            self.client.pause()
        elif before and not self._held and not self._no_more:
            self.client.resume()

    def resume_server(self) -> None:
        """The server may be read again, unless the client takes no more."""
        if self.server is not None and not self._full:
            self.server.resume()

    def hold_client(self, held: bool) -> None:
        """The server takes no more, or again."""
        self._hold(SERVER_IS_FULL, held)

    def pauseProducing(self) -> None:
        """The client takes no more."""
        self._full = True
        self._block()
        if self.server is not None:
            self.server.pause()

    def resumeProducing(self) -> None:
        """The client takes again. What its server did not say meanwhile is no fault of the server."""
        self._full = False
        self._progress = None
        self._since = self.context.wheel.now
        self._block()
        if self.server is not None:
            self.server.resume()
        if self._pending or self._no_more:
            self._go_on()

    def stopProducing(self) -> None:
        """The transport is gone: nothing more can be sent."""
        self._full = True

    # The end.

    def _refuse(self, status: int, why: str, later: int = 0, method: bytes | None = None) -> None:
        """The last answer: the client gets it, and time to read it. method: of a request that has not become one."""
        self.ending = f"{status}: {why}"
        self._note_refusal(status, why)
        if self._message is not None:
            method = self._message.method
        elif self._reader is not None:
            method = self._reader.method
        answer = error_response(status, why, method, later=self._retry_after(status, later))
        self._note_answer(status, answer)
        self._settle()
        self.client.transport.write(answer)
        self._linger()

    def _note_answer(self, status: int, answer: bytes) -> None:
        """The switch's own answer, for the access log."""
        if self.service.journal is not None:
            if self.entry is None:  # what came was no request
                self.entry = self.service.journal.begin(self)
            self.entry.refused(status, answer)

    def _linger(self) -> None:
        """The client has its last response: read on a little, so that no reset takes it away."""
        self._body = None
        self._pending = b""
        self._held = 0
        closing = self._closing()
        if self._no_more:
            closing.close()
        else:
            closing.linger()

    def _close_gracefully(self) -> None:
        """Close, once the client has what it was sent."""
        self._set_timer(0)
        if not self.client.close():  # most clients have it all already
            LingeringClose(self.client, self.context.wheel, self.context.settings).close()

    def _break_client_off(self) -> None:
        """The client has got a part of a response, and there will be no more of it."""
        self._closing().close_with_reset()

    def _closing(self) -> LingeringClose:
        self._set_timer(0)
        return LingeringClose(self.client, self.context.wheel, self.context.settings, self._lingered)

    def _lingered(self) -> None:
        if self.state == life.REFUSING:
            self._transition(life.FINISHED)

    def _watch(self) -> None:
        """Has something taken too long? `docs/architecture.md` has the table of states and their timeouts."""
        settings = self.context.settings
        waited = self.context.wheel.now - self.idle_since()
        state = self.state
        if self._full and state != life.SWITCHED:
            if self._progress is None:
                self._progress = Progress(self.client, self.context.wheel)
            if settings.read_timeout and self._progress.stalled() >= settings.read_timeout:
                self.expire(life.READ_TIMEOUT)
                return
        elif state == life.IDLE:
            if self._reader is not None and self.context.wheel.now - self._head_began >= settings.head_timeout:
                self._transition(life.SLOW_REQUEST)
                self._refuse(408, f"the request's head did not come within {settings.head_timeout} seconds")
                return
            if self._reader is None and waited >= settings.keepalive_timeout:
                self._transition(life.IDLE_TIMEOUT)
                self._close_gracefully()
                return
        elif state == life.WAITING and self._body is None and waited >= settings.response_timeout:
            self._is_unanswered()
        elif (
            self._body is not None
            and settings.read_timeout
            and waited > settings.read_timeout
            and state == life.WAITING
        ):
            if self._held & SERVER_IS_FULL:
                why = f"the server took none of the request's body for {settings.read_timeout} seconds"
                self._server_failed(why)
                self._fail(504, why)
            else:
                self._fail(408, f"the request's body did not come within {settings.read_timeout} seconds")
        elif settings.read_timeout and waited > settings.read_timeout and state in (life.ANSWERING, life.SWITCHED):
            if state == life.ANSWERING and (self._body is None or self._held & SERVER_IS_FULL):
                self._server_failed(f"the response stopped for {settings.read_timeout} seconds")
            self.expire(life.READ_TIMEOUT)
            return
        elif state == life.WAITING:
            self._is_silent(waited)
        if self.state not in (life.CLOSED, life.REFUSING):
            if self._held and self.client.is_gone():  # a client that is not read is not heard to go either
                self.expire(life.CLIENT_GONE)
                return
            if self.client.resting and not self._held:  # it takes long: who goes away meanwhile shall be noticed
                self.client.resting = False
                self.client.resume()
            self._set_timer(self._watch_period(), self._watch)

    def _watch_period(self) -> int:
        """Seconds until the next look: as short as the shortest timeout, if that is less than usual."""
        settings = self.context.settings
        first_byte = self.service.first_byte_timeout or WATCH
        read = settings.read_timeout or WATCH
        times = (settings.head_timeout, settings.keepalive_timeout, settings.response_timeout, first_byte, read)
        return min(WATCH, *times)

    def _rest_timer(self) -> None:
        self._set_timer(self._watch_period(), self._watch)

    def _drop(self) -> None:
        if self._calling is not None:
            self._calling.cancel()
        self.client.reset()
        self._release_server(reset=True)
        self._maybe_over()

    def _maybe_over(self) -> None:
        """When both sides are gone: count out."""
        if self.client.is_open or self._calling is not None:
            return
        if self.relay is not None and self.server is not None and self.server.is_open:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._settle()
        self.service.ended(self)
