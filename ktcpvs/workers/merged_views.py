"""The views of a switch with workers: those of the supervisor, with the counts and connections of all workers."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from ktcpvs.errors import Busy
from ktcpvs.inspect.client_connections import no_such_connection
from ktcpvs.inspect.views import Views
from ktcpvs.model import added_views
from ktcpvs.workers.worker_processes import WorkerProcesses


class MergedViews:
    """Views of all workers together. workers: all of them."""

    def __init__(self, own: Views, workers: WorkerProcesses) -> None:
        """own: the supervisor's views, in which all counts are 0."""
        self._own = own
        self.workers = workers

    def view(self, name: str, ident: str | None) -> Any:
        """The named view, or a Deferred of it. Raises BadValue for an unknown one, NoSuchService."""
        own = self._own.view(name, ident)
        if name == "stats":
            return Deferred.fromCoroutine(self._stats(ident, own))
        if name == "connections":
            return Deferred.fromCoroutine(self._connections(ident))
        return own

    def close_connection(self, wanted: str) -> Any:
        """Close the connection with this ID, NUMBER-ID with the number of its worker. Returns a Deferred of its
        description. Raises NoSuchConnection."""
        number, _, own = wanted.partition("-")
        for worker in self.workers.ready():
            if str(worker.number) == number:
                return worker.close_connection(own).addCallback(partial(_closed, wanted))
        raise no_such_connection(wanted)

    def rebalance(self, ident: str, percent: int, resets: bool) -> Deferred[dict[str, Any]]:
        """Let all workers move their part of a service's connections. Returns a Deferred of what moves. Raises
        NoSuchService or BadValue."""
        self._own.check_rebalance(ident, percent)
        return Deferred.fromCoroutine(self._rebalance(ident, percent, resets))

    async def _rebalance(self, ident: str, percent: int, resets: bool) -> dict[str, Any]:
        workers = self.workers.ready()
        answers = await gatherResults([worker.rebalance(ident, percent, resets) for worker in workers])
        known = [answer for answer in answers if answer is not None]
        if not known:
            raise Busy("no worker is ready; try again in a moment")
        return added_views.rebalances(known)

    async def stats_of_workers(self, ident: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the stats of a service, of all workers together and of each one that answers."""
        own, seen = self._own.stats(ident), await self._of_all("stats", ident)
        answers = [answer for _, answer in seen]
        return added_views.stats(own, answers), answers

    async def _stats(self, ident: str | None, own: Any) -> Any:
        return added_views.stats(own, [answer for _, answer in await self._of_all("stats", ident)])

    async def _connections(self, ident: str | None) -> Any:
        return added_views.connections(await self._of_all("connections", ident))

    async def _of_all(self, name: str, ident: str | None) -> list[tuple[int, Any]]:
        """(number of the worker, its view) for each worker that answers."""
        workers = self.workers.ready()
        answers = await gatherResults([worker.read_view(name, ident) for worker in workers])
        pairs = zip(workers, answers, strict=True)
        return [(worker.number, answer) for worker, answer in pairs if answer is not None]


def _closed(wanted: str, described: dict[str, Any] | None) -> dict[str, Any]:
    """Return the description of a connection that was closed. described: by its worker; None: the worker has no such
    connection. Raises NoSuchConnection."""
    if described is None:
        raise no_such_connection(wanted)
    return {**described, "id": wanted}
