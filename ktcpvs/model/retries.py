"""How many requests may be with their second server at once, so that a failing service is not buried by retries."""

from __future__ import annotations

from ktcpvs.model.destination import Destination, Lease


class RetryBudget:
    """One for each service. taken: how many requests are with another server than their first, now.

    A request counts that a server has had and did not answer. One that never reached a server costs no server anything,
    and is not counted: a call that failed, or a kept connection that was found closed and is called anew.
    """

    __slots__ = ("taken",)

    def __init__(self) -> None:
        self.taken = 0

    def allows(self, live: int, share: int, least: int) -> bool:
        """May one more be retried? live: requests that are being served. share: percent of them that may be retries;
        least: so many may, however few are live."""
        return self.taken < max(least, live * share // 100)

    def lease(self, destination: Destination) -> Lease:
        """A place at another server; until it ends the request is counted as a retry."""
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
