"""Results of health checks of several nodes, and the verdict of most of them on each server.

A node that finds every server down while another one finds some up has lost its own network, most likely, so its
results do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from attrs import frozen

from ktcpvs.errors import shorten

NODE, QUORUM = CHECK_BY = ("node", "quorum")
"""The values of the option `check_by`: whose checks decide about the servers of a service."""

LEAST_SERVERS = 2
"""A node with fewer checked servers is never distrusted: the one server may be down."""

MAX_NAMED_NODES = 4
"""The most nodes that a verdict names with their reasons."""

MAX_NODE_REASON = 80
"""The most characters of one node's reason in a verdict."""

Key = tuple[str, str]
"""A checked server: ident of the service, address."""

Results = Mapping[Key, str | None]
"""The results of one node. None: the server is up; a text: it is down, and why."""

NO_RESULTS: Results = {}


@frozen
class Verdict:
    """The verdict of the nodes about one server. is_up: None: as many nodes say that the server is up as that it is
    down. why: the nodes that find it down, in words; "": none does. reports: how many nodes count."""

    is_up: bool | None
    why: str
    reports: int


class Quorum:
    """The results of this node and of the others. distrusted: the nodes whose results do not count.

    changed: called with the servers whose verdict may have changed; None: all. own_changed: called when a result of
    this node has changed.
    """

    def __init__(self, node: str) -> None:
        """node: the name of this node."""
        self.node = node
        self.distrusted: frozenset[str] = frozenset()
        self.changed: Callable[[Collection[Key] | None], object] = lambda keys: None
        self.own_changed: Callable[[], object] = lambda: None
        self._own: dict[Key, str | None] = {}
        self._results: dict[str, Results] = {node: self._own}
        self._servers_up: dict[str, int] = {node: 0}

    @property
    def own(self) -> Results:
        """The results of this node."""
        return self._own

    def set_own(self, key: Key, why: str | None) -> None:
        """Take a result of this node. why: the reason why the server is down; None: it is up. Only a change of the
        state counts: a reason stays that with which it began."""
        if key in self._own and (self._own[key] is None) == (why is None):
            return
        self._own[key] = why
        self._update(self.node, {key})
        self.own_changed()

    def keep_own(self, keys: Collection[Key]) -> None:
        """Drop the results of this node for other servers, which it checks no more."""
        gone = self._own.keys() - keys
        if gone:
            for key in gone:
                del self._own[key]
            self._update(self.node, gone)
            self.own_changed()

    def set_other(self, node: str, results: Results) -> None:
        """Take the results of another node; empty: it has none, or is gone."""
        before = self._results.get(node, NO_RESULTS)
        if results:
            self._results[node] = results
        else:
            self._results.pop(node, None)
        self._update(node, {key for key in {*before, *results} if before.get(key, "") != results.get(key, "")})

    def forget_others(self) -> None:
        """Drop the results of all other nodes: this one is alone."""
        if len(self._results) > 1:
            self._results = {self.node: self._own}
            self._servers_up = {self.node: self._servers_up[self.node]}
            self.distrusted = frozenset()
            self.changed(None)

    def _update(self, node: str, keys: Collection[Key]) -> None:
        results = self._results.get(node)
        if results is None:
            self._servers_up.pop(node, None)
        else:
            self._servers_up[node] = sum(why is None for why in results.values())
        before, self.distrusted = self.distrusted, frozenset(self._find_distrusted())
        if self.distrusted != before:
            self.changed(None)
        elif keys:
            self.changed(keys)

    def _find_distrusted(self) -> Iterable[str]:
        if not any(self._servers_up.values()):
            return ()
        return [
            node
            for node, results in self._results.items()
            if len(results) >= LEAST_SERVERS and not self._servers_up[node]
        ]

    def verdict(self, key: Key) -> Verdict | None:
        """Return what most nodes say about a server; None: none says anything."""
        reports = {
            node: results[key]
            for node, results in sorted(self._results.items())
            if key in results and node not in self.distrusted
        }
        if not reports:
            return None
        down = {node: why for node, why in reports.items() if why is not None}
        up = len(reports) - len(down)
        is_up = None if up == len(down) else up > len(down)
        return Verdict(is_up, self._describe(down, len(reports)), len(reports))

    def _describe(self, down: Mapping[str, str], count: int) -> str:
        if not down:
            return ""
        if count == 1 and self.node in down:
            return down[self.node]
        named = [
            f"{node}: {shorten(why.removeprefix('check: '), MAX_NODE_REASON)}"
            for node, why in list(down.items())[:MAX_NAMED_NODES]
        ]
        if len(down) > MAX_NAMED_NODES:
            named.append(f"and {len(down) - MAX_NAMED_NODES} more")
        return f"check: down on {len(down)} of {count} nodes ({', '.join(named)})"
