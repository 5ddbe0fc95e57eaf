"""The contract of a live trace that an administrator reads, in this process or in another one."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred

from ktcpvs.model.live_trace import TraceBatch


class TraceSession(Protocol):
    """One live trace, for its reader."""

    def read(self) -> Deferred[TraceBatch]:
        """Fires with the next batch: as soon as there is something to read, or empty after a while. Call it again when
        it has fired. Fails with NoAnswer where the other process is gone."""

    def close(self) -> None:
        """The reader is gone: end the trace. Safe to call twice."""
