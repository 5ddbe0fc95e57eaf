"""Finds the servers of a service whose requests take much longer than those of the others."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median_low

from ktcpvs.model.destination import Destination
from ktcpvs.model.latency import described, within


class SlowServers:
    """Compares the latencies of servers, each time those since the last comparison.

    Medians are compared, since means would follow a few clients that read slowly.
    """

    def __init__(self) -> None:
        self._seen: dict[Destination, list[int]] = {}

    def find(
        self, destinations: Iterable[Destination], factor: int, min_requests: int, min_seconds: float
    ) -> list[tuple[Destination, str]]:
        """Return the slow servers with the reason in words, the slowest one first.

        factor: how many times longer its requests must take. min_requests: a server with fewer is not compared.
        min_seconds: a server whose requests take less is not slow.
        """
        medians: dict[Destination, float] = {}
        before, self._seen = self._seen, {}
        for destination in destinations:
            buckets = self._seen[destination] = described(destination.latencies)["buckets"]
            new = [now - then for now, then in zip(buckets, before.get(destination, buckets), strict=True)]
            if sum(new) >= min_requests:
                medians[destination] = within(new, 0.5) or 0.0
        found = []
        for destination, seconds in sorted(medians.items(), key=lambda pair: -pair[1]):
            others = [other for one, other in medians.items() if one is not destination]
            usual = median_low(others) if others else seconds
            if seconds >= min_seconds and seconds >= usual * factor:
                found.append(
                    (destination, f"half of its requests take up to {seconds:.3g} s, those of others {usual:.3g} s")
                )
        return found
