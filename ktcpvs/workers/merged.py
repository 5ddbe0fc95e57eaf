"""What several workers tell, as if one had told it: counts add up, connections stand one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ktcpvs.model.health import EJECTED, UP


def stats(own: dict[str, Any], told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The stats of all workers. own: the supervisor's, the table with all counts 0. told: each worker's."""
    all_told = [{service["ident"]: service for service in one["services"]} for one in told]
    return {
        **own,
        "services": [
            _service(service, [one[service["ident"]] for one in all_told if service["ident"] in one])
            for service in own["services"]
        ],
    }


def connections(told: Sequence[tuple[int, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """The connections of all workers; `worker` says whose each is. told: (number, what it sees) of each."""
    return [{**connection, "worker": number} for number, one in told for connection in one]


def _service(own: dict[str, Any], told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One service. A worker may be an edit behind, or ahead: what the supervisor does not know is left out.

    Which relay serves says the first worker: the supervisor may have other rights than those who relay.
    """
    merged = dict(own)
    for name in ("stats", "redirect_stats"):
        if name in own:
            merged[name] = _added(own[name], [one[name] for one in told if name in one])
    servers = [{server["address"]: server["stats"] for server in one["servers"]} for one in told]
    merged["stats"]["relay"] = _relay(own["stats"]["relay"], [one["stats"]["relay"] for one in told])
    merged["servers"] = [
        {
            **row,
            "stats": _added(row["stats"], [one[row["address"]] for one in servers if row["address"] in one]),
            "health": _health(row, told),
        }
        for row in own["servers"]
    ]
    return merged


def _health(own: dict[str, Any], told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What checks found stands in the supervisor's own; errors of clients each worker sees by itself."""
    known: dict[str, Any] = own["health"]
    rows = [row["health"] for one in told for row in one["servers"] if row["address"] == own["address"]]
    if known["state"] != UP or not rows:
        return known
    ejected = [one for one in rows if one["state"] == EJECTED]
    last: dict[str, Any] = max(ejected or [known, *rows], key=lambda one: one["since"])
    return {**last, "reason": f"in {len(ejected)} of {len(rows)} workers: {last['reason']}"} if ejected else last


def _relay(own: dict[str, Any] | None, told: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    seen = [one for one in told if one is not None]
    if not seen:
        return own
    joined = {name: sum(one["joined"][name] for one in seen) for name in seen[0]["joined"]}
    return {**seen[0], "joined": joined}


def _added(own: dict[str, Any], counts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: _sum(start, [one[name] for one in counts if name in one])
        for name, start in own.items()
        if name != "relay"
    }


def _sum(start: Any, more: Sequence[Any]) -> Any:
    """Numbers added up; lists of them place by place, dicts of them name by name."""
    if isinstance(start, dict):
        names = sorted({name for one in (start, *more) for name in one})
        return {name: start.get(name, 0) + sum(one.get(name, 0) for one in more) for name in names}
    if isinstance(start, list):
        return [sum(column) for column in zip(start, *more, strict=True)]
    return sum(more, start)
