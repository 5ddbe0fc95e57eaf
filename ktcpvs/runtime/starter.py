"""Starts servers on demand: the contract for connections, and the form for a process that starts none."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectError

from ktcpvs.model.address import Address


class Starter(Protocol):
    """Starts servers when they are needed."""

    def want(self, address: Address) -> Deferred[None]:
        """Start the server at that address, unless it runs. Fires when it accepts connections; fails with a
        ConnectError if it cannot be started. Cancelling the Deferred leaves the server alone."""

    def state(self, address: Address) -> str | None:
        """Return IDLE or STARTING (model/health.py); None: it runs, or another process knows."""


class NoStarter:
    """Starts nothing. Provides Starter."""

    def want(self, address: Address) -> Deferred[None]:
        return fail(ConnectError(string="this daemon starts no servers: it has no --start-folder"))

    def state(self, address: Address) -> str | None:
        return None
