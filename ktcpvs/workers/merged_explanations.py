"""Explanations of a switch with workers: one worker explains, and the supervisor adds what all of them know.

The worker that explains has what its clients' requests depend on: ejected servers, slow starts, latencies, limits.
"""

from __future__ import annotations

from typing import Any

from ktcpvs.director.director import Director
from ktcpvs.inspect.explain import Explainer, add_failures
from ktcpvs.model.assumed_request import AssumedRequest
from ktcpvs.model.health import EJECTED
from ktcpvs.workers.merged_views import MergedViews


class MergedExplanations:
    """Explains the choices of the workers."""

    def __init__(self, director: Director, views: MergedViews) -> None:
        """director: the supervisor's, which explains while no worker is ready. views: of all workers."""
        self._director = director
        self._views = views

    async def explain(self, ident: str, request: AssumedRequest) -> dict[str, Any]:
        """Explain a request as `Explainer.explain`, as the first worker that answers sees it. Raises as that does."""
        seconds = self._director.context.settings.choose_timeout
        for worker in self._views.workers.ready():
            answer = await worker.explain(seconds, ident, request)
            if answer:
                return await self._completed(answer, ident, worker.number)
            if answer is not None:
                break  # the supervisor refuses too, and says why
        return await Explainer(self._director).explain(ident, request)

    async def _completed(self, answer: dict[str, Any], ident: str, number: int) -> dict[str, Any]:
        """Return a worker's answer with what all workers know of its servers. number: of that worker."""
        merged, seen = await self._views.stats_of_workers(ident)
        whole = add_failures(answer, merged)
        considered = {server["address"] for server in answer["servers"]}
        ejected = [_ejected(stats) & considered for stats in seen]
        if any(one != ejected[0] for one in ejected):
            note = f"this is the answer of worker {number}: not all workers have ejected the same servers"
            whole["notes"] = [*whole["notes"], note]
        return whole


def _ejected(stats: dict[str, Any]) -> set[str]:
    """Return the addresses of the servers that a worker has ejected, by its stats of one service."""
    return {
        server["address"]
        for service in stats["services"]
        for server in service["servers"]
        if server["health"]["state"] == EJECTED
    }
