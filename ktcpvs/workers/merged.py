"""What several workers tell, as if one had told it: counts add up, connections stand one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def stats(own: dict[str, Any], told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The stats of all workers. own: the supervisor's, the table with all counts 0. told: each worker's."""
    services = []
    for number, service in enumerate(own["services"]):
        same = [service, *(one["services"][number] for one in told if _is_same(one, number, service))]
        merged = dict(service)
        for name in ("stats", "redirect_stats"):
            if name in service:
                merged[name] = _added([one[name] for one in same if name in one])
        merged["servers"] = [
            {**server, "stats": _added([one["servers"][place]["stats"] for one in same])}
            for place, server in enumerate(service["servers"])
        ]
        services.append(merged)
    return {**own, "services": services}


def connections(told: Sequence[tuple[int, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """The connections of all workers; `worker` says whose each is. told: (number, what it sees) of each."""
    return [{**connection, "worker": number} for number, one in told for connection in one]


def _is_same(answer: dict[str, Any], number: int, service: dict[str, Any]) -> bool:
    """True where a worker's service is that of the others; one that has just begun may not know it yet."""
    found = answer["services"][number : number + 1]
    return bool(found) and (found[0]["ident"], len(found[0]["servers"])) == (service["ident"], len(service["servers"]))


def _added(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    return {name: sum(one.get(name, 0) for one in counts) for name in counts[0]}
