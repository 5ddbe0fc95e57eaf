"""What everything alive in the transport shares: the reactor, the timer wheel, the log, the settings, descriptors."""

from __future__ import annotations

import resource
import secrets
import time
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from ktcpvs.model.settings import Settings
from ktcpvs.relay.engines import Relays
from ktcpvs.runtime.resources import Counters, Sockets
from ktcpvs.system.access_log_files import AccessLogs
from ktcpvs.system.log import EventLog
from ktcpvs.system.steps import Steps
from ktcpvs.system.timer_wheel import TimerWheel

SPARE_DESCRIPTORS = 64
"""Descriptors kept for everything but connections and listeners: control, log, files, name look-ups."""

KEY_BYTES = 32


class Descriptors:
    """How many connections the descriptor limit allows; each side of a connection takes one.

    limit: of descriptors for connections and listeners. listening: how many listeners have. clients: how many clients
    have, together with the server connections of those that are served as a whole. reserved: for how many clients a
    server connection may be needed at any moment. servers: how many connections of pools there are, those being made
    included. pools: all of them. A listener that finds none free waits in `waiting`; all who wait are woken when one
    comes free.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.listening = 0
        self.clients = 0
        self.reserved = 0
        self.servers = 0
        self.pools: WeakSet[Any] = WeakSet()
        self.waiting: set[Any] = set()

    @classmethod
    def of_process(cls) -> Descriptors:
        """What this process may have, by its soft limit."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            soft = 1 << 30
        return cls(max(soft - SPARE_DESCRIPTORS, 2))

    @property
    def used(self) -> int:
        """How many are taken or reserved: a client that has been accepted finds one for its server."""
        return self.clients + max(self.servers, self.reserved)

    @property
    def are_free(self) -> bool:
        """True when a new connection can have its two. One connection always can, however many listeners there are."""
        return self.used + 2 <= max(self.limit - self.listening, 2)

    def take(self, count: int, reserved: int = 0) -> None:
        """A client takes `count`; for `reserved` of its server connections a pool takes them when they are made."""
        self.clients += count
        self.reserved += reserved

    def give(self, count: int, reserved: int = 0) -> None:
        """A client is gone."""
        self.clients -= count
        self.reserved -= reserved
        self._wake()

    def take_server(self) -> None:
        """A pool makes a connection. Where there is none to spare, idle ones of all pools are closed."""
        if self.servers >= self.reserved and not self.are_free:
            self.close_idle()
        self.servers += 1

    def give_server(self) -> None:
        """A connection of a pool is closed, or could not be made."""
        self.servers -= 1
        self._wake()

    def close_idle(self) -> None:
        """Close the connections that pools keep for later."""
        for pool in list(self.pools):
            pool.close()

    def _wake(self) -> None:
        if self.waiting:
            waiting, self.waiting = self.waiting, set()
            for listener in waiting:
                listener.resume()


class Context:
    """settings: replaced by the director when an edit changes them. steps: takes those of a change that is decided.
    key: this switch's own secret. wall: seconds since 1970, for logs. monotonic: seconds by a clock that nobody sets,
    the same in all processes. counters, sockets: where live counts and listening sockets come from. relays: what relays
    share. holds: nobody is accepted yet, since another process still accepts from these sockets. nameservers: (IP
    address, port) of who is asked for host names; none: whom the system asks."""

    def __init__(
        self, reactor: Any, log: EventLog, descriptors: Descriptors | None = None, key: bytes | None = None
    ) -> None:
        """key: None makes one that nobody else has and that is forgotten with this object."""
        self.reactor = reactor
        self.log = log
        self.settings = Settings()
        self.steps = Steps(log)
        self.wheel = TimerWheel(reactor, lambda: log.failure("a timer's call failed"))
        self.descriptors = descriptors or Descriptors.of_process()
        self.access_logs = AccessLogs(log)
        self.relays = Relays(reactor, self.descriptors.limit)
        self.counters: Counters = Counters()
        self.sockets: Sockets = Sockets()
        self.holds = False
        self.nameservers: tuple[tuple[str, int], ...] = ()
        self.wall: Callable[[], float] = time.time
        self.monotonic: Callable[[], float] = time.monotonic
        self.key = key or secrets.token_bytes(KEY_BYTES)

    def start(self) -> None:
        """Time begins."""
        self.wheel.start()
        self.wheel.repeat(0, self._tick)

    def stop(self) -> None:
        """Time ends; the access logs are written out, and what relays share is given back."""
        self.wheel.stop()
        self.steps.run("relays", self.relays.close)
        self.steps.run("access logs", self.access_logs.close)

    def _tick(self) -> bool:
        self.access_logs.tick()
        return True

    def cookie_key(self, settings: Settings) -> bytes:
        """The secret behind cookies by these settings: the configured one, or this switch's own."""
        return settings.cookie_key.encode() or self.key
