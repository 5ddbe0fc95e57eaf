"""Every periodic job continues after an exception. Each test runs a real job whose work always raises."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from memory import log_into
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.control.endpoints import parse_control
from ktcpvs.control.tcp_listeners import TCPControlListener
from ktcpvs.director.director import Director
from ktcpvs.director.resolver import Resolver
from ktcpvs.director.serving_processes import SingleProcess
from ktcpvs.health.active_checks import ActiveChecks
from ktcpvs.http.server_connection import ServerConnection
from ktcpvs.http.server_connections import ServerConnections
from ktcpvs.model.destination import Destination
from ktcpvs.model.language.parser import parse
from ktcpvs.model.table import Table
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.service_manager import ServiceManager
from ktcpvs.services.listener import Listener
from ktcpvs.services.running import RunningService
from ktcpvs.status.address import parse_status
from ktcpvs.status.readiness import Readiness
from ktcpvs.status.status_listener import StatusListener
from ktcpvs.system.lookup import Found
from ktcpvs.system.notify import Notifier
from ktcpvs.system.shared import SharedTable
from ktcpvs.workers.worker import Worker
from ktcpvs.workers.worker_processes import WorkerProcesses


class Broken:
    """Raises whenever it is called. calls: how often it was called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *arguments: object, **named: object) -> Any:
        self.calls += 1
        raise RuntimeError("broken")


class BrokenReactor(MemoryReactorClock):
    """A reactor on which nothing can be opened or watched."""

    def __init__(self, broken: Broken) -> None:
        super().__init__()
        self.listenTCP = self.addReader = self.adoptStreamConnection = broken


class World:
    """The objects that jobs need. lines: of the log."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.broken = Broken()
        self.lines: list[str] = []
        self.log = log_into(self.lines)
        self.reactor = MemoryReactorClock()
        self.context = self.made_context(self.reactor)

    def made_context(self, reactor: MemoryReactorClock) -> Context:
        return Context(reactor, self.log, Descriptors(100))

    def breaks(self) -> None:
        """Make opening and watching descriptors fail."""
        self.reactor = BrokenReactor(self.broken)
        self.context = self.made_context(self.reactor)


def access_logs(world: World) -> None:
    class Logs:
        tick = world.broken

    world.context.access_logs = Logs()  # type: ignore[assignment]
    world.context.start()


def idle_connections(world: World) -> None:
    """The job closes connections that are too old."""

    class Connection(ServerConnection):
        close = world.broken

    world.context.start()
    connections, server = ServerConnections(world.context), Destination("10.0.0.1:80")  # type: ignore[arg-type]
    for _ in range(3):
        connections.put(Connection(connections, server, world.context.wheel))


def control_port(world: World) -> None:
    TCPControlListener(world.reactor, None, parse_control("tcp:9109"), world.broken, world.log).open_when_free()


def status_port(world: World) -> None:
    world.breaks()
    StatusListener(parse_status("tcp:9109"), (), None, world.log, world.reactor, Readiness()).open_when_free()


def watchdog(world: World) -> None:
    class Unwell(SingleProcess):
        ping = world.broken

    director = Director(world.context, processes=Unwell(world.context))
    Deferred.fromCoroutine(ServiceManager(Notifier(), director, watchdog=4_000_000).started())


def listening_socket(world: World) -> None:
    world.breaks()
    sock = world.stack.enter_context(socket.socket())
    sock.bind(("127.0.0.1", 0))
    Listener(world.context, "s", sock, lambda: True, lambda *client: None).start()


def workers_that_start(world: World) -> None:
    world.breaks()
    WorkerProcesses(world.reactor, world.log, 1, lambda worker: None, lambda worker: None).start()


def pings_of_workers(world: World) -> None:
    WorkerProcesses(world.reactor, world.log, 0, lambda worker: None, lambda worker: None, world.broken).start()


def a_worker_that_drains(world: World) -> None:
    worker = Worker(world.reactor, world.log)
    worker.begin(b"key", SharedTable(1), 0, is_accepting=True)
    worker.director.count_draining = world.broken  # type: ignore[method-assign]
    worker.drain()


def names(world: World) -> None:
    class Asks(Resolver):
        look_up = world.broken

    Asks(world.context, lambda found: Deferred()).follow({"a.example"}, {})


def names_that_are_found(world: World) -> None:
    class Finds(Resolver):
        def look_up(self, host: str) -> Deferred[Found]:
            found: Deferred[Found] = Deferred()
            found.callback(Found(("10.0.0.1",), 1))
            return found

    Finds(world.context, world.broken).follow({"a.example"}, {})


def checks(world: World) -> None:
    class Probes(ActiveChecks):
        probe = world.broken

    table = parse("Virtual s { listen = 127.0.0.1:80 check = tcp check_interval = 1 server = 10.0.0.1:80 }").apply(
        Table()
    )
    live = RunningService(world.context, table.services["s"])
    live.selector.usable = frozenset(live.destinations_for(live.config).values())
    Probes(world.context).follow([live])


JOBS: list[Callable[[World], None]] = [
    access_logs,
    idle_connections,
    control_port,
    status_port,
    watchdog,
    listening_socket,
    workers_that_start,
    pings_of_workers,
    a_worker_that_drains,
    names,
    names_that_are_found,
    checks,
]


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.__name__)
def test_a_job_that_raises_runs_again(world: World, job: Callable[[World], None]) -> None:
    job(world)
    calls = []
    for _ in range(4):
        for _ in range(200):
            world.reactor.advance(1)
        calls.append(world.broken.calls)
    if job in (idle_connections, a_worker_that_drains):  # these end
        assert calls[-1] >= 3
    else:
        assert 0 < calls[0] < calls[1] < calls[2] < calls[3]
    if job is not checks:  # an exception of a check means that the server is down, and is not logged
        assert world.lines
    if job is a_worker_that_drains:
        assert world.reactor.hasStopped
