"""The loads of servers by which schedulers choose: connections, also for the weight, or the delay that they make.

Each function returns infinity for a server with the weight 0, which is never chosen. `schedulers/_balance.c` knows
these functions, and does the same.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from ktcpvs.model.destination import Destination

Load = Callable[[Destination], float]
"""Returns the load of a server: the one with the least load is chosen. Infinity: it has the weight 0, and is never
chosen."""


def connections(destination: Destination) -> float:
    """Return the number of connections."""
    return destination.active if destination.weight else inf


def weighted_connections(destination: Destination) -> float:
    """Return the number of connections for the weight."""
    return destination.active / destination.weight if destination.weight else inf


def expected_delay(destination: Destination) -> float:
    """Return the delay that one more connection may expect, in units that are the same for all servers."""
    weight = destination.weight
    return (destination.active + 1) / weight if weight else inf


def delay_unless_idle(destination: Destination) -> float:
    """Return the expected delay, but a number below 0 for an idle server: the lower, the higher its weight."""
    weight = destination.weight
    if not weight:
        return inf
    active = destination.active
    return (active + 1) / weight if active else -weight
