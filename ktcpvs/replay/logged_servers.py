"""The speed and the failures of servers, as an access log tells: at each moment by their last requests."""

from __future__ import annotations

from math import exp, log
from random import Random

from ktcpvs.replay.logged_arrival import LoggedArrival
from ktcpvs.simulation.behaviour import FAILED, OK, REFUSED, Outcome
from ktcpvs.simulation.durations import LEAST

MEMORY = 64
"""About so many of a server's last requests decide what it does with another one."""

MAX_RATIO = 100.0
"""The most times that a server is faster or slower than another one."""

MAX_SERVERS = 10_000
"""The most servers of a log that are known; of further ones nothing is."""

REFUSAL_SECONDS = 0.0005
"""The time until a server refuses a connection."""


class _Server:
    """The last requests of one server. pace: the mean logarithm of their seconds; None: no time is known. refused,
    failed: the parts of them that it refused, and that it responded to with an error. status: of the last error."""

    __slots__ = ("_count", "failed", "pace", "refused", "status")

    def __init__(self) -> None:
        self.pace: float | None = None
        self.refused = self.failed = 0.0
        self.status = FAILED
        self._count = 0

    def observe(self, seconds: float | None, status: int) -> None:
        """One more request. status: REFUSED: the server has not taken it."""
        self._count += 1
        weight = 1 / self._count if self._count < MEMORY else 1 / MEMORY
        if self.refused or status == REFUSED:
            self.refused += ((status == REFUSED) - self.refused) * weight
        if self.failed or status >= FAILED:
            self.failed += ((status >= FAILED) - self.failed) * weight
        if status >= FAILED:
            self.status = status
        elif seconds is not None and status != REFUSED:
            value = log(seconds if seconds > LEAST else LEAST)
            self.pace = value if self.pace is None else self.pace + (value - self.pace) * weight


class LoggedServers:
    """The servers of a log."""

    def __init__(self, default_seconds: float) -> None:
        """default_seconds: the time of a request about whose time nothing is known."""
        self._default = default_seconds
        self._servers: dict[str, _Server] = {}
        self._chance = Random(MEMORY)

    def observe(self, request: LoggedArrival) -> None:
        """Learn from a request of the log."""
        failed, server = request.failed_server, request.server
        if failed is not None and failed != server:
            self._observe(failed, None, REFUSED)
        if server is not None:
            self._observe(server, request.seconds, request.status or OK)

    def _observe(self, server: str, seconds: float | None, status: int) -> None:
        known = self._servers.get(server)
        if known is None:
            if len(self._servers) >= MAX_SERVERS:
                return
            known = self._servers[server] = _Server()
        known.observe(seconds, status)

    def outcome(self, request: LoggedArrival, address: str) -> Outcome:
        """Return what a server does with a request of the log: what it did if it had this request, and what its last
        requests let expect if another one had it."""
        if address == request.server:
            return Outcome(self._seconds(request, None), request.status or OK)
        if address == request.failed_server:
            return Outcome(REFUSAL_SECONDS, REFUSED)
        known = self._servers.get(address)
        status = request.status if 0 < request.status < FAILED else OK
        if known is not None and known.refused + known.failed:
            drawn = self._chance.random()
            if drawn < known.refused:
                return Outcome(REFUSAL_SECONDS, REFUSED)
            if drawn < known.refused + known.failed:
                status = known.status
        return Outcome(self._seconds(request, known), status)

    def _seconds(self, request: LoggedArrival, other: _Server | None) -> float:
        """Return the time of a request. other: the server that has it instead of its own; None: its own has it, or
        nothing is known of that one."""
        seconds = request.seconds
        own = self._servers.get(request.server) if request.server is not None else None
        if seconds is None or (own is None and other is not None):
            known = other or own
            pace = known.pace if known is not None else None
            return self._default if pace is None else exp(pace)
        if own is None or other is None or own.pace is None or other.pace is None:
            return seconds
        return seconds * min(max(exp(other.pace - own.pace), 1 / MAX_RATIO), MAX_RATIO)
