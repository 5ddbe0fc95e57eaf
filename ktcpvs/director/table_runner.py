"""The director, as those need it that change what this node runs of a table, and not the table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred

from ktcpvs.director.serving_processes import ServingProcesses
from ktcpvs.model.table import Table

T = TypeVar("T")


class TableRunner(Protocol):
    """See Director."""

    effective: Table
    processes: ServingProcesses
    is_ending: bool

    @property
    def decides(self) -> bool:
        """Whether this daemon may change what runs: not while it ends, or once another one has taken over."""

    def between_edits(self, work: Callable[[], Awaitable[T]]) -> Deferred[T]:
        """Run `work` between two edits; further edits wait until it is done. Fires with its result."""

    async def run_anew(
        self,
        change: Callable[[], object],
        undo: Callable[[], object],
        commands: Callable[[], Any],
        *,
        is_rekeyed: bool = False,
        rebound: Collection[str] = (),
    ) -> None:
        """Change something beside the table on which it depends what this node runs, and put that in force.

        commands: returns those for other processes. is_rekeyed: schedulers are bound anew, with another secret.
        rebound: services whose schedulers are bound anew, since the plugins are others. To be called within
        `between_edits`. Raises a Refusal; then `undo` was called, and nothing has changed.
        """
