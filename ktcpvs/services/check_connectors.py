"""The connectors by which the servers of one service are checked."""

from __future__ import annotations

from collections.abc import Collection

from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.model.address import Address
from ktcpvs.model.check import Check
from ktcpvs.model.destination import Destination
from ktcpvs.model.options import OFF
from ktcpvs.model.service import VirtualService
from ktcpvs.streams.connector import ConnectionOptions, Connector


class CheckConnectors:
    """Keeps a connector for each server that is checked at another address, or in another way, than it is used."""

    def __init__(self, service: ServiceContext) -> None:
        self._service = service
        self._checked_at: dict[Address, Address] = {}  # server -> the address that is checked, where configured
        self._known: dict[Destination, Connector] = {}

    def configure(self, config: VirtualService, servers: Collection[Destination]) -> None:
        """Apply a configuration. servers: all servers of the service."""
        self._checked_at = {server.address: server.check for server in config.servers if server.check is not None}
        self._known = {one: known for one, known in self._known.items() if one in servers}

    def connector(self, destination: Destination, check: Check) -> Connector:
        """Return what connects to the address at which that server is checked; at another one than the server's own,
        with TLS and the PROXY protocol only if the check says so."""
        service = self._service
        at = self._checked_at.get(destination.address) or check.address(destination.address)
        own = service.connector(destination)
        if at == destination.address and at not in service.started:
            return own
        options = ConnectionOptions(
            tls=own.options.tls if check.tls else None,
            proxy=own.options.proxy if check.proxy else OFF,
            http2=own.options.http2 and check.tls and own.options.tls is not None,  # its TLS offers that in ALPN
        )
        if at == destination.address:
            options = own.options  # a check must not start the server
        known = self._known.get(destination)
        if known is None or (known.address, known.options) != (at, options):
            known = Connector(service.context.reactor, at, lambda: service.settings.connect_timeout, options)
            self._known[destination] = known
        return known
