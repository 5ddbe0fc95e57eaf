"""Networks (10.0.0.0/8, 2001:db8::/32, or a single address) and lists of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

from attrs import field, frozen

from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.address import PortNamed
from ktcpvs.model.lines import split_lines

MAX_NETWORKS = 100_000
"""The most networks in one list."""


class Network(NamedTuple):
    """A network. bits: 32 for IPv4, 128 for IPv6. first: the lowest address, as a number. length: of the prefix, in
    bits."""

    bits: int
    first: int
    length: int

    @property
    def last(self) -> int:
        """The highest address, as a number."""
        return self.first | ((1 << (self.bits - self.length)) - 1)

    def __str__(self) -> str:
        address = (ipaddress.IPv4Address if self.bits == 32 else ipaddress.IPv6Address)(self.first)
        return str(address) if self.length == self.bits else f"{address}/{self.length}"


def parse_network(text: str) -> Network:
    """Parse ADDRESS/LENGTH, or ADDRESS alone for a single address. Raises BadValue."""
    address, _, length = text.partition("/")
    try:
        found = ipaddress.ip_address(address)
        bits = found.max_prefixlen
        if length.isascii() and length.isdigit() and len(length) <= 3 and int(length) <= bits:
            known = int(length)
        else:
            known = ipaddress.ip_interface(text).network.prefixlen  # no length, a mask, or an error
    except ValueError:
        raise BadValue(f"'{shorten(text, 40)}': expected a network (example: 10.0.0.0/8 or 2001:db8::/32)") from None
    if isinstance(found, ipaddress.IPv6Address) and found.scope_id is not None:
        raise BadValue(f"'{shorten(text, 40)}': a network has no zone; leave out %{shorten(found.scope_id, 20)}")
    number = int(found)
    network = Network(bits, number >> (bits - known) << (bits - known), known)
    if network.first != number:
        raise BadValue(f"'{shorten(text, 40)}': the address has bits beyond the prefix; did you mean {network}?")
    return network


def _not_too_many(instance: object, attribute: object, value: tuple[Network, ...]) -> None:
    if len(value) > MAX_NETWORKS:
        raise BadValue(f"{len(value)} networks in one list; the limit is {MAX_NETWORKS}")


@frozen(slots=False)
class Networks:
    """Networks in the order in which they were given, each once."""

    entries: tuple[Network, ...] = field(default=(), validator=_not_too_many)

    @classmethod
    def of(cls, entries: Iterable[Network]) -> Networks:
        """Make the list of these networks without repetitions."""
        return cls(tuple(dict.fromkeys(entries)))

    @cached_property
    def known(self) -> frozenset[Network]:
        """The networks as a set."""
        return frozenset(self.entries)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The networks as texts."""
        return tuple(map(str, self.entries))

    def __bool__(self) -> bool:
        return bool(self.entries)

    def __str__(self) -> str:
        return " ".join(self.texts)

    def with_more(self, more: Iterable[Network]) -> Networks:
        """Return this list with more networks."""
        return Networks.of((*self.entries, *more))

    def without(self, leaving: Networks) -> Networks:
        """Return this list without some networks."""
        if self.known.isdisjoint(leaving.known):
            return self
        return Networks(tuple(entry for entry in self.entries if entry not in leaving.known))


def parse_networks(text: str) -> Networks:
    """Parse networks that white space separates; `#` begins a comment. Raises BadValue, with the line's number if there
    are several lines."""
    found: list[Network] = []
    lines = split_lines(text)
    for number, line in enumerate(lines, 1):
        for word in line.partition("#")[0].split():
            try:
                found.append(parse_network(word))
            except BadValue as bad:
                raise BadValue(f"line {number}: {bad}" if any(lines[1:]) else str(bad)) from None
    return Networks.of(found)


def read_networks(name: str, text: str, port_named: PortNamed) -> Networks:
    """Read the value of an option."""
    return parse_networks(text)
