"""A virtual service that runs or drains: its listeners, scheduler, destinations and connections."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from operator import methodcaller
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred

from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.dispatch.client_limits import ClientLimits
from ktcpvs.dispatch.selection import Selector
from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.health.service_health import ServiceHealth
from ktcpvs.http.head_cache import HeadCache
from ktcpvs.http.http2_stream_connection import HTTP2StreamConnection
from ktcpvs.http.server_connections import ServerConnections
from ktcpvs.http.service import HTTPService
from ktcpvs.http.stream_server_connections import StreamServerConnections
from ktcpvs.interfaces import CONNECTION, EACH_REQUEST, IWatches
from ktcpvs.model.address import Address
from ktcpvs.model.check import Check
from ktcpvs.model.destination import NO_LABELS, Destination
from ktcpvs.model.options import OFF
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.service import VirtualService
from ktcpvs.model.tls_hosts import ForeignHosts
from ktcpvs.protocols.forwarding import HTTP, HTTPS
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import StreamDescriptors
from ktcpvs.services.check_connectors import CheckConnectors
from ktcpvs.services.client_factory import ClientFactory
from ktcpvs.services.client_room import ClientRoom
from ktcpvs.services.draining import Draining
from ktcpvs.services.http2_clients import HTTP2Clients
from ktcpvs.services.listener import Accepted, Listener
from ktcpvs.services.open_connections import OpenConnections
from ktcpvs.services.preambles import Preambles
from ktcpvs.services.prepared import Prepared
from ktcpvs.services.rebalancing import Rebalancing
from ktcpvs.services.service_listeners import ServiceListeners
from ktcpvs.services.service_scheduler import ServiceScheduler
from ktcpvs.services.tls_profiles import HTTP_PROTOCOLS, ServiceTLS
from ktcpvs.streams.accept import adopt_descriptor, client_name
from ktcpvs.streams.compiled import IS_COMPILED
from ktcpvs.streams.connector import ConnectionOptions, Connector
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.streams.preamble import Stage
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.tls_stage import TLSStage
from ktcpvs.system import log as levels
from ktcpvs.system.sockets import close_descriptor_with_reset
from ktcpvs.tcp.preconnections import Preconnections

MAX_WATCHERS = 8
"""The most watchers of one server, in a service with many rules that have many servers. Rules beyond that notice a
changed load only at their next choice."""

LATE_CLOSE_DELAY = 3.0
"""Seconds for which a socket stays open that another process does not take over: the kernel retransmits a lost SYN-ACK
after one second, and after two more."""


class RunningService:
    """A service that runs or drains.

    context: what all of the process shares. traffic: the collaborators of its connections. config: as it runs.
    destinations: its servers by address. leaving: deleted servers whose connections drain. server_connections: of a
    service that is switched request by request, for clients of HTTP/1. stream_connections: those for streams of HTTP/2.
    preconnections: of one whose clients are relayed as a whole. cache,
    tls_cache: its parsed heads, of clients without TLS and with it. health: of its servers. clients: the number of its
    clients in all processes. preambles: its clients that are still in their preamble. http2_clients: its HTTP/2
    connections, whose streams are among the connections. connections: those that are open, which `count_in` counts.
    scheduler: what chooses its servers. rebalancing: moves connections off servers with more than their share.
    """

    def __init__(self, context: Context, config: VirtualService) -> None:
        self.context = context
        self.config = config
        self.traffic = ServiceContext(context, config, CONNECTION)
        self.destinations: dict[Address, Destination] = {}
        self.leaving: dict[Address, Destination] = {}
        self.scheduler = ServiceScheduler(context, config.ident)
        self._listeners = ServiceListeners(self.traffic, self._room_at, self._accept_at)
        self.clients = context.counters.clients(config.ident)
        self.open_connections = OpenConnections(self.traffic, self.clients, self._left)
        self.connections = self.open_connections.all
        self.count_in = self.open_connections.count_in
        streams = StreamDescriptors(context.descriptors)
        self.server_connections = ServerConnections(context, lambda: self.traffic.settings)
        self.stream_connections = StreamServerConnections(context, lambda: self.traffic.settings, streams)
        self.preconnections = Preconnections(self.traffic, self._find_poller)
        self.cache, self.tls_cache = HeadCache(HTTP), HeadCache(HTTPS)
        self._http2_caches = HeadCache(HTTP, is_http2=True), HeadCache(HTTPS, is_http2=True)
        self.health = ServiceHealth(context, self.traffic.selector, self.traffic.queue)
        self._http = HTTPService(self.traffic, self.server_connections, self.cache)
        https = HTTPService(self.traffic, self.server_connections, self.tls_cache)
        self.preambles = Preambles(context, config.ident, self.clients, self.traffic.admission, self._build, self._left)
        self.http2_clients = HTTP2Clients(
            self.traffic, self.clients, self._left, self.open_connections, self._find_poller, streams
        )
        self._http.begin_http2 = https.begin_http2 = self._begin_http2
        http2, http2_tls = (
            HTTPService(self.traffic, self.stream_connections, cache, is_http2=True) for cache in self._http2_caches
        )
        self._without_tls = self._http, http2
        self._with_tls = https, http2_tls
        self._all_http = self._http, https, http2, http2_tls
        self.client_factory = ClientFactory(self._http, https, self.count_in, self.preambles, (http2, http2_tls))
        self.traffic.server_failed = self.health.failed
        self._draining = Draining(self.traffic, self.connections, self.preambles, self.http2_clients)
        self.rebalancing = Rebalancing(self.traffic, self.connections, self.scheduler, self._draining.spread)
        self.health.observe_down(self._draining.close_connections_of)
        self._room = ClientRoom(self.traffic, self.clients, self.preambles, self._listeners.resume)
        self.traffic.room_needed = self._room.needed
        self._is_deleted = False
        self._is_handed_over = False
        self._stages: Mapping[Address, Sequence[Stage]] = {}
        self._foreign_hosts: ForeignHosts | None = None
        self._check_connectors = CheckConnectors(self.traffic)

    def __repr__(self) -> str:
        return f"<RunningService {self.ident}: {self.active} connections, {len(self.destinations)} servers>"

    @property
    def ident(self) -> str:
        return self.config.ident

    @property
    def selector(self) -> Selector:
        return self.traffic.selector

    @property
    def usable(self) -> frozenset[Destination]:
        """All its servers."""
        return self.traffic.selector.usable

    @property
    def down(self) -> set[Destination]:
        """The servers that checks or errors have taken out of service."""
        return self.traffic.selector.down

    @property
    def checked_servers(self) -> frozenset[Destination]:
        """The servers whose health may be checked."""
        checked = self.usable - self.traffic.selector.in_maintenance
        if not self.traffic.started:
            return checked
        state = self.context.starter.state
        return frozenset([one for one in checked if one.address not in self.traffic.started or not state(one.address)])

    def check_connector(self, destination: Destination, check: Check) -> Connector:
        """See CheckConnectors.connector."""
        return self._check_connectors.connector(destination, check)

    def connector(self, destination: Destination) -> Connector:
        """The connector of one of its servers."""
        return self.traffic.connector(destination)

    def idle_connections(self, destination: Destination) -> int:
        """Return the number of connections to one of its servers that no client uses."""
        pools = self.server_connections.pool, self.stream_connections.pool
        return sum(pool.idle(destination) for pool in pools) + self.preconnections.idle(destination)

    @property
    def tls(self) -> ServiceTLS | None:
        """The profile that its listeners with TLS share; None: it has none."""
        for stage in chain.from_iterable(self._stages.values()):
            if isinstance(stage, TLSStage) and isinstance(stage.choice, ServiceTLS):
                return stage.choice
        return None

    @property
    def foreign_hosts(self) -> ForeignHosts | None:
        """The hosts whose requests by TLS are not served; None: there are none."""
        return self._foreign_hosts

    # Changes, called by the director alone.

    def refuse_hosts(self, foreign: ForeignHosts | None) -> None:
        """Serve no requests by TLS for these hosts from now on; None: there are none."""
        if foreign != self._foreign_hosts:
            self._foreign_hosts = foreign
            self.apply_settings()

    def follow_traces(self) -> None:
        """Let live traces of this process see the requests that begin from now on, where they are for them."""
        for log in (self.traffic.access_log, self.traffic.http2_access_log):
            log.follow_traces()
        self.apply_settings()  # since the head caches must know whether requests are noted

    def follow_challenges(self) -> None:
        """Answer the challenges of ACME that are pending in this process from now on."""
        pending = self.context.challenges.responses
        if (pending is None) == (self.traffic.challenges is None):
            self.traffic.challenges = pending
        else:
            self.apply_settings()  # since the head caches must know whether there are any

    def destinations_for(self, config: VirtualService) -> dict[Address, Destination]:
        """Return the destinations that `config` needs, existing and new ones. Changes nothing."""
        known = {**self.leaving, **self.destinations}
        return {
            server.address: known.get(server.address) or self._new_destination(config.ident, server)
            for server in config.servers
        }

    def _new_destination(self, ident: str, server: RealServer) -> Destination:
        destination = self.context.counters.destination(ident, server)
        destination.clock = self.context.monotonic
        return destination

    def adopt(self, prepared: Prepared) -> None:
        """Put a prepared configuration in force. Connections to servers that are gone drain."""
        config, destinations = prepared.config, prepared.destinations
        gone = {address: known for address, known in self.destinations.items() if address not in destinations}
        in_use = self._in_use
        for address, destination in destinations.items():
            self.leaving.pop(address, None)
            self._draining.keep(destination)
        self._keep_requests(known for known in gone.values() if not known.active)
        gone = {address: known for address, known in gone.items() if known.active}
        self.leaving.update(gone)
        has_other_schedulers = self.scheduler.replaces(prepared)
        self.scheduler.adopt(prepared)
        for server in config.servers:
            destination = destinations[server.address]
            destination.weight = destination.share = server.share
            destination.maxconn, destination.name = server.maxconn, server.name
            destination.freed = self.traffic.queue.freed if server.maxconn else None
            destination.max_pending = server.max_pending
            destination.labels = dict(server.labels) if server.labels else NO_LABELS
            if has_other_schedulers:
                destination.measure_no_more()
        traffic, unit = self.traffic, prepared.factory.unit
        traffic.body_prefix = getattr(prepared.factory, "body_prefix", 0)
        self.config = traffic.config = config
        traffic.started = frozenset([server.address for server in config.servers if server.start is not None])
        self._set_connection_options(prepared.connection_options)
        self.destinations, traffic.unit = destinations, unit
        self._stages = prepared.stages
        self.client_factory.stages = prepared.stages.get(config.address, ())
        usable = frozenset(destinations.values())
        self._check_connectors.configure(config, usable)
        redirect_before = traffic.selector.redirect
        traffic.selector.configure(config, prepared.scheduler, usable, self.scheduler.make_fallback)
        if redirect_before is not None and redirect_before is not traffic.selector.redirect:
            self._keep_requests([redirect_before])
        if gone:
            self._draining.end_leaving_later(gone.values())
        # The lines above only assign, so they cannot fail. The steps below call other parts or the system.
        self._step("admission", traffic.admission.configure, config, unit)
        self._step("trusted proxies", self._set_proxies, config, unit)
        for log in (traffic.access_log, traffic.http2_access_log):
            self._step("access log", log.configure, config)
        self._step("rates of rules", traffic.rule_rates.configure, config)
        self._step("own responses", traffic.own_responses.configure, config, prepared.response_files)
        self._step("health", self.health.configure, config, tuple(destinations.values()))
        self._step("watching schedulers", self._register_watchers, prepared.scheduler)
        redirect = traffic.selector.redirect
        kept = usable if redirect is None else usable | {redirect}
        self._step("idle connections", self._close_idle, kept)
        unused = traffic.selector.in_maintenance | {one for one in usable if not one.share}
        if unused:
            self._step("servers that are not used", self._retire_connections, unused)
        self._step("connectors", self._renew_connectors)
        self._step("settings", self.apply_settings)
        self._step("preconnections", self.preconnections.configure)
        self._listeners.change_accepted(prepared.stages)  # one that leaves keeps its stages, for its backlog
        self._listeners.resume()
        self._step("queue", traffic.queue.try_all)
        drained = {destination for destination, _ in in_use.difference(self._in_use)}
        self._step("drained servers", self._draining.end_relayed, drained, self._is_drained)

    def _close_idle(self, keep: frozenset[Destination] = frozenset()) -> None:
        """Close the idle connections to all servers but `keep`."""
        for connections in self.server_connections, self.stream_connections:
            connections.close(keep)

    def _retire_connections(self, destinations: Collection[Destination]) -> None:
        """Let the connections to these servers serve no further requests."""
        for connections in self.server_connections, self.stream_connections:
            connections.retire(destinations)

    def _is_drained(self, server: Destination) -> bool:
        """Whether a server gets no new clients, or no more sessions."""
        return server not in self.usable or not server.share or server in self.selector.in_maintenance

    @property
    def _in_use(self) -> frozenset[tuple[Destination, bool]]:
        """Its servers that get new clients, as (server, False), and those to which sessions may come, with True."""
        in_maintenance = self.selector.in_maintenance
        kept = [(one, True) for one in self.usable if one not in in_maintenance]
        return frozenset([*kept, *((one, False) for one in self.usable if one.share)])

    def _set_proxies(self, config: VirtualService, unit: str) -> None:
        proxies = self.traffic.proxies
        were_used = proxies.is_used
        proxies.configure(config, unit)
        if were_used and not proxies.is_used:
            for connection in self.connections:
                connection.forget_proxies()

    def _step(self, name: str, call: Callable[..., object], *arguments: Any) -> bool:
        """Take one step of a change that can no longer be refused."""
        return self.context.steps.run(f"service {self.ident}: {name}", call, *arguments)

    def _set_connection_options(self, options: Mapping[Address, ConnectionOptions]) -> None:
        before = self.traffic.connection_options
        # A request of a server that is gone may need one more connection, which must have the same TLS.
        leaving = {address: before[address] for address in self.leaving if address in before}
        self.traffic.connection_options = {**leaving, **options}

    def use_connection_options(self, options: Mapping[Address, ConnectionOptions]) -> None:
        """Connect to servers in this way from now on: files of TLS have changed. Connections in use continue."""
        self._set_connection_options(options)
        self._renew_connectors()

    def _renew_connectors(self) -> None:
        """Connect as the servers are configured now; connections that were made differently are not reused."""
        redirect = self.traffic.selector.redirect
        kept = self.usable if redirect is None else self.usable | {redirect}
        changed = self.traffic.renew_connectors(kept)
        if changed:
            self._retire_connections(changed)
            self.preconnections.retire(changed)

    def _accept_at(self, address: Address) -> Accepted:
        """Return the function that gets the descriptors accepted at that address.

        Without stages, nothing comes between accept and the client connection.
        """
        stages = self._stages.get(address, ())
        return partial(self._accepted_with_preamble, stages, address) if stages else self._accepted

    def _register_watchers(self, scheduler: Any) -> None:
        for destination in self.usable:
            destination.watchers = ()
        if IWatches.providedBy(scheduler):
            for destination, call in scheduler.watched():
                if len(destination.watchers) < MAX_WATCHERS:
                    destination.watchers += (call,)

    def delete(self) -> None:
        """The service is no longer in the table: free everything when its last connection has ended."""
        self._is_deleted = True
        if not self.connections and not self.preambles and not self.http2_clients:
            self.traffic.access_log.release()
            self.traffic.http2_access_log.release()

    def listen(self, socks: Mapping[Address, socket.socket]) -> None:
        """Accept clients from `socks` too, by address, and no longer at addresses that are not configured any more.
        Listeners at the other addresses are left alone."""
        new = self._listeners.replace(socks)
        self._draining.cancel()
        self._listeners.start(new)
        self._step("preconnections", self.preconnections.start)

    def _room_at(self, listener: Listener, address: Address) -> int:
        return self._room.left(listener, address if self._stages.get(address) else None)

    def resume_listeners(self) -> None:
        """There may be room for clients again."""
        self._listeners.resume()

    @property
    def listeners(self) -> Mapping[Address, Listener]:
        """The listeners that accept, by address."""
        return self._listeners.at

    @property
    def retired(self) -> Sequence[Deferred[None]]:
        """See ServiceListeners."""
        return self._listeners.retired

    @property
    def active(self) -> int:
        """The number of open client connections. One with HTTP/2 counts once, however many streams it has."""
        return sum(connection.is_client for connection in self.connections) + len(self.http2_clients)

    @property
    def living(self) -> int:
        """The number of open client connections, those in their preamble included; a socket that stays open after a
        hand-over counts as one. 0: nothing is left, not even a stream whose connection is over."""
        open_ones = self.active + len(self.preambles) or len(self.connections)
        return open_ones + (len(self._listeners.at) if self._is_handed_over else 0)

    @property
    def has_living(self) -> bool:
        """Whether `living` is not 0, which takes no time: each connection that ends while the service drains asks, and
        25,000 streams may end in one turn."""
        has_clients = bool(self.connections or len(self.http2_clients) or len(self.preambles))
        return has_clients or (self._is_handed_over and bool(self._listeners.at))

    def hand_over(self, late: Collection[Address] = ()) -> None:
        """Another process accepts clients from now on. Connections may finish until the drain timeout; an idle client
        may send one more request, and so may a client that completes its preamble. late: the addresses whose socket
        the other process has not taken, and to which the kernel assigns no more clients."""
        if self._is_handed_over:
            return
        self._is_handed_over = True
        self._listeners.close_retiring()
        for address, listener in list(self._listeners.at.items()):
            if address in late:
                self.context.reactor.callLater(LATE_CLOSE_DELAY, self._close_late, address, listener)
            else:
                self._listeners.release(address)
        self._let_drain(methodcaller("end_relayed"))

    def _close_late(self, address: Address, listener: Listener) -> None:
        self._listeners.close_one(address, listener)
        self._let_drain(methodcaller("end_relayed"))

    def stop(self) -> None:
        """Close the listener; connections may finish until the drain timeout. Those in their preamble are reset."""
        if self._is_handed_over:
            return
        self._listeners.close_retiring()
        if self._listeners.at:
            self._listeners.close()
            self.context.log.event(
                levels.DAEMON,
                "service {ident} stopped, {n} connections drain",
                ident=self.ident,
                n=self.active,
            )
        self.preambles.close()
        self.health.stop()
        self._let_drain(methodcaller("retire"))

    def _let_drain(self, part: Callable[[ClientConnection], object]) -> None:
        """Let the connections finish, and close those that no client uses. part: called with each connection."""
        self.rebalancing.stop()
        self._draining.begin(part)
        self._step("idle connections", self._close_idle)
        self._step("preconnections", self.preconnections.stop)

    def settings_changed(self) -> None:
        """Apply changed settings to the backlog and to all that the service takes from them."""
        self._listeners.set_backlog(self.context.settings.max_backlog)
        self._step("settings", self.apply_settings)

    def apply_settings(self) -> None:
        """Clear the head caches, choose the relay again and apply changed timeouts to open connections: settings or
        options have changed."""
        config, traffic = self.config, self.traffic
        before, traffic.settings = traffic.settings, config.settings_from(self.context.settings)
        settings = traffic.settings
        self.selector.scheduler = self.scheduler.within_budget(config, settings)
        is_enabled = self.context.log.level < levels.SCHEDULING
        logs = traffic.access_log.writer is not None
        traffic.challenges = self.context.challenges.responses
        has_challenges = traffic.challenges is not None
        for http in self._all_http:
            http.edits.configure(config)
        # Unlike the fast path of a request, the general way knows redirects to HTTPS and certificates of clients.
        has_proxies, reads_bodies, foreign = traffic.proxies.is_used, traffic.body_prefix > 0, self._foreign_hosts
        for http in self._without_tls:
            http.https_port = config.https_port
        for http in self._with_tls:
            http.foreign_hosts = self._foreign_hosts
        for cache, tls_cache in ((self.cache, self.tls_cache), self._http2_caches):
            has_plain = is_enabled and config.https_port is None
            cache.configure(config, settings, has_plain, logs, has_proxies, None, has_challenges, reads_bodies)
            has_plain = is_enabled and config.client_cert_header == OFF
            tls_cache.configure(config, settings, has_plain, logs, has_proxies, foreign, has_challenges, reads_bodies)
        traffic.relay.configure(self.context, config)
        self._listeners.set_keep_alive()
        for connection in list(self.connections) if settings != before else ():
            self._step("timeouts", connection.rearm)

    def end_all(self) -> None:
        """End every connection now."""
        self._draining.end_all()

    # Clients.

    def _find_poller(self) -> SocketPoller | None:
        """Watches the bare sockets of clients; None: the reactor's own transports serve connections that are switched
        by request faster."""
        is_bare = IS_COMPILED or self.traffic.unit != EACH_REQUEST
        return self.context.relays.poller if is_bare else None

    def _accepted(self, descriptor: int, family: int, peer: Any) -> None:
        """Admit one client and serve it. A rejected one is reset; one whose connection is over already, or which an
        error ends, is counted out again. An error affects only this client."""
        connection = self.client_factory.build(peer)
        if connection is None:
            close_descriptor_with_reset(descriptor, family)
            return
        client = connection.client
        try:
            adopt_descriptor(self.context.reactor, descriptor, family, peer, client, self._find_poller())
        except Exception:
            self.context.log.failure("service {ident}: {client} lost", ident=self.ident, client=connection.client_name)
            client.abort()
        if not client.is_open:
            self.open_connections.count_out(connection)

    def _accepted_with_preamble(
        self, stages: Sequence[Stage], at: Address, descriptor: int, family: int, peer: Any
    ) -> None:
        """Let one client go through the stages of its preamble; `_build` serves it when they are complete. A rejected
        one is reset."""
        preamble = self.preambles.begin(stages, peer, at)
        if preamble is None:
            close_descriptor_with_reset(descriptor, family)
            return
        stream = preamble.stream
        try:
            adopt_descriptor(self.context.reactor, descriptor, family, peer, stream, self._find_poller())
        except Exception:
            self.context.log.failure("service {ident}: {client} lost", ident=self.ident, client=client_name(peer)[0])
            stream.abort()
        if not stream.is_open:
            self.preambles.gone(preamble)

    def _build(self, peer: Any, slot: int, stream: Stream) -> ClientConnection:
        """Build the connection of a client that has completed its preamble. peer: the address that the stages found.
        slot: where that address counts."""
        connection = self.client_factory.build_admitted(peer, slot, stream)
        if self._is_handed_over:
            connection.retire_gently()
        return connection

    def _begin_http2(self, stream: Stream, peer: Any, limits: ClientLimits | None, first: bytes) -> None:
        """A client that was accepted turns out to speak HTTP/2. limits: of its address. first: the bytes that it has
        sent."""
        # What servers with `proxy v2` are told of ALPN is the protocol that follows on their connection.
        tls = stream.tls and evolve(stream.tls, alpn=HTTP_PROTOCOLS[0])

        def build() -> HTTP2StreamConnection:
            return self.client_factory.build_stream(peer, tls, limits, stream.called)

        self.http2_clients.begin(stream, client_name(peer), limits, first, build, self._is_handed_over)

    def _keep_requests(self, forgotten: Iterable[Destination]) -> None:
        """Count the requests of servers that are forgotten from now on."""
        self.traffic.counters.requests += sum(destination.total for destination in forgotten)

    @property
    def requests(self) -> int:
        """The requests of this service in this process: those that its servers got, also the deleted ones, and those
        that the switch responded to itself. With a scheduler that chooses for connections: 0."""
        if self.traffic.unit != EACH_REQUEST:
            return 0
        redirect = self.traffic.selector.redirect
        counted = [*self.destinations.values(), *self.leaving.values(), *([] if redirect is None else [redirect])]
        return self.traffic.counters.requests + sum(destination.total for destination in counted)

    def _left(self) -> None:
        """A client is gone: accept another one, or finish to drain."""
        if self.leaving:  # deleted servers, which are forgotten when their last connection has ended
            self._keep_requests(gone for gone in self.leaving.values() if not gone.active)
            self.leaving = {address: gone for address, gone in self.leaving.items() if gone.active}
        listeners = self._listeners.at
        if listeners:
            for listener in listeners.values():
                if not listener.is_reading:
                    listener.resume()
        elif not self.has_living:
            self._draining.finish()
            if self._is_deleted:
                self.delete()
