"""Readiness: whether load balancers in front of this switch should send it clients."""

from __future__ import annotations

from collections.abc import Callable


class Readiness:
    """Joins the conditions of several parts. A switch is not ready before `begin`."""

    def __init__(self) -> None:
        self._conditions: list[Callable[[], str]] = []
        self._has_begun = False

    def require(self, why_not: Callable[[], str]) -> None:
        """Add a condition. why_not: returns why it does not hold, in a few words; "": it holds."""
        self._conditions.append(why_not)

    def begin(self) -> None:
        """The switch serves now."""
        self._has_begun = True

    def why_not(self) -> str:
        """Return why the switch is not ready, in a few words; "": it is."""
        if not self._has_begun:
            return "starting"
        return next(filter(None, (condition() for condition in self._conditions)), "")
