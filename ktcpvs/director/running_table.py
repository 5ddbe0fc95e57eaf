"""The table that is in force in this process, its services, and those that drain."""

from __future__ import annotations

from collections.abc import Iterator

from ktcpvs.model.table import Table
from ktcpvs.services.running import RunningService


class RunningTable:
    """The table that runs, with its running services. table: the one that runs: the services and listeners that are for
    this node, with a server for each address of a name; other services are stopped in it. services: ident -> running
    service, including stopped ones that drain; the dict stays the same. draining: deleted services that drain."""

    def __init__(self) -> None:
        self.table = Table()
        self.services: dict[str, RunningService] = {}
        self.draining: set[RunningService] = set()

    def idents(self) -> frozenset[str]:
        """Return the idents of the services that run."""
        return self.table.running

    def running(self) -> Iterator[RunningService]:
        """Yield the services that run, in the order of the table."""
        for ident in self.table.services:
            if ident in self.table.running:
                yield self.services[ident]

    def with_connections(self) -> tuple[RunningService, ...]:
        """Return all services that may have connections."""
        return (*self.services.values(), *self.draining)
