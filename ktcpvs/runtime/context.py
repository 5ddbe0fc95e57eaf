"""The context of one running process: reactor, timers, log, settings, descriptors, counters and listening sockets."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

from ktcpvs.model.nodes import NodeIdentity
from ktcpvs.model.quorum import Quorum
from ktcpvs.model.settings import DEFAULT_SETTINGS, Settings
from ktcpvs.relay.engines import Relays
from ktcpvs.runtime.body_prefix_memory import BodyPrefixMemory
from ktcpvs.runtime.challenges import NO_CHALLENGES
from ktcpvs.runtime.counters import Counters
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.runtime.listening_sockets import ListeningSockets
from ktcpvs.runtime.live_traces import LiveTraces
from ktcpvs.runtime.starter import NoStarter, Starter
from ktcpvs.runtime.tracer import Tracer
from ktcpvs.system.access_log_files import AccessLogs
from ktcpvs.system.log import EventLog
from ktcpvs.system.stall_watch import StallWatch
from ktcpvs.system.steps import Steps
from ktcpvs.system.timer_wheel import TimerWheel

KEY_BYTES = 32

MIN_STALL_TIME = 2.0
"""Seconds for which the wheel must have made no tick, at least, before a stall is logged."""


def new_key() -> bytes:
    """Return a new random secret."""
    return secrets.token_bytes(KEY_BYTES)


class Context:
    """The state that the services of one process share. Only `settings`, `is_accepting`, `cookie_secret`, `quorum`,
    `challenges` and `starter` change after construction.

    settings: those of the table in force. steps: runs the steps of a change that can no longer be refused. key: this
    switch's own secret. cookie_secret: signs cookies if the settings have no cookie_key: `key`, or a secret that the
    nodes of a cluster share. wall: seconds since 1970, for logs. monotonic: seconds of a clock that is never set and
    that all processes share. counters: live counts. sockets: opens listening sockets. relays: the relay engines.
    tracer: sends the spans of requests. live_traces: what administrators watch. body_prefixes:
    the memory of bodies that are held for schedulers. nameservers: (IP address, port) of the
    name servers to ask; none: those of the system. is_accepting: False while another daemon still accepts from the same
    listening sockets. node: the name and the labels of this switch, by which the table says what runs where. quorum:
    the results of checks of all nodes of a cluster; None: this switch is in none, or another process has them.
    challenges: of ACME, which this process answers. starter: starts servers on demand.
    """

    def __init__(
        self,
        reactor: Any,
        log: EventLog,
        descriptors: Descriptors | None = None,
        key: bytes | None = None,
        *,
        counters: Counters | None = None,
        sockets: ListeningSockets | None = None,
        nameservers: tuple[tuple[str, int], ...] = (),
        settings: Settings | None = None,
        is_accepting: bool = True,
        node: NodeIdentity | None = None,
        steps: Steps | None = None,
        relays: Relays | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """None means the default of a single process: its descriptor limit, a new random key, its own counters, sockets
        that it opens itself, the default settings, every relay that the machine supports, no name."""
        self.reactor = reactor
        self.log = log
        self.settings = settings or DEFAULT_SETTINGS
        self.steps = steps or Steps(log)
        self.wheel = TimerWheel(reactor, lambda: log.failure("a timer's call failed"))
        self.descriptors = descriptors or Descriptors.of_process()
        self.access_logs = AccessLogs(log)
        self.live_traces = LiveTraces()
        self.body_prefixes = BodyPrefixMemory()
        self.tracer = Tracer(reactor, log, lambda: self.node.name)
        self.relays = relays or Relays(reactor, self.descriptors.limit)
        self.tracer.configure(self.settings)
        self.counters = counters or Counters()
        self.sockets = sockets or ListeningSockets()
        self.is_accepting = is_accepting
        self.nameservers = nameservers
        self.node = node or NodeIdentity()
        self.quorum: Quorum | None = None
        self.challenges = NO_CHALLENGES
        self.starter: Starter = NoStarter()
        self._stall_watch: StallWatch | None = None
        self.wall = wall
        self.monotonic = monotonic
        self.key = self.cookie_secret = key or new_key()

    def start(self) -> None:
        """Start the timers."""
        self.wheel.start()
        self.wheel.repeat(0, self._tick)

    def watch_stalls(self) -> None:
        """Log where this process is when it has served nobody for half of `worker_timeout`: a supervisor kills a worker
        soon after. To be called in the reactor's thread, when the process has its privileges."""
        self._stall_watch = StallWatch(lambda: self.wheel.now, self._stall_time, self._log_stall)
        self._stall_watch.start()

    def _stall_time(self) -> float:
        timeout = self.settings.worker_timeout
        return max(timeout / 2, MIN_STALL_TIME) if timeout else 0.0

    def _log_stall(self, seconds: float, where: str) -> None:
        form = "this process has served nobody for {seconds:.0f} s: it is at {where}"
        self.log.warn(form, seconds=seconds, where=where)

    def stop(self) -> None:
        """Stop the timers, flush the access logs, and close the relay engines."""
        if self._stall_watch is not None:
            self._stall_watch.stop()
        self.wheel.stop()
        self.steps.run("relays", self.relays.close)
        self.steps.run("traces", self.tracer.close)
        self.steps.run("access logs", self.access_logs.close)

    def apply_settings(self, settings: Settings) -> None:
        """Put `settings` in force."""
        self.settings = settings
        self.log.level = settings.debug_level
        self.tracer.configure(settings)
        self.steps.run("relay window", self.relays.set_window, settings.relay_window << 10)

    def start_accepting(self) -> None:
        """Let listeners accept clients, after the old daemon has stopped accepting."""
        self.is_accepting = True

    def cookie_key(self, settings: Settings) -> bytes:
        """Return the secret that signs cookies: the one in `settings`, else `cookie_secret`."""
        return settings.cookie_key.encode() or self.cookie_secret

    def _tick(self) -> bool:
        self.access_logs.tick()
        self.tracer.tick()
        return True
