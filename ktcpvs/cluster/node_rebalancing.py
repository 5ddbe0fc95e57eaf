"""The rebalancing of a service on all nodes of a cluster: each node moves connections off its servers with too many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import maybeDeferred as maybe_deferred

from ktcpvs.cluster.all_nodes import AllNodes, added
from ktcpvs.cluster.cluster import Cluster
from ktcpvs.cluster.requests import Requests
from ktcpvs.errors import BadValue, Busy, Refusal
from ktcpvs.model import added_views
from ktcpvs.model.rebalancing import check_percent

REBALANCE = "rebalance"
"""The request that nodes carry out for each other."""

OwnRebalance = Callable[[str, int, bool], Any]
"""Rebalances a service of this node's switch: ident, percent, resets. Returns what moves, or a Deferred of it."""


class NodeRebalancing:
    """Rebalances on all nodes, and on this one when another node asks for it."""

    def __init__(self, cluster: Cluster, requests: Requests, own: OwnRebalance) -> None:
        self._all = AllNodes(cluster, requests)
        self._own = own
        self._node = cluster.membership.name
        requests.offer(REBALANCE, self._carry_out)

    async def rebalance(self, ident: str, percent: int, resets: bool) -> dict[str, Any]:
        """Return what moves on all nodes together, with `nodes` and `missing`: this node may be one that refuses,
        as where the service does not run. Raises a Refusal if no node carries it out."""
        check_percent(percent)
        self._all.check()
        own: dict[str, Any] | None = None
        refusal: Refusal = BadValue(f"service {ident}: no node has carried it out")
        try:
            own = await maybe_deferred(self._own, ident, percent, resets)
        except (BadValue, Busy) as error:
            refusal = error
        arguments = {"ident": ident, "percent": percent, "resets": resets}
        answers, missing = await self._all.ask(REBALANCE, arguments, own)
        if own is None:
            answers = {node: answer for node, answer in answers.items() if answer is not None}
            missing[self._node] = f"has refused: {refusal}"
        if not answers:
            raise refusal
        moves = added(added_views.rebalances_of_nodes, answers, missing)
        return {**moves, "nodes": list(answers), "missing": dict(sorted(missing.items()))}

    async def _carry_out(self, arguments: Mapping[str, Any]) -> Any:
        ident, percent, resets = (arguments.get(name) for name in ("ident", "percent", "resets"))
        if not isinstance(ident, str) or not isinstance(percent, int) or not isinstance(resets, bool):
            raise BadValue("the arguments of the request cannot be read")
        return await maybe_deferred(self._own, ident, percent, resets)
