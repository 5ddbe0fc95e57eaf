"""Active checks: check each server of a service with the option `check` at intervals, and report the results.

Where several processes serve, one of them checks. Checks are spread over time: each server has its own first moment,
and intervals vary at random.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectError
from twisted.internet.error import TimeoutError as LateError
from twisted.python.failure import Failure

from ktcpvs.errors import shorten
from ktcpvs.health.check_connection import CheckConnection
from ktcpvs.health.http2_check import probe_grpc, probe_http
from ktcpvs.model.address import Address
from ktcpvs.model.check import GRPC, OFF, SEND, TCP, Check, CheckResponse, NotWell, parse_check
from ktcpvs.model.destination import Destination
from ktcpvs.model.service import VirtualService
from ktcpvs.streams.connector import Connector
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.tls_handshake import TLS_1_3
from ktcpvs.streams.tls_transport import NO_CLOSE_NOTIFY
from ktcpvs.streams.transport import nothing
from ktcpvs.system import log as levels
from ktcpvs.system.network_errors import network_reason
from ktcpvs.system.pending import cancel_pending
from ktcpvs.system.periodic import PeriodicJob
from ktcpvs.system.sockets import EXHAUSTED

if TYPE_CHECKING:
    from ktcpvs.health.http_check import HTTPChecks
    from ktcpvs.runtime.context import Context

JITTER = 0.1
"""The part of an interval by which it is lengthened or shortened at random."""

MAX_RUNNING = 200
"""The most checks at the same time; further ones are retried after RETRY_DELAY."""

RETRY_DELAY = 0.05
"""Seconds until a check is retried that exceeds MAX_RUNNING."""

NOT_MADE = "check: not made, because the switch has no descriptor or memory left"
"""The outcome of a check that says nothing about its server."""

ALERT_WAIT = 0.5
"""Seconds for which a tcp check waits for the server after its handshake by TLS 1.3, in which a client's certificate is
judged only then (RFC 8446, section 4.4.2.4). A server on the other side of the world needs 0.3. Most servers take less:
they respond to the close_notify that follows the handshake."""

ALERT_WAIT_SHARE = 0.9
"""The part of a check's timeout after which it does not wait longer for that, so that it passes."""

MAX_REASON = 160
"""The most characters of a reason why a check has failed."""

RESET = "the server has reset the connection after the handshake"
"""The reason why a tcp check has failed whose server has not sent an alert."""

MAX_RESPONSE = 1 << 16
"""The bytes of a response within which the expected text must come."""

MAX_LINE = 80
"""The most characters that are shown of a response's first line."""


class ReportedTo(Protocol):
    """The health of a service's servers."""

    def checked(self, destination: Destination, why: str | None, response: CheckResponse | None = None) -> None:
        """A check of a server has ended. why: the reason why it failed, in words; None if it passed. response: None:
        there was none."""


class CheckedService(Protocol):
    """The part of a running service that checks use."""

    @property
    def ident(self) -> str: ...

    @property
    def config(self) -> VirtualService: ...

    @property
    def checked_servers(self) -> frozenset[Destination]: ...

    @property
    def health(self) -> ReportedTo: ...

    def check_connector(self, destination: Destination, check: Check) -> Connector:
        """Return what connects to the address at which that server is checked."""


class ActiveChecks:
    """The checks that one process makes. running: the number of checks in progress."""

    def __init__(self, context: Context, chance: Callable[[], float] = random.random) -> None:
        """chance: returns random numbers from 0.0 to 1.0."""
        self._context = context
        self._chance = chance
        self._servers: dict[tuple[str, Destination], _CheckedServer] = {}
        self._http: HTTPChecks | None = None  # the first check by HTTP makes it
        self.running = 0

    def follow(self, services: Iterable[CheckedService]) -> None:
        """Check the servers of these services that have the option `check` from now on, and no others."""
        wanted = {
            (service.ident, destination): service
            for service in services
            if service.config.check != OFF
            for destination in service.checked_servers
        }
        for key in [key for key, server in self._servers.items() if wanted.get(key) is not server.service]:
            server = self._servers.pop(key)
            server.stop()
            if self._http is not None and server.address is not None:
                self._http.forget(server.address)
        for key, service in wanted.items():
            known = self._servers.get(key)
            if known is None:
                self._servers[key] = _CheckedServer(self, self._context, service, key[1])
            else:
                known.update_check()

    @property
    def services(self) -> list[str]:
        """The idents of the services whose servers are checked: one for each of these servers, sorted."""
        return sorted(ident for ident, _ in self._servers)

    def stop(self) -> None:
        """Stop all checks."""
        self.follow(())
        if self._http is not None:
            self._http.close()
            self._http = None

    def spread(self, seconds: float) -> float:
        """Return the seconds until the first check, at random within the first interval."""
        return self._chance() * seconds

    def jittered(self, seconds: float) -> float:
        """Return `seconds`, lengthened or shortened at random."""
        return seconds * (1 - JITTER + 2 * JITTER * self._chance())

    def probe(self, check: Check, destination: Destination, connector: Connector, timeout: float) -> Deferred[Any]:
        """Start a check; the Deferred fires if it passes, perhaps with a CheckResponse, and fails if not. Cancelling it
        stops the check. timeout: seconds that it may take; the caller cancels it then."""
        if check.kind == TCP:
            return _Connect(self._context.reactor, timeout).begin(connector)
        if check.kind == SEND:
            return _SendExpect(check).begin(connector)
        if check.kind == GRPC:
            return probe_grpc(check, connector, destination.host_name)
        if connector.is_http2:
            return probe_http(check, connector, destination.host_name)
        if self._http is None:
            from ktcpvs.health.http_check import HTTPChecks  # an HTTP client takes 10 MiB, which few need

            self._http = HTTPChecks(self._context.reactor)
        return self._http.probe(check, connector, destination.host_name)


@frozen
class _Outcome:
    """The outcome of one check. why: the reason why a check has failed; None: it has passed. response: None: there was
    none."""

    why: str | None
    response: CheckResponse | None = None


class _CheckedServer:
    """One server of one service, checked at intervals. address: that of the last check; None: there was none."""

    def __init__(
        self, checks: ActiveChecks, context: Context, service: CheckedService, destination: Destination
    ) -> None:
        self.service = service
        self._checks = checks
        self._context = context
        self._destination = destination
        self._attempt: _Attempt | None = None
        self.address: Address | None = None
        self.update_check()
        self._job = PeriodicJob(context.reactor, self._run, self._failed)
        self._job.start(checks.spread(service.config.check_interval))

    def update_check(self) -> None:
        """Read the option `check` again."""
        self._check = parse_check(self.service.config.check)

    def stop(self) -> None:
        self._job.stop()
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.abandon()

    def _run(self) -> float | Deferred[float]:
        if self._checks.running >= MAX_RUNNING:
            return RETRY_DELAY
        timeout = self.service.config.check_timeout
        connector = self.service.check_connector(self._destination, self._check)
        self.address = connector.address
        probe = partial(self._checks.probe, self._check, self._destination, connector, timeout)
        attempt = self._attempt = _Attempt(self._checks, self._context, probe, timeout, connector.hint)
        return attempt.done.addCallback(self._checked)

    def _checked(self, outcome: _Outcome) -> float:
        self._attempt = None
        why = outcome.why
        if why == NOT_MADE:
            self._context.log.event(levels.NON_FATAL, "{server}: {why}", server=self._destination.address, why=why)
        else:
            self.service.health.checked(self._destination, why, outcome.response)
        return self._checks.jittered(self.service.config.check_interval)

    def _failed(self, why: Failure) -> None:
        self._context.log.failure("internal error in a check of {server}", why, server=self._destination.address)


class _Attempt:
    """One check in progress.

    done: fires with the outcome. It fires within the timeout, even if the probe neither ends nor can be cancelled.
    """

    def __init__(
        self, checks: ActiveChecks, context: Context, probe: Callable[[], Deferred[Any]], timeout: float, hint: str
    ) -> None:
        """probe: starts the check. timeout: seconds. hint: of the connector, for a server that does not respond as
        expected."""
        self.done: Deferred[_Outcome] = Deferred()
        self._checks = checks
        self._log = context.log
        self._is_over = False
        self._probe: Deferred[Any] | None = None
        checks.running += 1
        late = _Outcome(f"check: nothing within {timeout} s")
        self._timer = context.reactor.callLater(timeout, self._end, late)
        self._probe = maybeDeferred(probe)
        self._probe.addCallbacks(self._passed, lambda why: self._end(_failed(why, hint)))

    def _passed(self, response: Any) -> None:
        self._end(_Outcome(None, response if isinstance(response, CheckResponse) else None))

    def abandon(self) -> None:
        """Stop the check; `done` does not fire."""
        if self._is_over:
            return
        self._is_over = True
        self._checks.running -= 1
        if self._timer.active():
            self._timer.cancel()
        cancel_pending(self._probe, self._log)

    def _end(self, outcome: _Outcome) -> None:
        if not self._is_over:
            self.abandon()
            self.done.callback(outcome)


class _Connect:
    """A check that connects and sends nothing.

    With TLS 1.3, a server that refuses the switch's certificate, or misses one, says so after the handshake. So the
    check ends its side at once: the server then refuses, or ends its side too, or is silent, for which the check waits
    for a moment.
    """

    def __init__(self, reactor: Any, timeout: float) -> None:
        """timeout: of the check, in seconds."""
        self._reactor = reactor
        self._deadline = reactor.seconds() + ALERT_WAIT_SHARE * timeout
        self._stream = Stream()
        self._timer: Any = None
        self._outcome: Deferred[None] = Deferred()

    def begin(self, connector: Connector) -> Deferred[None]:
        """Start; the Deferred fires when the server has accepted the connection. Cancelling it closes the
        connection."""
        connecting = connector.connect_stream(self._stream)

        def cancel(_: Deferred[None]) -> None:
            connecting.cancel()
            self._stop_waiting()
            self._stream.abort()

        outcome = self._outcome = Deferred(cancel)
        connecting.addCallbacks(self._connected, self._outcome.errback)
        return outcome

    def _connected(self, stream: Stream) -> None:
        if stream.tls is None or stream.tls.version != TLS_1_3:
            self._passed()
            return
        stream.dataReceived = self._passed
        stream.ended = self._passed
        stream.lost = self._lost
        left = self._deadline - self._reactor.seconds()
        self._timer = self._reactor.callLater(max(0.0, min(ALERT_WAIT, left)), self._passed)
        stream.half_close()

    def _passed(self, data: bytes = b"") -> None:
        """The server has accepted the connection. data: that it has sent; b"": it has ended its side, or is silent."""
        self._stop_waiting()
        self._stream.close()
        self._outcome.callback(None)

    def _lost(self, clean: bool) -> None:
        """The connection is broken. A FIN without close_notify is how some servers end their side."""
        failure = self._stream.failure
        if failure == NO_CLOSE_NOTIFY:
            self._passed()
            return
        self._stop_waiting()
        self._outcome.errback(Failure(NotWell(f"TLS: {failure or RESET}")))

    def _stop_waiting(self) -> None:
        self._stream.dataReceived = self._stream.ended = self._stream.lost = nothing
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


class _SendExpect:
    """A check that sends a text and expects another one in the response."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._received = bytearray()
        self._connection = CheckConnection(self._connected, self._data_received, self._over)

    def begin(self, connector: Connector) -> Deferred[CheckResponse | None]:
        """Start; the Deferred fires when the expected text has come, else fails. Cancelling it closes the
        connection."""
        return self._connection.begin(connector)

    def _connected(self, stream: Stream) -> None:
        if self._check.send:
            stream.write(self._check.send)

    def _data_received(self, data: bytes) -> None:
        searched = max(len(self._received) - len(self._check.expect), 0)
        self._received += data
        if self._received.find(self._check.expect, searched) >= 0:
            self._connection.pass_with(self._response())
            self._connection.stream.close()
        elif len(self._received) > MAX_RESPONSE:
            self._over("")

    def _over(self, failure: str) -> None:
        said = shorten(self._received.decode("latin-1"), 60)
        why = failure or (f"it said '{said}'" if said else "it said nothing")
        self._connection.fail_with(why, self._response())

    def _response(self) -> CheckResponse:
        line = bytes(self._received).split(b"\n", 1)[0].removesuffix(b"\r")
        return CheckResponse(shorten(line.decode("latin-1"), MAX_LINE))


def _failed(why: Failure, hint: str) -> _Outcome:
    error = why.value
    return _Outcome(_in_words(why, hint), error.response if isinstance(error, NotWell) else None)


def _in_words(why: Failure, hint: str = "") -> str:
    """Return the reason of a failed check, in one short line. hint: to add where the server was connected."""
    if getattr(why.value, "osError", None) in EXHAUSTED:
        return NOT_MADE
    if why.check(LateError):
        return "check: connecting took too long"
    if why.check(ConnectError):
        return f"check: {shorten(network_reason(why), MAX_REASON)}"
    return f"check: {shorten(network_reason(why), MAX_REASON)}{hint}"


class NoChecks:
    """Makes no checks, because another process does and reports the results."""

    def __init__(self, context: Context) -> None:
        """context: as for ActiveChecks; not used."""

    def follow(self, services: Iterable[CheckedService]) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""
