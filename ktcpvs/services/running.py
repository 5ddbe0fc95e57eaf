"""One virtual service that runs, or ran and drains: its listener, its scheduler, its destinations, its connections."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Iterable
from operator import methodcaller
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ktcpvs.dispatch.access_log import AccessLogJournal
from ktcpvs.dispatch.admission import Admission
from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.dispatch.queue import Queue
from ktcpvs.dispatch.selection import Selector
from ktcpvs.health.service_health import ServiceHealth
from ktcpvs.http.head_cache import REQUEST_REMEMBERED, REQUESTS_MAX, CachedHead, CachedRequest
from ktcpvs.http.pool import Pool
from ktcpvs.interfaces import CONNECTION, IBindsInSteps, IWatches
from ktcpvs.model.address import Address, Unix
from ktcpvs.model.clients import NOWHERE
from ktcpvs.model.destination import Destination
from ktcpvs.model.retries import RetryBudget
from ktcpvs.model.scheduling import ServiceView
from ktcpvs.model.service import AUTO, COPY, KERNEL, NO_LOG, SPLICE, VirtualService
from ktcpvs.protocols.forwarding import FIELDS, Forwarding
from ktcpvs.runtime.context import Context
from ktcpvs.services.listener import Listener
from ktcpvs.services.prepared import Prepared
from ktcpvs.services.rate_limits import new_client
from ktcpvs.streams.accept import carry
from ktcpvs.system import log as levels
from ktcpvs.system.access_log_files import AccessLog
from ktcpvs.system.periodic import PeriodicJob
from ktcpvs.system.timer_wheel import Timer

WATCHERS_MAX = 8
"""How many rules with many servers are told of each change of one server's load; the others find out when they look."""


MANY_RULES = 1000
"""A service of more rules takes a few milliseconds just to be looked at."""

LATE = 3.0
"""Seconds that a socket which another process does not take over is listened on: a lost SYN-ACK is sent again after one
second, and after two more."""

LOOK_AGAIN = 0.05
"""Seconds between two looks for room that another process may have made."""


class RunningService(Selector):
    """config: as it runs. destinations: its servers by address; usable: the same. down: those that are not up;
    never changed, but replaced. leaving: deleted servers whose connections drain. queue: who waits for room at a
    server. gate: who comes in. journal: its access log; None: it has none. head_size, uri_size, first_byte_timeout:
    what holds here. is_quick: nobody wants to know every step of a request. forwards: servers are told of clients.
    known: header lines, with `0` in front for HTTP/1.0, and the client's address where it forwards; and what they
    say. requests: whole requests that came before. engine: the name of the relay that serves; engine_why: why it is not
    the one asked for or the best one, or ""; engine_after: how many seconds a connection is relayed by copying first.
    joined: relay -> how many connections it carries, or has carried to their end; those that it gave away are not its.
    retired: fires when the listener before is closed; None: there was none on the same port.

    total: client connections accepted. refused: those that got no server; refusals: which status they got.
    ended_in, ended_out: bytes of connections that have ended.
    """

    def __init__(self, context: Context, config: VirtualService) -> None:
        self.context = context
        self.config = config
        self.destinations: dict[Address, Destination] = {}
        self.leaving: dict[Address, Destination] = {}
        self.redirect: Destination | None = None
        self.unit = CONNECTION
        self.factory: Any = None
        self.scheduler: Any = None
        self.queue = Queue()
        self.gate = Admission(context, config.ident)
        self.journal: AccessLogJournal | None = None
        self.head_size = self.uri_size = self.first_byte_timeout = 0
        self.is_quick = False
        self.engine, self.engine_why = COPY, ""
        self.engine_after = 0
        self.joined = dict.fromkeys((COPY, SPLICE, KERNEL), 0)
        self._access_log: AccessLog | None = None
        self._is_deleted = False
        self._is_handed_over = False
        self._looks = PeriodicJob(context.reactor, self._looked, self._look_failed, LOOK_AGAIN)
        self.listener: Listener | None = None
        self.retired: Deferred[None] | None = None
        self._retiring: Listener | None = None  # which another one follows
        self.connections: set[ClientConnection] = set()
        self.clients = context.counters.clients(config.ident)
        self.pool = Pool(context)
        self.forwarding = Forwarding({})
        self.forwards = False
        self.known: dict[Any, CachedHead] = {}
        self.requests: dict[bytes, CachedRequest] = {}
        self.total = 0
        self.refused = 0
        self.refusals: dict[int, int] = {}
        self.retries = RetryBudget()
        self.ended_in = 0
        self.ended_out = 0
        self.usable: frozenset[Destination] = frozenset()
        self.down: set[Destination] = set()
        self.health = ServiceHealth(self)
        self._seen: ServiceView | None = None
        self._limited: tuple[Destination, ...] = ()
        self._fallback: Callable[[], Any] | None = None  # makes the fallback scheduler when it is needed first
        self._bound_fallback: Any = None
        self._drain: Timer | None = None

    # Changes, called by the director alone.

    def destinations_for(self, config: VirtualService) -> dict[Address, Destination]:
        """The destinations that `config` needs: those there are, and new ones; nothing is changed yet."""
        known = {**self.leaving, **self.destinations}
        return {
            server.address: known.get(server.address) or self.context.counters.destination(config.ident, server)
            for server in config.servers
        }

    def binding(self, prepared: Prepared) -> Generator[None, None, None]:
        """Bind a scheduler for what was prepared, little by little; weights are as its configuration says meanwhile."""
        destinations, factory = prepared.destinations, prepared.factory
        many = len(prepared.config.rules) > MANY_RULES
        if many:
            yield
        before = {destination: destination.weight for destination in destinations.values()}
        try:
            for server in prepared.config.servers:
                destinations[server.address].weight = server.weight
            previous = self.scheduler if factory is self.factory else None
            prepared.seen = prepared.view(self._seen)
            if many:
                yield
            if IBindsInSteps.providedBy(factory):
                prepared.scheduler = yield from factory.binding(prepared.seen, previous)
            else:
                prepared.scheduler = factory.bind(prepared.seen, previous)
        finally:
            for destination, weight in before.items():
                destination.weight = weight

    def adopt(self, prepared: Prepared) -> None:
        """From now on the service is as was prepared. Connections to servers that are gone drain."""
        config, destinations = prepared.config, prepared.destinations
        gone = {address: known for address, known in self.destinations.items() if address not in destinations}
        for address in destinations:
            self.leaving.pop(address, None)
        gone = {address: known for address, known in gone.items() if known.active}
        self.leaving.update(gone)
        for server in config.servers:
            destination = destinations[server.address]
            destination.weight, destination.maxconn, destination.name = server.weight, server.maxconn, server.name
            destination.freed = self.queue.freed if server.maxconn else None
        if config.redirect is None:
            self.redirect = None
        elif self.redirect is None or self.redirect.address != config.redirect:
            self.redirect = Destination(config.redirect)
        self.config, self.destinations, self._seen = config, destinations, prepared.seen
        self.factory, self.scheduler, self.unit = prepared.factory, prepared.scheduler, prepared.factory.unit
        self._fallback, self._bound_fallback = prepared.bind_fallback(), None
        self.usable = frozenset(destinations.values())
        self._limited = tuple(destination for destination in destinations.values() if destination.maxconn)
        if gone:
            self.context.wheel.after(self.context.settings.drain_timeout, lambda: self._end_leaving(gone.values()))
        # All of the above is assignments. What follows is another's code, or asks the system.
        self._step("admission", self.gate.follow, config, self.unit)
        self._step("access log", self._keep_journal, config)
        self._step("health", self.health.adopt)
        self._step("watching schedulers", self._let_watch, prepared.scheduler)
        kept = self.usable if self.redirect is None else self.usable | {self.redirect}
        self._step("idle connections", self.pool.close, kept)
        self._step("settings", self.look_at_settings)
        if self.listener is not None:
            self.listener.resume()
        self._step("queue", self.queue.try_all)

    def _step(self, name: str, call: Callable[..., object], *arguments: Any) -> bool:
        """Take a step of a change that has been decided."""
        return self.context.steps.run(f"service {self.ident}: {name}", call, *arguments)

    def _keep_journal(self, config: VirtualService) -> None:
        before, self._access_log, self.journal = self._access_log, None, None
        if config.access_log != NO_LOG:
            log = self._access_log = self.context.access_logs.open(config.access_log)
            self.journal = AccessLogJournal(self.context, log, config.access_log_format, config.ident, config.scheduler)
        if before is not None:
            before.release()

    def _let_watch(self, scheduler: Any) -> None:
        for destination in self.usable:
            destination.watchers = ()
        if IWatches.providedBy(scheduler):
            for destination, call in scheduler.watched():
                if len(destination.watchers) < WATCHERS_MAX:
                    destination.watchers += (call,)

    def delete(self) -> None:
        """The service is no longer in the table: with its last connection all of it goes."""
        self._is_deleted = True
        if not self.connections and self._access_log is not None:
            self._access_log.release()
            self._access_log = None

    def listen(self, sock: socket.socket) -> None:
        """Accept clients from `sock`, and no longer from the one before."""
        before, self.listener = self.listener, Listener(self.context, self.ident, sock, self._admit, self._accepted)
        if before is not None:
            self._step("listener before", self._end_listener, before, self.listener)
        if self._drain is not None:
            self._drain.cancel()
            self._drain = None
        self.listener.start()
        self.context.log.event(
            levels.DAEMON, "service {ident} listens on {at}", ident=self.ident, at=self.config.listen
        )

    def _end_listener(self, before: Listener, after: Listener) -> None:
        """Accept no longer from `before`, at once or, where both have the same port, without a gap."""
        if before.port is not None and before.port == after.port:
            self._retiring = before
            self.retired = before.retire()
        else:
            before.close()

    @property
    def living(self) -> int:
        """How many connections live; a socket that is listened on a little longer counts as one."""
        return len(self.connections) + (self._is_handed_over and self.listener is not None)

    def hand_over(self, late: bool) -> None:
        """Another process accepts its clients. Connections may finish until the drain timeout, and who is idle may ask
        once more. late: the other process has not taken this socket, and no more clients are sent to it."""
        if self._is_handed_over:
            return
        self._is_handed_over = True
        self._close_retiring()
        if self.listener is not None and late:
            self.context.reactor.callLater(LATE, self._close_listener, self.listener.close)
        elif self.listener is not None:
            self._close_listener(self.listener.release)
        self._let_drain(methodcaller("retire_gently"))

    def _close_listener(self, close: Callable[[], None]) -> None:
        self._step("listener", close)
        self.listener = None
        self._let_drain(methodcaller("retire_gently"))

    def stop(self) -> None:
        """Close the listener; connections may finish until the drain timeout."""
        if self._is_handed_over:
            return
        self._close_retiring()
        if self.listener is not None:
            self._step("listener", self.listener.close)
            self.listener = None
            self.context.log.event(
                levels.DAEMON,
                "service {ident} stopped, {n} connections drain",
                ident=self.ident,
                n=len(self.connections),
            )
        self._let_drain(methodcaller("retire"))

    def _close_retiring(self) -> None:
        if self._retiring is not None:
            self._retiring.close()

    def _let_drain(self, part: Callable[[ClientConnection], object]) -> None:
        for connection in list(self.connections):
            self._step("drain", part, connection)
        self._step("idle connections", self.pool.close)
        if self.connections and self._drain is None:
            self._drain = self.context.wheel.after(self.context.settings.drain_timeout, self._end_all)

    def settings_changed(self) -> None:
        """Timeouts and the backlog hold for what lives already."""
        if self.listener is not None:
            self._step("backlog", self.listener.socket.listen, self.context.settings.max_backlog)
        self._step("settings", self.look_at_settings)
        for connection in list(self.connections):
            self._step("timeouts", connection.rearm)

    def look_at_settings(self) -> None:
        """Something has changed that requests depend on; what connections remember of earlier ones is void."""
        self.forwarding = Forwarding({name: getattr(self.config, name) for name in FIELDS})
        self.forwards = bool(self.forwarding)
        self.known, self.requests = {}, {}
        settings = self.context.settings
        self.head_size, self.uri_size = settings.head_size, settings.uri_size
        timeout = self.config.first_byte_timeout
        self.first_byte_timeout = settings.first_byte_timeout if timeout is None else timeout
        self.is_quick = self.journal is None and self.context.log.level < levels.SCHEDULING
        relays, config, before = self.context.relays, self.config, self.engine_why
        self.engine, self.engine_why = relays.in_use(config.relay, settings.zerocopy_send, _has_tcp(config))
        self.engine_after = settings.relay_after if config.relay == AUTO else 0
        if config.relay != AUTO and self.engine_why not in ("", before):
            self.context.log.warn("service {ident} copies: {why}", ident=self.ident, why=self.engine_why)

    def remember(self, data: bytes, groups: tuple[bytes, ...], known: CachedHead) -> CachedRequest:
        """The request that `data` is, for the next one like it."""
        request = CachedRequest(data, groups, known)
        if len(data) <= REQUEST_REMEMBERED and not self.forwards:
            if len(self.requests) >= REQUESTS_MAX:
                self.requests.clear()
            self.requests[data] = request
        return request

    def end_all(self) -> None:
        """End every connection now."""
        for connection in list(self.connections):
            self._step("end a connection", connection.expire)

    def _end_all(self) -> None:
        self._drain = None
        if self.connections:
            self.context.log.event(
                levels.ANNOUNCE,
                "service {ident}: {n} connections did not drain and are closed",
                ident=self.ident,
                n=len(self.connections),
            )
        self.end_all()

    def _end_leaving(self, gone: Iterable[Destination]) -> None:
        leaving = set(gone).intersection(self.leaving.values())
        for connection in list(self.connections):
            if connection.destination in leaving:
                self._step("end a connection", connection.expire)

    # Clients.

    def _admit(self) -> bool:
        listener = self.listener
        most = self.config.maxclients
        if most and self.clients.in_all >= most:
            if self.clients.is_shared:
                self._look_again()
            return False
        descriptors = self.context.descriptors
        if not descriptors.are_free:
            descriptors.close_idle()  # idle connections to servers are the first to go
            if listener is not None:
                descriptors.waiting.add(listener)
            return False
        return True

    def wait_for_room(self, client: ClientConnection) -> None:
        """All servers that may serve `client` are full: it is told when one is not."""
        self.queue.enter(client)
        if any(destination.is_shared for destination in self._limited):
            self._look_again()

    def _look_again(self) -> None:
        """Other processes serve this service too: when their clients go, nobody tells."""
        if not self._looks.is_scheduled:
            self._looks.start(LOOK_AGAIN)

    def _looked(self) -> float | None:
        if self.listener is not None:
            self.listener.resume()
        for destination in self._limited if self.queue else ():
            if not destination.is_full:
                self.queue.freed(destination)
        if self.queue:
            self._look_again()
        return None

    def _look_failed(self, why: Failure) -> None:
        self.context.log.failure("service {ident}: clients that wait for room", why, ident=self.ident)

    def _accepted(self, sock: socket.socket, peer: Any) -> None:
        """One client; whatever goes wrong costs only this one."""
        connection = new_client(self, sock, peer)
        if connection is None:
            return
        self.context.descriptors.take(connection.descriptors, connection.reserved)
        self.connections.add(connection)
        self.clients.add(1)
        self.total += 1
        if self.context.log.level >= levels.CONNECTION:
            self.context.log.event(
                levels.CONNECTION, "{client} connected to {ident}", client=connection.client_name, ident=self.ident
            )
        try:
            carry(self.context.reactor, sock, peer, connection.client)
        except Exception:
            self.context.log.failure("service {ident}: {client} lost", ident=self.ident, client=connection.client_name)
            connection.client.reset()
        if not connection.client.is_open:
            sock.close()
            self.ended(connection)

    def ended(self, connection: ClientConnection) -> None:
        """The connection is over: count it out. Called once for each."""
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        self.clients.add(-1)
        if connection.place != NOWHERE:
            connection.leave()
        bytes_in, bytes_out = connection.moved()
        self.ended_in += bytes_in
        self.ended_out += bytes_out
        if self.leaving:
            self.leaving = {address: gone for address, gone in self.leaving.items() if gone.active}
        log = self.context.log
        if log.level >= levels.CONNECTION:
            log.event(
                levels.CONNECTION,
                "{client} ended after {seconds} s: {why}; {server}, {bytes_in} in, {bytes_out} out",
                client=connection.client_name,
                seconds=self.context.wheel.now - connection.began,
                why=connection.ending,
                server=connection.choice.destination.address if connection.choice else "no server",
                bytes_in=bytes_in,
                bytes_out=bytes_out,
            )
        self.context.descriptors.give(connection.descriptors, connection.reserved)
        if self.listener is not None:
            self.listener.resume()
        elif not self.connections:
            if self._drain is not None:
                self._drain.cancel()
                self._drain = None
            if self._is_deleted:
                self.delete()


def _has_tcp(config: VirtualService) -> bool:
    """True when there may be connections with TCP at both sides."""
    servers = config.servers
    some = not servers or any(not isinstance(server.address, Unix) for server in servers)
    return some and not isinstance(config.listen, Unix)
