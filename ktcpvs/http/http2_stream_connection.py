"""A client connection over one stream of an HTTP/2 connection after the other.

An HTTP/2 connection keeps the client connections of finished streams for its next ones, as a client of HTTP/1 sends its
next request on the same connection. Each stream is listed, ended and logged as a connection of its own nevertheless,
but is not one of the service's client connections in number.
"""

from __future__ import annotations

from ktcpvs.dispatch.client_connection import nothing_to_end
from ktcpvs.http.client_connection import HTTPClientConnection
from ktcpvs.http.service import HTTPService
from ktcpvs.model import exchange as life
from ktcpvs.model.why import DEADLINE
from ktcpvs.system import log as levels


class HTTP2StreamConnection(HTTPClientConnection):
    """A client connection over a stream of an HTTP/2 connection, which has the client's descriptor, and one reserved
    for its streams.

    is_parked: it waits for the next stream, and nothing counts it.
    """

    descriptors = 0
    reserved = 0
    is_client = False

    __slots__ = ("is_parked",)

    def __init__(self, http: HTTPService, client_name: str, client_host: str) -> None:
        super().__init__(http, client_name, client_host)
        self.is_parked = False

    def deadline_passed(self, milliseconds: float) -> None:
        """End the request, whose deadline (`grpc-timeout`) has passed. milliseconds: that its client has given."""
        self.dispatcher.timed_out()
        if self.state in (life.CHOOSING, life.QUEUED, life.CONNECTING, life.WAITING):
            self.exchange.fail(504, f"the deadline of {milliseconds:g} ms has passed", why=DEADLINE)
            self.exchange.cancel_connecting()
        elif self.state == life.ANSWERING:
            self.ending = f"the deadline of {milliseconds:g} ms has passed"
            self.service.counters.broken_responses += 1
            self.expire(life.READ_TIMEOUT)

    @property
    def is_reusable(self) -> bool:
        """Whether the connection is as a new one, so that it can serve another stream: the stream has had one whole
        request and its whole response, and nothing unusual has happened."""
        exchange, dispatcher = self.exchange, self.dispatcher
        return (
            self.state == life.IDLE
            and not (self.is_last or self.has_ended or self.is_full or self.held or self.pending)
            and self.body is None
            and self._reader is None
            and self.limits is None
            and exchange.server is None
            and exchange.response is None
            and not exchange.is_plain
            and not exchange.is_connecting
            and dispatcher.entry is None
            and not dispatcher.is_waiting
            and not self.service.proxies.is_used  # the client may be another one with the next request
            and self.context.log.level < levels.STATE  # the log tells of the states of each stream
        )

    def park(self) -> None:
        """The stream has ended. The caller counts the connection out, until `reopen`."""
        self.is_parked = True
        self.ending = life.CLIENT_GONE
        self.on_end = nothing_to_end

    def reopen(self) -> None:
        """Begin with the next stream. The caller counts the connection in."""
        self.is_parked = False
        self.began = self.last_activity = self.context.wheel.now
        self.ending = ""
        exchange, dispatcher = self.exchange, self.dispatcher
        exchange.bytes_in = exchange.bytes_out = 0
        exchange.settled = (0, 0)
        dispatcher.choice = dispatcher.lease = None
        if self._timer is None:
            self.restore_timer()

    def _check_timeouts(self) -> None:
        if self.is_parked:
            self.set_timer(0)  # the HTTP/2 connection ends the parked ones
        else:
            super()._check_timeouts()
