"""Adds up the views of several workers, or of several nodes of a cluster: counts add up, lists of connections join."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ktcpvs.model.health import DOWN, DRAINING, EJECTED, STANDBY, UP
from ktcpvs.model.server_words import MAINTENANCE

Data = dict[str, Any]
"""Plain data of a view, as inspect/views.py makes it."""

OF_SERVICE = ("ident", "running", "here", "scheduler", "stats", "redirect", "redirect_stats")
OF_SERVER = ("address", "name", "stats", "health", "last_error")
"""The fields that differ from node to node, and those that name what they belong to."""

SEVERITY = (UP, STANDBY, DRAINING, MAINTENANCE, EJECTED, DOWN)
"""The states of a server from the best to the worst."""

_Answers = Mapping[Any, Data]
"""Number of a worker, or name of a node -> its answer, or the part of it about one service or server."""

_Merge = Callable[[Data, _Answers], Data]
"""Returns what does not add up of a row of `own`, and of the same row of all who have it."""


def stats(own: Data, answers: Sequence[Data]) -> Data:
    """The stats of all workers. own: the supervisor's, with the table and all counts 0. answers: one of each worker."""
    return _stats(own, dict(enumerate(answers)), _server_of_workers, lambda own, seen: {})


def connections(answers: Sequence[tuple[int, list[Data]]]) -> list[Data]:
    """The connections of all workers, each with its worker's number, which is also the beginning of its ID. answers:
    (number, connections) of each worker."""
    return [
        {**connection, **_id_in_all(number, connection), "worker": number}
        for number, answer in answers
        for connection in answer
    ]


def _id_in_all(number: int, connection: Data) -> Data:
    return {"id": f"{number}-{connection['id']}"} if "id" in connection else {}


def rebalances(answers: Sequence[Data]) -> Data:
    """The moves that all workers have begun. answers: one of each worker, at least one, each of which counts `active`
    and `over` of all of them."""
    return {**answers[0], "servers": _added_moves(answers, ("moving", "held", "uncloseable"))}


def rebalances_of_nodes(answers: Mapping[str, Data]) -> Data:
    """The moves that all nodes have begun."""
    found = list(answers.values())
    return {**found[0], "servers": _added_moves(found, ("active", "over", "moving", "held", "uncloseable"))}


def _added_moves(answers: Sequence[Data], names: Sequence[str]) -> list[Data]:
    """Return the rows of all servers, with these counts added up."""
    rows: dict[str, Data] = {}
    for row in (row for answer in answers for row in answer["servers"]):
        known = rows.get(row["address"])
        rows[row["address"]] = row if known is None else {**known, **{name: known[name] + row[name] for name in names}}
    return list(rows.values())


def stats_of_nodes(own: Data, answers: Mapping[str, Data]) -> Data:
    """The stats of several nodes.

    own: those of any node, which say what the table is; its counts are left out unless it is one of the answers too.
    answers: node -> its stats, or their `part_of_node`. Each server's health is the worst one, with the names of the
    nodes that see it so in `nodes`; a service has in `not_running_on` those that do not run it, although it is for them
    and runs in `own`. It is `here` if it is for any of them.
    """
    without_counts = {
        **own,
        "services": [_zeroed_service(service) for service in own["services"]],
        **({"traces": dict.fromkeys(own["traces"], 0)} if "traces" in own else {}),
    }
    return _stats(without_counts, answers, _server_of_nodes, _service_of_nodes)


def connections_of_nodes(answers: Mapping[str, list[Data]]) -> list[Data]:
    """The connections of several nodes, each with its node's name."""
    return [{**connection, "node": node} for node, answer in answers.items() for connection in answer]


def part_of_node(stats: Data) -> Data:
    """Return what one node alone can say: counters and states, without the table, which is the same on all nodes. A
    server's health is None where the node does not run the service."""
    services = [_part_of_service(service) for service in stats["services"]]
    return {"version": stats["version"], "services": services, **_select(stats, ("traces",))}


def _part_of_service(service: Data) -> Data:
    servers = [_select(server, OF_SERVER) for server in service["servers"]]
    if not (service["running"] and service.get("here", True)):
        servers = [{**server, "health": None} for server in servers]
    return {**_select(service, OF_SERVICE), "servers": servers}


def _select(row: Data, names: Sequence[str]) -> Data:
    return {name: row[name] for name in names if name in row}


def _stats(own: Data, answers: _Answers, of_server: _Merge, of_service: _Merge) -> Data:
    by_ident = {one: {service["ident"]: service for service in answer["services"]} for one, answer in answers.items()}
    traces = [answer["traces"] for answer in answers.values() if "traces" in answer]
    return {
        **own,
        "services": [
            {**_service(service, known, of_server), **of_service(service, known)}
            for service in own["services"]
            for known in [_of_all(by_ident, service["ident"])]
        ],
        **({"traces": _added(own["traces"], traces)} if "traces" in own else {}),
    }


def _of_all(found: Mapping[Any, Mapping[str, Data]], key: str) -> _Answers:
    """Return the rows of that key, of all that have one."""
    return {one: rows[key] for one, rows in found.items() if key in rows}


def _service(own: Data, answers: _Answers, of_server: _Merge) -> Data:
    """One service of `own`, with the counts of those that know it.

    A worker or node may be one edit behind or ahead: servers that `own` does not have are left out. The relay is that
    of the first one, since the supervisor may have other rights than the processes that relay.
    """
    merged = dict(own)
    for name in ("stats", "redirect_stats"):
        if name in own:
            merged[name] = _added(own[name], [answer[name] for answer in answers.values() if name in answer])
    merged["stats"]["relay"] = _relay(own["stats"]["relay"], [answer["stats"]["relay"] for answer in answers.values()])
    rows = {one: {server["address"]: server for server in answer["servers"]} for one, answer in answers.items()}
    merged["servers"] = []
    for server in own["servers"]:
        seen = _of_all(rows, server["address"])
        merged["servers"].append(
            {
                **server,
                "stats": _added(server["stats"], [one["stats"] for one in seen.values()]),
                **of_server(server, seen),
            }
        )
    return merged


def _service_of_nodes(own: Data, answers: _Answers) -> Data:
    here = {node: seen for node, seen in answers.items() if seen.get("here", True)}
    stopped = [node for node, seen in here.items() if own["running"] and not seen["running"]]
    return {"not_running_on": stopped, "here": bool(here)}


def _server_of_workers(own: Data, answers: _Answers) -> Data:
    seen = [server["health"] for server in answers.values()]
    _, error = _last_error(answers)
    return {"health": _health_of_workers(own["health"], seen), "last_error": error}


def _health_of_workers(own: Data, seen: Sequence[Data]) -> Data:
    """The health of one server: the supervisor knows the results of checks, each worker the ejections that it made."""
    if own["state"] not in (UP, STANDBY) or not seen:
        return own
    ejected = [health for health in seen if health["state"] == EJECTED]
    used = [health for health in (own, *seen) if health["state"] != STANDBY]  # some workers may use it already
    last: Data = max(ejected or used or [own, *seen], key=lambda health: health["since"])
    return {**last, "reason": f"in {len(ejected)} of {len(seen)} workers: {last['reason']}"} if ejected else last


def _server_of_nodes(own: Data, answers: _Answers) -> Data:
    node, error = _last_error(answers)
    health = _health_of_nodes(own["health"], {one: row["health"] for one, row in answers.items() if row["health"]})
    return {"health": health, "last_error": error and {**error, "node": node}}


def _health_of_nodes(own: Data, seen: _Answers) -> Data:
    """The worst health of one server, since the first node has found it so, and the nodes that have. own: counts where
    no node has the server."""
    if not seen:
        return {**own, "nodes": []}
    worst = max((health["state"] for health in seen.values()), key=_severity)
    nodes = [node for node, health in seen.items() if health["state"] == worst]
    first: Data = min((seen[node] for node in nodes), key=lambda health: health["since"])
    return {**first, "nodes": nodes}


def _severity(state: str) -> int:
    return SEVERITY.index(state) if state in SEVERITY else len(SEVERITY)


def _last_error(seen: _Answers) -> tuple[Any, Data | None]:
    """The last error of one server, and who has seen it; None: there was none."""
    errors = [(one, server["last_error"]) for one, server in seen.items() if server["last_error"] is not None]
    return max(errors, key=lambda error: error[1]["at"], default=(None, None))


def _relay(own: Data | None, answers: Sequence[Data | None]) -> Data | None:
    known = [relay for relay in answers if relay is not None]
    if not known:
        return own
    return {**known[0], "joined": _sum(dict.fromkeys(known[0]["joined"], 0), [relay["joined"] for relay in known])}


def _zeroed_service(service: Data) -> Data:
    zeroed = dict(service)
    for name in ("stats", "redirect_stats"):
        if name in service:
            zeroed[name] = _zeroed(service[name])
    zeroed["servers"] = [{**server, "stats": _zeroed(server["stats"])} for server in service["servers"]]
    return zeroed


def _zeroed(counts: Data) -> Data:
    """Return counts that are all 0. Names that only count what there was, as statuses of refusals, are left out."""
    return {
        name: value if name == "relay" else _nothing(value, is_open=name != "answers") for name, value in counts.items()
    }


def _nothing(value: Any, is_open: bool) -> Any:
    if isinstance(value, dict):
        return {} if is_open else dict.fromkeys(value, 0)
    return [0] * len(value) if isinstance(value, list) else 0


def _added(own: Data, counts: Sequence[Data]) -> Data:
    return {
        name: _sum(start, [count[name] for count in counts if name in count])
        for name, start in own.items()
        if name != "relay"
    }


def _sum(start: Any, more: Sequence[Any]) -> Any:
    """The sum of numbers; lists are summed element by element, dicts name by name. Lists of another length, as nodes of
    another version may have, are left out."""
    if isinstance(start, dict):
        names = {name for each in (start, *more) for name in each}
        longest = max((start, *more), key=len)
        # Rules stay in their order; where one process has others, as it may for the time of an edit, names are sorted.
        in_order = longest if len(longest) == len(names) else sorted(names)
        return {name: start.get(name, 0) + sum(each.get(name, 0) for each in more) for name in in_order}
    if isinstance(start, list):
        return [sum(elements) for elements in zip(start, *(one for one in more if len(one) == len(start)), strict=True)]
    return sum(more, start)
