"""wlc, weighted least connections: the server with the fewest connections for its weight.

Fewest connections/weight among the servers with weight > 0 (KTCPVS: the first wins a tie; here ties rotate,
so that equal servers share evenly). Other schedulers use `LeastConnections` among the servers of a rule.
"""

from __future__ import annotations

from collections.abc import Iterable

from zope.interface import implementer

from ktcpvs.interfaces import CONNECTION, IScheduler, ISchedulerFactory
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Choice, Request, ServiceView


class LeastConnections:
    """Picks one of some destinations. why: in front of the reason, for a rule that was matched before."""

    __slots__ = ("_choices", "_next")

    def __init__(self, destinations: Iterable[Destination], why: str = "") -> None:
        destinations = tuple(destinations)
        reason = f"{why}fewest connections for its weight of {len(destinations)}"
        self._choices = [Choice(destination, reason) for destination in destinations]
        self._next = 0

    def pick(self, tried: set[Destination]) -> Choice | None:
        """The least loaded one that is not quiesced and not in `tried`; None when there is none."""
        choices = self._choices
        best: Choice | None = None
        least, weight, place = 0, 1, 0
        count = len(choices)
        for step in range(count):
            position = (self._next + step) % count
            choice = choices[position]
            candidate = choice.destination
            if (
                candidate.weight > 0
                and (best is None or candidate.active * weight < least * candidate.weight)
                and candidate not in tried
            ):
                best, least, weight, place = choice, candidate.active, candidate.weight, position
        if best is not None:
            self._next = place + 1
        return best


@implementer(IScheduler)
class BoundWLC:
    """wlc over all servers of one service."""

    def __init__(self, service: ServiceView) -> None:
        self._servers = LeastConnections(service.destinations)

    def choose(self, request: Request) -> Choice | None:
        return self._servers.pick(request.tried)


@implementer(ISchedulerFactory)
class WLC:
    """Per connection: the server with the fewest connections for its weight."""

    name = "wlc"
    unit = CONNECTION

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundWLC:
        return BoundWLC(service)
