"""The outcomes of the requests of a log: as they happened, or in a replay."""

from __future__ import annotations

from ktcpvs.simulation.durations import Durations
from ktcpvs.simulation.moves import Moves

MAX_LOGGED_SERVERS = 10_000
"""The most servers of the log whose requests are counted one by one."""


class Outcomes:
    """The results of requests: as it happened, or in the replay. requests, errors: of all. moves: of clients. servers:
    address -> durations of the requests that it has responded to. counts: address -> how many these were. failures:
    address -> how many of them, and connections, have failed."""

    def __init__(self) -> None:
        self.requests = self.errors = 0
        self.moves = Moves()
        self._others = Durations()
        self.servers: dict[str, Durations] = {}
        self.counts: dict[str, int] = {}
        self.failures: dict[str, int] = {}

    def add(self, client: str, server: str | None, seconds: float | None, is_error: bool) -> None:
        """Count a request. seconds: to its end; None: unknown. server: None: no server has responded."""
        self.requests += 1
        self.errors += is_error
        if server is None:
            self._add_other(seconds)
            return
        self.moves.add(client, server)
        count = self.counts.get(server, 0)
        if not count and len(self.counts) >= MAX_LOGGED_SERVERS:
            self._add_other(seconds)
            return
        self.counts[server] = count + 1
        if is_error:
            self.failed(server)
        if seconds is not None:
            durations = self.servers.get(server)
            if durations is None:
                durations = self.servers[server] = Durations()
            durations.add(seconds)

    def _add_other(self, seconds: float | None) -> None:
        """Count the time of a request that no server, or one of too many, has responded to."""
        if seconds is not None:
            self._others.add(seconds)

    @property
    def durations(self) -> Durations:
        """Of all requests."""
        durations = Durations()
        for one in (self._others, *self.servers.values()):
            durations.include(one)
        return durations

    def failed(self, server: str) -> None:
        """Count a failure of a server."""
        if server in self.failures or len(self.failures) < MAX_LOGGED_SERVERS:
            self.failures[server] = self.failures.get(server, 0) + 1
