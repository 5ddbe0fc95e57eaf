"""Addresses as people see them: with the names of ports, or all in numbers, as this machine knows them.

Only here does tcpvsadm ask the services database and the resolver. What was asked once is not asked again.
"""

from __future__ import annotations

import socket
from functools import cache

from attrs import evolve

from ktcpvs.errors import BadAddress
from ktcpvs.model.address import Inet, parse_address, parse_port
from ktcpvs.system.names import service_port


@cache
def named(address: str) -> str:
    """`address` with its port's name, where there is one that reads back to the same number; its host as it is."""
    parsed = parse_address(address)
    if not isinstance(parsed, Inet) or parsed.port is None:
        return address
    name = _port_name(parsed.port)
    return address if name is None else f"{evolve(parsed, port=None)}:{name}"


@cache
def numeric(address: str) -> str:
    """`address` with its host looked up; as it is where the host is no name, or is not found."""
    parsed = parse_address(address)
    if not isinstance(parsed, Inet) or not parsed.is_name:
        return address
    host = _host_address(parsed.host)
    return address if host is None else str(evolve(parsed, host=host))


@cache
def _port_name(port: int) -> str | None:
    try:
        name = socket.getservbyport(port, "tcp")
        return name if name.isprintable() and parse_port(name, service_port) == port else None
    except (OSError, BadAddress):
        return None


@cache
def _host_address(host: str) -> str | None:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    return str(found[0][4][0])
