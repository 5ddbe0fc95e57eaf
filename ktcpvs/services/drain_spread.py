"""The spread of one service's drains: calls that close connections of its clients are made within `drain_spread`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ktcpvs.runtime.context import Context
from ktcpvs.services.spread_calls import SpreadCalls


class DrainSpread:
    """Spreads calls that close connections of one service's clients, so that these do not all come back at once."""

    def __init__(self, context: Context, ident: str, seconds: Callable[[], int]) -> None:
        """ident: of the service, for the log. seconds: returns the service's `drain_spread`, read for each group of
        calls."""
        self._context = context
        self._ident = ident
        self._seconds = seconds
        self._running: list[SpreadCalls] = []

    def make(self, name: str, calls: Sequence[Callable[[], object]]) -> None:
        """Make calls within `drain_spread`, in their order. name: of such a call, for the log."""
        spread = SpreadCalls(self._context, f"service {self._ident}: {name}", calls, self._seconds())
        spread.start()
        self._running = [one for one in (*self._running, spread) if not one.is_over]

    def stop(self) -> None:
        """Make no more calls."""
        running, self._running = self._running, []
        for spread in running:
            spread.stop()
