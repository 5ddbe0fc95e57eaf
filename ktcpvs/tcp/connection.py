"""One client's connection, from accept to end: does what the states of `model.connection` ask for.

It begins by reading a head, or at once by asking the scheduler, as the scheduler's unit says; calls servers until one
answers; joins both sides in a relay; and counts itself out. While nothing is wanted from the client it is
not read, so what it sends waits in the kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.interfaces import CONNECTION as PER_CONNECTION
from ktcpvs.model import connection as life
from ktcpvs.model.scheduling import Choice
from ktcpvs.protocols.http1 import NO_HTTP_1, BadRequest, HeadReader, error_response
from ktcpvs.relay.copy import CopyRelay
from ktcpvs.streams.connect import call
from ktcpvs.streams.lingering_close import LingeringClose, close_gracefully
from ktcpvs.streams.stream import Stream, nothing

if TYPE_CHECKING:
    from ktcpvs.services.running import RunningService


class TCPClientConnection(ClientConnection):
    """One client connection that is served as a whole."""

    table = life.TABLE
    descriptors = 2  # its server's is taken with it

    __slots__ = ("_reader", "_settled", "server", "unit")

    def __init__(self, service: RunningService, client_name: str, client_host: str) -> None:
        self.unit = service.unit
        super().__init__(service, client_name, client_host, life.OPENING[self.unit])
        self.server: Stream | None = None
        self._reader: HeadReader | None = None
        self._settled = False

    # What the rest of the switch asks.

    def moved(self) -> tuple[int, int]:
        """Bytes from the client to the server and back, so far."""
        return (self.relay.inward.bytes, self.relay.outward.bytes) if self.relay is not None else (0, 0)

    def unsettled(self) -> tuple[int, int]:
        """What of them is not yet counted at the destination."""
        return (0, 0) if self._settled else self.moved()

    def retire(self) -> None:
        """Its service listens no more: it may finish what it does."""

    def rearm(self) -> None:
        """The read timeout has changed."""
        if self.state == life.RELAYING:
            self._watch()

    # What happens to it.

    def _opened(self) -> None:
        self.client.lost = self._client_lost
        if self.service.journal is not None:
            self.entry = self.service.journal.begin(self)
        if self.unit == PER_CONNECTION:
            self.client.pause()
            self._choose()
            return
        settings = self.context.settings
        self._reader = HeadReader(settings.head_size, settings.head_lines, settings.uri_size)
        self.client.dataReceived = self._head_received
        self.client.ended = self._left_early
        self._set_timer(settings.head_timeout, self._head_is_late)

    def _left_early(self) -> None:
        """A FIN before the head was complete: nobody is left to be served."""
        self._transition(life.CLIENT_GONE)
        self._set_timer(0)
        self.client.close()

    def _client_lost(self, clean: bool) -> None:
        if self.state != life.CLOSED:
            self._transition(life.CLIENT_GONE)
        if self._calling is not None:
            self._calling.cancel()
        self._part_with(self.server, clean)
        self._maybe_over()

    def _server_lost(self, clean: bool) -> None:
        if self.state != life.CLOSED:
            self._transition(life.RESET)
        self._part_with(self.client, clean)
        self._maybe_over()

    def _part_with(self, other: Stream | None, clean: bool) -> None:
        """The one side is gone; so goes the other, in the same manner."""
        if other is None or not other.is_open or self.state != life.CLOSED:
            return
        self._set_timer(0)
        if clean or other is self.client:
            close_gracefully(other, self.context.wheel, self.context.settings, clean)
        else:
            other.reset()

    # The head.

    def _head_received(self, data: bytes) -> None:
        assert self._reader is not None  # this is the client's dataReceived only while there is a reader
        try:
            head = self._reader.feed(data)
        except BadRequest as bad:
            self._bad_head(bad)
            return
        if head is None:
            return
        self._set_timer(0)
        self.client.pause()
        self.client.ended = nothing
        request = self.request
        request.method, request.target, request.path = head.method, head.target, head.path
        request.lines = head.lines
        if self.entry is not None:
            self.entry.asked(head.method, head.target, head.minor, head.lines)
        self._transition(life.HEAD)
        self._request_ready()

    def _bad_head(self, bad: BadRequest) -> None:
        redirect = self.service.redirect
        if bad.status in NO_HTTP_1 and redirect is not None:
            self._set_timer(0)
            self.client.pause()
            self._transition(life.HEAD)
            self._asks = False
            choice = Choice(redirect, f"redirect, since {bad}")
            self._chosen(choice)
            self._serve(choice)
            return
        self._transition(life.BAD_HEAD)
        self._refuse(bad.status, str(bad))

    def _head_is_late(self) -> None:
        self._transition(life.SLOW_HEAD)
        seconds = self.context.settings.head_timeout
        self._refuse(408, f"the request's head did not come within {seconds} seconds")

    # The server.

    def _fail(self, status: int, why: str, later: int = 0) -> None:
        self._transition(life.NO_SERVER)
        self._refuse(status, why, later)

    def _serve(self, choice: Choice) -> None:
        self._transition(life.CHOSEN)
        address, timeout = choice.destination.address, self.context.settings.connect_timeout
        self._calling = call(self.context.reactor, address, timeout, Stream())
        self._calling.addCallbacks(self._connected, self._not_connected)

    def _connected(self, server: Stream) -> None:
        self._calling = None
        assert self.lease is not None
        if self.state == life.CLOSED:
            server.reset()
            self.lease.end()
            self._maybe_over()
            return
        self.server = server
        server.lost = self._server_lost
        self._transition(life.CONNECTED)
        self.lease.made()
        self.lease.destination.errors = 0
        if self.entry is not None:
            self.entry.connected(reused=False)
        relay = self.relay = CopyRelay(self.client, server, self.context.wheel, self._finished)
        waiting = bytes(self._reader.received) if self._reader is not None else b""
        self._reader = None
        self.request.lines = b""
        self._watch()
        relay.start(waiting)
        self.client.resume()
        self._hand_over(relay, self._finished)

    def _finished(self) -> None:
        """Both directions have ended; what is buffered still goes out, as long as somebody takes it."""
        self._transition(life.FINISHED)
        self._set_timer(0)
        close_gracefully(self.client, self.context.wheel, self.context.settings)
        close_gracefully(self.server, self.context.wheel, self.context.settings)

    def _rest_timer(self) -> None:
        self._set_timer(0)

    def _watch(self) -> None:
        timeout = self.context.settings.read_timeout
        if timeout == 0 or self.relay is None:
            self._set_timer(0)
            return
        idle = self.context.wheel.now - self.relay.idle_since()
        if idle > timeout:  # the first of these ticks may have come right after the last bytes
            self.expire(life.IDLE)
        else:
            self._set_timer(timeout - idle, self._watch)

    # The end.

    def _refuse(self, status: int, why: str, later: int = 0) -> None:
        """Answer what can be answered, read on a little so that the answer arrives, and close."""
        self.ending = f"{status}: {why}"
        self._note_refusal(status, why)
        self._set_timer(0)
        if self.unit == PER_CONNECTION:
            self.client.dataReceived = nothing
            self.client.close()
            return
        method = self.request.method or (self._reader.method if self._reader is not None else None)
        answer = error_response(status, why, method, later=self._retry_after(status, later))
        if self.entry is not None:
            self.entry.refused(status, answer)
        self.client.transport.write(answer)
        LingeringClose(self.client, self.context.wheel, self.context.settings, self._lingered).linger()

    def _lingered(self) -> None:
        if self.state == life.REFUSING:
            self._transition(life.FINISHED)

    def _drop(self) -> None:
        self._set_timer(0)
        if self._calling is not None:
            self._calling.cancel()
        self.client.reset()
        if self.server is not None:
            self.server.reset()
        self._maybe_over()

    def _maybe_over(self) -> None:
        """When both sides are gone: count out, and one line in the log."""
        if self.client.is_open or self._calling is not None or (self.server is not None and self.server.is_open):
            return
        self._set_timer(0)
        if self.lease is not None:
            self.lease.end()
            if not self._settled:
                self._settled = True
                bytes_in, bytes_out = self.moved()
                self.lease.destination.bytes_in += bytes_in
                self.lease.destination.bytes_out += bytes_out
        if self.entry is not None:
            self.entry.end(self, self.ending)
            self.entry = None
        self.service.ended(self)
        self.relay = self.server = None
