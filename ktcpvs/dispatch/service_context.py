"""The collaborators that the client connections of one service share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from ktcpvs.dispatch.admission import Admission
from ktcpvs.dispatch.own_responses import OwnResponses
from ktcpvs.dispatch.queue import Queue, Waiter
from ktcpvs.dispatch.rule_rates import RuleRates
from ktcpvs.dispatch.selection import Selector
from ktcpvs.dispatch.service_access_log import ServiceAccessLog
from ktcpvs.dispatch.trusted_proxies import TrustedProxies
from ktcpvs.interfaces import EACH_REQUEST
from ktcpvs.model.address import Address, Unix
from ktcpvs.model.destination import Destination
from ktcpvs.model.service import AUTO, COPY, RELAYS, VirtualService
from ktcpvs.relay.body_relay import BodyRelay
from ktcpvs.runtime.context import Context
from ktcpvs.streams.connector import PLAIN, ConnectionOptions, Connector
from ktcpvs.streams.starting_connector import StartingConnector
from ktcpvs.streams.stream import Stream
from ktcpvs.system import log as levels

CLIENTS_SPEAK_TLS, SERVERS_SPEAK_TLS = "all clients speak TLS", "all servers speak TLS"
"""The reason why the connections of a service are copied: only this process can encrypt."""


def no_preconnection(destination: Destination) -> Stream | None:
    """Return None: the `take_preconnected` of a service without connections that are made ahead."""
    return None


class TrafficCounters:
    """Counters of the traffic of one service. total: client connections accepted, without the streams of HTTP/2.
    refused: requests and connections that got no server. refusals: HTTP status -> number of clients refused with it.
    redirected: HTTP status -> number of requests that `https_only` has redirected. requests: those that no server of
    the service counts: the switch has responded itself, or the server is deleted. broken_responses: HTTP responses
    that ended before their end, by no doing of their clients. ended_in, ended_out: bytes of connections that have
    ended."""

    __slots__ = (
        "broken_responses", "ended_in", "ended_out", "redirected", "refusals", "refused", "requests", "total",
    )  # fmt: skip

    def __init__(self) -> None:
        self.total = 0
        self.refused = 0
        self.refusals: dict[int, int] = {}
        self.redirected: dict[int, int] = {}
        self.requests = 0
        self.broken_responses = 0
        self.ended_in = 0
        self.ended_out = 0


class RelayChoice:
    """The relay engine that joins the connections of a service.

    engine: the relay's name. reason: why it is not the configured or the best one; "" when it is. after: seconds of
    copying before the engine takes over. waits_for_bulk: whether it takes over only connections with much at once, of
    which most transports tell; False: all connections. joined: relay -> connections that it carries or has carried to
    their end. bodies: moves long HTTP bodies; None: they are copied.
    """

    __slots__ = ("after", "bodies", "engine", "joined", "reason", "waits_for_bulk")

    def __init__(self) -> None:
        self.engine, self.reason = COPY, ""
        self.after = 0
        self.waits_for_bulk = False
        self.bodies: BodyRelay | None = None
        self.joined = {relay: 0 for relay in reversed(RELAYS) if relay != AUTO}

    def configure(self, context: Context, config: VirtualService) -> None:
        """Choose the engine for a configuration and the current settings."""
        settings, before = context.settings, self.reason
        self.engine, self.reason = context.relays.in_use(config.relay, settings.zerocopy_send, _has_tcp(config))
        if self.engine != COPY and all(listener.is_tls for listener in config.listen):
            self.engine, self.reason = COPY, f"{self.engine}: {CLIENTS_SPEAK_TLS}"
        if self.engine != COPY and config.servers and all(server.tls is not None for server in config.servers):
            self.engine, self.reason = COPY, f"{self.engine}: {SERVERS_SPEAK_TLS}"
        self.bodies = context.relays.body_relay(self.engine)
        self.after = settings.relay_after if config.relay == AUTO else 0
        self.waits_for_bulk = self.after > 0 and settings.relay_rate > 0
        if config.relay != AUTO and self.reason not in ("", before):
            context.log.warn("service {ident} copies: {why}", ident=config.ident, why=self.reason)


class ServiceContext:
    """The collaborators of one service's connections.

    unit: of the scheduler. settings: in force for this service. server_failed: called with a server and a reason when
    a connection or request has failed by that server's fault. room_needed: called when a client begins to wait for
    room. make_connector: makes the connector of a server as it is configured now. connection_options: address -> how
    connections to that server are made, where they are not plain. started: the servers that are started on demand.
    take_preconnected: returns an open stream to a server for a client that is relayed as a whole; None: the client must
    connect. challenges: the path of a request -> the response to a challenge of ACME; None: none is pending.
    body_prefix: the bytes of bodies that the scheduler wants to see; 0: none.
    """

    __slots__ = (
        "_connectors", "access_log", "admission", "body_prefix", "challenges", "config", "connection_options",
        "context", "counters", "http2_access_log", "make_connector", "own_responses", "proxies", "queue", "relay",
        "room_needed", "rule_rates", "selector", "server_failed", "settings", "started", "take_preconnected", "unit",
    )  # fmt: skip

    def __init__(self, context: Context, config: VirtualService, unit: str) -> None:
        self.context = context
        self.config = config
        self.settings = config.settings_from(context.settings)
        self.unit = unit
        self.selector = Selector(context, config)
        self.queue = Queue()
        self.proxies = TrustedProxies()
        self.admission = Admission(context, config.ident, self.proxies)
        self.access_log = ServiceAccessLog(context)
        self.http2_access_log = ServiceAccessLog(context, is_http2=True)
        self.counters = TrafficCounters()
        self.own_responses = OwnResponses()
        self.rule_rates = RuleRates(context, config.ident)
        self.relay = RelayChoice()
        self.connection_options: Mapping[Address, ConnectionOptions] = {}
        self._connectors: dict[Destination, Connector] = {}
        self.started: frozenset[Address] = frozenset()
        self.make_connector: Callable[[Destination], Connector] = self._make_connector
        self.server_failed: Callable[[Destination, str], object] = lambda destination, reason: None
        self.room_needed: Callable[[], object] = lambda: None
        self.take_preconnected: Callable[[Destination], Stream | None] = no_preconnection
        self.body_prefix = 0
        self.challenges: Mapping[bytes, bytes] | None = None

    def __repr__(self) -> str:
        return f"<service {self.ident}, {self.config.scheduler_name}>"

    @property
    def ident(self) -> str:
        return self.config.ident

    def connector(self, destination: Destination) -> Connector:
        """Return the connector of a server: the only way to connect to it, for traffic and for health checks."""
        found = self._connectors.get(destination)
        if found is None:
            found = self._connectors[destination] = self.make_connector(destination)
        return found

    def _make_connector(self, destination: Destination) -> Connector:
        address, reactor = destination.address, self.context.reactor
        options = self.connection_options.get(address, PLAIN)
        if address in self.started:
            want = self.context.starter.want
            return StartingConnector(reactor, address, lambda: self.settings.connect_timeout, options, want=want)
        return Connector(reactor, address, lambda: self.settings.connect_timeout, options)

    def renew_connectors(self, destinations: Collection[Destination]) -> frozenset[Destination]:
        """Make the connectors of these servers anew, as they are configured now, and drop those of other servers;
        connection attempts in progress continue. One with the same key is kept, since it may have a session of TLS.

        Returns the servers whose connections must not be reused: their connector has another key, or is dropped (they
        may be added again with another one).
        """
        before = self._connectors
        now = {one: self.make_connector(one) for one in before if one in destinations}
        kept = {one: old for one, old in before.items() if one in now and now[one].key == old.key}
        self._connectors = {**now, **kept}
        return frozenset(before).difference(kept)

    def wait_for_room(self, waiter: Waiter, chosen: Destination) -> None:
        """Put a request into the queue. chosen: the full server that was chosen for it."""
        self.queue.enter(waiter, chosen)
        self.room_needed()

    def note_server_fault(self, destination: Destination, reason: str) -> None:
        """Log, at every level, why a server cannot be used as it is configured: one line a minute for each reason."""
        form = "service {ident}: servers fail, as {server}: {reason}"
        self.context.log.fault(form, self.ident, reason, server=destination.address)

    def note_http2_refusal(self, client_name: str, reason: str) -> None:
        """Count and log a client of HTTP/2 that the service does not serve: as `note_refusal`, and one line a minute at
        every level."""
        self.note_refusal(client_name, 505, reason)
        if self.unit == EACH_REQUEST:
            why = f"http2 = {self.config.http2}"
        else:
            why = f"scheduler {self.config.scheduler_name} reads HTTP/1 only; phttp and chttp read both"
        form = "service {ident}: clients are refused that begin with HTTP/2, as {client}: {reason}"
        self.context.log.fault(form, self.ident, why, client=client_name)

    def note_refusal(self, client_name: str, status: int, reason: str) -> None:
        """Count and log a request that the switch refuses itself. status: of HTTP."""
        if status == 429:
            self.admission.limited += 1
        else:
            self.counters.refused += 1
        refusals = self.counters.refusals
        refusals[status] = refusals.get(status, 0) + 1
        form = "service {ident}: {client} refused: {status} {why}"
        log = self.context.log
        log.event(levels.NON_FATAL, form, ident=self.ident, client=client_name, status=status, why=reason)

    def note_redirect(self, client_name: str, status: int, reason: str) -> None:
        """Count and log a request that `https_only` redirects, which is no refusal. status: of HTTP."""
        redirected = self.counters.redirected
        redirected[status] = redirected.get(status, 0) + 1
        form = "service {ident}: {client} redirected: {status} {why}"
        log = self.context.log
        log.event(levels.SCHEDULING, form, ident=self.ident, client=client_name, status=status, why=reason)


def _has_tcp(config: VirtualService) -> bool:
    """Return whether there may be connections with TCP on both sides."""
    servers = config.servers
    some = not servers or any(not isinstance(server.address, Unix) for server in servers)
    return some and config.has_tcp_listener
