"""One virtual service that runs, or ran and drains: its listener, its scheduler, its destinations, its connections."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from ktcpvs.interfaces import CONNECTION, EACH_REQUEST
from ktcpvs.model.address import Address
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Choice, Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.protocols.forwarding import FIELDS, Forwarding
from ktcpvs.system import log as levels
from ktcpvs.transport.connection import Connection
from ktcpvs.transport.context import Context
from ktcpvs.transport.exchange import Exchange
from ktcpvs.transport.listener import Listener
from ktcpvs.transport.pool import Pool
from ktcpvs.transport.served import Served
from ktcpvs.transport.stream import carry
from ktcpvs.transport.wheel import Timer


class BadChoice(Exception):
    """A scheduler answered with something that is no destination of its service."""


class LiveService:
    """config: as it runs. destinations: its servers by address. leaving: deleted servers whose connections drain.

    total: client connections accepted. refused: those that got no server. ended_in, ended_out: bytes of
    connections that have ended.
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
        self.listener: Listener | None = None
        self.connections: set[Served] = set()
        self.pool = Pool(context)
        self.forwarding = Forwarding({})
        self.total = 0
        self.refused = 0
        self.ended_in = 0
        self.ended_out = 0
        self._usable: frozenset[Destination] = frozenset()
        self._drain: Timer | None = None

    @property
    def ident(self) -> str:
        return self.config.ident

    # Changes, called by the director alone.

    def destinations_for(self, config: VirtualService) -> dict[Address, Destination]:
        """The destinations that `config` needs: those there are, and new ones; nothing is changed yet."""
        known = {**self.leaving, **self.destinations}
        return {
            server.address: known.get(server.address) or Destination(server.address, server.weight)
            for server in config.servers
        }

    def bind(self, config: VirtualService, destinations: dict[Address, Destination], factory: Any, balance: Any) -> Any:
        """A scheduler of `factory` for `config`; weights are as `config` says while it binds."""
        before = {destination: destination.weight for destination in destinations.values()}
        try:
            for server in config.servers:
                destinations[server.address].weight = server.weight
            previous = self.scheduler if factory is self.factory else None
            return factory.bind(ServiceView.of(config, destinations, balance), previous)
        finally:
            for destination, weight in before.items():
                destination.weight = weight

    def adopt(
        self, config: VirtualService, destinations: dict[Address, Destination], factory: Any, scheduler: Any
    ) -> None:
        """From now on the service is as `config` says. Connections to servers that are gone drain."""
        gone = {address: known for address, known in self.destinations.items() if address not in destinations}
        for address in destinations:
            self.leaving.pop(address, None)
        gone = {address: known for address, known in gone.items() if known.active}
        self.leaving.update(gone)
        for server in config.servers:
            destinations[server.address].weight = server.weight
        if config.redirect is None:
            self.redirect = None
        elif self.redirect is None or self.redirect.address != config.redirect:
            self.redirect = Destination(config.redirect)
        self.config, self.destinations = config, destinations
        self.forwarding = Forwarding({name: getattr(config, name) for name in FIELDS})
        self.factory, self.scheduler, self.unit = factory, scheduler, factory.unit
        self._usable = frozenset(destinations.values())
        self.pool.close(self._usable | {self.redirect} if self.redirect is not None else self._usable)
        if gone:
            self.context.wheel.after(self.context.settings.drain_timeout, lambda: self._end_leaving(gone.values()))
        if self.listener is not None:
            self.listener.resume()

    def listen(self, sock: socket.socket) -> None:
        """Accept clients from `sock`, and no longer from the one before."""
        before, self.listener = self.listener, Listener(self.context, self.ident, sock, self._admit, self._accepted)
        if before is not None:
            before.close()
        if self._drain is not None:
            self._drain.cancel()
            self._drain = None
        self.listener.start()
        self.context.log.event(
            levels.DAEMON, "service {ident} listens on {at}", ident=self.ident, at=self.config.listen
        )

    def stop(self) -> None:
        """Close the listener; connections may finish until the drain timeout."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None
            self.context.log.event(
                levels.DAEMON,
                "service {ident} stopped, {n} connections drain",
                ident=self.ident,
                n=len(self.connections),
            )
        for connection in list(self.connections):
            connection.retire()
        self.pool.close()
        if self.connections and self._drain is None:
            self._drain = self.context.wheel.after(self.context.settings.drain_timeout, self._end_all)

    def settings_changed(self) -> None:
        """Timeouts and the backlog hold for what lives already."""
        if self.listener is not None:
            self.listener.socket.listen(self.context.settings.max_backlog)
        for connection in list(self.connections):
            connection.rearm()

    def end_all(self) -> None:
        """End every connection now."""
        for connection in list(self.connections):
            connection.expire()

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
                connection.expire()

    # Clients.

    def _admit(self) -> bool:
        listener = self.listener
        most = self.config.maxclients
        if most and len(self.connections) >= most:
            return False
        descriptors = self.context.descriptors
        if not descriptors.are_free:
            self.pool.close()  # idle connections to servers are the first to go
            if listener is not None:
                descriptors.waiting.add(listener)
            return False
        return True

    def _accepted(self, sock: socket.socket, peer: Any) -> None:
        """One client; whatever goes wrong costs only this one."""
        name, host = _client_name(peer)
        connection = (Exchange if self.unit == EACH_REQUEST else Connection)(self, name, host)
        self.context.descriptors.take(connection.descriptors)
        self.connections.add(connection)
        self.total += 1
        if self.context.log.level >= levels.CONNECTION:
            self.context.log.event(levels.CONNECTION, "{client} connected to {ident}", client=name, ident=self.ident)
        try:
            carry(self.context.reactor, sock, peer, connection.client)
        except Exception:
            self.context.log.failure("service {ident}: {client} lost", ident=self.ident, client=name)
            connection.client.reset()
        if not connection.client.is_open:
            sock.close()
            self.ended(connection)

    def choose(self, request: Request) -> Choice | None:
        """The scheduler's choice, checked. Raises what the scheduler raises, or BadChoice."""
        choice: Choice | None = self.scheduler.choose(request)
        if choice is None:
            return None
        destination = getattr(choice, "destination", None)
        if destination not in self._usable:
            raise BadChoice(f"scheduler {self.config.scheduler} chose {destination!r}, no server of {self.ident}")
        return None if destination in request.tried else choice

    def ended(self, connection: Served) -> None:
        """The connection is over: count it out. Called once for each."""
        if connection not in self.connections:
            return
        self.connections.discard(connection)
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
        self.context.descriptors.give(connection.descriptors)
        if self.listener is not None:
            self.listener.resume()
        elif self._drain is not None and not self.connections:
            self._drain.cancel()
            self._drain = None


def _client_name(peer: Any) -> tuple[str, str]:
    """(address with port, host) of a socket's peer, as text; a unix socket's peer has no address."""
    if not isinstance(peer, tuple):
        return "unix", ""
    host, port = peer[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}", host
