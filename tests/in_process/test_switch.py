"""Services as endpoints, on a reactor in memory: which server is called, what is counted, and what fails how."""

from __future__ import annotations

import gc
import time
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionRefusedError, NoProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from ktcpvs.errors import BadConfiguration, BadValue, NoSuchScheduler, NoSuchService
from ktcpvs.in_process.connection import NotConnected, ProtocolConnection
from ktcpvs.in_process.switch import Switch

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"


class Heard(Protocol):
    def __init__(self) -> None:
        self.data = b""
        self.end: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]
        self.end = reason


class Counted(Factory):
    """started, stopped: how often that was called."""

    protocol = Heard  # type: ignore[assignment]

    def __init__(self) -> None:
        self.started = self.stopped = 0

    def startFactory(self) -> None:
        self.started += 1

    def stopFactory(self) -> None:
        self.stopped += 1


class World:
    """A switch of one service, `web`, and the servers that it calls."""

    def __init__(self, *lines: str) -> None:
        self.reactor = MemoryReactorClock()
        self.switch = Switch(self.reactor, text="Virtual web {\n" + "\n".join(lines) + "\n}")
        self.taken = 0

    def connect(self, factory: Factory | None = None) -> Attempt:
        return Attempt(self.switch.endpoint("vs:web").connect(factory or Factory.forProtocol(Heard)))

    @property
    def called(self) -> list[str]:
        """The addresses that were called since the last look."""
        new = self.reactor.tcpClients[self.taken :]
        self.taken += len(new)
        return [f"{host}:{port}" for host, port, *_ in new]

    def accepts(self) -> StringTransport:
        """The server that was called last accepts."""
        factory = self.reactor.tcpClients[-1][2]
        transport = StringTransport(peerAddress=None)
        protocol = factory.buildProtocol(None)
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return transport

    def refuses(self) -> None:
        """The server that was called last does not accept."""
        factory, connector = self.reactor.tcpClients[-1][2], self.reactor.connectors[-1]
        factory.clientConnectionFailed(connector, Failure(ConnectionRefusedError()))

    def ends(self, transport: Any) -> None:
        transport.protocol.connectionLost(Failure(ConnectionDone()))

    def active(self) -> list[int]:
        return [server["stats"]["active"] for server in self.switch.servers("web")]

    def failures(self) -> list[int]:
        return [server["stats"]["failures"] for server in self.switch.servers("web")]

    def passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.reactor.advance(1)


class Attempt:
    """The outcome of a connect: result, a protocol or an exception; None: it is not over."""

    def __init__(self, connecting: Deferred[Any]) -> None:
        self.connecting = connecting
        self.result: Any = None
        connecting.addBoth(self._over)

    def _over(self, result: Any) -> None:
        self.result = result.value if isinstance(result, Failure) else result


def servers(*addresses: str) -> list[str]:
    return [f"server = {address}" for address in addresses]


def test_each_connection_gets_the_server_that_the_scheduler_chooses() -> None:
    world = World("scheduler = rr", *servers(A, B))
    attempts = []
    for address in (A, B, A):
        attempts.append(world.connect())
        assert world.called == [address]
        world.accepts()
    assert world.active() == [2, 1]
    assert all(isinstance(attempt.result, Heard) for attempt in attempts)


def test_a_protocol_talks_with_its_server() -> None:
    world = World(*servers(A))
    attempt = world.connect()
    line = world.accepts()
    attempt.result.transport.write(b"hello ")
    attempt.result.transport.writeSequence([b"wor", b"ld"])
    line.protocol.dataReceived(b"good day")
    assert (line.value(), attempt.result.data) == (b"hello world", b"good day")
    world.ends(line)
    assert attempt.result.end.check(ConnectionDone)
    (server,) = world.switch.servers("web")
    assert [server["stats"][name] for name in ("active", "total", "bytes_in", "bytes_out")] == [0, 1, 11, 8]


def test_after_a_failure_the_next_server_is_called() -> None:
    world = World("scheduler = rr", *servers(A, B))
    factory = Counted()
    attempt = world.connect(factory)
    world.refuses()
    assert attempt.result is None
    assert world.called == [A, B]
    line = world.accepts()
    assert isinstance(attempt.result, Heard)
    assert (world.active(), world.failures()) == ([0, 1], [1, 0])
    assert (factory.started, factory.stopped) == (1, 0)
    world.ends(line)
    assert (factory.started, factory.stopped) == (1, 1)


def test_the_error_names_the_service_and_what_each_server_said() -> None:
    world = World("scheduler = rr", *servers(A, B))
    factory = Counted()
    attempt = world.connect(factory)
    world.refuses()
    world.refuses()
    refused = "Connection was refused by other side"
    assert isinstance(attempt.result, NotConnected)
    assert isinstance(attempt.result, ConnectError)
    assert str(attempt.result) == f"service web: no server answered; {A}: {refused}; {B}: {refused}"
    assert (world.active(), factory.stopped) == ([0, 0], 1)


def test_connect_tries_limits_the_attempts() -> None:
    reactor = MemoryReactorClock()
    lines = " ".join(f"server = 10.0.0.{n}:80" + "\n" for n in range(1, 10))
    switch = Switch(reactor, text=f"global {{ connect_tries = 3 }}\nVirtual web {{ scheduler = rr\n{lines} }}")
    attempt = Attempt(switch.endpoint("web").connect(Factory.forProtocol(Heard)))
    while attempt.result is None:
        reactor.tcpClients[-1][2].clientConnectionFailed(None, Failure(ConnectionRefusedError()))
    assert len(reactor.tcpClients) == 3


def test_failures_in_a_row_eject_a_server() -> None:
    world = World("scheduler = rr", "eject = 2", "eject_time = 5", *servers(A, B))
    world.switch.start()
    while world.failures() != [2, 0]:
        world.connect()
        if world.called[-1] == A:
            world.refuses()
        world.accepts()
    assert [server["health"]["state"] for server in world.switch.servers("web")] == ["ejected", "up"]
    assert world.called == [B]
    for _ in range(3):
        world.connect()
        assert world.called == [B]
        world.accepts()
    world.passes(7)
    world.connect()
    world.connect()
    assert A in world.called


def test_a_scheduler_that_learns_prefers_the_server_whose_first_byte_comes_sooner() -> None:
    world = World("scheduler = peak-ewma", *servers(A, B))
    responds_in = {A: 0.05, B: 0.0}
    called = []
    for _ in range(12):
        attempt = world.connect()
        (address,) = world.called
        called.append(address)
        line = world.accepts()
        attempt.result.transport.write(b"ask")
        time.sleep(responds_in[address])
        line.protocol.dataReceived(b"response")
        world.ends(line)
    assert called.count(B) > called.count(A)  # B may be slow too, on a busy machine


def test_nothing_is_left_of_a_connection_without_a_garbage_collection() -> None:
    world = World(*servers(A))
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            world.connect()
            world.ends(world.accepts())
        world.reactor.tcpClients.clear()
        world.reactor.connectors.clear()
        assert [one for one in gc.get_objects() if isinstance(one, ProtocolConnection)] == []
    finally:
        gc.enable()


def test_a_connection_waits_for_room_and_gets_it_when_another_one_ends() -> None:
    world = World("scheduler = rr", f"server = {A} 1 maxconn 1")
    world.connect()
    first = world.accepts()
    second = world.connect()
    assert world.called == [A]
    assert second.result is None
    world.ends(first)
    assert world.called == [A]
    world.accepts()
    assert isinstance(second.result, Heard)


def test_waiting_for_room_ends_with_queue_timeout() -> None:
    world = World("scheduler = rr", "queue_timeout = 3", f"server = {A} 1 maxconn 1")
    world.connect()
    world.accepts()
    second = world.connect()
    world.passes(5)
    assert str(second.result) == "service web: no server had room within 3 seconds"


def test_a_cancelled_attempt_is_stopped_and_counts_no_more() -> None:
    world = World(*servers(A))
    attempt = world.connect()
    attempt.connecting.cancel()
    assert isinstance(attempt.result, CancelledError)
    assert (world.active(), world.failures()) == ([0], [0])


def test_a_cancelled_wait_for_room_leaves_the_queue() -> None:
    world = World(f"server = {A} 1 maxconn 1")
    world.connect()
    first = world.accepts()
    attempt = world.connect()
    attempt.connecting.cancel()
    assert isinstance(attempt.result, CancelledError)
    world.ends(first)
    assert world.called == [A]


def test_a_factory_without_a_protocol_leaves_nothing_counted() -> None:
    world = World(*servers(A))

    class Without(Counted):
        def buildProtocol(self, addr: Any) -> None:
            return None

    factory = Without()
    attempt = world.connect(factory)
    line = world.accepts()
    assert isinstance(attempt.result, NoProtocol)
    assert line.disconnecting
    world.ends(line)
    assert (world.active(), factory.stopped) == ([0], 1)


def test_stop_ends_attempts_and_leaves_connections_to_their_protocols() -> None:
    world = World("scheduler = rr", *servers(A, B))
    made = world.connect()
    line = world.accepts()
    pending = world.connect()
    world.switch.stop()
    world.switch.stop()
    assert str(pending.result) == "service web: the service has stopped"
    made.result.transport.write(b"still here")
    line.protocol.dataReceived(b"so am I")
    assert (line.value(), made.result.data, line.disconnecting) == (b"still here", b"so am I", False)
    after = world.connect()
    assert isinstance(after.result, NotConnected)
    assert str(after.result) == "the switch has been stopped"
    world.ends(line)
    assert world.reactor.getDelayedCalls() == []


def test_it_stops_with_the_reactor() -> None:
    world = World(*servers(A))
    world.connect()
    world.accepts()
    for function, arguments, keywords in world.reactor.triggers["before"]["shutdown"]:
        function(*arguments, **keywords)
    assert world.switch.is_stopped
    assert world.reactor.getDelayedCalls() == []


def test_health_checks_run_between_start_and_stop_only() -> None:
    world = World("check = tcp", "check_interval = 1", "check_fall = 1", *servers(A))
    world.passes(5)
    assert world.called == []
    world.switch.start()
    world.passes(3)
    assert A in world.called
    world.refuses()
    (server,) = world.switch.servers("web")
    assert server["health"]["state"] == "down"
    attempt = world.connect()
    assert str(attempt.result) == "service web: all servers are down"
    world.switch.stop()
    world.passes(5)
    assert world.called == []


@pytest.mark.parametrize("scheduler", ["http", "hhttp", "phttp", "chttp", "sni", "tcp"])
def test_a_scheduler_of_requests_leaves_the_choice_to_balance(scheduler: str) -> None:
    world = World(f"scheduler = {scheduler}", "balance = rr", *servers(A, B))
    for address in (A, B, A):
        world.connect()
        assert world.called == [address]


def test_of_rules_only_the_default_rule_counts_with_its_weights_and_its_balance() -> None:
    world = World(
        "scheduler = phttp",
        *servers(A, B, C),
        "rule = path /admin/ use server 10.0.0.1:80",
        'rule = pattern ".*" balance wrr use server 10.0.0.2:80 2 server 10.0.0.3:80 1',
    )
    called = []
    for _ in range(6):
        world.connect()
        called += world.called
        world.accepts()
    assert sorted(called) == [B, B, B, B, C, C]


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("rule = path /a use server 10.0.0.1:80", "each rule needs one"),
        ('rule = pattern ".*" use respond 403', "its default rule has no servers, but respond 403"),
    ],
    ids=["none", "action"],
)
def test_a_service_without_a_usable_rule_is_refused_alone(rule: str, why: str) -> None:
    reactor = MemoryReactorClock()
    text = f"Virtual web {{ scheduler = http\nserver = {A}\n{rule}\n}}\nVirtual db {{ scheduler = lc\nserver = {B}\n}}"
    switch = Switch(reactor, text=text)
    with pytest.raises(BadValue, match=why):
        switch.endpoint("web")
    switch.endpoint("db").connect(Factory())
    assert reactor.tcpClients[-1][:2] == ("10.0.0.2", 80)


def test_errors_in_the_configuration_come_at_once() -> None:
    reactor = MemoryReactorClock()
    with pytest.raises(BadConfiguration, match="text:1"):
        Switch(reactor, text="Virtual web { sheduler = rr }")
    with pytest.raises(NoSuchScheduler, match="wlc"):
        Switch(reactor, text="Virtual web { scheduler = wlx }")
    with pytest.raises(NoSuchService, match="did you mean 'web'"):
        Switch(reactor, text="Virtual web { }").endpoint("wbe")
    with pytest.raises(TypeError, match="either config"):
        Switch(reactor)
    assert reactor.getDelayedCalls() == []


def test_what_concerns_clients_only_is_not_needed(tmp_path: Any) -> None:
    """The file of a daemon on another machine: its certificates and logs are not here, and its addresses are in use."""
    world = World(
        "listen = 0.0.0.0:443 tls", "listen = 0.0.0.0:80", "certificate = /nonexistent/shop.pem", "https_only = on",
        "access_log = /nonexistent/folder/log", "on = node7", "allow = 10.0.0.0/8", "maxclients = 1",
        'test "GET /" -> 10.0.0.1:80', f"server = {A} 1 start reports",
    )  # fmt: skip
    for _ in range(2):
        attempt = world.connect()
        world.accepts()
        assert isinstance(attempt.result, Heard)


def test_reload_changes_the_servers_and_keeps_what_is_connected() -> None:
    world = World("scheduler = rr", *servers(A))
    made = world.connect()
    line = world.accepts()
    failures: list[Failure] = []
    world.switch.reload("Virtual web { scheduler = rr\nserver = 10.0.0.2:80\n}").addErrback(failures.append)
    assert world.connect().result is None
    assert world.called[-1:] == [B]
    made.result.transport.write(b"still here")
    assert line.value() == b"still here"
    world.switch.reload("Virtual web { serve }").addErrback(failures.append)
    assert [failure.type for failure in failures] == [BadConfiguration]
    endpoint = world.switch.endpoint("web")
    world.switch.reload("Virtual db { }")
    gone = Attempt(endpoint.connect(Factory()))
    assert str(gone.result) == "no service 'web'; there are: db"


def test_a_start_that_fails_says_why_and_can_be_tried_again(tmp_path: Any) -> None:
    authorities = tmp_path / "ca.pem"
    world = World(f"server = {A} 1 tls ca {authorities} name app.internal")
    attempt = world.connect()
    assert isinstance(attempt.result, NotConnected)
    assert "service web: " in str(attempt.result)
    assert str(authorities) in str(attempt.result)
    assert world.reactor.getDelayedCalls() == []
