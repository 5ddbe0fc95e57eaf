"""The part of the limits of `share = cluster` that is this node's."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import Deferred

from ktcpvs.director.table_runner import TableRunner
from ktcpvs.model.nodes import NodeIdentity
from ktcpvs.model.service import SHARED


class SharedLimits:
    """The nodes among which the limits of services are divided. live: the nodes that divide limits, this one included;
    none: it keeps them whole."""

    def __init__(self, runner: TableRunner) -> None:
        self._runner = runner
        self.live: frozenset[NodeIdentity] = frozenset()

    @property
    def are_used(self) -> bool:
        """Whether a service shares its limits with other nodes."""
        return any(service.share == SHARED for service in self._runner.effective)

    def divide_among(self, live: frozenset[NodeIdentity]) -> Deferred[None]:
        """Have the part of limits that is this node's when these nodes are alive, itself included. Fires when that is
        in force; fails with a Refusal, and then nothing has changed."""
        return self._runner.between_edits(lambda: self._divide_among(live))

    async def _divide_among(self, live: frozenset[NodeIdentity]) -> None:
        runner, former = self._runner, self.live
        if runner.decides:
            commands = partial(runner.processes.commands_to_share, live)
            await runner.run_anew(lambda: self._set(live), lambda: self._set(former), commands)

    def _set(self, live: frozenset[NodeIdentity]) -> None:
        self.live = live
