"""The oldest connections leave servers with more than their share, as far as their protocol has a way for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from memory import A, B, Peer, World, answer, get, worlds

from ktcpvs.errors import Refusal
from ktcpvs.inspect.views import Views
from ktcpvs.model.edits import StartService, StopService
from ktcpvs.protocols.websocket import close_frame

ONE = ("scheduler = phttp", f"server = {A}")
TWO = (*ONE, f"server = {B}")
SETTINGS = "websocket_close_timeout = 5"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
CLOSE, CLOSED = close_frame(1012), close_frame(1012, b"mask")

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds(*ONE, settings=SETTINGS) as made:
        yield made


def websocket(world: World, server: str = A, more: str = "") -> Peer:
    client = world.client()
    client.says(get("/", "Connection: Upgrade", "Upgrade: websocket", *filter(None, (more,))))
    peer = world.accepts(server)
    peer.heard()
    peer.says(SWITCHED)
    assert client.heard().startswith(b"HTTP/1.1 101 ")
    return client


def begin(world: World, percent: int = 100, resets: bool = False) -> dict[str, tuple[int, ...]]:
    """Rebalance; return (active, over, moving, held, uncloseable) of each server."""
    answer = Views(world.director).rebalance("s", percent, resets)
    names = ("active", "over", "moving", "held", "uncloseable")
    return {row["address"]: tuple(row[name] for name in names) for row in answer["servers"]}


def told(clients: list[Peer]) -> list[bool]:
    return [client.heard() == CLOSE for client in clients]


def open_in_turn(world: World, count: int) -> list[Peer]:
    """Open WebSockets, one each second."""
    clients = []
    for _ in range(count):
        clients.append(websocket(world))
        world.passes(1)
    return clients


def test_the_oldest_websockets_come_to_the_new_server(make: Make) -> None:
    world = make()
    clients = open_in_turn(world, 6)
    world.load(*TWO, settings=SETTINGS)
    assert begin(world) == {A: (6, 3, 3, 0, 0), B: (0, 0, 0, 0, 0)}
    assert told(clients) == [True, True, True, False, False, False]
    assert world.live.rebalancing.left == 3
    for client in clients[:3]:
        client.says(CLOSED)
        client.ends()
        world.settle()
    world.reset_all()


def test_no_more_than_the_percentage(make: Make) -> None:
    world = make()
    clients = open_in_turn(world, 10)
    world.load(*TWO, settings=SETTINGS)
    assert begin(world, 20)[A] == (10, 5, 2, 0, 0)
    assert told(clients) == [True, True, *[False] * 8]


def test_a_second_command_counts_those_that_have_not_left(make: Make) -> None:
    world = make()
    clients = open_in_turn(world, 10)
    world.load(*TWO, settings=SETTINGS)
    begin(world, 20)
    assert begin(world, 30)[A] == (10, 5, 3, 0, 0)
    assert sum(told(clients)) == 3
    assert begin(world, 30)[A] == (10, 5, 3, 0, 0)
    assert sum(told(clients)) == 0


def test_they_are_closed_one_after_the_other(make: Make) -> None:
    settings = f"{SETTINGS} drain_spread = 10"
    world = make(*ONE, settings=settings)
    clients = open_in_turn(world, 10)
    world.load(*TWO, settings=settings)
    assert Views(world.director).rebalance("s", 100, False)["seconds"] == 10
    seen = []
    for _ in range(10):
        world.passes(1)
        seen.append(sum(told(clients)))
    assert sum(seen) == 5
    assert max(seen) == 1


def test_those_that_have_left_are_forgotten(make: Make) -> None:
    world = make()
    clients = open_in_turn(world, 4)
    world.load(*TWO, settings=SETTINGS)
    begin(world)
    assert Views(world.director).stats("s")["services"][0]["stats"]["rebalancing"] == 2
    for client in clients:
        client.resets()
    world.settle()
    assert world.live.rebalancing.left == 0
    world.passes(2)
    assert not world.live.rebalancing._moving


def test_a_websocket_that_ends_before_its_turn(make: Make) -> None:
    settings = f"{SETTINGS} drain_spread = 10"
    world = make(*ONE, settings=settings)
    clients = open_in_turn(world, 4)
    world.load(*TWO, settings=settings)
    begin(world)
    clients[1].resets()
    world.settle()
    world.passes(20)
    assert told([clients[0], *clients[2:]]) == [True, False, False]


def test_a_session_stays_with_its_server(make: Make) -> None:
    """Its client would come back to it by the cookie."""
    world = make("scheduler = chttp", f"server = {A}")
    clients = open_in_turn(world, 4)
    world.load("scheduler = chttp", f"server = {A}", f"server = {B}", settings=SETTINGS)
    assert begin(world)[A] == (4, 2, 0, 4, 0)
    assert not any(told(clients))


def test_a_hashed_client_stays_with_its_server(make: Make) -> None:
    world = make(*ONE, "balance = sh")
    clients = open_in_turn(world, 4)
    world.load(*TWO, "balance = sh", settings=SETTINGS)
    assert begin(world)[A] == (4, 2, 0, 4, 0)
    assert not any(told(clients))


@pytest.mark.parametrize("settings", ["", SETTINGS], ids=["off", "on"])
def test_without_close_frames_only_a_reset_moves(make: Make, settings: str) -> None:
    """WebSockets that were opened while `websocket_close_timeout` was 0 have no frames that the switch follows."""
    world = make(*ONE, settings="")
    clients = open_in_turn(world, 4)
    world.load(*TWO, settings=settings)
    assert begin(world)[A] == (4, 2, 0, 0, 4)
    assert all(client.is_open for client in clients)
    assert begin(world, resets=True)[A] == (4, 2, 2, 0, 0)
    assert [client.line.aborted for client in clients] == [True, True, False, False]


def test_tcp_is_reset_only_on_request(make: Make) -> None:
    world = make("scheduler = wlc", f"server = {A}")
    clients = []
    for _ in range(4):
        clients.append(world.client())
        world.accepts(A)
        world.passes(1)
    world.load("scheduler = wlc", f"server = {A}", f"server = {B}")
    assert begin(world)[A] == (4, 2, 0, 0, 4)
    assert all(client.is_open for client in clients)
    assert begin(world, 50, resets=True)[A] == (4, 2, 2, 0, 0)
    assert [client.line.aborted for client in clients] == [True, True, False, False]
    endings = sorted((one.began, one.ending) for one in world.live.connections)
    assert [bool(ending) for _, ending in endings] == [True, True, False, False]


def test_requests_end_by_themselves(make: Make) -> None:
    world = make()
    clients = [world.client() for _ in range(4)]
    peers = []
    for client in clients:
        client.says(get())
        peers.append(world.accepts(A))
    world.load(*TWO, settings=SETTINGS)
    assert begin(world, resets=True)[A] == (4, 2, 0, 0, 0)
    for client, peer in zip(clients, peers, strict=True):
        peer.says(answer())
        assert client.heard().endswith(b"hello")
        assert client.is_open


def test_an_idle_connection_has_no_server_to_leave(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    world.accepts(A).says(answer())
    client.heard()
    world.load(*TWO, settings=SETTINGS)
    assert begin(world, resets=True) == {A: (0, 0, 0, 0, 0), B: (0, 0, 0, 0, 0)}
    assert client.is_open


RULES = ("rule = name a path /a use server {A} server {B}", "rule = name b path /b use server {A}")


def test_a_rule_has_shares_of_its_own(make: Make) -> None:
    """A connection of a rule with one server has nowhere to go, and one of the other rule has."""
    world = make(*TWO, *(rule.format(A=A, B=B).replace(f" server {B}", "") for rule in RULES))
    clients = {}
    for path in ("/b", "/b", "/a", "/a"):
        client = world.client()
        client.says(get(path, "Connection: Upgrade", "Upgrade: websocket"))
        world.accepts(A).says(SWITCHED)
        client.heard()
        clients[client] = path
        world.passes(1)
    world.load(*TWO, *(rule.format(A=A, B=B) for rule in RULES), settings=SETTINGS)
    assert begin(world)[A] == (4, 2, 2, 0, 0)
    assert [path for client, path in clients.items() if client.heard() == CLOSE] == ["/a", "/a"]


def test_a_server_that_is_drained_or_down_takes_nothing(make: Make) -> None:
    world = make()
    clients = open_in_turn(world, 4)
    world.load(*ONE, f"server = {B} 0", settings=SETTINGS)
    assert begin(world) == {A: (4, 0, 0, 0, 0)}
    assert not any(told(clients))


def test_a_full_server_takes_no_more_than_its_maxconn(make: Make) -> None:
    world = make()
    clients = open_in_turn(world, 6)
    world.load(*ONE, f"server = {B} 1 maxconn 1", settings=SETTINGS)
    assert begin(world)[A] == (6, 3, 1, 0, 0)
    assert sum(told(clients)) == 1


@pytest.mark.parametrize(
    ("ident", "percent", "lines", "why"),
    [
        ("s", 0, ONE, "0%: expected 1% to 100% of a server's connections"),
        ("s", 101, ONE, "101%: expected 1% to 100% of a server's connections"),
        ("x", 20, ONE, "^no service x$"),
        ("s", 20, ("scheduler = fo", f"server = {A}"), "scheduler fo fills one server before the next"),
        ("s", 20, (*ONE, "balance = first"), "scheduler first fills one server before the next"),
        (
            "s",
            20,
            (*ONE, "balance = fo", f"rule = path /a balance ovf use server {A}", f"rule = path / use server {A}"),
            "scheduler fo fills one server before the next",
        ),
    ],
    ids=["0%", "101%", "no service", "fo", "balance", "balance of rules"],
)
def test_refusals(make: Make, ident: str, percent: int, lines: Any, why: str) -> None:
    with pytest.raises(Refusal, match=why):
        Views(make(*lines).director).rebalance(ident, percent, False)


def test_a_stop_of_the_service_ends_the_moves(make: Make) -> None:
    """Those of the connections that survive it, since the service starts again, count no more as moving."""
    settings = "drain_spread = 10"
    world = make("scheduler = wlc", f"server = {A}", settings=settings)
    clients = []
    for _ in range(4):
        clients.append(world.client())
        world.accepts(A)
    world.load("scheduler = wlc", f"server = {A}", f"server = {B}", settings=settings)
    assert begin(world, resets=True)[A] == (4, 2, 2, 0, 0)
    assert world.live.rebalancing.left == 2
    world.director.submit(StopService("s"))
    world.director.submit(StartService("s"))
    world.passes(20)
    assert world.live.rebalancing.left == 0
    assert not any(client.line.aborted for client in clients)
    assert begin(world, resets=True)[A] == (4, 2, 2, 0, 0)
    world.passes(20)
    assert [client.line.aborted for client in clients].count(True) == 2


def test_a_service_of_a_drained_node_is_refused(make: Make) -> None:
    world = make()
    world.director.withdrawals.withdraw(True)
    with pytest.raises(Refusal, match=r"^service s does not run here, so no connection can move$"):
        Views(world.director).rebalance("s", 20, False)


def test_a_service_that_does_not_run_is_refused(make: Make) -> None:
    world = make()
    world.director.submit(StopService("s"))
    with pytest.raises(Refusal, match=r"^service s does not run here, so no connection can move$"):
        Views(world.director).rebalance("s", 20, False)
