"""Active checks: each server of each service that wants it is called now and then, and its health told what came.

Where several processes serve, one of them checks. Calls are spread: each server has its own moment, and no two
intervals are quite the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectError
from twisted.internet.error import TimeoutError as LateError
from twisted.python.failure import Failure

from ktcpvs.errors import shorten
from ktcpvs.model.check import OFF, SEND, TCP, Check, NotWell, parse_check
from ktcpvs.model.destination import Destination
from ktcpvs.streams.connect import connect
from ktcpvs.streams.stream import Stream
from ktcpvs.system import log as levels
from ktcpvs.system.pending import cancel_pending
from ktcpvs.system.periodic import PeriodicJob
from ktcpvs.system.sockets import EXHAUSTED

if TYPE_CHECKING:
    from ktcpvs.health.http_check import HTTPChecks
    from ktcpvs.health.service_health import ServiceHealth
    from ktcpvs.model.service import VirtualService
    from ktcpvs.runtime.context import Context

JITTER = 0.1
"""By so much of itself an interval is longer or shorter, at random."""

AT_ONCE = 200
"""So many checks are made at the same time; the next ones wait a moment."""

WAIT = 0.05
"""That moment, in seconds."""

NOT_MADE = "check: not made, since the switch has no descriptor or memory left"
"""What is said of a check that tells nothing of its server."""

HEARD_MOST = 1 << 16
"""Bytes in which what is expected must come."""


class CheckedService(Protocol):
    """A service whose servers are checked."""

    config: VirtualService
    health: ServiceHealth

    @property
    def ident(self) -> str:
        """The service's name."""

    @property
    def usable(self) -> frozenset[Destination]:
        """All its servers."""


class ActiveChecks:
    """The checks that one process makes."""

    def __init__(self, context: Context, chance: Callable[[], float] = random.random) -> None:
        """chance: where jitter comes from, 0.0 to 1.0."""
        self._context = context
        self._chance = chance
        self._watched: dict[tuple[str, Destination], _Watched] = {}
        self._http: HTTPChecks | None = None  # the first check by HTTP makes it
        self.running = 0

    def follow(self, services: Iterable[CheckedService]) -> None:
        """From now on these are checked, as far as they want it, and nobody else."""
        wanted = {
            (live.ident, destination): live
            for live in services
            if live.config.check != OFF
            for destination in live.usable
        }
        for key in [key for key, one in self._watched.items() if wanted.get(key) is not one.live]:
            self._watched.pop(key).stop()
            if self._http is not None:
                self._http.forget(key[1].address)
        for key, live in wanted.items():
            watched = self._watched.get(key)
            if watched is None:
                self._watched[key] = _Watched(self, self._context, live, key[1])
            else:
                watched.look_at_options()

    def stop(self) -> None:
        """Check nobody any more."""
        self.follow(())
        if self._http is not None:
            self._http.close()
            self._http = None

    def spread(self, seconds: float) -> float:
        """A moment within the first `seconds`."""
        return self._chance() * seconds

    def jittered(self, seconds: float) -> float:
        """About so many seconds."""
        return seconds * (1 - JITTER + 2 * JITTER * self._chance())

    def probe(self, check: Check, destination: Destination) -> Deferred[Any]:
        """Fires when it is well, fails when not; cancelling it gives it up."""
        context = self._context
        if check.kind == TCP:
            calling = connect(context.reactor, destination.address, context.settings.connect_timeout, Stream())
            return calling.addCallback(Stream.close)
        if check.kind == SEND:
            return _Talk(check).begin(context, destination)
        if self._http is None:
            from ktcpvs.health.http_check import HTTPChecks  # a client of HTTP takes 10 MiB, which few need

            self._http = HTTPChecks(context.reactor)
        return self._http.probe(check, destination.address, destination.name)


class _Watched:
    """One server of one service."""

    def __init__(self, checks: ActiveChecks, context: Context, live: CheckedService, destination: Destination) -> None:
        self.live = live
        self._checks = checks
        self._context = context
        self._destination = destination
        self._attempt: _Attempt | None = None
        self.look_at_options()
        self._job = PeriodicJob(context.reactor, self._run, self._broken)
        self._job.start(checks.spread(live.config.check_interval))

    def look_at_options(self) -> None:
        self._check = parse_check(self.live.config.check)

    def stop(self) -> None:
        self._job.stop()
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.abandon()

    def _run(self) -> float | Deferred[float]:
        if self._checks.running >= AT_ONCE:
            return WAIT
        timeout = self.live.config.check_timeout
        attempt = self._attempt = _Attempt(self._checks, self._context, self._check, self._destination, timeout)
        return attempt.done.addCallback(self._checked)

    def _checked(self, why: str | None) -> float:
        self._attempt = None
        if why == NOT_MADE:
            self._context.log.event(levels.NON_FATAL, "{server}: {why}", server=self._destination.address, why=why)
        else:
            self.live.health.checked(self._destination, why)
        return self._checks.jittered(self.live.config.check_interval)

    def _broken(self, why: Failure) -> None:
        self._context.log.failure("a check of {server} failed to be made", why, server=self._destination.address)


class _Attempt:
    """One check under way.

    done: fires with None when the server is well, else with the reason in words. It fires within the timeout whatever
    the probe does, even if the probe cannot be cancelled.
    """

    def __init__(
        self, checks: ActiveChecks, context: Context, check: Check, destination: Destination, timeout: float
    ) -> None:
        """timeout: seconds."""
        self.done: Deferred[str | None] = Deferred()
        self._checks = checks
        self._log = context.log
        self._is_over = False
        self._probe: Deferred[Any] | None = None
        checks.running += 1
        self._timer = context.reactor.callLater(timeout, self._end, f"check: nothing within {timeout} s")
        self._probe = maybeDeferred(checks.probe, check, destination)
        self._probe.addCallbacks(lambda _: self._end(None), lambda why: self._end(_in_words(why)))

    def abandon(self) -> None:
        """Nobody wants to know any more: `done` does not fire."""
        if self._is_over:
            return
        self._is_over = True
        self._checks.running -= 1
        if self._timer.active():
            self._timer.cancel()
        cancel_pending(self._probe, self._log)

    def _end(self, why: str | None) -> None:
        if not self._is_over:
            self.abandon()
            self.done.callback(why)


class _Talk:
    """Something is sent, and something must come."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._heard = bytearray()
        self._stream = Stream()
        self._answer: Deferred[None] = Deferred()

    def begin(self, context: Context, destination: Destination) -> Deferred[None]:
        stream = self._stream
        stream.dataReceived = self._came
        stream.ended = self._over
        stream.lost = lambda clean: self._over()
        calling = connect(context.reactor, destination.address, context.settings.connect_timeout, stream)

        def cancel(_: Deferred[None]) -> None:
            calling.cancel()
            stream.reset()

        answer = self._answer = Deferred(cancel)
        calling.addCallbacks(self._connected, self._fail)
        return answer

    def _connected(self, stream: Stream) -> None:
        if self._check.send:
            stream.transport.write(self._check.send)

    def _came(self, data: bytes) -> None:
        looked = max(len(self._heard) - len(self._check.expect), 0)
        self._heard += data
        if self._heard.find(self._check.expect, looked) >= 0:
            if not self._answer.called:
                self._answer.callback(None)
            self._stream.close()
        elif len(self._heard) > HEARD_MOST:
            self._over()

    def _over(self) -> None:
        said = shorten(self._heard.decode("latin-1"), 60)
        self._fail(Failure(NotWell(f"it said '{said}'" if said else "it said nothing")))
        self._stream.reset()

    def _fail(self, why: Failure) -> None:
        if not self._answer.called:
            self._answer.errback(why)


def _in_words(why: Failure) -> str:
    """One short line."""
    if getattr(why.value, "osError", None) in EXHAUSTED:
        return NOT_MADE
    if why.check(LateError):
        return "check: connecting took too long"
    if why.check(ConnectError):
        return f"check: {shorten(why.getErrorMessage(), 100)}"
    return f"check: {shorten(why.getErrorMessage(), 100) or repr(why.value)}"
