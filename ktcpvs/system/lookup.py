"""Look-ups of host names with their TTL: in /etc/hosts, by name servers, and finally by the system.

Only name servers return a TTL (RFC 1035, section 3.2.1). The system's resolver is the fallback, since it has other
sources. Look-ups block, so they run in a thread.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from typing import ClassVar

import dns.exception
import dns.nameserver
import dns.resolver
from attrs import frozen
from twisted.names.hosts import searchFileForAll
from twisted.python.filepath import FilePath

from ktcpvs.errors import shorten

HOSTS = "/etc/hosts"

DEFAULT_TTL = 30
"""Seconds for which a result without a TTL is valid."""

SERVER_TIMEOUT = 2.0
"""Seconds to wait for one name server."""

TOTAL_TIMEOUT = 8.0
"""Seconds to wait for all name servers together, for the addresses of one family."""

MAX_UDP_BYTES = 1232
"""The longest reply over UDP (RFC 6891, section 6.2.3); longer ones come over TCP."""

IPV4_FIRST, IPV6_FIRST, BOTH = range(3)
"""The values of the setting resolve_ipv6."""

IP = ipaddress.IPv4Address | ipaddress.IPv6Address


class NotFound(Exception):
    """The name could not be resolved; str() says why."""


@frozen
class Found:
    """The result of a look-up.

    addresses: of the name, sorted. seconds: for which they are valid. failed: why the look-up of one family failed; ""
    if none did. family: that family, 4 or 6; 0: none. is_joined: its addresses would be used together with `addresses`;
    False: instead of them.
    """

    failed_form: ClassVar[str] = (
        "{host} is found for one address family only: {reason}; it keeps its previous addresses"
    )

    addresses: tuple[str, ...]
    seconds: int
    failed: str = ""
    family: int = 0
    is_joined: bool = False

    def beside(self, known: Iterable[str]) -> tuple[str, ...]:
        """Return the new addresses of a name that had the addresses `known`: a failed look-up removes none of them."""
        kept = [one for one in known if ipaddress.ip_address(one).version == self.family]
        if not kept:
            return self.addresses
        return _ordered(map(ipaddress.ip_address, (*kept, *self.addresses))) if self.is_joined else tuple(kept)


def look_up(host: str, ipv6: int, nameservers: Sequence[tuple[str, int]] = ()) -> Found:
    """Look up a host name, which may block. Raises NotFound.

    ipv6: the setting resolve_ipv6. nameservers: (IP address, port) of the name servers to use, and no other source;
    empty: those of the system.
    """
    listed = _usable(searchFileForAll(FilePath(HOSTS), host.removesuffix(".").encode()))
    if listed:
        return Found(_of_family(listed, ipv6), DEFAULT_TTL)
    try:
        return _ask_servers(host, ipv6, nameservers)
    except NotFound:
        if nameservers:
            raise
    return Found(_of_family(_ask_system(host), ipv6), DEFAULT_TTL)


def make_resolver(nameservers: Sequence[tuple[str, int]]) -> dns.resolver.Resolver:
    """Return what asks these name servers, or those of the system if there are none. Raises NotFound."""
    try:
        resolver = dns.resolver.Resolver(configure=not nameservers)
    except dns.exception.DNSException:
        raise NotFound("no name server is configured") from None
    if nameservers:
        resolver.nameservers = [dns.nameserver.Do53Nameserver(*one) for one in nameservers]
    resolver.timeout, resolver.lifetime = SERVER_TIMEOUT, TOTAL_TIMEOUT
    resolver.use_edns(0, 0, MAX_UDP_BYTES)
    return resolver


def _ask_servers(host: str, ipv6: int, nameservers: Sequence[tuple[str, int]]) -> Found:
    resolver = make_resolver(nameservers)
    found: list[IP] = []
    seconds: list[int] = []
    failures: dict[int, str] = {}
    missing = 0
    for family in (6, 4) if ipv6 == IPV6_FIRST else (4, 6):
        if found and ipv6 != BOTH:
            break
        try:
            usable, ttl = _ask_for(resolver, host, family, not nameservers)
        except dns.resolver.NXDOMAIN:
            missing += 1  # some name servers return this for IPv6 only (RFC 4074, section 4.2)
        except dns.resolver.NoNameservers:
            failures[family] = "its name servers have failed"
        except dns.exception.Timeout:
            failures[family] = "no name server has answered"
        except (dns.exception.DNSException, OSError) as error:
            failures[family] = shorten(str(error), 100) or type(error).__name__
        else:
            found += usable
            seconds += [ttl] if usable else []
    if not found:
        raise NotFound(next(iter(failures.values()), "the name does not exist" if missing else "it has no address"))
    if not failures:
        return Found(_ordered(found), min(seconds))
    ((family, why),) = failures.items()
    return Found(_ordered(found), min(*seconds, DEFAULT_TTL), f"its IPv{family} addresses: {why}", family, ipv6 == BOTH)


def _ask_for(resolver: dns.resolver.Resolver, host: str, family: int, search: bool) -> tuple[list[IP], int]:
    """Return the usable addresses of that family, and their TTL. Raises dnspython's exceptions.

    search: use the search list of resolv.conf(5), unless the name ends in a dot.
    """
    kind = "A" if family == 4 else "AAAA"
    answer = resolver.resolve(host, kind, search=search, raise_on_no_answer=False)
    return _usable(record.address for record in answer.rrset or ()), answer.chaining_result.minimum_ttl


def _ask_system(host: str) -> list[IP]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NotFound(shorten(error.strerror or str(error), 100)) from None
    usable = _usable(str(where[0]) for *_, where in found)
    if not usable:
        raise NotFound("it has no address")
    return usable


def _usable(addresses: Iterable[str]) -> list[IP]:
    """Return the addresses that a server can have."""
    found = []
    for text in addresses:
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(text)
            if not (address.is_unspecified or address.is_multicast):
                found.append(address)
    return found


def usable_of_family(addresses: Iterable[str], ipv6: int) -> tuple[str, ...]:
    """Return the addresses of the preferred family that a server can have, or the others if there are none, sorted.
    ipv6: the setting resolve_ipv6."""
    return _of_family(_usable(addresses), ipv6)


def _of_family(addresses: Iterable[IP], ipv6: int) -> tuple[str, ...]:
    """Return the addresses of the preferred family, or the others if there are none. ipv6: the setting."""
    every = list(addresses)
    preferred = [one for one in every if ipv6 == BOTH or (one.version == 6) == (ipv6 == IPV6_FIRST)]
    return _ordered(preferred or every)


def _ordered(addresses: Iterable[IP]) -> tuple[str, ...]:
    """Return the addresses as text, each once and sorted: name servers return them in varying order."""
    return tuple(map(str, sorted(set(addresses), key=lambda one: (one.version, int(one)))))
