"""One request to all nodes of a cluster, this one included, and the answers added up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ktcpvs.cluster.cluster import Cluster
from ktcpvs.cluster.requests import UNREADABLE, Requests
from ktcpvs.errors import NoCluster

GONE = "gone"


class AllNodes:
    """Asks the other nodes of a cluster."""

    def __init__(self, cluster: Cluster, requests: Requests) -> None:
        self._cluster = cluster
        self._requests = requests

    def check(self) -> None:
        """Raise NoCluster while the other nodes cannot be asked."""
        if not self._cluster.is_connected:
            why = self._cluster.problem
            raise NoCluster(f"this node does not follow the cluster, so it cannot ask the others: {why}")

    async def ask(self, what: str, arguments: Mapping[str, Any], own: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the answers by node, and why there is none of the others. own: the answer of this node. Raises
        NoCluster, or Busy."""
        self.check()
        members = self._cluster.membership
        others = members.reports.keys() - {members.name}
        found = await self._requests.ask(what, arguments, others)
        gone = dict.fromkeys(members.members - members.reports.keys() - members.unreadable.keys(), GONE)
        missing = {**dict.fromkeys(members.unreadable, UNREADABLE), **gone, **found.missing}
        answers = {members.name: own, **found.values}
        return dict(sorted(answers.items())), dict(sorted(missing.items()))


def added(add: Callable[[dict[str, Any]], Any], answers: dict[str, Any], missing: dict[str, str]) -> Any:
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
