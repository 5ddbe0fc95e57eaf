"""The retry budget: limits how many requests are at another server than their first, so that retries do not overload a
failing service."""

from __future__ import annotations

from ktcpvs.model.destination import Destination, Lease


class RetryBudget:
    """The budget of one service. taken: how many requests are at another server than their first now.

    Only requests count that a server has received without responding. A failed connect, or a kept connection that was
    closed, costs no server anything and does not count.
    """

    __slots__ = ("taken",)

    def __init__(self) -> None:
        self.taken = 0

    def allows(self, live: int, share: int, least: int) -> bool:
        """Whether one more request may be retried. live: requests being served. share: percent of them that may be
        retries. least: the number of retries that is always allowed."""
        return self.taken < max(least, live * share // 100)

    def lease(self, destination: Destination) -> Lease:
        """Return a lease of another server, which counts as a retry until it ends."""
        return _Retried(destination, self)


class _Retried(Lease):
    __slots__ = ("_budget",)

    def __init__(self, destination: Destination, budget: RetryBudget) -> None:
        super().__init__(destination)
        self._budget = budget
        budget.taken += 1

    def end(self, failed: bool = False) -> None:
        if not self.ended:
            self._budget.taken -= 1
        super().end(failed)
