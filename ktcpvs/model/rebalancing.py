"""The connections that a server carries above its share, and the number of them that may move at once."""

from __future__ import annotations

from collections.abc import Collection

from attrs import frozen

from ktcpvs.errors import BadValue
from ktcpvs.model.destination import Destination

LOWEST, HIGHEST = 1, 100
"""The range of the percentage."""


@frozen
class Surplus:
    """The connections that a server has too many. over: the connections of a server above its share. room: how many of
    them the other servers can take."""

    over: int
    room: int


def check_percent(percent: int) -> int:
    """Return the percentage. Raises BadValue."""
    if not LOWEST <= percent <= HIGHEST:
        raise BadValue(f"{percent}%: expected {LOWEST}% to {HIGHEST}% of a server's connections")
    return percent


def surpluses(servers: Collection[Destination], by_weight: bool) -> dict[Destination, Surplus]:
    """Return the servers that carry more than their share of all connections of these servers, with what is above it.

    servers: those that may get clients. by_weight: their shares follow their weights; False: all are equal.
    """
    weights = {one: (one.weight if by_weight else 1) for one in servers if one.weight > 0}
    counts = {one: one.active for one in weights}
    total, weight = sum(counts.values()), sum(weights.values())
    over: dict[Destination, int] = {}
    room = 0
    for one, count in counts.items():
        share = -(-total * weights[one] // weight)  # rounded up: one connection more is none above it
        if count > share:
            over[one] = int(count - share)
        else:
            room += max(int(min(share, one.maxconn or share)) - count, 0)
    above = sum(over.values())
    return {one: Surplus(count, count if above <= room else count * room // above) for one, count in over.items()}


def most_moved(active: int, percent: int) -> int:
    """Return how many connections of a server with so many may move: at least one."""
    return max(active * percent // 100, 1)
