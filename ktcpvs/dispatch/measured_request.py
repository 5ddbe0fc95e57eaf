"""A request that is measured at the servers that a scheduler chooses for it: latency, and the outcome at each of them.

There is one only where the scheduler learns (`ILearns`), or reads the latency or the error rate of the server. Requests
of the fast path are measured there.
"""

from __future__ import annotations

from collections.abc import Callable

from ktcpvs.dispatch.request_notes import ChainedNotes, RequestNotes
from ktcpvs.model import connection, exchange
from ktcpvs.model.destination import Destination
from ktcpvs.model.outcome import ABORTED, BAD_RESPONSE, CLIENT_GONE, OK, RESET, TIMEOUT, Outcome

Completed = Callable[[Outcome], object]
"""A function that is called with the outcome of a choice."""

_REASONS = {
    exchange.ANSWERED: OK,
    exchange.FINISHED: OK,
    exchange.RESET: RESET,
    exchange.READ_TIMEOUT: TIMEOUT,
    exchange.CLIENT_GONE: CLIENT_GONE,
    connection.FINISHED: OK,
    "502": BAD_RESPONSE,
    "504": TIMEOUT,
}
"""The ending of a request or a connection, or the status with which the switch has refused it -> the reason."""


class MeasuredRequest(ChainedNotes):
    """The measurement of one request, or of one connection that is relayed as a whole, at one server after the other.

    reason: of the end, where that is known before; "": it is not.
    """

    __slots__ = (
        "_began", "_client", "_completed", "_connections", "_destination", "_first_byte", "_moved", "_moved_of",
        "_report", "_resent", "_retries", "_status", "_waits_since", "reason",
    )  # fmt: skip

    def __init__(
        self,
        entry: RequestNotes | None,
        report: Callable[[Completed, Outcome], object],
        moved_of: Callable[[], tuple[int, int]],
    ) -> None:
        """entry: is told everything too; None: there is none. report: calls its first argument with an outcome.
        moved_of: returns the bytes from the client and to it."""
        super().__init__(entry)
        self._report = report
        self._moved_of = moved_of
        self._destination: Destination | None = None  # while it is at a server
        self._completed: Completed | None = None
        self._client = ""
        self._began = self._waits_since = 0.0
        self._moved = (0, 0)  # the bytes at the beginning
        self._connections = 0  # to this server
        self._resent = 0  # in all
        self._retries = 0  # before this server
        self._first_byte: float | None = None
        self._status: int | None = None
        self.reason = ""

    # At a server.

    def begin(
        self,
        destination: Destination,
        completed: Completed | None,
        client: str,
        began: float,
        moved: tuple[int, int],
        connections: int,
    ) -> None:
        """A server has been chosen. completed: is called with the outcome; None: nothing is. began: by its clock.
        moved: bytes from the client and to it before. connections: how many to this server it has been sent on."""
        self._destination, self._completed, self._client = destination, completed, client
        self._began = self._waits_since = began
        self._moved, self._retries, self._connections = moved, self._resent, connections
        self._first_byte, self._status, self.reason = None, None, ""

    def client_sent(self) -> None:
        """The client of a whole connection has sent its first byte: only from now on it waits for the server."""
        if self._destination is not None:
            self._waits_since = self._destination.clock()

    def first_byte_received(self) -> None:
        """The server has sent the first byte of its response."""
        destination = self._destination
        if destination is None or self._first_byte is not None:
            return
        now = destination.clock()
        self._first_byte = now - self._waits_since
        if destination.measured_latency is not None:
            destination.measured_latency.record(self._first_byte, now)

    def end_at_server(self, reason: str, moved: tuple[int, int] | None = None) -> None:
        """The request is over at the server that was chosen for it. moved: bytes from the client and to it until now;
        None: ask for them. Does nothing if it is at no server."""
        destination, completed = self._destination, self._completed
        if destination is None:
            return
        now = destination.clock()
        self._destination = self._completed = None
        if reason == TIMEOUT and self._first_byte is None and destination.measured_latency is not None:
            destination.measured_latency.record(now - self._waits_since, now)  # it would have been longer
        if completed is None:
            return
        bytes_in, bytes_out = self._moved_of() if moved is None else moved
        retries = self._retries + max(self._connections - 1, 0)
        self._report(
            completed,
            Outcome(
                destination, self._status, self._first_byte, now - self._began, bytes_in - self._moved[0],
                bytes_out - self._moved[1], retries, reason, self._client,
            ),
        )  # fmt: skip

    # What is noted. Calls of super() would take longer, and each connection of a service that learns has some of these.

    def connected(self, is_reused: bool) -> None:
        self._connections += 1
        ChainedNotes.connected(self, is_reused)

    def retried(self) -> None:
        self._resent += 1
        ChainedNotes.retried(self)

    def response_begun(self, status: int, head_size: int) -> None:
        self._status = status
        self.first_byte_received()
        ChainedNotes.response_begun(self, status, head_size)

    def end(self, moved: tuple[int, int], ending: str) -> None:
        """The request is over. ending: as for L{RequestNotes.end}, which begins with words that have a meaning here."""
        word = ending.partition(";")[0].partition(":")[0]
        self.end_at_server(self.reason or _REASONS.get(word, ABORTED), moved)
        ChainedNotes.end(self, moved, ending)
