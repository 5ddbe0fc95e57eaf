"""Servers by name: a name in the configuration becomes as many servers as it has addresses, or targets of SRV records.

The administrators' table keeps the name. The table that runs is that table with names expanded to their current
addresses. A host name that has not been looked up yet stays as it is; a name of SRV records stands in maintenance until
its targets are known, since it has no port to connect to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address

from attrs import evolve

from ktcpvs.errors import BadAddress, shorten
from ktcpvs.model.address import SRV, Address, Inet, SRVName, Unix, parse_address
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.server_words import MAINTENANCE
from ktcpvs.model.service import VirtualService
from ktcpvs.model.srv import Target, priorities, read_target, weights
from ktcpvs.model.table import Table

Resolution = Mapping[str, tuple[str, ...]]
"""Host name -> its IP addresses; `srv:NAME` -> its targets, as model.srv writes them. Each in a stable order."""

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
    """Return the names of these services' servers that must be looked up: host names, and `srv:NAME`."""
    addresses = {server.address for service in services for server in service.servers}
    return {name for name in map(name_to_look_up, addresses) if name}


def name_to_look_up(address: Address) -> str:
    """Return the name that must be looked up for an address; "": there is none."""
    if isinstance(address, SRVName):
        return str(address)
    is_name = isinstance(address, Inet) and address.is_name and not _is_local(address.host)
    return address.host if isinstance(address, Inet) and is_name else ""


def _is_local(host: str) -> bool:
    return host.removesuffix(".").rpartition(".")[2] == LOCALHOST


def check_resolution(resolution: Resolution) -> Resolution:
    """Return a resolution that another process has sent. Raises ValueError or BadAddress for one that is none."""
    return {
        name: tuple([str(read_target(one) if name.startswith(SRV) else ip_address(one)) for one in found])
        for name, found in resolution.items()
    }


def expanded(table: Table, resolution: Resolution) -> Table:
    """Return the table that runs."""
    services = {ident: _expanded(service, resolution) for ident, service in table.services.items()}
    is_same = all(services[ident] is service for ident, service in table.services.items())
    return table if is_same else evolve(table, services=services)


def _expanded(service: VirtualService, resolution: Resolution) -> VirtualService:
    """Return the service with a server for each address. A server that is configured by that address too takes
    precedence."""
    configured = {server.address: server for server in service.servers}
    if not (resolution or any(isinstance(address, SRVName) for address in configured)):
        return service
    found = {address: tuple(_servers(server, resolution)) for address, server in configured.items()}
    if all(some == (configured[address],) for address, some in found.items()):
        return service
    servers: dict[Address, RealServer] = {}
    for address, some in found.items():
        for server in some:
            if server.address == address or server.address not in configured:
                servers.setdefault(server.address, server)
    rules = tuple(_rule(rule, found, resolution) for rule in service.rules)
    return evolve(service, servers=tuple(servers.values()), rules=rules)


def _servers(server: RealServer, resolution: Resolution) -> Iterator[RealServer]:
    """Yield the servers that a configured one stands for."""
    address = server.address
    if isinstance(address, Unix):
        yield server
        return
    if isinstance(address, SRVName):
        targets = _targets(address, resolution)
        if not targets:
            yield evolve(server, mode=MAINTENANCE)
        shares = zip(targets, weights(targets, server.weight), priorities(targets, server.priority), strict=True)
        for target, weight, priority in shares:
            yield evolve(server, address=target.address, name=str(address), weight=weight, priority=priority)
        return
    hosts = resolution.get(address.host, ())
    if not hosts:
        yield server
    for host in hosts:
        yield evolve(server, address=Inet(host, address.port), name=str(address))


def _targets(address: SRVName, resolution: Resolution) -> tuple[Target, ...]:
    return tuple([read_target(text) for text in resolution.get(str(address), ())])


def _rule(rule: Rule, found: Mapping[Address, tuple[RealServer, ...]], resolution: Resolution) -> Rule:
    configured = dict(rule.weighed_servers)
    servers: dict[Address, int | None] = {}
    for known, weight in rule.weighed_servers:
        some = [server.address for server in found[known]]
        shares: tuple[int | None, ...] = (weight,) * len(some)
        if weight is not None and isinstance(known, SRVName) and (targets := _targets(known, resolution)):
            shares = weights(targets, weight)
        for address, share in zip(some, shares, strict=True):
            servers.setdefault(address, configured.get(address, share))
    return rule if tuple(servers) == rule.servers else rule.with_servers(servers.items())
