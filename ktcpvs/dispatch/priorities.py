"""Servers by priority: those of later priorities stand by until those of earlier ones do not suffice.

The servers of the first priority are used. Those of the next one join while the weight that is available before them is
less than `overflow` percent of the first priority's weight, or while there is none. Backup servers come last, and join
only while there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set

from attrs import frozen

from ktcpvs.model.destination import Destination
from ktcpvs.model.server_words import BACKUP, write_priority
from ktcpvs.model.service import VirtualService


@frozen(eq=False)
class _Tier:
    """The servers of one priority."""

    priority: int
    servers: tuple[Destination, ...]

    def available(self, down: Set[Destination]) -> float:
        """Return the sum of their weights without those that are down. It grows during slow start."""
        return sum([one.weight for one in self.servers if one not in down])


class Priorities:
    """The servers of a service whose servers have several priorities."""

    __slots__ = ("_needed", "_overflow", "_tiers", "_weight")

    def __init__(self, config: VirtualService, destinations: Iterable[Destination]) -> None:
        priority_of = {server.address: server.priority for server in config.servers}
        by_priority: dict[int, list[Destination]] = {}
        for destination in destinations:
            by_priority.setdefault(priority_of[destination.address], []).append(destination)
        self._tiers = [_Tier(priority, tuple(servers)) for priority, servers in sorted(by_priority.items())]
        # As configured: servers that are quiesced, or that start slowly, are missing there.
        first = self._tiers[0].priority
        self._weight = sum(server.weight for server in config.servers if server.priority == first)
        self._overflow = config.overflow
        self._needed = self._weight * config.overflow / 100

    def in_use(self, down: Set[Destination]) -> int:
        """Return the number of priorities whose servers are used, from the first one. down: those that are not up, and
        so not available."""
        available = 0.0
        for number, tier in enumerate(self._tiers):
            if available > 0 and (available >= self._needed or tier.priority == BACKUP):
                return number
            available += tier.available(down)
        return len(self._tiers)

    def standby(self, down: Set[Destination]) -> frozenset[Destination]:
        """Return the servers that are not used, although they are not down."""
        later = self._tiers[self.in_use(down) :]
        return frozenset([one for tier in later for one in tier.servers if one not in down])

    def later(self, standby: frozenset[Destination]) -> Iterator[tuple[str, frozenset[Destination]]]:
        """Yield a name, and the servers, of each priority that stands by, in their order."""
        for tier in self._tiers:
            if waiting := standby.intersection(tier.servers):
                yield write_priority(tier.priority), waiting

    def describe(self, down: Set[Destination]) -> str:
        """Return which priorities are used, and why, in one line."""
        count = self.in_use(down)
        first, *others = [write_priority(tier.priority) for tier in self._tiers[:count]]
        if not others:
            waiting = ", ".join(write_priority(tier.priority) for tier in self._tiers[count:])
            return f"servers of {first} are used; {waiting} stands by"
        available = self._tiers[0].available(down)
        limit = f", less than overflow = {self._overflow}%" if available else ""
        return (
            f"servers of {', '.join(others)} are used: those of {first} have {available:g} of their weight "
            f"{self._weight}{limit}"
        )


def priorities_of(config: VirtualService, destinations: Iterable[Destination]) -> Priorities | None:
    """Return the priorities of a service; None: all its servers have the same one."""
    return Priorities(config, destinations) if len({server.priority for server in config.servers}) > 1 else None
