"""A service whose listener has stages: they come before admission, and their clients count and end as others."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from memory import A, World, answer, get
from reactors import ReactorThread, descriptors, settled
from servers import LOOPBACK, SocketServer, dial, echo, free_address, free_port, read_all, read_exactly, reset, wait_for
from stages import LineReader, LineStage
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, formatEvent

from ktcpvs.director.director import Director
from ktcpvs.errors import BadValue
from ktcpvs.model.edits import DeleteService, StartService, StopService
from ktcpvs.model.language.parser import parse
from ktcpvs.runtime.context import Context
from ktcpvs.services import preambles as module
from ktcpvs.services.running import RunningService
from ktcpvs.streams.preamble import Refuse
from ktcpvs.system.log import CONNECTION, FAILURE_INTERVAL, EventLog

KNOCK = b"KNOCK\n"
HTTP = "scheduler = phttp", f"server = {A}", f'rule = pattern ".*" use server {A}'
TCP = "scheduler = wlc", f"server = {A}"
FIRST = "scheduler = http", f"server = {A}", f'rule = pattern ".*" use server {A}'

MakeWorld = Callable[..., World]


@pytest.fixture
def make() -> Iterator[MakeWorld]:
    """Makes worlds whose listeners have one stage, and closes them with all that is left."""
    worlds: list[World] = []

    def make(*lines: str, **options: Any) -> World:
        worlds.append(World(*lines, **{"stages": [LineStage()], **options}))
        return worlds[-1]

    yield make
    for world in worlds:
        for peer in world.peers:
            if peer.stream.is_open and not peer.line.disconnecting and not peer.line.aborted:
                peer.resets()
        world.close()


@pytest.mark.parametrize("pieces", [(KNOCK + get(),), (KNOCK, get()), (KNOCK[:3], KNOCK[3:] + get()[:9], get()[9:])])
@pytest.mark.parametrize("lines", [HTTP, TCP, FIRST])
def test_what_follows_is_served(make: MakeWorld, lines: tuple[str, ...], pieces: tuple[bytes, ...]) -> None:
    """Also with a scheduler that chooses before anything is read: then it waits for the server."""
    world = make(*lines)
    client, server, heard = world.knocks(), None, b""
    for piece in pieces:
        if not client.is_read():  # as a client that is paused: the kernel has it
            server = server or world.accepts(A)
        client.says(piece)
    server = server or world.accepts(A)
    heard += server.heard()
    assert heard == get()
    server.says(answer())
    assert client.heard() == answer()
    (connection,) = world.live.connections
    assert connection.client_name == "192.0.2.1:4711"
    assert (len(world.live.preambles), world.live.traffic.counters.total) == (0, 1)


def test_the_address_that_the_stage_finds_is_the_clients(make: MakeWorld) -> None:
    world = make(*HTTP, "x_forwarded_for = append")
    client = world.knocks()
    client.says(b"KNOCK 198.51.100.7 80\n" + get())
    assert b"\r\nX-Forwarded-For: 198.51.100.7\r\n" in world.accepts(A).heard()
    (connection,) = world.live.connections
    assert connection.client_name == "198.51.100.7:80"


def test_admission_asks_for_that_address(make: MakeWorld) -> None:
    world = make(*HTTP, "deny = 198.51.100.7", "client_connections = 1")
    admission = world.live.traffic.admission
    denied = world.knocks()
    denied.says(b"KNOCK 198.51.100.7 80\n" + get())
    assert denied.line.aborted
    assert (admission.denied, len(world.live.preambles)) == (1, 1)  # until its socket is closed
    world.settle()
    assert (len(world.live.preambles), world.live.clients.in_all, world.context.descriptors.used) == (0, 0, 0)
    first, second, other = (world.knocks() for _ in range(3))
    first.says(b"KNOCK 198.51.100.8 1\n")
    second.says(b"KNOCK 198.51.100.8 2\n")
    other.says(KNOCK)
    assert [peer.line.aborted for peer in (first, second, other)] == [False, True, False]
    assert (admission.limited, len(world.live.connections)) == (1, 2)


def test_a_client_whose_address_is_known_is_admitted_before_anything_is_read(make: MakeWorld) -> None:
    """It counts for the limits of its address from then on, until it leaves."""
    stages = LineStage(skips=("192.0.2.9", "192.0.2.1")), SecondLine()
    world = make(*HTTP, "deny = 192.0.2.9", "client_connections = 1", stages=stages)
    live, admission = world.live, world.live.traffic.admission

    def come(host: str) -> Any:
        return live.client_factory.buildProtocol(IPv4Address("TCP", host, 4711))

    assert come("192.0.2.9") is None
    assert (admission.denied, len(live.preambles), live.clients.in_all, world.context.descriptors.used) == (1, 0, 0, 0)
    first = world.knocks("192.0.2.1")
    assert come("192.0.2.1") is None
    first.says(b"HELLO\n")
    world.settle()
    second = world.knocks("192.0.2.1")
    second.says(KNOCK)
    assert come("192.0.2.1") is None
    assert (admission.denied, admission.limited, len(live.connections)) == (1, 2, 1)
    second.resets()
    world.knocks("192.0.2.1").says(KNOCK)
    assert len(live.connections) == 1


def test_a_client_in_a_later_stage_counts_for_the_address_that_an_earlier_one_has_found(make: MakeWorld) -> None:
    world = make(*HTTP, "client_connections = 1", stages=[LineStage(), SecondLine()])
    admission, found = world.live.traffic.admission, b"KNOCK 198.51.100.7 80\n"
    first, second = world.knocks(), world.knocks()
    first.says(found)
    second.says(found)
    assert (first.line.aborted, second.line.aborted, admission.limited) == (False, True, 1)
    first.resets()
    third = world.knocks()
    third.says(found + KNOCK)
    assert (third.line.aborted, admission.limited, len(world.live.connections)) == (False, 1, 1)


@pytest.mark.parametrize("lines", [HTTP, TCP])
def test_what_it_counts_for(make: MakeWorld, lines: tuple[str, ...]) -> None:
    world = make(*lines)
    live, used = world.live, world.context.descriptors
    assert (live.clients.in_all, used.used, live.living) == (0, 0, 0)
    client = world.knocks()
    assert (live.clients.in_all, used.used, live.living) == (1, 2, 1)
    client.says(KNOCK)
    assert (live.clients.in_all, used.used, live.living) == (1, 2, 1)
    assert len(live.connections) == 1


def test_a_thousand_clients_in_their_preamble(make: MakeWorld) -> None:
    world = make(*HTTP, descriptors=3000)
    live = world.live
    clients = [world.knocks(f"192.0.2.{number % 250}") for number in range(1000)]
    for client in clients:
        client.says(KNOCK[:3])
    assert (len(live.preambles), live.clients.in_all, world.context.descriptors.used) == (1000, 1000, 2000)
    for client in clients[:300]:
        client.says(KNOCK[3:])
    for client in clients[300:500]:
        client.resets()
    for client in clients[500:600]:
        client.ends()
    world.settle()
    assert (len(live.preambles), len(live.connections), live.clients.in_all) == (400, 300, 700)
    world.passes(4)
    world.settle()
    assert (len(live.preambles), len(live.connections), live.clients.in_all) == (0, 300, 300)
    assert live.preambles.refusals == {
        "knock: the client has reset the connection": 200,
        "knock: the client has ended the connection": 100,
        "knock: not complete within 3 seconds": 400,
    }
    assert world.context.descriptors.used == 600


def test_each_reason_is_logged_once_a_minute(make: MakeWorld) -> None:
    clock, said = Clock(), list[str]()
    logger = Logger(namespace="test", observer=lambda event: said.append(formatEvent(event) or ""))
    world = make(*HTTP, log=EventLog(0, logger, clock.seconds))

    def come(first: bytes) -> None:
        world.knocks().says(first)
        world.settle()

    def refusals() -> list[str]:
        found = [line for line in said if "refused" in line]
        said.clear()
        return found

    for first in b"HELLO\n", b"HELLO\n", bytes(100), bytes(100), b"HELLO\n":
        come(first)
    form = "service s: clients are refused, as 192.0.2.1:4711: knock: "
    assert refusals() == [form + "not a knock", form + "more than 64 bytes"]
    clock.advance(FAILURE_INTERVAL)
    come(b"HELLO\n")
    assert refusals() == [form + "not a knock (2 times more since the last such line)"]
    assert world.live.preambles.refusals == {"knock: not a knock": 4, "knock: more than 64 bytes": 2}


@pytest.mark.parametrize("level", [0, CONNECTION])
def test_a_client_that_leaves_is_counted_and_has_no_warning(make: MakeWorld, level: int) -> None:
    """Probes and port scans do that. HAProxy and nginx log it with the priority info."""
    said = list[tuple[str, str]]()

    def note(event: LogEvent) -> None:
        said.append((event["log_level"].name, formatEvent(event) or ""))

    world = make(*HTTP, log=EventLog(level, Logger(namespace="test", observer=note)))
    ending, resetting = world.knocks(), world.knocks()
    ending.says(KNOCK[:3])
    ending.ends()
    resetting.resets()
    world.settle()
    reasons = [f"knock: the client has {how} the connection" for how in ("ended", "reset")]
    assert world.live.preambles.refusals == dict.fromkeys(reasons, 1)
    lines = [("info", f"192.0.2.1:4711 has left s: {reason}") for reason in reasons]
    assert [one for one in said if "knock" in one[1]] == (lines if level else [])


class SecondLine(LineStage):
    """A stage that finds no address."""

    def finds_address(self, peer: Any) -> bool:
        return False

    def begin(self, peer: Any, stream: Any) -> LineReader:
        return LineReader(None)


class Talkative(LineStage):
    """A stage that breaks the rule for reasons."""

    def begin(self, peer: Any, stream: Any) -> Any:
        return self

    def feed(self, data: bytes) -> Refuse:
        return Refuse(data.decode())


def test_the_count_of_reasons_is_bounded(make: MakeWorld) -> None:
    world = make(*HTTP, stages=[Talkative()])
    for number in range(module.MAX_REASONS + 5):
        world.knocks().says(b"%d" % number)
    world.settle()
    refusals = world.live.preambles.refusals
    assert (len(refusals), refusals[module.OTHER_REASONS]) == (module.MAX_REASONS + 1, 5)


def test_a_bug_of_a_stage_costs_one_client(make: MakeWorld) -> None:
    class Broken(LineStage):
        def begin(self, peer: Any, stream: Any) -> Any:
            raise ValueError

    said = list[str]()
    logger = Logger(namespace="test", observer=lambda event: said.append(formatEvent(event) or ""))
    world = make(*HTTP, stages=[Broken("greeting")], log=EventLog(0, logger))
    client = world.knocks()
    assert client.line.aborted
    assert "service s: greeting failed" in said
    world.settle()
    assert world.live.preambles.refusals == {"greeting: internal error": 1}


# The end of the service.


def end(world: World) -> Any:
    return world.director.end()


def stop(world: World) -> Any:
    return world.director.submit(StopService("s"))


def delete(world: World) -> Any:
    return world.director.submit(StopService("s")).addCallback(lambda _: world.director.submit(DeleteService("s")))


@pytest.mark.parametrize("close", [end, stop])
def test_a_service_that_stops_closes_them(make: MakeWorld, close: Callable[[World], Any]) -> None:
    world = make(*HTTP)
    waiting, served = world.knocks(), world.knocks()
    served.says(KNOCK + get())
    server = world.accepts(A)
    close(world)
    assert waiting.line.aborted
    assert (world.director.count_draining(), world.live.preambles.refusals) == (2, {})
    world.settle()
    assert world.director.count_draining() == 1
    server.says(answer())
    assert served.heard().endswith(b"Connection: close\r\n\r\nhello")
    served.closes()
    assert world.director.count_draining() == 0


def test_a_service_that_is_deleted_goes_with_the_last_of_them(make: MakeWorld) -> None:
    world = make(*HTTP)
    live, client = world.live, world.knocks()
    delete(world)
    assert client.line.aborted
    assert (live in world.director.draining, live.living) == (True, 1)
    world.settle()
    assert live.living == 0
    world.load(*HTTP)
    assert not world.director.draining
    world.director.submit(StartService("s"))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("lines", [HTTP, TCP])
def test_a_takeover_lets_them_finish(make: MakeWorld, lines: tuple[str, ...], late: bool) -> None:
    world = make(*lines)
    slow, silent = world.knocks(), world.knocks()
    slow.says(KNOCK[:3])
    world.director.hand_over({world.live.config.address: 0} if late else {})
    assert not slow.line.aborted
    slow.says(KNOCK[3:] + get())
    server = world.accepts(A)
    server.says(answer())
    if lines == HTTP:  # its request was the last one
        assert slow.heard().endswith(b"Connection: close\r\n\r\nhello")
        assert slow.line.ended or slow.line.disconnecting
    world.passes(4)
    assert silent.line.aborted
    world.settle()
    assert world.live.preambles.refusals == {"knock: not complete within 3 seconds": 1}
    slow.resets()
    server.resets()
    assert world.director.count_draining() == 0
    assert world.live._draining._timer is None


def test_the_drain_timeout_ends_them(make: MakeWorld) -> None:
    """A stage may have more time than that."""
    world = make(*HTTP, stages=[LineStage(timeout=100)], settings="drain_timeout = 5")
    client = world.knocks()
    world.director.hand_over({})
    world.passes(7)
    assert client.line.aborted
    world.settle()
    assert world.director.count_draining() == 0


def test_a_connection_that_comes_of_one_drains_too(make: MakeWorld) -> None:
    world = make(*TCP, settings="drain_timeout = 5")
    client = world.knocks()
    world.director.hand_over({})
    world.passes(1)
    client.says(KNOCK)
    server = world.accepts(A)
    world.passes(6)
    assert client.line.aborted
    assert server.line.aborted


def test_end_all_ends_them(make: MakeWorld) -> None:
    world = make(*HTTP)
    client = world.knocks()
    world.director.end_all()
    assert client.line.aborted


def test_an_edit_may_change_the_stages(make: MakeWorld) -> None:
    """Clients that have come go on with those that they began with."""
    world = make(*HTTP, stages=())
    plain = world.knocks()
    plain.says(get())
    world.accepts(A).says(answer())
    assert plain.heard() == answer()
    world.stages = [LineStage()]
    world.load(*HTTP, "x_forwarded_for = append")
    knocking = world.knocks()
    assert len(world.live.preambles) == 1
    world.stages = ()
    world.load(*HTTP)
    knocking.says(KNOCK + get())
    other = world.knocks()
    assert (len(world.live.preambles), len(world.live.connections)) == (0, 3)
    other.says(get())


def test_a_listener_that_leaves_keeps_its_stages(make: MakeWorld) -> None:
    """The clients in its backlog have come to a listener with TLS, say, and must not be served without."""
    world = make(*HTTP)
    (listener,) = world.live.listeners.values()
    before = listener.accepted
    world.move()
    world.load(*HTTP)
    (after,) = world.live.listeners.values()
    assert after is not listener
    assert listener.closed
    assert listener.accepted is before


def test_stages_that_cannot_be_made_refuse_the_edit(make: MakeWorld) -> None:
    """Clients are never served without the stages that the configuration asks for."""
    world = make(*HTTP)

    def stages_of(config: Any, listener: Any, unit: str) -> Any:
        raise BadValue("no certificate")

    director = Director(world.context, stages_of=stages_of)
    refused = list[Any]()
    director.submit(parse(f"Virtual s {{ listen = {free_address()} scheduler = wlc server = {A} }}"))
    director.submit(StartService("s")).addErrback(lambda why: refused.append(why.value))
    assert [type(why) for why in refused] == [BadValue]
    assert (director.services, director.table.running) == ({}, frozenset())


# Real listeners.


class Switch:
    """A service that runs in a thread, with a server that echoes. stage: of its listener."""

    def __init__(self, stack: contextlib.ExitStack, thread: ReactorThread, *lines: str) -> None:
        self.thread = thread
        self.stage = LineStage()
        self.server = SocketServer(echo)
        stack.callback(self.server.stop)
        self.port = free_port()
        context = Context(thread.reactor, EventLog())
        stages_of = lambda config, listener, unit: (self.stage,)  # noqa: E731
        self.director = director = thread.run(lambda: Director(context, stages_of=stages_of))
        stack.callback(self._end)
        thread.run(director.start)
        server, text = self.server.address, "\n".join(lines)
        rule = f'rule = pattern ".*" use server {server}' if "wlc" not in text else ""
        where = f"listen = {LOOPBACK}:{self.port}"
        for edit in parse(f"Virtual s {{ {where}\n{text}\nserver = {server}\n{rule} }}"), StartService("s"):
            thread.run(director.submit, edit)

    @property
    def live(self) -> RunningService:
        return self.director.services["s"]

    def _end(self) -> None:
        self.thread.run(self.director.end)
        self.thread.run(self.director.end_all)
        wait_for(lambda: not self.director.count_draining())
        self.thread.run(self.live.server_connections.close)
        wait_for(lambda: not self.live.server_connections.open)
        self.thread.run(self.director.stop)

    def dial(self, first: bytes = b"") -> socket.socket:
        client = dial((LOOPBACK, self.port))
        client.sendall(first)
        return client


@pytest.fixture(scope="module", params=["epoll", "uvloop"])
def thread(request: pytest.FixtureRequest) -> Iterator[ReactorThread]:
    thread = ReactorThread(request.param)
    endpoint = serverFromString(thread.reactor, f"tcp:0:interface={LOOPBACK}")
    listening = thread.run(endpoint.listen, Factory())  # Twisted reserves a descriptor when it first listens
    thread.run(listening.stopListening)
    yield thread
    thread.stop()


@pytest.fixture
def stack(thread: ReactorThread) -> Iterator[contextlib.ExitStack]:
    thread.failures.clear()
    before = settled(thread)
    with contextlib.ExitStack() as stack:
        yield stack
    wait_for(lambda: descriptors() <= before)
    assert thread.failures == []


@pytest.mark.parametrize("lines", ["scheduler = wlc", "scheduler = phttp", "scheduler = http"])
@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_real_listener(thread: ReactorThread, stack: contextlib.ExitStack, lines: str, in_pieces: bool) -> None:
    switch = Switch(stack, thread, lines)
    client = stack.enter_context(switch.dial())
    text = b"KNOCK 198.51.100.7 80\n" + get()
    if in_pieces:
        for place in range(len(text)):
            client.sendall(text[place : place + 1])
    else:
        client.sendall(text)
    if lines == "scheduler = phttp":  # what echoes is no HTTP server
        assert client.recv(100).startswith(b"HTTP/1.1 502 ")
    else:
        assert read_exactly(client, len(get())) == get()
    (connection,) = switch.live.connections
    assert connection.client_name == "198.51.100.7:80"
    assert switch.stage.begun[0][0] == LOOPBACK
    client.sendall(b"more")
    if lines != "scheduler = phttp":
        assert read_exactly(client, 4) == b"more"
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""


@pytest.mark.parametrize("relay", ["copy", "splice", "auto"])
def test_a_relay_gets_what_came_behind_it_first(thread: ReactorThread, stack: contextlib.ExitStack, relay: str) -> None:
    switch = Switch(stack, thread, "scheduler = wlc", f"relay = {relay}")
    body = bytes(range(256)) * 2000
    client = stack.enter_context(switch.dial(KNOCK + body[:10_000]))
    received = bytearray()
    for start in range(10_000, len(body), 50_000):
        client.sendall(body[start : start + 50_000])
        received += read_exactly(client, min(start, len(body)) - len(received))
    client.shutdown(socket.SHUT_WR)
    received += read_all(client)
    assert received == body


@pytest.mark.parametrize("how", ["refused", "silent", "too long", "reset", "FIN"])
def test_a_client_that_is_refused(thread: ReactorThread, stack: contextlib.ExitStack, how: str) -> None:
    switch = Switch(stack, thread, "scheduler = wlc")
    switch.stage.timeout = 1
    first = {"refused": b"HELLO\n", "too long": bytes(100)}.get(how, b"KNO")
    client = stack.enter_context(switch.dial(first))
    if how in ("reset", "FIN"):
        wait_for(lambda: len(switch.live.preambles) == 1)
        reset(client) if how == "reset" else client.shutdown(socket.SHUT_WR)
    if how != "reset":
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    wait_for(lambda: not len(switch.live.preambles))
    assert sum(switch.live.preambles.refusals.values()) == 1
    assert (switch.server.accepted, switch.live.clients.in_all) == (0, 0)


def test_maxclients_counts_them(thread: ReactorThread, stack: contextlib.ExitStack) -> None:
    switch = Switch(stack, thread, "scheduler = wlc", "maxclients = 1")
    switch.stage.timeout = 60
    first = stack.enter_context(switch.dial())
    wait_for(lambda: len(switch.live.preambles) == 1)
    second = stack.enter_context(switch.dial(KNOCK + b"hello"))
    for _ in range(5):
        thread.run(lambda: None)
    assert (len(switch.live.preambles), len(switch.live.connections)) == (1, 0)
    first.close()
    assert read_exactly(second, 5) == b"hello"


def test_a_twisted_endpoint(thread: ReactorThread, stack: contextlib.ExitStack) -> None:
    switch = Switch(stack, thread, "scheduler = wlc")
    port = free_port()
    endpoint = serverFromString(thread.reactor, f"tcp:{port}:interface={LOOPBACK}")
    listening = thread.run(endpoint.listen, switch.live.client_factory)
    stack.callback(thread.run, listening.stopListening)
    client = stack.enter_context(dial((LOOPBACK, port)))
    client.sendall(KNOCK[:3])
    wait_for(lambda: len(switch.live.preambles) == 1)
    client.sendall(KNOCK[3:] + b"hello")
    assert read_exactly(client, 5) == b"hello"
    bad = stack.enter_context(dial((LOOPBACK, port)))
    bad.sendall(b"HELLO\n")
    with pytest.raises(ConnectionResetError):
        bad.recv(1)


def test_many_real_clients_at_once(thread: ReactorThread, stack: contextlib.ExitStack) -> None:
    switch = Switch(stack, thread, "scheduler = wlc")
    switch.stage.timeout = 60
    clients = [stack.enter_context(switch.dial(KNOCK[:2])) for _ in range(200)]
    wait_for(lambda: len(switch.live.preambles) == 200)
    for client in clients[:100]:
        client.sendall(KNOCK[2:] + b"hello")
    assert [read_exactly(client, 5) for client in clients[:100]] == [b"hello"] * 100
    for client in clients[100:]:
        client.close()
    wait_for(lambda: not len(switch.live.preambles))


def test_a_listener_that_moves_lets_them_finish(thread: ReactorThread, stack: contextlib.ExitStack) -> None:
    switch = Switch(stack, thread, "scheduler = wlc")
    switch.stage.timeout = 60
    client = stack.enter_context(switch.dial(KNOCK[:2]))
    wait_for(lambda: len(switch.live.preambles) == 1)
    server, port = switch.server.address, free_port()
    text = f"Virtual s {{ listen = {LOOPBACK}:{port}\nscheduler = wlc\nserver = {server} }}"
    thread.run(switch.director.submit, parse(text))
    client.sendall(KNOCK[2:] + b"hello")
    assert read_exactly(client, 5) == b"hello"
