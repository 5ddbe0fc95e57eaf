"""A client of the daemon that has taken over, to which the old daemon forwards the requests of its administrators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from ktcpvs.control.edit_commands import commands_for
from ktcpvs.control.endpoints import ControlAddress
from ktcpvs.control.trace_session import TraceSession
from ktcpvs.control.twisted_client import Switch, connect
from ktcpvs.model.assumed_request import AssumedRequest
from ktcpvs.model.edits import Edit
from ktcpvs.model.live_trace import TraceBatch, TraceQuery

T = TypeVar("T")


class _RemoteTrace:
    """A live trace in the new daemon, over a connection of its own. Provides TraceSession."""

    def __init__(self, switch: Switch, number: int) -> None:
        self._switch = switch
        self._number = number

    def read(self) -> Deferred[TraceBatch]:
        """See TraceSession."""
        return Deferred.fromCoroutine(self._switch.read_trace(self._number))

    def close(self) -> None:
        """See TraceSession."""
        self._switch.close()


class NewDaemon:
    """Provides control.server.Switch. pending: the number of requests that have not been answered yet."""

    def __init__(self, reactor: Any, where: ControlAddress) -> None:
        self.pending = 0
        self._reactor = reactor
        self._where = where

    async def carry_out(self, edit: Edit) -> Sequence[str]:
        """Have the new daemon carry `edit` out. Return the warnings about it. Raises the new daemon's Refusal."""

        async def send(switch: Switch) -> list[str]:
            warnings: list[str] = []
            for command, arguments in commands_for(edit):
                warnings += await switch.edit(command, **arguments)
            return warnings

        return await self._ask(send)

    def submit(self, edit: Edit) -> Deferred[Sequence[str]]:
        """As Director.submit."""
        return Deferred.fromCoroutine(self.carry_out(edit))

    def view(self, name: str, ident: str | None) -> Deferred[Any]:
        """Return the new daemon's view of that name."""
        return Deferred.fromCoroutine(self._ask(lambda switch: switch.read(name, ident)))

    def close_connection(self, wanted: str) -> Deferred[Any]:
        """Have the new daemon close a connection."""
        return Deferred.fromCoroutine(self._ask(lambda switch: switch.close_connection(wanted)))

    def rebalance(self, ident: str, percent: int, resets: bool, all_nodes: bool) -> Deferred[Any]:
        """Have the new daemon rebalance a service. Connections that the old one still has are left alone."""
        ask = self._ask(lambda switch: switch.rebalance(ident, percent, resets, all_nodes))
        return Deferred.fromCoroutine(ask)

    async def explain(self, ident: str, request: AssumedRequest) -> Any:
        """As Explainer.explain."""
        return await self._ask(lambda switch: switch.explain_request(ident, request))

    def trace(self, query: TraceQuery) -> Deferred[TraceSession]:
        """Begin a live trace in the new daemon."""
        return Deferred.fromCoroutine(self._trace(query))

    async def _trace(self, query: TraceQuery) -> TraceSession:
        switch = await connect(self._reactor, str(self._where))
        try:
            return _RemoteTrace(switch, await switch.begin_trace(query))
        except Exception:
            switch.close()
            raise

    async def _ask(self, question: Callable[[Switch], Awaitable[T]]) -> T:
        self.pending += 1
        try:
            switch = await connect(self._reactor, str(self._where))
            try:
                return await question(switch)
            finally:
                switch.close()
        finally:
            self.pending -= 1
