"""Base class of client connections: a stream, a state machine, a dispatcher, one timer, and perhaps a relay.

`dispatch/compiled.py` replaces some of its methods by compiled ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from ktcpvs.dispatch.client_limits import ClientLimits
from ktcpvs.dispatch.dispatcher import CLIENT_GONE, Dispatcher
from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.dispatch.trusted_proxies import peer_of
from ktcpvs.model import connection, exchange
from ktcpvs.model.scheduling import Choice, OwnResponse
from ktcpvs.model.service import COPY
from ktcpvs.relay.copy import CopyRelay
from ktcpvs.relay.engines import EngineRelay, Relay
from ktcpvs.relay.handover import Handover
from ktcpvs.streams.origin import Origin
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.transport import nothing
from ktcpvs.system import log as levels
from ktcpvs.system.timer_wheel import Timer

JOINED_STATES = (connection.RELAYING, exchange.SWITCHED)

# States and events that all tables have.
CLOSED = "closed"
WAITING_STATES = ("choosing", "queued")
DRAINED = "drain timeout"


def nothing_to_end(connection: ClientConnection) -> None:
    """Do nothing: the `on_end` of a connection that nobody counts."""


class ClientConnection(ABC):
    """One client connection of a service.

    client: the stream to the client. client_name: the client's address with its port. began: the wheel's tick at
    accept. last_activity: the tick at which bytes last came or the state last changed. state: see `table`. ending: why
    the connection ended, once that is known. dispatcher: selects its servers. limits: of its client address; None:
    there are none. relay: None until both sides are joined. is_over: both sides are closed. on_end: called then.
    handover: set while the relay copies and an engine may still take over.
    """

    table: ClassVar[dict[str, dict[str, str]]]
    """state -> event -> state."""

    descriptors: ClassVar[int]
    """The descriptors counted for the connection from accept on: the client's, and the server's if it has one server
    from beginning to end."""

    reserved: ClassVar[int] = 0
    """Descriptors that it may need later; the pool counts them when it takes them."""

    is_client: ClassVar[bool] = True
    """Whether it counts as a client (`maxclients`, `total`); a stream of a connection that counts itself does not."""

    __slots__ = (
        "_timer", "began", "client", "client_name", "context", "dispatcher", "ending", "handover", "is_over",
        "last_activity", "limits", "on_end", "relay", "service", "state",
    )  # fmt: skip

    def __init__(self, service: ServiceContext, client_name: str, client_host: str, state: str) -> None:
        self.service = service
        self.context = service.context
        self.client_name = client_name
        self.began = self.last_activity = self.context.wheel.now
        self.client = Stream(self._opened)
        self.dispatcher = Dispatcher(service, self, client_host)
        self.limits: ClientLimits | None = None
        self.relay: Relay | None = None
        self.handover: Handover | None = None
        self.state = state
        self.ending = ""
        self.is_over = False
        self.on_end: Callable[[ClientConnection], object] = nothing_to_end
        self._timer: Timer | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.client_name} of {self.service.ident}: {self.state}>"

    # For the running service and its views.

    @abstractmethod
    def moved(self) -> tuple[int, int]:
        """Return the bytes from the client and to it, so far."""

    @abstractmethod
    def unsettled(self) -> tuple[int, int]:
        """Return the part of `moved` that is not yet counted at the destination."""

    def idle_since(self) -> int:
        """The wheel's tick of the last activity."""
        return self.last_activity if self.relay is None else max(self.last_activity, self.relay.idle_since())

    def expire(self, event: str = DRAINED) -> None:
        """Close both sides now."""
        if self.state != CLOSED:
            self.transition(event)
        self.drop()

    @abstractmethod
    def retire(self) -> None:
        """The service has stopped listening: finish the current request, and accept no further one."""

    def retire_gently(self) -> None:
        """As `retire`, but an idle client may send one more request, which may already be on its way."""
        self.retire()

    @abstractmethod
    def end_relayed(self) -> None:
        """The connection shall leave its server: end what is relayed in the way of its protocol, where the switch can.
        Requests finish."""

    @property
    def can_close(self) -> bool:
        """Whether `end_relayed` tells the client that it shall connect again."""
        return False

    @property
    def can_reset(self) -> bool:
        """Whether it is relayed, and so stays at its server until a side ends it. The switch can only reset it, unless
        it also `can_close`."""
        return False

    @abstractmethod
    def rearm(self) -> None:
        """A timeout has changed."""

    def take_over(self, stream: Stream, first: bytes) -> None:
        """Serve the client over a stream that is already open. first: the bytes that it has sent so far."""
        self.client = stream
        stream.made = stream.dataReceived = stream.ended = stream.lost = nothing
        self._opened()
        if first:
            stream.dataReceived(first)

    # Implemented by the kinds of client connections.

    @abstractmethod
    def _opened(self) -> None:
        """The stream is connected."""

    @abstractmethod
    def serve(self, choice: Choice) -> None:
        """Connect to the chosen server, whose lease has begun."""

    @abstractmethod
    def restore_timer(self) -> None:
        """Start the timer of the current state, where the state has one."""

    @abstractmethod
    def fail(self, status: int, reason: str, retry_after: int = 0, *, why: str = "") -> None:
        """Refuse the request with an HTTP status. retry_after: seconds; 0: no such field. why: the reason as words of
        `model/why.py`; "": that of the status."""

    @abstractmethod
    def respond(self, response: OwnResponse) -> None:
        """Respond as a rule says, without a server."""

    @abstractmethod
    def drop(self) -> None:
        """Reset both sides."""

    # Shared by all kinds.

    def transition(self, event: str) -> None:
        """Change the state by the table. Raises KeyError for an event that the state does not have, which is a bug."""
        before = self.state
        self.state = after = self.table[before][event]
        self.last_activity = self.context.wheel.now
        if after == CLOSED:
            if not self.ending:
                self.ending = event
            if self.handover is not None:
                self.handover.cancel()
                self.handover = None
        if self.dispatcher.is_waiting and after not in WAITING_STATES:
            self.dispatcher.stop_waiting()
        log = self.context.log
        if log.level >= levels.STATE:
            form = "{client}: {before}, {event}: {after}"
            log.event(levels.STATE, form, client=self.client_name, before=before, event=event, after=after)

    def identify(self, lines: bytes) -> None:
        """Find the client of a request, whose header lines these are: a trusted proxy may tell another address than
        that of the connection. Raises BadRequest."""
        self.dispatcher.request.client = self.service.proxies.client_of(peer_of(self.client_name), lines)

    @property
    def is_denied(self) -> bool:
        """Whether `deny` names the client that a trusted proxy has told for the current request."""
        service = self.service
        return service.proxies.is_used and service.admission.denies(self.dispatcher.request.client)

    def forget_proxies(self) -> None:
        """The service has no trusted proxies any more: the client is the one that has connected."""
        self.dispatcher.request.client = peer_of(self.client_name)

    def set_timer(self, seconds: float, due: Callable[[], object] | None = None) -> None:
        """Restart the connection's one timer: call `due` after `seconds`; None: no timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.context.wheel.after(seconds, due) if due is not None else None

    def is_client_gone(self) -> bool:
        """Return whether the client has disconnected, even if that was not read yet. With `abort_on_close = on` a FIN
        counts."""
        client = self.client
        return client.is_gone() or (self.service.config.abort_on_close == "on" and client.has_ended())

    def origin(self) -> Origin:
        """Return who the client is, for servers that are told so."""
        client, request = self.client, self.dispatcher.request
        host, called = request.client, client.called or client.local_address
        if not host:
            return Origin(server_name=request.server_name, tls=client.tls)
        # A stage may have found the address of a client on a unix socket, but not the one that the client has called.
        # Nor does a trusted proxy: the client may be of another family than the address that the proxy has called.
        target: tuple[str, int] = ("::" if ":" in host else "0.0.0.0", 0)
        if isinstance(called, tuple) and (":" in called[0]) == (":" in host):
            target = called[0], called[1]
        port_text = self.client_name.rpartition(":")[2]
        # The port of a client behind a trusted proxy is unknown.
        port = int(port_text) if peer_of(self.client_name) == host else 0
        return Origin((host, port), target, request.server_name, client.tls)

    def join_by_copying(self) -> None:
        """Both sides are joined by a relay that no engine takes over from."""
        self.service.relay.joined[COPY] += 1

    def join(self, relay: CopyRelay) -> None:
        """Join both sides by `relay`. The service's engine takes over at once, or when the connection turns out to be
        bulk."""
        choice = self.service.relay
        choice.joined[COPY] += 1
        if choice.engine == COPY or self.state == CLOSED:
            return
        client, server = relay.inward.source, relay.outward.source
        if choice.waits_for_bulk and client.reports_bulk and server.reports_bulk:
            client.bulk_detected = server.bulk_detected = self._bulk_detected
        else:
            self.handover = Handover(self, relay, relay.finished, choice.after, self.context)

    def _bulk_detected(self) -> None:
        """One side has sent much at once: an engine may take over. Most connections never come here, and need no
        hand-over."""
        relay = self.relay
        if isinstance(relay, CopyRelay) and self.handover is None and self.wanted_engine() != COPY:
            self.handover = Handover(self, relay, relay.finished, self.service.relay.after, self.context)
            self.handover.bulk_detected()

    def retry_after(self, status: int, seconds: int) -> int:
        """Return the value of Retry-After: `seconds`, or the setting for a refusal with 503; 0: none."""
        return seconds or (self.context.settings.retry_after if status == 503 else 0)

    # For the hand-over to a relay engine.

    def wanted_engine(self) -> str:
        """Return the name of the service's current relay; COPY if the connection is ending."""
        return self.service.relay.engine if self.state in JOINED_STATES else COPY

    def set_relay(self, relay: CopyRelay | EngineRelay) -> None:
        """Replace the relay that carries the bytes."""
        self.relay = relay

    def handed_over(self, engine: str) -> None:
        """The engine has taken over."""
        self.handover = None
        joined = self.service.relay.joined
        joined[COPY] -= 1
        joined[engine] += 1

    def handover_failed(self, engine: str, error: OSError) -> None:
        """The engine could not be started: keep copying."""
        form = "service {ident}: {client} is not relayed by {engine}: {why}"
        values = {"ident": self.service.ident, "client": self.client_name, "engine": engine}
        self.context.log.event(levels.NON_FATAL, form, why=error.strerror or str(error), **values)

    def handover_ended(self) -> None:
        """The connection will be copied until it ends."""
        self.handover = None

    def end(self) -> None:
        """Both sides are closed: report the end. Called once."""
        self.is_over = True
        self.on_end(self)
        self.on_end = nothing_to_end  # breaks a cycle, so that memory is freed now and not by the garbage collector
        self.dispatcher.detach()


__all__ = ["CLIENT_GONE", "CLOSED", "DRAINED", "ClientConnection"]
