"""The names of servers in the table, and the addresses that they have now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from ktcpvs.director.resolver import NoResolver, Resolver, Unresolved
from ktcpvs.director.running_table import RunningTable
from ktcpvs.director.table_runner import TableRunner
from ktcpvs.model.expansion import Resolution, names_of
from ktcpvs.model.placement import is_here
from ktcpvs.runtime.context import Context

MakeResolver = Callable[[Context, Callable[[Resolution], Deferred[None]]], Resolver | NoResolver]
"""Makes what looks names up. The second argument is called with new addresses, see Resolver."""


class ServerNames:
    """Has the names looked up, and puts new addresses in force. resolution: the addresses of all names in the table."""

    def __init__(self, runner: TableRunner, context: Context, running: RunningTable, resolver: MakeResolver) -> None:
        self._runner = runner
        self._context = context
        self._running = running
        self._resolver = resolver(context, self.resolved)
        self.resolution: Resolution = {}

    def follow(self) -> None:
        """Look up the names that are in the table now, and forget all others."""
        node = self._context.node
        names = names_of(service for service in self._runner.effective if is_here(service, node))
        self._set({host: addresses for host, addresses in self.resolution.items() if host in names})
        self._resolver.follow(names, self.resolution)

    def stop(self) -> None:
        """Look up nothing any more."""
        self._resolver.stop()

    @property
    def unresolved(self) -> Mapping[str, Unresolved]:
        """The names of servers that have no addresses, since no look-up has found any yet."""
        return self._resolver.unresolved()

    def add(self, known: Resolution) -> None:
        """Use the addresses of names that come into the table with the next edit."""
        self._set({**self.resolution, **known})

    def resolved(self, found: Resolution) -> Deferred[None]:
        """Put new addresses of names in force. Fires when that is done; fails with a Refusal."""
        return self._runner.between_edits(lambda: self._resolve(found))

    async def _resolve(self, found: Resolution) -> None:
        runner, former = self._runner, self.resolution
        if runner.decides:
            commands = partial(runner.processes.commands_for_names, found)
            await runner.run_anew(lambda: self.add(found), lambda: self._set(former), commands)

    def _set(self, resolution: Resolution) -> None:
        self.resolution = resolution

    def hint(self, edit: Any) -> str:
        """Return a hint for an edit of a server that is only one address of a configured name; "" for other edits."""
        service = self._running.table.services.get(getattr(edit, "ident", ""))
        address = getattr(edit, "address", None)
        if service is None or address is None:
            return ""
        for server in service.servers:
            if server.name is not None and server.address == service.complete(address):
                return f": it is one address of {server.name}, which can be changed as a whole"
        return ""
