"""The views of a whole cluster: its nodes, and the counters and connections of all of them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import asdict
from twisted.internet.defer import Deferred
from twisted.internet.defer import maybeDeferred as maybe_deferred

from ktcpvs.cluster.all_nodes import GONE, AllNodes, added
from ktcpvs.cluster.cluster import Cluster
from ktcpvs.cluster.draining import NodeDrains, describe_state
from ktcpvs.cluster.requests import Requests
from ktcpvs.errors import BadValue
from ktcpvs.model import added_views

STATS, CONNECTIONS = "stats", "connections"
"""The requests that nodes answer each other. The argument `ident` is that of a service; null: all."""

OwnView = Callable[[str, "str | None"], Any]
"""Returns a view of this node's switch, by name, or a Deferred of it."""


class NodeViews:
    """Makes the views, and answers the requests of other nodes for those of this one."""

    def __init__(self, cluster: Cluster, requests: Requests, drains: NodeDrains, own: OwnView) -> None:
        self._cluster = cluster
        self._drains = drains
        self._all = AllNodes(cluster, requests)
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
        table_revision = max(cluster.store.table_revision, cluster.store.own_revision)
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
                    "notes": [*report.notes, *(note for about in cluster.node_notes for note in about(name))],
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
        answers, missing = await self._all.ask(STATS, {"ident": ident}, added_views.part_of_node(own))
        stats = added(lambda known: added_views.stats_of_nodes(own, known), answers, missing)
        nodes = [{"node": node, **answer} for node, answer in answers.items()]
        return {**stats, "nodes": nodes, "missing": missing}

    async def _connections(self, ident: str | None) -> dict[str, Any]:
        own = await maybe_deferred(self._own, CONNECTIONS, ident)
        answers, missing = await self._all.ask(CONNECTIONS, {"ident": ident}, own)
        joined = added(added_views.connections_of_nodes, answers, missing)
        return {"connections": joined, "nodes": list(answers), "missing": missing}


def _ident_of(arguments: Mapping[str, Any]) -> str | None:
    """Raises BadValue."""
    ident = arguments.get("ident")
    if ident is None or isinstance(ident, str):
        return ident
    raise BadValue("the ident of the request is not a text")
