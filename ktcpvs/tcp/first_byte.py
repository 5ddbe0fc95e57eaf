"""The first byte of a server whose connection is relayed as a whole: when it comes, for schedulers that measure it."""

from __future__ import annotations

from collections.abc import Callable

from ktcpvs.dispatch.measured_request import MeasuredRequest
from ktcpvs.dispatch.service_context import RelayChoice
from ktcpvs.model.service import COPY
from ktcpvs.relay.copy import CopyRelay


class FirstByte:
    """Waits for the first byte of the server, and of the client, of one relayed connection.

    An engine that takes over from the first byte on would hide it, so such a connection is joined when it has come.
    """

    __slots__ = ("_call_soon", "_join", "_measured", "_relay", "_waits")

    def __init__(
        self,
        measured: MeasuredRequest,
        relay: CopyRelay,
        choice: RelayChoice,
        join: Callable[[CopyRelay], object],
        call_soon: Callable[[Callable[[], object]], object],
    ) -> None:
        """relay: it has started. join: lets the service's engine take over, at once or later. call_soon: calls its
        argument in the next turn of the reactor."""
        self._call_soon = call_soon
        self._measured = measured
        self._relay = relay
        self._join = join
        self._waits = choice.engine != COPY and not choice.after  # to join both sides
        if not self._waits:
            join(relay)

    def watch(self, is_new: bool) -> None:
        """Begin. is_new: the client has sent nothing yet."""
        self._relay.outward.source.dataReceived = self._server_sent
        if is_new:
            self._relay.inward.source.dataReceived = self._client_sent

    def _client_sent(self, data: bytes) -> None:
        inward = self._relay.inward
        inward.source.dataReceived = inward.received
        self._measured.client_sent()
        inward.received(data)

    def _server_sent(self, data: bytes) -> None:
        outward = self._relay.outward
        outward.source.dataReceived = outward.received
        self._measured.first_byte_received()
        outward.received(data)
        if self._waits:
            self._call_soon(self.end)

    def end(self) -> None:
        """Join both sides, if they wait for that; the connection may have ended without a byte."""
        if self._waits:
            self._waits = False
            self._join(self._relay)
