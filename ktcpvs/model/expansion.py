"""Servers by host name: a name in the configuration becomes as many servers as it has addresses.

The administrators' table keeps the name. The table that runs is that table with names expanded to their current
addresses; a name that has not been looked up yet stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import evolve

from ktcpvs.errors import BadAddress, shorten
from ktcpvs.model.address import Address, Inet, parse_address
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.service import VirtualService
from ktcpvs.model.table import Table

Resolution = Mapping[str, tuple[str, ...]]
"""Host name -> its IP addresses, in a stable order."""

LOCALHOST = "localhost"
"""This name, and names that end with it, are this machine (RFC 6761, section 6.3) and are not looked up."""


DNS_PORT = 53


def parse_nameserver(text: str) -> tuple[str, int]:
    """Parse HOST[:PORT] as (IP address, port) of a name server. Raises BadAddress."""
    address = parse_address(text)
    if not isinstance(address, Inet) or address.is_name:
        raise BadAddress(
            f"name server '{shorten(text, 60)}': expected an IP address (example: 127.0.0.1:53 or [::1]:53)"
        )
    return address.host, address.port or DNS_PORT


def names_of(services: Iterable[VirtualService]) -> set[str]:
    """Return the host names of these services' servers that must be looked up."""
    return {
        server.address.host
        for service in services
        for server in service.servers
        if isinstance(server.address, Inet) and server.address.is_name and not _is_local(server.address.host)
    }


def _is_local(host: str) -> bool:
    return host.removesuffix(".").rpartition(".")[2] == LOCALHOST


def expanded(table: Table, resolution: Resolution) -> Table:
    """Return the table that runs."""
    if not resolution:
        return table
    services = {ident: _expanded(service, resolution) for ident, service in table.services.items()}
    return evolve(table, services=services)


def _expanded(service: VirtualService, resolution: Resolution) -> VirtualService:
    """Return the service with a server for each address. A server that is configured by that address too takes
    precedence."""
    addresses_of = {server.address: _addresses(server.address, resolution) for server in service.servers}
    if not any(addresses_of.values()):
        return service
    servers: dict[Address, RealServer] = {}
    for server in service.servers:
        if not addresses_of[server.address]:
            servers[server.address] = server
        for address in addresses_of[server.address]:
            if address not in addresses_of:
                servers.setdefault(address, evolve(server, address=address, name=str(server.address)))
    rules = tuple(_rule(rule, resolution) for rule in service.rules)
    return evolve(service, servers=tuple(servers.values()), rules=rules)


def _rule(rule: Rule, resolution: Resolution) -> Rule:
    configured = dict(rule.weighed_servers)
    servers: dict[Address, int | None] = {}
    for known, weight in rule.weighed_servers:
        for address in _addresses(known, resolution) or (known,):
            servers.setdefault(address, configured.get(address, weight))
    return rule if tuple(servers) == rule.servers else rule.with_servers(servers.items())


def _addresses(address: Address, resolution: Resolution) -> tuple[Address, ...]:
    """Return the addresses of the host name in `address`; empty if it is no name, or has not been looked up yet."""
    if not isinstance(address, Inet):
        return ()
    return tuple(Inet(host, address.port) for host in resolution.get(address.host, ()))
