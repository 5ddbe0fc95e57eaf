"""The challenges of ACME that the processes of this node answer."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from ktcpvs.director.running_table import RunningTable
from ktcpvs.director.table_runner import TableRunner
from ktcpvs.runtime.challenges import PendingChallenges
from ktcpvs.runtime.context import Context


class ProcessChallenges:
    """Has this process answer challenges, and the others too."""

    def __init__(self, runner: TableRunner, context: Context, running: RunningTable) -> None:
        self._runner = runner
        self._context = context
        self._running = running

    def use(self, pending: PendingChallenges) -> Deferred[None]:
        """Have all processes answer these challenges, and no others. Fires when they do; they do not if this daemon is
        ending, or another one has taken over."""
        return self._runner.between_edits(lambda: self._use(pending))

    async def _use(self, pending: PendingChallenges) -> None:
        if self._runner.is_ending:
            return
        self.put(pending)
        replace = self._runner.processes.replace_challenges
        await self._context.steps.wait("challenges", replace, pending.challenges)

    def put(self, pending: PendingChallenges) -> None:
        """Have this process alone answer these challenges, and no others. Workers that begin later do too."""
        self._context.challenges = pending
        for ident, service in self._running.services.items():
            self._context.steps.run(f"service {ident}: challenges", service.follow_challenges)
