"""Request by request: each message of a client connection goes to the server that the scheduler chooses for it.

Requests are answered in order, one at a time; bodies stream both ways at once with back-pressure and are never
collected. A request that a kept connection lost before any answer is sent again if that is safe, and never else.
"""

from __future__ import annotations

from bisect import bisect_left
from time import monotonic
from typing import Any

from twisted.python.failure import Failure

from ktcpvs.http.client_connection import CONNECTING, SERVER_IS_FULL
from ktcpvs.http.head_cache import CLOSE, KEEP_ALIVE, LINES_MAX, REMEMBERED, CachedHead, CachedRequest, CachedResponse
from ktcpvs.http.pool import ServerStream
from ktcpvs.http.retrying import UNANSWERED, Retrying
from ktcpvs.model import exchange as life
from ktcpvs.model.destination import Destination, Lease
from ktcpvs.model.latency import BUCKETS
from ktcpvs.model.scheduling import NONE, Choice
from ktcpvs.protocols import messages
from ktcpvs.protocols.framing import BadFrame
from ktcpvs.protocols.http1 import BadResponse, error_response
from ktcpvs.streams.connect import call
from ktcpvs.streams.stream import Stream
from ktcpvs.system import log as levels

_SENT = life.TABLE[life.IDLE][life.SENT]
_WHOLE = life.TABLE[life.WAITING][life.WHOLE]

INTERIM_PER_TURN = 16
"""Interim responses (1xx) of one server that are read before other connections get their turn."""

JOINED = 4096
"""A body's beginning that is longer is sent beside its head, and not copied behind it, in bytes."""


class Exchange(Retrying):
    """One client connection; its current request and the answer to it."""

    __slots__ = ()

    # The server.

    def _fast_path(self, known: CachedRequest) -> None:
        self._asked = monotonic()
        request, service = self.request, self.service
        request.method, request.lines = known.method, known.lines
        request.target = request.path = known.target
        request.tried = service.down
        if request.failed:
            request.failed = self._refused = NONE
        self._kept, self._found, self._minor = None, known.data, known.minor
        self._again = ()
        if not known.keep_alive:
            self._last = self._leaves = self.client.resting = True
        try:
            choice = service.scheduler.choose(request)
        except Exception:
            self._transition(life.REQUEST)
            self._scheduler_failed()
            return
        if type(choice) is Choice and choice.lines is None:
            destination = choice.destination
            kept = service.pool.kept.get(destination)
            if kept and destination in service.usable and not destination.maxconn:
                server = kept.pop()
                self.choice = choice
                self.lease = Lease(destination)
                destination.total += 1
                destination.reused += 1
                self._may_repeat = True
                self.server = server
                server.exchange = self
                self.state = _SENT
                out = known.out
                self.bytes_in += len(out)
                server.transport.write(out)
                if self._full:
                    server.pause()
                return
        self._transition(life.REQUEST)
        self._take(choice)

    def _serve(self, choice: Choice) -> None:
        message = self._message
        assert message is not None
        kept = self.service.pool.take(choice.destination, is_repeatable=message.is_repeatable)
        if kept is not None:
            self._transition(life.REUSED)
            choice.destination.reused += 1
            if self.entry is not None:
                self.entry.connected(reused=True)
            self._send(kept)
        else:
            self._call(choice.destination)

    def _call(self, destination: Destination) -> None:
        self._transition(life.CHOSEN)
        self.service.pool.opened()
        stream = ServerStream(self.service.pool, destination)
        self._calling = call(self.context.reactor, destination.address, self.context.settings.connect_timeout, stream)
        self._calling.addErrback(self._not_made)
        self._calling.addCallbacks(self._connected, self._not_connected, (stream,))

    def _not_made(self, why: Failure) -> Failure:
        self.service.pool.closed()
        return why

    def _connected(self, _: Stream, stream: ServerStream) -> None:
        self._calling = None
        if self.state != life.CONNECTING:
            stream.reset()
            self._settle()
            self._maybe_over()
            return
        self._transition(life.CONNECTED)
        if self.entry is not None:
            self.entry.connected(reused=False)
        self._send(stream)

    def _send(self, server: ServerStream) -> None:
        """The request goes out on `server`."""
        self.server = server
        server.exchange = self
        message, lease = self._message, self.lease
        assert message is not None
        assert lease is not None
        lease.made()
        head = self._head(message)
        out = head + self._out
        self.bytes_in += len(out)
        server.transport.write(out)
        self._out = b""
        # May it go on another connection if this one dies before any answer? Never two servers for a POST.
        self._may_repeat = message.is_repeatable
        self._remember(message, head)
        if self._held:
            self._hold(CONNECTING, False)
        if self._full:
            server.pause()

    def _remember(self, message: messages.Request, head: bytes) -> None:
        """The next request may have the same header lines, which then say the same and go on as these do."""
        fields, service, choice = message.fields, self.service, self.choice
        if message.lines is not fields.lines or not fields.has_host or fields.length or len(head) > REMEMBERED:
            return
        if fields.upgrades or fields.expect or choice is None or choice.lines is not None:
            return
        if len(service.known) >= LINES_MAX:
            service.known.clear()
        key: Any = fields.lines if fields.minor else (b"0", fields.lines)
        if service.forwards:
            key = (key, self.request.client)
        service.known[key] = CachedHead(fields.keep_alive, fields.minor, head[len(message.line) :])

    def _head(self, message: messages.Request) -> bytes:
        """The request's head as the chosen server gets it."""
        service, choice = self.service, self.choice
        forwarding, mode = service.forwarding, service.config.upgrade
        lines = choice.lines if choice is not None else None
        host = b"" if message.has_host or self.lease is None else self.lease.destination.host_field
        if not forwarding:
            return message.head(lines=lines, host=host, mode=mode)
        added = forwarding.lines(self.request.client, message.host, message.minor)
        return message.head(added, forwarding.replaced, lines, host, mode)

    def server_data(self, data: bytes) -> None:
        """What the server sends."""
        before, self._since = self._since, self.context.wheel.now
        answer = self._answer
        if answer is None:
            server = self.server
            if self._found is not None and server is not None:
                known = server.known
                if (
                    known is not None
                    and len(data) == known.total
                    and data.startswith(known.start)
                    and not self._received
                    and not (self._no_more or self._pending or self._held)
                    and not (self.choice is not None and self.choice.answer_lines)
                ):
                    if self._last:
                        data = known.closing + data[len(known.start) :]
                    elif not self._minor:
                        data = known.keeping + data[len(known.start) :]
                    elif not known.as_is:
                        data = known.head + data[len(known.start) :]
                    self._pass_whole(server, data, known.row)
                    return
            if server is not None:
                server.destination.heard = self._since
            self._answer_head(data)
            if self._answer is None and self.state == life.WAITING:
                # Interim responses and a head that drips do not extend response_timeout.
                self._since = before
            return
        if self.server is not None:
            self.server.destination.heard = self._since
        try:
            taken = answer.frame.feed(data)
        except BadFrame as bad:
            self._break_off(f"the server's response: {bad}")
            return
        if taken < len(data) and not answer.frame.done:
            data = self._read_server_later(data, taken)
        self._pass_on(answer, data, taken)

    def _read_server_later(self, data: bytes, taken: int) -> bytes:
        """The first `taken` bytes; the others are read in the next turn."""
        if self.server is not None:
            self.server.read_later(data[taken:])
        return data[:taken]

    def _break_off(self, why: str) -> None:
        """The rest of a response that has begun will not come: the client gets what there is, and must see that."""
        self.context.log.event(
            levels.NON_FATAL,
            "service {ident}: {client}: {why}",
            ident=self.service.ident,
            client=self.client_name,
            why=why,
        )
        self._server_failed(why)
        self.ending = why
        self._transition(life.RESET)
        if self._calling is not None:
            self._calling.cancel()
        self._release_server(reset=True)
        self._break_client_off()
        self._maybe_over()

    def _server_failed(self, why: str) -> None:
        """The current request failed by its server's fault. why: in words."""
        lease = self.lease
        if lease is not None and not lease.ended:
            lease.destination.failures += 1
            self.service.health.failed(lease.destination, why)

    def _pass_whole(self, server: ServerStream, data: bytes, row: list[int]) -> None:
        """A whole answer, of a kind that is known. row: where it is counted how long such ones take."""
        self.bytes_out += len(data)
        self.client.transport.write(data)
        if not self._last or self._leaves:  # else it is the last answer, though nobody has asked for that
            self.state = _WHOLE
        self.server = None
        if self._full:
            server.resume()
        self.service.pool.put(server)
        lease = self.lease
        if lease is not None:
            lease.end()
            destination = lease.destination
            destination.heard = self._since
            if destination.errors:
                destination.errors = 0
            took = monotonic() - self._asked
            row[bisect_left(BUCKETS, took)] += 1
            destination.latencies.seconds += took
            moved_in, moved_out = self.bytes_in, self.bytes_out
            destination.bytes_in += moved_in - self.settled[0]
            destination.bytes_out += moved_out - self.settled[1]
            self.settled = moved_in, moved_out
        if self._last:
            self._end_of_answer()
        else:
            self._found = None

    def _answer_head(self, data: bytes) -> None:
        """An answer begins with `data`, or goes on with it while its head is not complete."""
        message = self._message
        assert message is not None
        looked = len(self._received)
        data = self._received + data
        self._received = b""
        interim = 0
        while True:
            try:
                size = self.context.settings.head_size
                read = messages.read_response(data, message.method, size, looked, message.minor)
            except BadResponse as bad:
                self._server_failed(f"unreadable response: {bad}")
                self._fail(502, str(bad))
                return
            if read is None:
                self._received = data
                return
            answer, end = read
            data, looked = data[end:], 0
            if answer.status >= 200:
                break
            if answer.status == 101:
                self._switch_protocols(message, answer, data)
                return
            if not answer.keep_alive and self.server is not None:
                self.server.is_reusable, self.server.known = False, None
            if message.minor:  # an HTTP/1.0 client knows no interim answers
                self.client.transport.write(answer.head + b"\r\n")
            if not data:
                return
            interim += 1
            if interim == INTERIM_PER_TURN and self.server is not None:
                self.server.read_later(data)
                return
        try:
            taken = answer.frame.feed(data)
        except BadFrame as bad:
            self._server_failed(f"unreadable response: {bad}")
            self._fail(502, f"the server's answer: {bad}")
            return
        if taken < len(data) and not answer.frame.done:
            data = self._read_server_later(data, taken)
        self._may_repeat = False
        self._transition(life.ANSWER)
        self._answer = answer
        if self.server is not None and answer.status >= 500:
            self.service.health.failed(self.server.destination, f"status {answer.status}")
        if not answer.is_delimited or (self._body is not None and not answer.keep_alive):
            self._last = True  # the second: an early response, and the server will not hear the rest of the request
        choice = self.choice
        head = answer.head + choice.answer_lines if choice is not None else answer.head
        if answer.length is not None and answer.keep_alive and self.server is not None and message.method == b"GET":
            plain = (choice is None or not choice.answer_lines) and len(head) <= REMEMBERED and answer.status < 500
            row = self.server.destination.latencies.row(answer.status)
            self.server.known = CachedResponse(answer.whole, head, answer.length, row) if plain else None
        head += CLOSE if self._last else b"\r\n" if message.minor else KEEP_ALIVE
        if self.entry is not None:
            self.entry.answered(answer.status, len(head))
        self._pass_on(answer, data, taken, head)

    def _pass_on(self, answer: messages.Response, data: bytes, taken: int, head: bytes = b"") -> None:
        """What the server sent goes to the client: `taken` bytes of `data` are the answer's."""
        extra = taken < len(data)
        if answer.frame.onward is not None:
            data = answer.frame.onward
        elif extra:
            data = data[:taken]
        size = len(head) + len(data)
        if size:
            self.bytes_out += size
            if head and len(data) > JOINED:
                self.client.transport.writeSequence((head, data))
            else:
                self.client.transport.write(head + data if head else data)
        if extra:
            answer.keep_alive = False  # what else it may say belongs to nobody
        if answer.frame.done:
            self._answered(answer)

    def _answered(self, answer: messages.Response) -> None:
        """The whole answer is on its way to the client."""
        server = self.server
        message = self._message
        assert message is not None
        if self._body is not None:
            if answer.keep_alive and server is not None:
                message.leaves_doubt = True  # the server has not waited for the body
                return  # the rest of the upload still goes to the server; `_more_body` comes here again
            self._last = True
            self._release_server(reset=True)
            self._end_of_answer()
            return
        if message.length and message.method in messages.BODILESS and (message.leaves_doubt or answer.status >= 400):
            answer.keep_alive = False  # a server that ignores the body would read it as another request
        if server is not None and answer.keep_alive and server.is_reusable:
            self.server = None
            self._hold(SERVER_IS_FULL, False)
            if self._full:
                server.resume()
            self.service.pool.put(server)
        else:
            self._release_server(reset=False)
        self._end_of_answer()

    def _end_of_answer(self) -> None:
        if self._answer is not None and self.lease is not None:
            destination, status = self.lease.destination, self._answer.status
            destination.latencies.count(status, monotonic() - self._asked)
            if status < 500:
                destination.errors = 0
        self._settle("answered")
        self._answer = self._message = None
        self._received = b""
        if self._leaves and not self._pending and self._body is None:
            self._transition(life.FINISHED)
            self._close_gracefully()
            return
        if self._last or (self._no_more and not self._pending):
            self._transition(life.LAST)
            self._linger()
            return
        self._transition(life.ANSWERED)
        self._go_on()

    def server_ended(self) -> None:
        """The server sends no more."""
        answer = self._answer
        if self.state == life.SWITCHED:
            return
        if answer is not None and answer.until_close:
            self._body = None
            self._release_server(reset=False)
            self._end_of_answer()
            return
        self.server_lost(True)

    def server_lost(self, clean: bool) -> None:
        """The server's connection is over."""
        server, self.server = self.server, None
        if server is not None:
            server.exchange = None
            server.close()
        if self.state == life.WAITING:
            if self._may_repeat and not self._received and server is not None:
                self._repeat(server)
            else:
                self._server_failed(UNANSWERED)
                self._fail(502, UNANSWERED)
        elif self.state == life.ANSWERING:
            answer = self._answer
            if answer is not None and answer.until_close and clean:
                self._end_of_answer()
            elif answer is not None and answer.frame.done:
                self._body = None
                self._last = True
                self._end_of_answer()
            else:
                self._break_off("the server closed the connection in the middle of its response")
        elif self.state == life.CLOSED:
            self._maybe_over()

    def _fail(self, status: int, why: str, later: int = 0) -> None:
        """The switch answers this request itself."""
        if status == 503 and self._again:
            status, why = 502, UNANSWERED  # there was a server
        message = self._message
        self._release_server(reset=True)
        self._answer = None
        self._received = self._out = b""
        self._hold(CONNECTING, False)
        ends = self._last or (self._no_more and not self._pending)
        if self._body is not None or ends or message is None or status == 400:
            self._transition(life.LAST)
            self._refuse(status, why, later)
            return
        own = error_response(
            status, why, message.method, keep_alive=True, later=self._retry_after(status, later), minor=message.minor
        )
        self._note_answer(status, own)
        self._settle(f"{status}: {why}")
        self._note_refusal(status, why)
        self.client.transport.write(own)
        self._message = None
        self._transition(life.REFUSED)
        self._go_on()

    def _release_server(self, reset: bool) -> None:
        """Part with the server's connection, which is of no further use."""
        server, self.server = self.server, None
        self._hold(SERVER_IS_FULL, False)
        if server is not None:
            if self.state != life.SWITCHED and self.relay is None:
                server.exchange = None
            if reset:
                server.reset()
            else:
                server.close()

    def _settle(self, ending: str = "") -> None:
        """Count out the current request, where it was served. ending: why it ended; "": as the connection does."""
        lease = self.lease
        if lease is not None and not lease.ended:
            lease.end()
            bytes_in, bytes_out = self.unsettled()
            lease.destination.bytes_in += bytes_in
            lease.destination.bytes_out += bytes_out
            self.settled = self.moved()
        if self.entry is not None:
            self.entry.end(self, ending or self.ending)
            self.entry = None
