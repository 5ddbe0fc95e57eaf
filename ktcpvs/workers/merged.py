"""Merges the views of several workers into one: adds counts up, and concatenates lists of connections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ktcpvs.model.health import EJECTED, STANDBY, UP

Data = dict[str, Any]
"""Plain data of a view, as inspect/views.py makes it."""


def stats(own: Data, answers: Sequence[Data]) -> Data:
    """The stats of all workers. own: the supervisor's, with the table and all counts 0. answers: one of each worker."""
    by_ident = [{service["ident"]: service for service in answer["services"]} for answer in answers]
    return {
        **own,
        "services": [
            _service(service, [services[service["ident"]] for services in by_ident if service["ident"] in services])
            for service in own["services"]
        ],
    }


def connections(answers: Sequence[tuple[int, list[Data]]]) -> list[Data]:
    """The connections of all workers, each with its worker's number. answers: (number, connections) of each worker."""
    return [{**connection, "worker": number} for number, answer in answers for connection in answer]


def _service(own: Data, answers: Sequence[Data]) -> Data:
    """One service of `own`, with the counts of the workers that know it.

    A worker may be one edit behind or ahead: servers that the supervisor does not know are left out. The relay is that
    of the first worker, since the supervisor may have other rights than the processes that relay.
    """
    merged = dict(own)
    for name in ("stats", "redirect_stats"):
        if name in own:
            merged[name] = _added(own[name], [answer[name] for answer in answers if name in answer])
    by_address = [{server["address"]: server["stats"] for server in answer["servers"]} for answer in answers]
    merged["stats"]["relay"] = _relay(own["stats"]["relay"], [answer["stats"]["relay"] for answer in answers])
    merged["servers"] = [
        {
            **server,
            "stats": _added(
                server["stats"], [seen[server["address"]] for seen in by_address if server["address"] in seen]
            ),
            "health": _health(server, answers),
            "last_error": _last_error(server, answers),
        }
        for server in own["servers"]
    ]
    return merged


def _health(own: Data, answers: Sequence[Data]) -> Data:
    """The health of one server: the supervisor knows the results of checks, each worker the ejections that it made."""
    known: Data = own["health"]
    seen = [
        server["health"] for answer in answers for server in answer["servers"] if server["address"] == own["address"]
    ]
    if known["state"] not in (UP, STANDBY) or not seen:
        return known
    ejected = [health for health in seen if health["state"] == EJECTED]
    used = [health for health in (known, *seen) if health["state"] != STANDBY]  # some workers may use it already
    last: Data = max(ejected or used or [known, *seen], key=lambda health: health["since"])
    return {**last, "reason": f"in {len(ejected)} of {len(seen)} workers: {last['reason']}"} if ejected else last


def _last_error(own: Data, answers: Sequence[Data]) -> Data | None:
    """The last error of one server in any worker."""
    errors = [
        server["last_error"]
        for answer in answers
        for server in answer["servers"]
        if server["address"] == own["address"] and server["last_error"] is not None
    ]
    last: Data | None = max(errors, key=lambda error: error["at"], default=None)
    return last


def _relay(own: Data | None, answers: Sequence[Data | None]) -> Data | None:
    known = [relay for relay in answers if relay is not None]
    if not known:
        return own
    joined = {name: sum(relay["joined"][name] for relay in known) for name in known[0]["joined"]}
    return {**known[0], "joined": joined}


def _added(own: Data, counts: Sequence[Data]) -> Data:
    return {
        name: _sum(start, [count[name] for count in counts if name in count])
        for name, start in own.items()
        if name != "relay"
    }


def _sum(start: Any, more: Sequence[Any]) -> Any:
    """The sum of numbers; lists are summed element by element, dicts name by name."""
    if isinstance(start, dict):
        names = sorted({name for each in (start, *more) for name in each})
        return {name: start.get(name, 0) + sum(each.get(name, 0) for each in more) for name in names}
    if isinstance(start, list):
        return [sum(elements) for elements in zip(start, *more, strict=True)]
    return sum(more, start)
