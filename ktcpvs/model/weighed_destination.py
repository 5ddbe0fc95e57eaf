"""A real server as one rule weighs it: a view of its destination with another weight."""

from __future__ import annotations

from typing import Any

from ktcpvs.model.destination import Destination
from ktcpvs.model.recent import Latency

LEAST_WEIGHT = 0.01
"""Of a server that checks or a slow start have left a part of its share, however small."""


class WeighedDestination(Destination):
    """A destination with the weight that a rule gives it, and with the counters, the health and all the rest of the
    real one.

    It is equal to the real one, so it is found in sets of destinations. While the real one has a part of its share, in
    its slow start or since its checks ask for that, the rule's weight is scaled by that part; so a server that is
    quiesced has the weight 0 here too.
    """

    __slots__ = ("_own", "real")

    def __init__(self, real: Destination, weight: int) -> None:
        """weight: in the rule."""
        self.real = real
        self._own = weight

    def __eq__(self, other: object) -> bool:
        return (
            other is self or other is self.real or (isinstance(other, WeighedDestination) and other.real is self.real)
        )

    def __hash__(self) -> int:
        return hash(self.real)

    def __getattr__(self, name: str) -> Any:
        """Return what the real one has: the slots of this one are empty."""
        return getattr(self.real, name)

    @property
    def is_shared(self) -> bool:  # type: ignore[override]
        return self.real.is_shared

    @property
    def weight(self) -> float:  # type: ignore[override]
        weight, share = self.real.weight, self.real.share
        if weight == share:
            return self._own if weight else 0
        if not share or not weight or not self._own:
            return 0
        return max(round(self._own * weight / share, 2), LEAST_WEIGHT)

    @property
    def share(self) -> int:  # type: ignore[override]
        """Its weight in the rule, 0 unless the server is ready."""
        return self._own if self.real.share else 0

    @property
    def active(self) -> int:  # type: ignore[override]
        return self.real.active

    @property
    def own(self) -> int:
        return self.real.own

    def part_of(self, count: int) -> int:
        return self.real.part_of(count)

    @property
    def latency(self) -> Latency:
        return self.real.latency

    @property
    def error_rate(self) -> float:
        return self.real.error_rate
