"""A connection of a protocol of this process to a server that a service chooses."""

from __future__ import annotations

from time import monotonic

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.python.failure import Failure

from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.dispatch.dispatcher import CONNECT_FAILED
from ktcpvs.dispatch.measured_request import MeasuredRequest
from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.model import connection as life
from ktcpvs.model.scheduling import Choice, OwnResponse
from ktcpvs.streams.connect import Connecting
from ktcpvs.streams.protocol_stream import StreamOwner
from ktcpvs.streams.stream import Stream, nothing
from ktcpvs.system.network_errors import network_reason

CLIENT_NAME = "this process"
"""The client in the log and in views."""

STOPPED = "the service has stopped"
"""The reason why a connection that is not made yet ends."""


class NotConnected(ConnectError):
    """No server of a service could be connected; str() says which service, and why."""

    def __init__(self, reason: str) -> None:
        super().__init__(string=reason)  # type: ignore[no-untyped-call]
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class ProtocolConnection(ClientConnection):
    """One connection of a protocol. Its stream is that of the server: there is no client's side and no relay.

    The service counts it as a client connection, so that it drains, ends with its server (`close_on_down`) and is in
    views as any other.
    """

    table = life.TABLE
    descriptors = 1

    __slots__ = ("_connecting", "_failures", "_is_settled", "_owner", "_waiting")

    def __init__(self, service: ServiceContext, factory: IProtocolFactory) -> None:
        super().__init__(service, CLIENT_NAME, "", life.CHOOSING)
        self.client.made = nothing  # it will not be opened, and would keep this connection in a cycle
        self._connecting: Connecting | None = None
        self._failures: list[str] = []  # of servers that were tried, in words
        self._is_settled = False
        self._owner = owner = StreamOwner(factory)
        owner.over = self._lost
        self._waiting: Deferred[IProtocol] | None = None

    def connect(self) -> Deferred[IProtocol]:
        """Connect to a server of the service. Called once, when the service has counted the connection.

        Fires with the protocol when it is connected. Fails with NotConnected, or with what the factory raises.
        Cancelling the Deferred stops the attempt.
        """
        waiting: Deferred[IProtocol] = Deferred(lambda _: self._cancelled())
        self._waiting = waiting
        self.dispatcher.select()
        return waiting

    # For the running service and its views.

    def moved(self) -> tuple[int, int]:
        return self._owner.sent, self._owner.received

    def unsettled(self) -> tuple[int, int]:
        return (0, 0) if self._is_settled else self.moved()

    def retire(self) -> None:
        """The service has stopped: one that is connected may drain."""
        if self.state not in (life.RELAYING, life.CLOSED):
            self.ending = STOPPED
            self.expire()

    def end_relayed(self) -> None:
        """Do nothing: how the protocol ends its connection is up to the program."""

    def rearm(self) -> None:
        """Apply changed timeouts: only the queue has one here, since the protocol decides how long it may be idle."""
        if self.dispatcher.is_waiting:
            self.dispatcher.rearm()

    def is_client_gone(self) -> bool:
        return False

    # Called by the dispatcher.

    def restore_timer(self) -> None:
        self.set_timer(0)

    def serve(self, choice: Choice) -> None:
        self.transition(life.CHOSEN)
        server = self.service.take_preconnected(choice.destination)
        if server is not None:
            self._connected(server)
            return
        connector = self.service.connector(choice.destination)
        attempt = connector.connect_stream(Stream())
        self._connecting = attempt  # before its callbacks, which may begin the next one
        attempt.addCallbacks(self._connected, self._not_connected)

    def fail(self, status: int, reason: str, retry_after: int = 0, *, why: str = "") -> None:
        self.ending = f"{status}: {reason}"
        self.service.note_refusal(self.client_name, status, reason)
        self.transition(life.NO_SERVER)
        self.transition(life.FINISHED)
        self._end([reason, *self._failures])

    def respond(self, response: OwnResponse) -> None:
        self.fail(503, f"{response.reason}, which is a response and no server")

    # The server.

    def _connected(self, server: Stream) -> None:
        is_preconnected = self._connecting is None
        self._connecting = None
        lease = self.dispatcher.lease
        assert lease is not None  # nothing is connected without one
        self.transition(life.CONNECTED)
        lease.made()
        lease.destination.succeeded(monotonic())
        entry = self.dispatcher.entry
        if entry is not None:
            entry.connected(is_preconnected)
        if isinstance(entry, MeasuredRequest):
            self._owner.first_sent, self._owner.first_received = entry.client_sent, entry.first_byte_received
        self._failures.clear()
        try:
            protocol = self._owner.begin(server)
        except Exception:
            self._answer(Failure())
        else:
            self._answer(protocol)

    def _not_connected(self, why: Failure) -> None:
        self._connecting = None
        if CONNECT_FAILED in self.table[self.state]:
            lease = self.dispatcher.lease
            assert lease is not None  # nothing is connected without one
            self._failures.append(f"{lease.destination.address}: {network_reason(why)}")
            self.dispatcher.connect_failed(why)
        elif self.dispatcher.lease is not None:  # the attempt was cancelled here
            self.dispatcher.lease.end()

    # The end.

    def _cancelled(self) -> None:
        self._waiting = None
        self.expire(life.CLIENT_GONE)

    def drop(self) -> None:
        self.set_timer(0)
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        if self._owner.stream is not None:
            self._owner.abort()  # `_lost` follows
        else:
            self._end([self.ending])

    def _lost(self, clean: bool) -> None:
        if self.state != life.CLOSED:
            self.transition(life.FINISHED if clean else life.RESET)
        self._end([self.ending])

    def _end(self, reasons: list[str]) -> None:
        """The connection is over, or there will be none. reasons: for the one who waits for it."""
        if self.is_over:
            return
        self.set_timer(0)
        lease, entry = self.dispatcher.lease, self.dispatcher.entry
        if self._owner.stream is None:
            self._owner.stop()
        if lease is not None:
            lease.end()
            self._is_settled = True
            bytes_in, bytes_out = self.moved()
            lease.destination.bytes_in += bytes_in
            lease.destination.bytes_out += bytes_out
        if entry is not None:
            entry.end(self.moved(), self.ending)
            self.dispatcher.entry = None
        self.end()
        # Breaks a cycle, so that memory is freed now and not by the garbage collector.
        self._owner.over = self._owner.first_sent = self._owner.first_received = nothing
        self._answer(Failure(NotConnected(f"service {self.service.ident}: {'; '.join(reasons)}")))

    def _answer(self, result: IProtocol | Failure) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(result)

    def _opened(self) -> None:
        """Never called: no client connects."""
