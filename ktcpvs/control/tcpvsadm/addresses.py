"""Addresses as tcpvsadm prints them: with port names, or numeric, by the databases of this machine.

Only this module of tcpvsadm uses the services database and the resolver. It asks each question once.
"""

from __future__ import annotations

import socket
from functools import cache

from attrs import evolve

from ktcpvs.errors import BadAddress
from ktcpvs.model.address import Inet, parse_address, parse_port
from ktcpvs.system.names import service_port


@cache
def with_port_name(address: str) -> str:
    """Return `address` with its port as a name, where the name reads back to the same number. The host stays."""
    parsed = parse_address(address)
    if not isinstance(parsed, Inet) or parsed.port is None:
        return address
    name = _port_name(parsed.port)
    return address if name is None else f"{evolve(parsed, port=None)}:{name}"


@cache
def with_numeric_host(address: str) -> str:
    """Return `address` with its host name resolved, if it is a name and is found."""
    parsed = parse_address(address)
    if not isinstance(parsed, Inet) or not parsed.is_name:
        return address
    host = _resolve(parsed.host)
    return address if host is None else str(evolve(parsed, host=host))


@cache
def _port_name(port: int) -> str | None:
    try:
        name = socket.getservbyport(port, "tcp")
        return name if name.isprintable() and parse_port(name, service_port) == port else None
    except (OSError, BadAddress):
        return None


@cache
def _resolve(host: str) -> str | None:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    return str(found[0][4][0])
