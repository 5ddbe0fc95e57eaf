"""A service in virtual time: the switch's own selection, queue, retries and ejection, with servers that only take time.

What belongs to sockets is missing: admission, timeouts of clients and servers, checks, kept connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from math import inf
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ktcpvs.director.scheduler_binding import SchedulerBinder
from ktcpvs.dispatch.dispatcher import SERVERS_FULL, Dispatcher
from ktcpvs.dispatch.measured_request import MeasuredRequest
from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.http.retries import Retries
from ktcpvs.interfaces import CLIENT_HELLO, CONNECTION, EACH_REQUEST
from ktcpvs.model.address import Address
from ktcpvs.model.destination import Destination
from ktcpvs.model.exchange import ANSWERED
from ktcpvs.model.options import OFF
from ktcpvs.model.outcome import RESET
from ktcpvs.model.scheduling import Choice, ClientSide, OwnResponse, Request
from ktcpvs.model.service import COPY, NO_LOG, VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.protocols.client_hello import BadHello, host_name
from ktcpvs.protocols.http1 import BadRequest
from ktcpvs.protocols.http1.target import path_of
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.services.dry_run import AssumedConnection, AssumedTLS, local_address
from ktcpvs.services.running import RunningService
from ktcpvs.simulation.arrivals import Arrival
from ktcpvs.simulation.behaviour import FAILED, REFUSED, Outcome
from ktcpvs.simulation.cookies import Cookies
from ktcpvs.simulation.virtual_time import VirtualTime
from ktcpvs.system.log import EventLog
from ktcpvs.system.plugins import Schedulers, find_schedulers
from ktcpvs.system.timer_wheel import Timer

KEY = b"a key of simulations, so that the hashes of each run are the same"

MAX_NAMES = 4096
"""For how many server names of TLS the assumed connections are cached."""

MAX_NAMED_BYTES = 1024
"""The longest header lines for whose server name the assumed connection is cached."""

MAX_FAULTS = 20
"""The most faults of a scheduler that are kept."""

QUIET = -1
"""The log level at which nothing is written but faults."""


@implementer(ILogObserver)
class _Faults:
    """Keeps the first faults that a service logs, such as the exceptions of its scheduler."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, event: Any) -> None:
        if len(self.texts) < MAX_FAULTS:
            text = str(event.get("log_format", "")).format_map(_Values(event))
            failure = event.get("log_failure")
            self.texts.append(f"{text}: {failure.getErrorMessage()}" if failure is not None else text)


class _Values(dict[str, Any]):
    def __missing__(self, name: str) -> str:
        return ""


class _ServerConnection:
    """The connection of requests to their server."""

    __slots__ = ("destination",)

    is_used = False

    def __init__(self, destination: Destination) -> None:
        self.destination = destination


class SimulatedRequest:
    """One request from its arrival to its end, as a client connection has it. Then the object serves another request.

    arrival: what has come. server: the one that it is at. queued: how long it has waited for room, in seconds. status:
    of the response, REFUSED for a connection that was closed without one; None before the end. choice: of the last
    server; None: there was none. seconds: from the arrival to the end. retries: servers that have failed it.
    """

    __slots__ = (
        "_queued_since", "_service", "_timer", "arrival", "client_name", "dispatcher", "queued", "retries", "seconds",
        "server", "state", "status",
    )  # fmt: skip

    last_activity = 0
    may_be_repeated = True

    def __init__(self, service: SimulatedService, arrival: Arrival) -> None:
        self._service = service
        self._timer: Timer | None = None
        self.dispatcher = Dispatcher(service.traffic, self, arrival.client)
        self.state = ""
        self.begin(arrival)

    def begin(self, arrival: Arrival) -> None:
        """Be the request that has come now."""
        self._queued_since: float | None = None
        self.arrival = arrival
        self.client_name = self.dispatcher.request.client = arrival.client
        self.server: _ServerConnection | None = None
        self.status: int | None = None
        self.queued = self.seconds = 0.0
        self.retries = 0
        self.dispatcher.choice = self.dispatcher.lease = self.dispatcher.entry = None
        self.dispatcher.begin()

    @property
    def choice(self) -> Choice | None:
        return self.dispatcher.choice

    # For the dispatcher.

    def transition(self, event: str) -> None:
        if event == SERVERS_FULL and self._queued_since is None:
            self._queued_since = self._service.time.now
            self._service.queued += 1

    def set_timer(self, seconds: float, due: Callable[[], object] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._service.context.wheel.after(seconds, due) if due is not None else None

    def restore_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def moved(self) -> tuple[int, int]:
        return 0, 0

    def is_client_gone(self) -> bool:
        return False

    def expire(self, event: str) -> None:
        """Nothing expires: clients wait as long as it takes."""

    def serve(self, choice: Choice) -> None:
        self._stop_waiting()
        station = self._service.stations[choice.destination]
        self.server = station.connection
        station.take(self)

    def fail(self, status: int, reason: str, retry_after: int = 0, *, why: str = "") -> None:
        self._stop_waiting()
        self.server = None
        self._end(status if self._service.reads_requests else REFUSED, str(status))

    def respond(self, response: OwnResponse) -> None:
        self._stop_waiting()
        self._end(response.action.status, ANSWERED)

    # For retries.

    def connect(self, destination: Destination) -> None:
        station = self._service.stations[destination]
        self.server = station.connection
        station.take(self)

    def release_server(self, reset: bool) -> None:
        self.server = None

    def server_failed(self, reason: str, kind: str = RESET) -> None:
        """Nothing: a simulated server fails with a status, or refuses."""

    # For the servers.

    def refused(self) -> None:
        """The server has refused the connection."""
        self.retries += 1
        self.dispatcher.connect_failed(Failure(ConnectionRefusedError()))

    def responded(self, status: int) -> None:
        """The server has responded."""
        service, lease = self._service, self.dispatcher.lease
        assert lease is not None  # a server has it
        destination = lease.destination
        lease.made()
        entry = self.dispatcher.entry
        if service.unit != EACH_REQUEST:
            destination.succeeded(service.time.now)
            if isinstance(entry, MeasuredRequest):
                entry.first_byte_received()
        else:
            if status >= 502 and service.retries.retry_status(self, status):
                self.retries += 1
                return
            if status >= FAILED:
                service.traffic.server_failed(destination, f"status {status}")
            else:
                destination.succeeded(service.time.now)
            if entry is not None:
                entry.response_begun(status, 0)
            destination.latencies.count(status, service.time.now - self.arrival.at)
        choice = self.dispatcher.choice
        if choice is not None and choice.answer_lines:
            service.cookies.store(choice.answer_lines, self.arrival.client)
        lease.end()
        self._end(status, ANSWERED)

    def _stop_waiting(self) -> None:
        if self.dispatcher.is_waiting:
            self.dispatcher.stop_waiting()
        if self._queued_since is not None:
            self.queued += self._service.time.now - self._queued_since
            self._queued_since = None

    def _end(self, status: int, ending: str) -> None:
        self.status = status
        if self.dispatcher.entry is not None:
            self.dispatcher.entry.end((0, 0), ending)
        self.seconds = self._service.time.now - self.arrival.at
        self._service.request_ended(self)


Answer = Callable[[SimulatedRequest, Destination], Outcome]
"""Returns what a server does with a request."""


class _Station:
    """One server: it works on up to `capacity` requests at once, and others wait inside of it. peak: the most requests
    that it had at once. capacity: 0: no limit. connection: what its requests have as `server`."""

    __slots__ = ("_answer", "_busy", "_destination", "_time", "_waiting", "capacity", "connection", "peak")

    def __init__(self, destination: Destination, time: VirtualTime, answer: Answer, capacity: int) -> None:
        self._destination = destination
        self._time = time
        self._answer = answer
        self._busy = 0
        self._waiting: deque[SimulatedRequest] = deque()
        self.capacity = capacity
        self.connection = _ServerConnection(destination)
        self.peak = 0

    def take(self, request: SimulatedRequest) -> None:
        """A request has come."""
        active = self._destination.active
        if active > self.peak:
            self.peak = active
        if self.capacity and self._busy >= self.capacity:
            self._waiting.append(request)
        else:
            self._begin(request)

    def _begin(self, request: SimulatedRequest) -> None:
        outcome = self._answer(request, self._destination)
        self._busy += 1
        self._time.at(self._time.now + outcome.seconds, self._finish, (request, outcome.status))

    def _finish(self, finished: tuple[SimulatedRequest, int]) -> None:
        request, status = finished
        self._busy -= 1
        if status == REFUSED:
            request.refused()
        else:
            request.responded(status)
        if self._waiting and self._busy < self.capacity:
            self._begin(self._waiting.popleft())


class SimulatedService:
    """One service in virtual time.

    time: the clock. context, traffic, unit: as of a running service. stations: its servers. queued: how many requests
    have waited for room. cookies: of its clients. faults: what went wrong in the scheduler, a line each. ended: called
    with each request at its end.
    """

    def __init__(
        self,
        config: VirtualService,
        answer: Answer,
        ended: Callable[[SimulatedRequest], object],
        *,
        settings: Settings | None = None,
        capacities: Mapping[Address, int] | None = None,
        schedulers: Schedulers | None = None,
        epoch: float = 0.0,
    ) -> None:
        """answer: what servers do. settings: of the switch; None: the defaults. capacities: server -> the most requests
        that it works on at once; others wait inside of it. schedulers: those that `config` may name; None: the
        installed ones. epoch: the Unix time of the beginning. Raises a Refusal where the service cannot be bound."""
        self.time = time = VirtualTime()
        self._faults = _Faults()
        log = EventLog(QUIET, Logger("ktcpvs.simulation", observer=self._faults), lambda: time.now)
        self.context = Context(
            time,
            log,
            Descriptors(1024),
            KEY,
            settings=settings,
            wall=lambda: epoch + time.now,
            monotonic=lambda: time.now,
        )
        time.drive(self.context.wheel)
        self._binder = SchedulerBinder(self.context, find_schedulers if schedulers is None else lambda: schedulers)
        self._answer = answer
        self._capacities = capacities or {}
        self._running = RunningService(self.context, _without_sockets(config))
        self.traffic: ServiceContext = self._running.traffic
        self.retries = Retries(self.traffic)
        self.stations: dict[Destination, _Station] = {}
        self.ended = ended
        self.cookies = Cookies()
        self.queued = 0
        self.unit = CONNECTION
        self.reads_requests = False
        self._unused: list[SimulatedRequest] = []  # as many as there were requests at once
        self._connections: dict[bool, ClientSide] = {}
        self._named: dict[bytes, ClientSide] = {}
        self.configure(config)

    @property
    def faults(self) -> list[str]:
        return self._faults.texts

    @property
    def config(self) -> VirtualService:
        return self._running.config

    @property
    def destinations(self) -> tuple[Destination, ...]:
        """Its servers, in their order."""
        return tuple(self._running.destinations.values())

    @property
    def scheduler(self) -> Any:
        """The bound scheduler."""
        return self.traffic.selector.scheduler

    def configure(self, config: VirtualService) -> None:
        """Put a configuration in force, as an edit does. Raises a Refusal."""
        config = _without_sockets(config)
        settings = self.context.settings
        results: list[Any] = []
        Deferred.fromCoroutine(self._binder.bind(self._running, config, settings)).addBoth(results.append)
        (prepared,) = results  # nothing is waited for before the reactor runs
        if isinstance(prepared, Failure):
            prepared.raiseException()
        self._running.adopt(prepared)
        for destination in self.destinations:
            if destination not in self.stations:
                capacity = self._capacities.get(destination.address, 0)
                self.stations[destination] = _Station(destination, self.time, self._answer, capacity)
        self.unit = self.traffic.unit
        self.reads_requests = self.unit not in (CONNECTION, CLIENT_HELLO)
        self._connections = {
            listener.is_tls: AssumedConnection(
                local_address(listener.address), AssumedTLS(None) if listener.is_tls else None
            )
            for listener in reversed(config.listen)
        }
        self._named.clear()

    def begin(self, arrival: Arrival) -> None:
        """A request comes now."""
        if self._unused:
            request = self._unused.pop()
            request.begin(arrival)
        else:
            request = SimulatedRequest(self, arrival)
        dispatcher = request.dispatcher
        self._fill_in(dispatcher.request, arrival)
        dispatcher.select()

    def request_ended(self, request: SimulatedRequest) -> None:
        """A request is over."""
        self.ended(request)
        self._unused.append(request)

    def _fill_in(self, request: Request, arrival: Arrival) -> None:
        """Fill in the fields of a request that the scheduler may see."""
        if self.reads_requests:
            request.method, request.target = arrival.method, arrival.target
            request.lines = self.cookies.added_to(arrival.lines, arrival.client)
            request.path = arrival.target
            request.body_prefix = arrival.body[: self.traffic.body_prefix]
            if not arrival.target.startswith(b"/"):
                with suppress(BadRequest):
                    request.path = path_of(arrival.method, arrival.target)
        request.connection = self._connection(arrival, request)
        if self.unit == CLIENT_HELLO:
            request.server_name = _server_name(request)

    def _connection(self, arrival: Arrival, request: Request) -> ClientSide | None:
        """Return the connection of a client; the host that it asks for is the server name of TLS."""
        plain = self._connections.get(arrival.is_tls)
        if not arrival.is_tls or plain is None or not arrival.lines:
            return plain
        known = self._named.get(arrival.lines)
        if known is None:
            if len(self._named) >= MAX_NAMES:
                self._named.clear()
            known = AssumedConnection(plain.local_address, AssumedTLS(_server_name(Request(lines=arrival.lines))))
            if len(arrival.lines) <= MAX_NAMED_BYTES:
                self._named[arrival.lines] = known
        return known

    def run(self, arrivals: Iterable[Arrival]) -> None:
        """Let these requests come at their times, and wait for the end of all of them. Those that come too late, as
        seen from those before them, come at once."""
        time = self.time
        for arrival in arrivals:
            time.advance(arrival.at)
            self.begin(arrival)
        self.finish()

    def finish(self) -> None:
        """Wait until all requests have ended."""
        limit = self.time.now + self.traffic.settings.queue_timeout + 2
        while len(self.traffic.queue) or not self.time.is_idle:
            self.time.finish(inf)
            if not len(self.traffic.queue):
                return
            self.time.advance(self.time.now + 1)  # requests wait for nothing but their timeout
            if self.time.now > limit and self.time.is_idle:
                return


def _server_name(request: Request) -> str | None:
    host = request.host
    try:
        return host_name(host) if host else None
    except BadHello:
        return None


def _without_sockets(config: VirtualService) -> VirtualService:
    """Return the configuration without all that needs files, sockets or other processes."""
    servers = tuple([evolve(server, tls=None) for server in config.servers])
    return evolve(config, servers=servers, access_log=NO_LOG, trace=OFF, relay=COPY, preconnect=0, check=OFF)
