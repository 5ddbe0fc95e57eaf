"""Services that accept no clients for a while, although the table runs them: those of a node that is drained."""

from __future__ import annotations

from attrs import evolve, frozen

from ktcpvs.model.table import Table


@frozen
class Withdrawal:
    """The services that are withdrawn. is_whole: all services. idents: only these, which could not be started again."""

    is_whole: bool = False
    idents: frozenset[str] = frozenset()

    def applied_to(self, table: Table) -> Table:
        """Return what runs of a table."""
        if self.is_whole:
            return evolve(table, running=frozenset())
        return evolve(table, running=table.running - self.idents) if self.idents else table
