"""The views of a switch with workers: those of the supervisor, with the counts and connections of all workers."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from ktcpvs.inspect.views import Views
from ktcpvs.model import added_views
from ktcpvs.workers.worker_processes import WorkerProcesses


class MergedViews:
    """Views of all workers together."""

    def __init__(self, own: Views, workers: WorkerProcesses) -> None:
        """own: the supervisor's views, in which all counts are 0."""
        self._own = own
        self._workers = workers

    def view(self, name: str, ident: str | None) -> Any:
        """The named view, or a Deferred of it. Raises BadValue for an unknown one, NoSuchService."""
        own = self._own.view(name, ident)
        if name == "stats":
            return Deferred.fromCoroutine(self._stats(ident, own))
        if name == "connections":
            return Deferred.fromCoroutine(self._connections(ident))
        return own

    async def _stats(self, ident: str | None, own: Any) -> Any:
        return added_views.stats(own, [answer for _, answer in await self._of_all("stats", ident)])

    async def _connections(self, ident: str | None) -> Any:
        return added_views.connections(await self._of_all("connections", ident))

    async def _of_all(self, name: str, ident: str | None) -> list[tuple[int, Any]]:
        """(number of the worker, its view) for each worker that answers."""
        workers = self._workers.ready()
        answers = await gatherResults([worker.read_view(name, ident) for worker in workers])
        pairs = zip(workers, answers, strict=True)
        return [(worker.number, answer) for worker, answer in pairs if answer is not None]
