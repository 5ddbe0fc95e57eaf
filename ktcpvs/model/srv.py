"""Targets of SRV records (RFC 2782): the servers that a name of SRV records stands for, with weights and priorities.

A resolution knows a target as a text, as it knows the address of a host name: `ADDRESS:PORT PRIORITY WEIGHT HOST`. HOST
is the target's own name; workers, which look nothing up, are not sent it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from math import gcd

from attrs import frozen

from ktcpvs.errors import BadAddress, shorten
from ktcpvs.model.address import Inet, parse_address
from ktcpvs.model.options import MAX_WEIGHT
from ktcpvs.model.server_words import BACKUP

ZERO_WEIGHT_PART = 10
"""A target of weight 0 beside others counts as this part of the smallest weight above 0: RFC 2782 gives it a very small
chance, and not none."""


@frozen
class Target:
    """One address of a target. address: with its port. priority: the lowest is used first, 0..65535. weight: 0..65535.
    host: the target's name; "": it is not known here."""

    address: Inet
    priority: int
    weight: int
    host: str = ""

    def __str__(self) -> str:
        return f"{self.address} {self.priority} {self.weight} {self.host}".rstrip()

    @property
    def rank(self) -> tuple[int, int, int, int]:
        """Its place among all targets: by priority, then by address."""
        address = ip_address(self.address.host)
        return self.priority, address.version, int(address), self.address.port or 0


def read_target(text: str) -> Target:
    """Read a target as a resolution knows it. Raises BadAddress."""
    address, *numbers = text.split(" ", 3)
    try:
        parsed = parse_address(address)
        priority, weight = (int(number) for number in numbers[:2])
    except ValueError:
        raise BadAddress(f"'{shorten(text)}': expected ADDRESS:PORT PRIORITY WEIGHT [HOST]") from None
    if not isinstance(parsed, Inet) or parsed.is_name or parsed.port is None:
        raise BadAddress(f"'{shorten(text)}': expected an IP address with a port")
    return Target(parsed, priority, weight, *numbers[2:])


def is_target(text: str) -> bool:
    """Whether the text is a target, and not the address of a host name."""
    return " " in text


def without_host(text: str) -> str:
    """Return a target without its own name; the address of a host name as it is."""
    return " ".join(text.split(" ", 3)[:3])


def unique(targets: Iterable[Target]) -> tuple[Target, ...]:
    """Return the targets by priority and address, each address once, with its best priority."""
    found: dict[Inet, Target] = {}
    for target in sorted(targets, key=lambda one: (one.rank, -one.weight, one.host)):
        found.setdefault(target.address, target)
    return tuple(found.values())


def weights(targets: Sequence[Target], weight: int) -> tuple[int, ...]:
    """Return the weights of these targets, in their order, for a server that is configured with `weight`.

    Targets of equal weights get `weight`; others get multiples of it, in the proportions of their records. All weights
    are within our range; above a `weight` of 0 none is 0.
    """
    given = [target.weight for target in targets]
    if not any(given) or not weight:
        return (weight,) * len(given)
    if 0 in given:
        least = min(one for one in given if one)
        given = [one * ZERO_WEIGHT_PART or least for one in given]
    unit = gcd(*given)
    wanted = [one // unit * weight for one in given]
    most = max(wanted)
    return tuple(wanted) if most <= MAX_WEIGHT else tuple([max(one * MAX_WEIGHT // most, 1) for one in wanted])


def priorities(targets: Sequence[Target], priority: int) -> tuple[int, ...]:
    """Return the priorities of these targets, in their order, for a server that is configured with `priority`.

    Targets of the lowest priority get `priority`, those of the next one get the next number, and so on up to BACKUP.
    """
    levels = {level: number for number, level in enumerate(sorted({target.priority for target in targets}))}
    return tuple([min(priority + levels[target.priority], BACKUP) for target in targets])
