"""What a host name means, and for how long: asked of /etc/hosts, of name servers, and last of the system.

Name servers alone say how long their answers hold (RFC 1035, section 3.2.1). The system is asked for what they do not
know: it has other sources. All of it takes its time, and is called in a thread.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Sequence

import dns.exception
import dns.nameserver
import dns.resolver
from attrs import frozen
from twisted.names.hosts import searchFileForAll
from twisted.python.filepath import FilePath

from ktcpvs.errors import shorten

HOSTS = "/etc/hosts"

UNSAID = 30
"""Seconds for which an answer holds that does not say it."""

PATIENCE = 2.0
"""Seconds that one name server has for an answer."""

PATIENCE_IN_ALL = 8.0
"""Seconds that all of them together have, for the addresses of one family."""

DATAGRAM = 1232
"""Bytes of an answer over UDP that we take (RFC 6891, section 6.2.3); longer ones come over TCP."""

IPV4_FIRST, IPV6_FIRST, BOTH = range(3)
"""What the setting resolve_ipv6 may be."""

IP = ipaddress.IPv4Address | ipaddress.IPv6Address


class NotFound(Exception):
    """There is no answer; str(): why."""


@frozen
class Found:
    """addresses: those of one name, in their own order. seconds: for so long that holds. failed: why the addresses of
    one family are not known, "" when both could be looked up. family: that one, 4 or 6; 0: none. is_joined: they
    would stand beside `addresses`; False: in the place of them."""

    addresses: tuple[str, ...]
    seconds: int
    failed: str = ""
    family: int = 0
    is_joined: bool = False

    def beside(self, known: Iterable[str]) -> tuple[str, ...]:
        """The addresses of the name, where `known` are those that it had: a look-up that fails takes none away."""
        kept = [one for one in known if ipaddress.ip_address(one).version == self.family]
        if not kept:
            return self.addresses
        return _ordered(map(ipaddress.ip_address, (*kept, *self.addresses))) if self.is_joined else tuple(kept)


def look_up(host: str, ipv6: int, nameservers: Sequence[tuple[str, int]] = ()) -> Found:
    """Waits for the answer. ipv6: as the setting resolve_ipv6. nameservers: (IP address, port) of who is asked, and
    nobody else then; none: as the system does. Raises NotFound."""
    listed = _usable(searchFileForAll(FilePath(HOSTS), host.removesuffix(".").encode()))
    if listed:
        return Found(_of_family(listed, ipv6), UNSAID)
    try:
        return _ask_servers(host, ipv6, nameservers)
    except NotFound:
        if nameservers:
            raise
    return Found(_of_family(_ask_system(host), ipv6), UNSAID)


def _ask_servers(host: str, ipv6: int, nameservers: Sequence[tuple[str, int]]) -> Found:
    try:
        resolver = dns.resolver.Resolver(configure=not nameservers)
    except dns.exception.DNSException:
        raise NotFound("no name server is configured") from None
    if nameservers:
        resolver.nameservers = [dns.nameserver.Do53Nameserver(*one) for one in nameservers]
    resolver.timeout, resolver.lifetime = PATIENCE, PATIENCE_IN_ALL
    resolver.use_edns(0, 0, DATAGRAM)
    found: list[IP] = []
    seconds: list[int] = []
    failures: dict[int, str] = {}
    missing = 0
    for family in (6, 4) if ipv6 == IPV6_FIRST else (4, 6):
        if found and ipv6 != BOTH:
            break
        try:
            usable, holds = _ask_for(resolver, host, family, not nameservers)
        except dns.resolver.NXDOMAIN:
            missing += 1  # some name servers say so of IPv6 alone (RFC 4074, section 4.2)
        except dns.resolver.NoNameservers:
            failures[family] = "its name servers have failed"
        except dns.exception.Timeout:
            failures[family] = "no name server has answered"
        except (dns.exception.DNSException, OSError) as error:
            failures[family] = shorten(str(error), 100) or type(error).__name__
        else:
            found += usable
            seconds += [holds] if usable else []
    if not found:
        raise NotFound(next(iter(failures.values()), "there is no such name" if missing else "it has no address"))
    if not failures:
        return Found(_ordered(found), min(seconds))
    ((family, why),) = failures.items()
    return Found(_ordered(found), min(*seconds, UNSAID), f"its IPv{family} addresses: {why}", family, ipv6 == BOTH)


def _ask_for(resolver: dns.resolver.Resolver, host: str, family: int, search: bool) -> tuple[list[IP], int]:
    """The usable addresses of that family, and for how many seconds they hold. search: with the domains of
    resolv.conf(5), unless the name ends in a dot. Raises what dnspython raises."""
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
    """Those where a server can be."""
    found = []
    for text in addresses:
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(text)
            if not (address.is_unspecified or address.is_multicast):
                found.append(address)
    return found


def _of_family(addresses: Iterable[IP], ipv6: int) -> tuple[str, ...]:
    """Those of the wanted family, or the others where there are none. ipv6: as the setting."""
    everybody = list(addresses)
    wanted = [one for one in everybody if ipv6 == BOTH or (one.version == 6) == (ipv6 == IPV6_FIRST)]
    return _ordered(wanted or everybody)


def _ordered(addresses: Iterable[IP]) -> tuple[str, ...]:
    """As text, each once, in their own order: name servers give them in another one each time."""
    return tuple(map(str, sorted(set(addresses), key=lambda one: (one.version, int(one)))))
