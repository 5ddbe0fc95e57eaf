"""Servers that fail their clients, as transcripts: which are ejected, for how long, and how they come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from memory import A, B, C, World, answer, get, log_into, worlds
from twisted.python.failure import Failure

from ktcpvs.model.address import parse_address
from ktcpvs.model.destination import Destination
from ktcpvs.model.edits import AddServer, DeleteServer, Edit, StartService, StopService
from ktcpvs.model.health import DOWN, EJECTED, UP

THREE = ("eject = 3", "eject_time = 10", *(f"server = {server}" for server in (A, B, C)))
PHTTP = ("scheduler = phttp", "balance = rr", *THREE, f'rule = pattern ".*" use server {A} server {B} server {C}')
WLC = ("scheduler = rr", *THREE)

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes worlds, and checks that nothing is left counted in any of them."""
    with worlds(*PHTTP, before_close=lambda world: world.passes(400)) as make:

        def new(*lines: str, **others: object) -> World:
            world = make(*lines, **others)
            world.context.wall = world.reactor.seconds
            return world

        yield new


def destination(world: World, address: str) -> Destination:
    return next(one for one in world.live.usable if str(one.address) == address)


def states(world: World) -> str:
    """Return u, d or e (up, down, ejected) for each server."""
    return "".join(destination(world, address).health.state[0] for address in (A, B, C))


def asks(world: World, status: str = "200 OK", address: str = "") -> str:
    """Send a request; the chosen server, or only `address` if given, responds with `status`. Return the server."""
    client = world.client()
    client.says(get())
    (called,) = world.called()
    server = world.connects()
    server.says(answer(status=status if address in ("", called) else "200 OK"))
    assert client.heard().startswith(b"HTTP/1.1 ")
    client.ends()
    return called


@pytest.mark.parametrize("status", ["500 Oops", "502 Bad Gateway", "503 Busy"])
def test_errors_in_a_row_eject(make: Make, status: str) -> None:
    world = make(settings="pool_size = 0")
    for _ in range(8):
        asks(world, status, A)
    assert states(world) == "euu"
    assert {asks(world) for _ in range(6)} == {B, C}
    world.passes(12)
    assert states(world) == "uuu"
    assert {asks(world) for _ in range(6)} == {A, B, C}
    health = destination(world, A).health
    assert health.reason == "the ejection has ended"


def test_a_good_answer_makes_up_for_errors(make: Make) -> None:
    world = make(settings="pool_size = 0")
    for turn in range(30):
        asks(world, "500 Oops" if turn % 9 < 6 else "200 OK", A)
    assert states(world) == "uuu"
    for _ in range(20):
        asks(world, "404 Not Found")
    assert states(world) == "uuu"


def test_good_answers_of_a_kept_connection_too(make: Make) -> None:
    world = make(
        "scheduler = phttp", "eject = 3", f"server = {A}", f"server = {B}", f'rule = pattern ".*" use server {A}'
    )
    client = world.client()
    client.says(get())
    server = world.accepts(A)
    for turn in range(12):
        server.says(answer() if turn % 3 == 2 else answer(status="500 Oops"))
        client.says(get())
    assert states_of(world) == {UP}
    for _ in range(3):
        server.says(answer(status="500 Oops"))
        client.says(get())
    assert states_of(world) == {UP, EJECTED}


def takes(world: World, address: str, seconds: float, requests: int = 1) -> None:
    """Note that a server has responded to requests, and how long each took."""
    for _ in range(requests):
        destination(world, address).latencies.count(200, seconds)


def slow_world(make: Make, *lines: str, settings: str = "") -> World:
    """A world whose clock has been wound to a comparison just made."""
    world = make("eject_slow = 5", *PHTTP, *lines, settings=settings)
    world.passes(11)
    return world


def test_a_slow_server_is_ejected(make: Make) -> None:
    world = slow_world(make)
    for address, seconds in ((A, 1.0), (B, 0.2), (C, 0.1)):
        takes(world, address, seconds, 30)
    world.passes(11)
    assert states(world) == "euu"
    assert destination(world, A).health.reason == (
        "half of its requests take up to 0.75 s, those of others 0.075 s; ejected for 10 s"
    )
    world.passes(16)
    assert states(world) == "uuu", "old latencies count no more"


@pytest.mark.parametrize(
    ("latencies", "count", "settings"),
    [
        ({A: 0.05, B: 0.001, C: 0.001}, 30, ""),  # not slow enough to matter
        ({A: 1.0, B: 0.5, C: 0.5}, 30, ""),
        ({A: 1.0}, 30, ""),  # there is none to compare it with
        ({A: 1.0, B: 0.001, C: 0.001}, 19, ""),
        ({A: 1.0, B: 0.001, C: 0.001}, 30, "eject_slow_least = 2000"),
        ({A: 1.0, B: 0.001, C: 0.001}, 30, "eject_slow_requests = 31"),
    ],
)
def test_servers_that_are_not_slow(make: Make, latencies: dict[str, float], count: int, settings: str) -> None:
    world = slow_world(make, settings=settings)
    for address, seconds in latencies.items():
        takes(world, address, seconds, count)
    world.passes(11)
    assert states(world) == "uuu"


def test_a_few_slow_requests_do_not_count(make: Make) -> None:
    world = slow_world(make)
    for address in (A, B, C):
        takes(world, address, 0.05, 60)
    takes(world, A, 50.0, 40)
    world.passes(11)
    assert states(world) == "uuu"


def test_slow_servers_are_ejected_up_to_their_share(make: Make) -> None:
    world = slow_world(make)
    for address, seconds in ((A, 5.0), (B, 5.0), (C, 0.05)):
        takes(world, address, seconds, 30)
    world.passes(11)
    assert sorted(states(world)) == ["e", "u", "u"]


def test_eject_slow_needs_no_eject(make: Make) -> None:
    world = make("scheduler = phttp", "eject = 0", "eject_slow = 2", *(f"server = {one}" for one in (A, B, C)))
    world.passes(11)
    for address, seconds in ((A, 1.0), (B, 0.05), (C, 0.05)):
        takes(world, address, seconds, 30)
    world.passes(11)
    assert states(world) == "euu"
    world.load("scheduler = phttp", "eject = 0", *(f"server = {one}" for one in (A, B, C)))
    assert states(world) == "uuu"


def states_of(world: World) -> set[str]:
    return {one.health.state for one in world.live.usable}


def test_not_more_than_their_share(make: Make) -> None:
    world = make(settings="pool_size = 0")
    for _ in range(40):
        asks(world, "500 Oops")
    assert sorted(states(world)) == ["e", "u", "u"]


@pytest.mark.parametrize("lines", [PHTTP, WLC])
def test_a_server_that_refuses_connections_is_ejected(make: Make, lines: tuple[str, ...]) -> None:
    world = make(*lines)
    refused = 0
    while refused < 3:
        assert states(world) == "uuu"
        client = world.client()
        if lines is PHTTP:
            client.says(get())
        if world.called() == [A]:
            refused += 1
            world.reactor.tcpClients[-1][2].clientConnectionFailed(None, Failure(ConnectionRefusedError()))
            assert len(world.called()) == 1
        server = world.connects()
        client.resets()
        server.resets()
    assert states(world) == "euu"


def test_the_second_ejection_is_longer(make: Make) -> None:
    world = make(settings="pool_size = 0")
    for seconds in (10, 20, 30):
        while states(world) == "uuu":
            asks(world, "500 Oops", A)
        world.passes(seconds - 1)
        assert states(world) == "euu"
        world.passes(2)
        assert states(world) == "uuu"


def test_one_that_checks_find_down_is_not_chosen_and_comes_back(make: Make) -> None:
    world = make(*PHTTP, "check = tcp", settings="pool_size = 0")
    one = destination(world, B)
    for why in (None, *["check: refused"] * 3):
        assert one.health.state == UP
        world.live.health.checked(one, why)
    assert one.health.state == DOWN
    world.called()
    assert {asks(world) for _ in range(6)} == {A, C}
    world.live.health.checked(one, None)
    assert one.health.state == DOWN
    world.live.health.checked(one, None)
    world.called()
    assert {asks(world) for _ in range(6)} == {A, B, C}


def test_one_that_has_never_passed_a_check_is_down_after_the_first(make: Make) -> None:
    """A replica that a check for the primary refuses must not get clients until `check_fall` checks have failed."""
    world = make(*PHTTP, "check = tcp")
    world.live.health.checked(destination(world, B), "check: status 503")
    assert states(world) == "udu"


@pytest.mark.parametrize(("lines", "ends"), [(PHTTP, b"HTTP/1.1 503 "), (WLC, b"")])
def test_when_all_are_down(make: Make, lines: tuple[str, ...], ends: bytes) -> None:
    world = make(*lines, "check = tcp")
    for one in world.live.usable:
        world.live.health.mark(one, False, "check: refused")
    client = world.client()
    if ends:
        client.says(get())
        heard = client.heard()
        assert heard.startswith(ends)
        assert b"\r\nRetry-After: 5\r\n" in heard
        assert heard.endswith(b"ktcpvs: all servers are down\n")
    else:
        assert client.line.disconnecting
    world.load(*lines, "check = tcp", f"redirect = {A}")
    for one in world.live.usable:
        assert one.health.state == DOWN, "an edit changes nothing in that"
    client = world.client()
    if ends:
        client.says(get())
    world.accepts(A)
    world.load(*lines)
    assert states(world) == "uuu", "a server without checks is up"


def test_a_server_comes_slowly(make: Make) -> None:
    world = make("scheduler = wlc", "slow_start = 10", "check = tcp", f"server = {A} 4", f"server = {B} 4")
    one = destination(world, B)
    assert one.weight == 4, "with its service it begins at once"
    world.live.health.mark(one, False, "")
    world.live.health.mark(one, True, "")
    weights = []
    for _ in range(12):
        weights.append(one.weight)
        world.passes(1)
    assert weights[0] == 0.04
    assert weights == sorted(weights)
    assert 1.5 < weights[5] < 2.5
    assert one.weight == 4
    world.load("scheduler = wlc", "slow_start = 10", f"server = {A} 4", f"server = {B} 4", f"server = {C} 100")
    added = destination(world, C)
    assert added.weight == 1
    world.passes(5)
    assert 30 <= added.weight <= 60
    world.load("scheduler = wlc", f"server = {A} 4", f"server = {B} 4", f"server = {C} 100")
    assert added.weight == 100


def test_an_ejected_server_is_used_when_no_other_is_left(make: Make) -> None:
    world = make(settings="pool_size = 0")
    for _ in range(8):
        asks(world, "500 Oops", A)
    assert states(world) == "euu"
    client = world.client()
    client.says(get())
    tried = []
    for _ in range(3):
        (called,) = world.called()
        tried.append(called)
        if called == A:
            world.connects().says(answer(b"from a"))
        else:
            world.reactor.tcpClients[-1][2].clientConnectionFailed(None, Failure(ConnectionRefusedError()))
    assert sorted(tried[:2]) == [B, C]
    assert tried[2] == A
    assert client.heard() == answer(b"from a")
    for one in (B, C):  # and a server that checks found down is not tried
        world.live.health.mark(destination(world, one), False, "check: refused")
    assert asks(world) == A


# What is gone.


def lines_after(make: Make, *edits: Edit, lines: tuple[str, ...] = PHTTP) -> tuple[World, list[str]]:
    """Eject A, make these edits, let the ejection end, and return what is logged since the edits."""
    logged: list[str] = []
    world = make(*lines, settings="pool_size = 0", log=log_into(logged))
    for _ in range(8):
        asks(world, "500 Oops", A)
    assert states(world) == "euu"
    for edit in edits:
        submit(world, edit)
    logged.clear()
    world.passes(12)
    return world, logged


def submit(world: World, edit: Edit) -> None:
    results: list[object] = []
    world.director.submit(edit).addBoth(results.append)
    world.turns(20)
    assert len(results) == 1
    assert not isinstance(results[0], Failure), results


def test_the_end_of_an_ejection_is_logged(make: Make) -> None:
    assert f"service s: server {A} is up: the ejection has ended" in lines_after(make)[1]


@pytest.mark.parametrize("more", [(), ("slow_start = 30",)], ids=["at once", "slow start"])
def test_nothing_is_logged_of_servers_of_a_stopped_service(make: Make, more: tuple[str, ...]) -> None:
    world, logged = lines_after(make, StopService("s"), lines=(*PHTTP, *more))
    assert logged == []
    submit(world, StartService("s"))
    assert states(world) == "uuu", "the ejection has ended all the same"
    for _ in range(8):
        asks(world, "500 Oops", A)
    assert any(f"server {A} is ejected" in line for line in logged), "what it logs since it runs again"


def test_nothing_is_logged_of_a_deleted_server_which_comes_back_up(make: Make) -> None:
    address = parse_address(A)
    world, logged = lines_after(make, DeleteServer("s", address), lines=("scheduler = phttp", "balance = rr", *THREE))
    assert logged == []
    submit(world, AddServer("s", address))
    assert states(world) == "uuu"


def test_a_deleted_server_that_drains_ends_its_ejection_without_a_line(make: Make) -> None:
    logged: list[str] = []
    world = make("scheduler = phttp", "balance = rr", *THREE, settings="pool_size = 0", log=log_into(logged))
    client = world.client()
    client.says(get())
    assert world.called() == [A]
    server = world.connects()
    for _ in range(9):
        asks(world, "500 Oops", A)
    assert states(world) == "euu"
    submit(world, DeleteServer("s", parse_address(A)))
    logged.clear()
    world.passes(12)
    assert logged == []
    submit(world, AddServer("s", parse_address(A)))
    assert states(world) == "uuu", "it is the same one, which drained meanwhile"
    server.says(answer())
    assert client.heard().startswith(b"HTTP/1.1 200 ")


def test_nothing_is_logged_of_priorities_of_a_stopped_service(make: Make) -> None:
    servers = [f"server = {server} 1 priority {number}" for number, server in enumerate((A, B, C))]
    lines = ("scheduler = phttp", "eject = 1 eject_share = 100", "eject_time = 10", *servers)
    for edits in (), (StopService("s"),):
        logged: list[str] = []
        world = make(*lines, settings="pool_size = 0", log=log_into(logged))
        asks(world, "500 Oops", A)
        assert any("priority" in line for line in logged), logged
        for edit in edits:
            submit(world, edit)
        logged.clear()
        world.passes(12)
        assert bool(logged) is not bool(edits), logged
