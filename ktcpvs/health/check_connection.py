"""The connection of one check to its server, and the outcome of the check."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ktcpvs.model.check import CheckResponse, NotWell
from ktcpvs.streams.connector import Connector
from ktcpvs.streams.stream import Stream


class CheckConnection:
    """Connects to the server, and reports once whether the check has passed.

    stream: the connection.
    """

    def __init__(
        self,
        connected: Callable[[Stream], object],
        received: Callable[[bytes], object],
        ended: Callable[[str], object],
    ) -> None:
        """connected: called with the stream once it is open. received: called with data. ended: called when the server
        has ended the connection, with the reason of TLS, in words; "": there is none."""
        self.stream = Stream()
        self.stream.dataReceived = received
        self.stream.ended = self._over
        self.stream.lost = lambda clean: self._over()
        self._connected = connected
        self._ended = ended
        self._outcome: Deferred[CheckResponse | None] = Deferred()

    @property
    def is_judged(self) -> bool:
        """Whether the check has passed or failed."""
        return self._outcome.called

    def begin(self, connector: Connector) -> Deferred[CheckResponse | None]:
        """Connect; the Deferred fires if the check passes, else fails. Cancelling it closes the connection."""
        connecting = connector.connect_stream(self.stream)

        def cancel(_: Deferred[CheckResponse | None]) -> None:
            connecting.cancel()
            self.stream.abort()

        outcome = self._outcome = Deferred(cancel)
        connecting.addCallbacks(self._connected, self._fail)
        return outcome

    def pass_with(self, response: CheckResponse | None) -> None:
        """The check has passed, unless it is judged already. The connection stays open."""
        if not self.is_judged:
            self._outcome.callback(response)

    def fail_with(self, why: str, response: CheckResponse | None = None) -> None:
        """The check has failed, unless it is judged already, and the connection is closed. why: in words."""
        self._fail(Failure(NotWell(why, response)))
        self.stream.abort()

    def _over(self) -> None:
        failure = self.stream.failure
        self._ended(f"TLS: {failure}" if failure else "")

    def _fail(self, why: Failure) -> None:
        if not self.is_judged:
            self._outcome.errback(why)
