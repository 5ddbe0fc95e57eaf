"""Servers by name: what stands as one name in the configuration is as many servers as the name has addresses.

The table of the administrators keeps the name. What runs is that table expanded by what names mean at the moment; a
name that has never been looked up stays in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from attrs import evolve

from ktcpvs.errors import BadAddress, shorten
from ktcpvs.model.address import Address, Inet, parse_address
from ktcpvs.model.service import RealServer, Rule, VirtualService
from ktcpvs.model.table import Table

Resolution = Mapping[str, tuple[str, ...]]
"""Host name -> its IP addresses, in an order that does not change by itself."""

LOCALHOST = "localhost"
"""It and what ends with it is this machine (RFC 6761, section 6.3): nobody is asked for it."""


DNS_PORT = 53


def parse_nameserver(text: str) -> tuple[str, int]:
    """(IP address, port) of a name server, written HOST[:PORT]. Raises BadAddress."""
    address = parse_address(text)
    if not isinstance(address, Inet) or address.is_name:
        raise BadAddress(f"name server '{shorten(text, 60)}': an IP address is wanted, as 127.0.0.1:53 or [::1]:53")
    return address.host, address.port or DNS_PORT


def names_of(services: Iterable[VirtualService]) -> set[str]:
    """The host names of their servers that are to be looked up."""
    return {
        server.address.host
        for service in services
        for server in service.servers
        if isinstance(server.address, Inet) and server.address.is_name and not _is_local(server.address.host)
    }


def _is_local(host: str) -> bool:
    return host.removesuffix(".").rpartition(".")[2] == LOCALHOST


def expanded(table: Table, resolution: Resolution) -> Table:
    """The table that runs."""
    if not resolution:
        return table
    services = {ident: _expanded(service, resolution) for ident, service in table.services.items()}
    return evolve(table, services=services)


def _expanded(service: VirtualService, resolution: Resolution) -> VirtualService:
    """The service with a server for each address; one that is configured by its address too is that one."""
    meant = {server.address: _addresses(server.address, resolution) for server in service.servers}
    if not any(meant.values()):
        return service
    servers: dict[Address, RealServer] = {}
    for server in service.servers:
        if not meant[server.address]:
            servers[server.address] = server
        for address in meant[server.address]:
            if address not in meant:
                servers.setdefault(address, evolve(server, address=address, name=str(server.address)))
    rules = tuple(_rule(rule, resolution) for rule in service.rules)
    return evolve(service, servers=tuple(servers.values()), rules=rules)


def _rule(rule: Rule, resolution: Resolution) -> Rule:
    servers = dict.fromkeys(_each(rule.servers, resolution))
    return rule if tuple(servers) == rule.servers else evolve(rule, servers=tuple(servers))


def _each(addresses: Iterable[Address], resolution: Resolution) -> Iterator[Address]:
    for address in addresses:
        yield from _addresses(address, resolution) or (address,)


def _addresses(address: Address, resolution: Resolution) -> tuple[Address, ...]:
    """What the name in `address` means; nothing where there is no name, or none that was ever looked up."""
    if not isinstance(address, Inet):
        return ()
    return tuple(Inet(host, address.port) for host in resolution.get(address.host, ()))
