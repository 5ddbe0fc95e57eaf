"""A switch that is elsewhere: what a daemon that was taken over is still asked is asked of the one that took over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from ktcpvs.control.client import Switch, connect
from ktcpvs.control.edit_commands import commands_for
from ktcpvs.control.endpoints import ControlAddress
from ktcpvs.model.edits import Edit


class NewDaemon:
    """As the control connection wants a switch. asked: how many questions have no answer yet."""

    def __init__(self, reactor: Any, where: ControlAddress) -> None:
        self._reactor = reactor
        self._where = where
        self.asked = 0

    async def carry_out(self, edit: Edit) -> Sequence[str]:
        """As Director.submit. Raises the other's Refusal."""

        async def ask(switch: Switch) -> list[str]:
            warnings: list[str] = []
            for command, arguments in commands_for(edit):
                warnings += await switch.edit(command, **arguments)
            return warnings

        found: list[str] = await self._ask(ask)
        return found

    def submit(self, edit: Edit) -> Deferred[Sequence[str]]:
        """The same, as a Deferred."""
        return Deferred.fromCoroutine(self.carry_out(edit))

    def view(self, name: str, ident: str | None) -> Deferred[Any]:
        """The named view of the other."""
        return Deferred.fromCoroutine(self._ask(lambda switch: switch.read(name, ident)))

    async def explain(
        self, ident: str, method: str | None, target: str | None, headers: Sequence[tuple[str, str]], client: str
    ) -> Any:
        """Who would serve a request there."""
        return await self._ask(lambda switch: switch.explain(ident, method, target, headers, client))

    async def _ask(self, question: Any) -> Any:
        self.asked += 1
        try:
            switch = await connect(self._reactor, str(self._where))
            try:
                return await question(switch)
            finally:
                switch.close()
        finally:
            self.asked -= 1
