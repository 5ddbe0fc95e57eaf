"""Connections to servers that are open before clients need them, in memory."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from memory import Peer, World, log_into, worlds

from ktcpvs.inspect.views import Views
from ktcpvs.model.health import FELL
from ktcpvs.tcp.preconnections import MAX_ATTEMPTS_PER_CHECK

A, B = "10.0.0.1:80", "10.0.0.2:80"
ONE = ("scheduler = wlc", f"server = {A}")
TWO = (*ONE, "preconnect = 2")

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes worlds, and checks that nothing is left counted in any of them."""
    with worlds() as make:
        yield make


def idle(world: World) -> int:
    return sum(map(world.live.preconnections.idle, world.live.usable))


def are_open(servers: list[Peer]) -> list[bool]:
    return [server.is_open for server in servers]


def test_there_are_none_by_default(make: Make) -> None:
    world = make(*ONE)
    world.passes(3)
    assert world.called() == []


def test_each_server_has_as_many_as_the_option_says(make: Make) -> None:
    world = make("scheduler = wlc", f"server = {A}", f"server = {B}", "preconnect = 2")
    assert sorted(world.called()) == [A, A, B, B]
    world.passes(3)
    assert world.called() == []


def test_a_client_gets_one_at_once_and_another_is_made(make: Make) -> None:
    world = make(*TWO)
    first, second = world.accepts_all()
    assert not first.is_read()
    client = world.client()
    assert client.is_read()
    assert first.is_read()
    client.says(b"hello")
    assert first.heard() == b"hello"
    first.says(b"world")
    assert client.heard() == b"world"
    assert world.called() == [A]
    world.connects()
    assert idle(world) == 2
    assert second.is_open
    destination = world.connection.dispatcher.destination
    assert destination is not None
    assert (destination.active, destination.total, destination.reused) == (1, 1, 1)


def test_the_head_that_was_read_goes_to_it(make: Make) -> None:
    world = make("scheduler = http", f"server = {A}", f'rule = pattern ".*" use server {A}', "preconnect = 1")
    (server,) = world.accepts_all()
    client = world.client()
    client.says(b"GET / HTTP/1.1\r\nHost: h\r\n\r\nmore")
    assert server.heard() == b"GET / HTTP/1.1\r\nHost: h\r\n\r\nmore"
    server.says(b"HTTP/1.1 200 OK\r\n\r\n")
    assert client.heard() == b"HTTP/1.1 200 OK\r\n\r\n"
    server.ends()
    client.ends()
    assert server.line.disconnecting


def test_a_client_connects_itself_when_none_is_ready(make: Make) -> None:
    world = make(*ONE, "preconnect = 1")
    assert world.called() == [A]  # it is under way
    client = world.client()
    server = world.accepts(A)
    client.says(b"hello")
    assert server.heard() == b"hello"
    destination = world.connection.dispatcher.destination
    assert destination is not None
    assert destination.reused == 0


@pytest.mark.parametrize("way", ["ends", "resets", "closes"])
def test_one_that_its_server_ends_is_replaced(make: Make, way: str) -> None:
    world = make(*TWO)
    first, second = world.accepts_all()
    getattr(first, way)()
    assert idle(world) == 1
    assert world.called() == []
    world.passes(1)
    assert world.called() == [A]
    world.client().says(b"x")
    assert second.heard() == b"x"


def test_one_whose_end_was_not_read_is_not_used(make: Make) -> None:
    world = make(*TWO)
    first, second = world.accepts_all()
    first.line.reset_unread = True
    world.client().says(b"x")
    assert second.heard() == b"x"
    assert first.heard() == b""
    assert first.line.disconnecting


def test_one_whose_end_was_not_read_is_replaced(make: Make) -> None:
    world = make(*TWO)
    first, second = world.accepts_all()
    first.line.reset_unread = True
    world.passes(1)
    assert are_open([first, second]) == [False, True]
    assert world.called() == [A]


def test_what_waits_to_be_read_is_for_the_client(make: Make) -> None:
    """A server that speaks first has sent its greeting before there is a client."""
    world = make(*ONE, "preconnect = 1")
    (server,) = world.accepts_all()
    ours, its = socket.socketpair()
    with ours, its:
        its.send(b"220 ready\r\n")
        server.line.descriptor = ours.fileno()
        client = world.client()
        server.says(ours.recv(100))
        assert client.heard() == b"220 ready\r\n"
        server.line.descriptor = -1


def test_old_ones_are_replaced(make: Make) -> None:
    world = make(*TWO, "preconnect_timeout = 5")
    old = world.accepts_all()
    world.passes(5)
    assert are_open(old) == [True, True]
    world.passes(1)
    assert are_open(old) == [False, False]
    assert len(world.accepts_all()) == 2
    assert idle(world) == 2


def test_a_server_that_refuses_is_tried_once_a_second(make: Make) -> None:
    lines: list[str] = []
    world = make("scheduler = wlc", f"server = {A}", "preconnect = 3", settings="debug_level = 1", log=log_into(lines))
    world.refuses_all()
    world.called()
    for _ in range(3):
        world.passes(1)
        world.refuses(A)
    assert sum("not connected ahead of clients" in line for line in lines) == 1
    (destination,) = world.live.usable
    assert (destination.failures, destination.errors) == (0, 0)
    world.passes(1)
    world.accepts(A)
    world.passes(1)
    assert world.called() == [A, A]


def test_a_client_tries_a_server_that_has_refused_one(make: Make) -> None:
    world = make(*ONE, "preconnect = 1")
    world.refuses(A)
    client = world.client()
    server = world.accepts(A)
    client.says(b"x")
    assert server.heard() == b"x"


def test_maxconn_counts_them(make: Make) -> None:
    world = make("scheduler = wlc", f"server = {A} maxconn 3", "preconnect = 2")
    servers = world.accepts_all()
    assert len(servers) == 2
    world.client()
    assert len(world.accepts_all()) == 1  # one with a client, two without
    world.client()
    world.passes(2)
    assert world.called() == []  # two with a client, one without
    client = world.client()
    world.passes(2)
    assert world.called() == []
    assert idle(world) == 0
    world.client()
    assert len(world.live.traffic.queue) == 1
    client.resets()
    world.settle()
    assert len(world.live.traffic.queue) == 0


def test_a_client_of_a_limited_server_displaces_one_under_way(make: Make) -> None:
    world = make("scheduler = wlc", f"server = {A} maxconn 1", "preconnect = 1")
    assert world.called() == [A]
    client = world.client()
    server = world.accepts(A)
    (first,) = world.reactor.tcpClients[:1]
    assert first[2].is_over
    client.says(b"x")
    assert server.heard() == b"x"


def test_a_server_that_is_told_its_client_gets_none(make: Make) -> None:
    world = make("scheduler = wlc", f"server = {A} proxy v2", "preconnect = 2")
    world.passes(2)
    assert world.called() == []


def test_a_server_that_goes_down_gets_none(make: Make) -> None:
    world = make(*TWO, "check = tcp", "check_interval = 1000")
    servers = world.accepts_all()
    (destination,) = world.live.usable
    destination.health.happened(FELL, "a test", 0.0)
    world.live.selector.set_down({destination})
    world.passes(1)
    assert are_open(servers) == [False, False]
    assert world.called() == []
    world.live.selector.set_down(set())
    world.passes(1)
    assert world.called() == [A, A]


@pytest.mark.parametrize(
    "lines",
    [
        ("scheduler = wlc", f"server = {A} 0", "preconnect = 2"),
        ("scheduler = wlc", f"server = {A}"),
        ("scheduler = wlc", f"server = {B}"),
        ("scheduler = wlc", f"server = {A} proxy v1", "preconnect = 2"),
        ("scheduler = phttp", f"server = {A}", "preconnect = 2"),
    ],
)
def test_an_edit_closes_those_that_are_not_wanted_any_more(make: Make, lines: tuple[str, ...]) -> None:
    world = make(*TWO)
    servers = world.accepts_all()
    world.load(*lines)
    assert are_open(servers) == [False, False]
    world.passes(2)
    assert world.called() == []


def test_an_edit_cancels_those_under_way(make: Make) -> None:
    world = make(*TWO)
    world.load("scheduler = wlc", f"server = {A}", "preconnect = 1")
    assert len([attempt for attempt in world.reactor.tcpClients if not attempt[2].is_over]) == 1


def test_another_edit_leaves_them_alone(make: Make) -> None:
    world = make(*TWO)
    servers = world.accepts_all()
    world.load(*TWO, f"server = {B} 5", "maxclients = 9")
    assert are_open(servers) == [True, True]
    world.passes(1)
    assert world.called() == [B, B]


def test_a_service_that_stops_closes_them(make: Make) -> None:
    world = make(*TWO)
    servers = world.accepts_all()
    world.live.stop()
    assert are_open(servers) == [False, False]
    world.passes(3)
    assert world.called() == []


def test_descriptors_that_run_out_close_them(make: Make) -> None:
    world = make(*ONE, "preconnect = 20", descriptors=12)
    servers = world.accepts_all()
    assert 0 < len(servers) < 12
    world.context.descriptors.close_idle()
    assert not any(are_open(servers))
    world.settle()
    world.passes(1)
    assert len(world.accepts_all()) == len(servers)


def test_many_servers_get_theirs_in_several_checks(make: Make) -> None:
    many = [f"server = 10.1.0.{number}:80" for number in range(1, 151)]
    world = make("scheduler = wlc", *many, "preconnect = 2", descriptors=1000)
    assert len(world.called()) == MAX_ATTEMPTS_PER_CHECK
    world.passes(1)
    assert len(world.called()) == 300 - MAX_ATTEMPTS_PER_CHECK


def test_the_counts_show_them(make: Make) -> None:
    world = make(*TWO)
    world.accepts_all()
    world.client()
    (service,) = Views(world.director).view("stats", "s")["services"]
    counts = service["servers"][0]["stats"]
    assert (counts["kept"], counts["reused"], counts["active"]) == (1, 1, 1)
