"""Many servers in the order of their load, which is kept as connections come and go.

It is a heap. Each change of a server's load pushes a new entry and makes the old one stale; stale entries are dropped
when they come to the top, and all at once when there are many. A change and a choice cost the logarithm of the number
of servers.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from math import inf

from ktcpvs.model.destination import Destination
from ktcpvs.schedulers.loads import Load

_Entry = tuple[float, int, Destination]
"""(load, number, server): numbers count entries, so that of equal loads the one that changed longest ago is first."""

REFRESHED_PER_CHOICE = 2
"""The servers whose load is computed again at each choice: some of its changes are not announced."""


class Order:
    """Servers, the one with the least load first."""

    __slots__ = ("_all", "_heap", "_last", "_load", "_next", "_valid")

    def __init__(self, destinations: Iterable[Destination], load: Load) -> None:
        self._load = load
        self._heap = [(load(one), number, one) for number, one in enumerate(destinations)]
        self._valid = {one: (number, load) for load, number, one in self._heap}  # the current entry of each
        self._last = len(self._heap)
        self._all = [one for _, _, one in self._heap]
        self._next = 0  # of `_all`, to be refreshed
        heapify(self._heap)

    def changed(self, destination: Destination) -> None:
        """Reorder a destination whose number of connections has changed."""
        self._last = number = self._last + 1
        load = self._load(destination)
        self._valid[destination] = number, load
        heappush(self._heap, (load, number, destination))
        if len(self._heap) > 4 * len(self._valid) + 64:
            self._heap = [entry for entry in self._heap if self._valid[entry[2]][0] == entry[1]]
            heapify(self._heap)

    def _refresh(self) -> None:
        """Reorder the next servers whose load has changed: nobody announces changes of weights, and of connections of
        other processes."""
        for _ in range(REFRESHED_PER_CHOICE):
            self._next = (self._next + 1) % len(self._all)
            destination = self._all[self._next]
            if self._load(destination) != self._valid[destination][1]:
                self.changed(destination)

    def first(self, tried: set[Destination]) -> Destination | None:
        """Return the first that has not been tried, and put it behind those of equal load; None if all have been."""
        if self._all:
            self._refresh()
        heap, valid = self._heap, self._valid
        aside: list[_Entry] = []
        found: Destination | None = None
        while heap:
            load, number, destination = heap[0]
            if valid[destination][0] != number:
                heappop(heap)
                continue
            now = self._load(destination)
            if destination in tried or now == inf:  # a weight that has become 0 since
                aside.append(heappop(heap))
            elif now != load:  # it changed unannounced
                self.changed(heappop(heap)[2])
                heap = self._heap
            else:
                found = destination
                heappop(heap)
                self.changed(destination)
                heap = self._heap
                break
        for entry in aside:
            heappush(heap, entry)
        return found
