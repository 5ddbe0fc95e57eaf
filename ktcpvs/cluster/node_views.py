"""The views of a whole cluster: its nodes, and the counters and connections of all of them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import asdict
from twisted.internet.defer import Deferred
from twisted.internet.defer import maybeDeferred as maybe_deferred

from ktcpvs.cluster.cluster import Cluster
from ktcpvs.cluster.draining import NodeDrains, describe_state
from ktcpvs.cluster.requests import UNREADABLE, Requests
from ktcpvs.errors import BadValue, NoCluster
from ktcpvs.model import added_views

STATS, CONNECTIONS = "stats", "connections"
"""The requests that nodes answer each other. The argument `ident` is that of a service; null: all."""

GONE = "gone"

OwnView = Callable[[str, "str | None"], Any]
"""Returns a view of this node's switch, by name, or a Deferred of it."""


class NodeViews:
    """Makes the views, and answers the requests of other nodes for those of this one."""

    def __init__(self, cluster: Cluster, requests: Requests, drains: NodeDrains, own: OwnView) -> None:
        self._cluster = cluster
        self._drains = drains
        self._requests = requests
        self._own = own
        requests.offer(STATS, self._own_stats)
        requests.offer(CONNECTIONS, self._own_connections)

    def view(self, name: str, ident: str | None) -> Any:
        """Return the view of that name, or a Deferred of it. Raises a Refusal."""
        if name == "nodes":
            return self.nodes()
        make = {"cluster_stats": self._stats, "cluster_connections": self._connections}[name]
        return Deferred.fromCoroutine(make(ident))

    def nodes(self) -> dict[str, Any]:
        """Return what is known of all nodes, as plain data."""
        cluster = self._cluster
        members = cluster.membership
        table_revision = cluster.store.table_revision
        rows: list[dict[str, Any]] = []
        for name in sorted({*members.members, *members.reports, *members.unreadable}):
            report = members.reports.get(name)
            if report is not None and report.instance == cluster.instance:
                report = cluster.report()  # etcd may not have it
            if report is None:
                why = members.unreadable.get(name)
                rows.append({"node": name, "state": "unknown" if why else GONE, "errors": [why] if why else []})
                continue
            is_behind = report.revision < table_revision
            state = "refused" if report.errors else "behind" if is_behind else "ok"
            drain = self._drains.state_of(name, report.drain, report.drain_revision)
            rows.append(
                {
                    "node": name,
                    **describe_state(state, drain),
                    "revision": report.revision,
                    "version": report.version,
                    "connections": report.connections,
                    "since": report.since,
                    "labels": list(report.labels),
                    "errors": list(report.errors),
                    "local": list(report.local),
                    "notes": list(report.notes),
                }
            )
        return {
            "node": members.name,
            "etcd": cluster.etcd.url,
            "connected": cluster.is_connected,
            "problem": cluster.problem,
            "revision": table_revision,
            "applied": cluster.applied,
            "trial": cluster.director.confirmation.seconds_left,
            "requests": asdict(cluster.etcd.counts),
            "nodes": rows,
        }

    # Of this node.

    async def _own_stats(self, arguments: Mapping[str, Any]) -> Any:
        return added_views.part_of_node(await maybe_deferred(self._own, STATS, _ident_of(arguments)))

    async def _own_connections(self, arguments: Mapping[str, Any]) -> Any:
        return await maybe_deferred(self._own, CONNECTIONS, _ident_of(arguments))

    # Of all.

    async def _stats(self, ident: str | None) -> dict[str, Any]:
        own = await maybe_deferred(self._own, STATS, ident)
        answers, missing = await self._ask_all(STATS, ident, added_views.part_of_node(own))
        added = _added(lambda known: added_views.stats_of_nodes(own, known), answers, missing)
        nodes = [{"node": node, **answer} for node, answer in answers.items()]
        return {**added, "nodes": nodes, "missing": missing}

    async def _connections(self, ident: str | None) -> dict[str, Any]:
        own = await maybe_deferred(self._own, CONNECTIONS, ident)
        answers, missing = await self._ask_all(CONNECTIONS, ident, own)
        joined = _added(added_views.connections_of_nodes, answers, missing)
        return {"connections": joined, "nodes": list(answers), "missing": missing}

    async def _ask_all(self, what: str, ident: str | None, own: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the answers by node, and why there is none of the others. own: the answer of this node."""
        cluster = self._cluster
        if not cluster.is_connected:
            raise NoCluster(f"this node does not follow the cluster, so it cannot ask the others: {cluster.problem}")
        members = cluster.membership
        others = members.reports.keys() - {members.name}
        found = await self._requests.ask(what, {"ident": ident}, others)
        gone = dict.fromkeys(members.members - members.reports.keys() - members.unreadable.keys(), GONE)
        missing = {**dict.fromkeys(members.unreadable, UNREADABLE), **gone, **found.missing}
        answers = {members.name: own, **found.values}
        return dict(sorted(answers.items())), dict(sorted(missing.items()))


def _ident_of(arguments: Mapping[str, Any]) -> str | None:
    """Raises BadValue."""
    ident = arguments.get("ident")
    if ident is None or isinstance(ident, str):
        return ident
    raise BadValue("the ident of the request is not a text")


def _added(add: Callable[[dict[str, Any]], Any], answers: dict[str, Any], missing: dict[str, str]) -> Any:
    """Add the answers up. Those that cannot be read, as of another version, go to `missing`."""
    try:
        return add(answers)
    except _UNREADABLE_ERRORS:
        pass
    for node in list(answers):
        try:
            add({node: answers[node]})
        except _UNREADABLE_ERRORS:
            del answers[node]
            missing[node] = UNREADABLE
    return add(answers)


_UNREADABLE_ERRORS = (KeyError, TypeError, ValueError, AttributeError, IndexError)
