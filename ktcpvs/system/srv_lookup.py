"""Look-ups of SRV records (RFC 2782): their targets, and the addresses of these.

Name servers often send the addresses along, in the additional section of the response; those of other targets are
looked up one by one. Look-ups block, so they run in a thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import dns.exception
import dns.rdatatype
import dns.resolver
from attrs import evolve, frozen

from ktcpvs.errors import shorten
from ktcpvs.model.address import SRV, Inet
from ktcpvs.model.srv import Target, read_target, unique
from ktcpvs.system.lookup import BOTH, DEFAULT_TTL, IPV6_FIRST, NotFound, look_up, make_resolver, usable_of_family

MAX_TARGETS = 1024
"""The most records of one name that are used, those of the lowest priorities first."""

MAX_LOOKUP_TIME = 30.0
"""Seconds for the look-ups of all targets of one name together; further targets count as not found."""


@frozen
class Record:
    """A SRV record. host: the name of its target, without a dot at the end."""

    priority: int
    weight: int
    host: str
    port: int

    def at(self, address: str) -> Target:
        """Return the target with one of its addresses."""
        return Target(Inet(address, self.port), self.priority, self.weight, self.host)


@frozen
class FoundTargets:
    """The result of a look-up.

    targets: by priority and address. seconds: for which they are valid. failed: why a target has not been found; "":
    all were found. missing: the records of targets that were not found.
    """

    failed_form: ClassVar[str] = "{host} is found without some of its targets: {reason}; they keep their addresses"

    targets: tuple[Target, ...]
    seconds: int
    failed: str = ""
    missing: tuple[Record, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """The targets as texts."""
        return tuple(map(str, self.targets))

    def beside(self, known: Iterable[str]) -> tuple[str, ...]:
        """Return the new targets of a name that had the targets `known`: a failed look-up removes none of them."""
        before = [read_target(one) for one in known] if self.missing else []
        kept = [
            evolve(one, priority=record.priority, weight=record.weight)
            for record in self.missing
            for one in before
            if (one.host, one.address.port) == (record.host, record.port)
        ]
        return tuple(map(str, unique((*self.targets, *kept))))


def look_up_targets(name: str, ipv6: int, nameservers: Sequence[tuple[str, int]] = ()) -> FoundTargets:
    """Look up the targets of `srv:NAME`, which may block. Raises NotFound.

    ipv6: the setting resolve_ipv6. nameservers: as for `look_up`.
    """
    records, sent_along, seconds = _ask(name.removeprefix(SRV), nameservers)
    addresses, failures, times = _addresses(records, sent_along, ipv6, nameservers)
    targets = unique(record.at(address) for record in records for address in addresses.get(record.host, ()))
    if not failures:
        return FoundTargets(targets, min(seconds, *times) if times else seconds)
    host, why = next(iter(failures.items()))
    if not targets:
        raise NotFound(f"none of its targets is found, such as {host}: {why}")
    missing = tuple([record for record in records if record.host in failures])
    return FoundTargets(targets, min(seconds, DEFAULT_TTL), f"{host}: {why}", missing)


def _ask(name: str, nameservers: Sequence[tuple[str, int]]) -> tuple[list[Record], Mapping[str, list[str]], int]:
    """Return the records by priority, the addresses that came with them by name, and their TTL. Raises NotFound."""
    resolver = make_resolver(nameservers)
    try:
        answer = resolver.resolve(name, "SRV", search=not nameservers)
    except dns.resolver.NXDOMAIN:
        raise NotFound("the name does not exist") from None
    except dns.resolver.NoAnswer:
        raise NotFound("it has no SRV record") from None
    except dns.resolver.NoNameservers:
        raise NotFound("its name servers have failed") from None
    except dns.exception.Timeout:
        raise NotFound("no name server has answered") from None
    except (dns.exception.DNSException, OSError) as error:
        raise NotFound(shorten(str(error), 100) or type(error).__name__) from None
    records = [
        Record(one.priority, one.weight, _host(one.target), one.port)
        for one in answer
        if one.port and len(one.target) > 1  # a target of "." means that there is no such service (RFC 2782)
    ]
    if not records:
        raise NotFound("its SRV records say that there is no such service")
    records.sort(key=lambda one: (one.priority, one.host, one.port))
    sent_along: dict[str, list[str]] = {}
    for rrset in answer.response.additional:
        if rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            sent_along.setdefault(_host(rrset.name), []).extend(record.address for record in rrset)
    ttls = [rrset.ttl for rrset in answer.response.additional if _host(rrset.name) in sent_along]
    return records[:MAX_TARGETS], sent_along, min(answer.chaining_result.minimum_ttl, *ttls, DEFAULT_MAX_TTL)


DEFAULT_MAX_TTL = 1 << 31
"""Seconds: above any TTL (RFC 2181, section 8)."""


def _host(name: Any) -> str:
    return str(name.to_text(omit_final_dot=True)).lower()


def _addresses(
    records: Sequence[Record],
    sent_along: Mapping[str, list[str]],
    ipv6: int,
    nameservers: Sequence[tuple[str, int]],
) -> tuple[Mapping[str, Sequence[str]], Mapping[str, str], list[int]]:
    """Return the addresses of targets by name, why others have none, and the TTLs of those that were looked up."""
    found: dict[str, Sequence[str]] = {}
    failures: dict[str, str] = {}
    seconds: list[int] = []
    end = time.monotonic() + MAX_LOOKUP_TIME
    for host in dict.fromkeys(record.host for record in records):
        known = usable_of_family(sent_along.get(host, ()), ipv6)
        preferred = 6 if ipv6 == IPV6_FIRST else 4
        if known and ipv6 != BOTH and (":" in known[0]) == (preferred == 6):
            found[host] = known
            continue
        if time.monotonic() > end:
            failures[host] = f"the look-ups before it have taken {MAX_LOOKUP_TIME:g} s"
            continue
        try:
            result = look_up(f"{host}.", ipv6, nameservers)
        except NotFound as why:
            failures[host] = str(why)
            continue
        found[host] = result.addresses
        seconds.append(result.seconds)
    return found, failures, seconds
