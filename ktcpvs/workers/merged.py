"""What several workers tell, as if one had told it: counts add up, connections stand one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def stats(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The stats of all workers. told: at least one; all have the same table."""
    first = told[0]
    services = []
    for number, service in enumerate(first["services"]):
        same = [one["services"][number] for one in told if _is_same(one, number, service)]
        merged = dict(service)
        for name in ("stats", "redirect_stats"):
            if name in service:
                merged[name] = _added([one[name] for one in same if name in one])
        merged["servers"] = [
            {**server, "stats": _added([one["servers"][place]["stats"] for one in same])}
            for place, server in enumerate(service["servers"])
        ]
        services.append(merged)
    return {**first, "services": services}


def connections(told: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The connections of all workers; `worker` says whose each is, from 1."""
    return [{**connection, "worker": number} for number, one in enumerate(told, 1) for connection in one]


def _is_same(answer: dict[str, Any], number: int, service: dict[str, Any]) -> bool:
    """True where a worker's service is that of the others; one that has just begun may not know it yet."""
    found = answer["services"][number : number + 1]
    return bool(found) and (found[0]["ident"], len(found[0]["servers"])) == (service["ident"], len(service["servers"]))


LIMITS = frozenset(("maxconn",))
"""Figures that are the same in all workers."""


def _added(counts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = counts[0]
    return {name: names[name] if name in LIMITS else sum(one.get(name, 0) for one in counts) for name in names}
