"""WebSockets are closed by Close frames between two frames, when their server or service drains."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from memory import A, B, Peer, World, answer, get, worlds

from ktcpvs.model.edits import StartService, StopService
from ktcpvs.protocols.websocket import close_frame

HTTP = ("scheduler = phttp", "balance = rr", f"server = {A}", f"server = {B}")
DRAINED = ("scheduler = phttp", "balance = rr", f"server = {A} 0", f"server = {B}")
SETTINGS = "websocket_close_timeout = 5"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
CLOSE = close_frame(1012)
ANSWER = close_frame(1012, b"mask")

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds(*HTTP, settings=SETTINGS) as made:
        yield made


def websocket(world: World, server: str = A, more: bytes = b"") -> tuple[Peer, Peer]:
    """A WebSocket that is open, as (client, server). more: frames that come with the server's response."""
    client = world.client()
    client.says(get("/", "Connection: Upgrade", "Upgrade: websocket"))
    peer = world.accepts(server)
    peer.heard()
    peer.says(SWITCHED + more)
    assert client.heard().startswith(b"HTTP/1.1 101 ")
    return client, peer


def test_a_drained_server(make: Make) -> None:
    """The client's last frames reach the server, with the client's own Close frame."""
    world = make()
    client, a = websocket(world)
    other, b = websocket(world, B)
    world.load(*DRAINED, settings=SETTINGS)
    assert client.heard() == CLOSE
    assert a.heard() == other.heard() == b.heard() == b""
    a.says(b"\x81\x02no")
    client.says(b"\x81\x82\0\0\0\0hi" + ANSWER)
    assert a.heard() == b"\x81\x82\0\0\0\0hi" + ANSWER
    a.says(CLOSE)
    a.ends()
    assert client.heard() == b""
    assert client.line.ended
    client.ends()
    world.settle()
    assert [one.ending for one in world.live.connections] == [""]
    assert world.live.destinations[next(iter(world.live.destinations))].active == 0


def test_the_frame_that_is_on_its_way_comes_first(make: Make) -> None:
    world = make()
    client, a = websocket(world, more=b"\x82")
    world.load(*DRAINED, settings=SETTINGS)
    assert client.heard() == b""
    a.says(b"\x7e\x01")
    a.says(b"\x00" + b"x" * 200)
    assert client.heard() == b"\x7e\x01\x00" + b"x" * 200
    a.says(b"y" * 56 + b"\x81\x02no")
    assert client.heard() == b"y" * 56 + CLOSE


def test_a_client_that_does_not_answer(make: Make) -> None:
    """Then the server gets a Close frame of the switch, and both are closed after as much time again."""
    world = make()
    client, a = websocket(world)
    client.says(b"\x81\x82\0\0\0\0h")
    a.heard()
    world.load(*DRAINED, settings=SETTINGS)
    assert client.heard() == CLOSE
    world.passes(6)
    assert a.heard() == b""
    client.says(b"i\x81\x80\0\0\0\0")
    heard = a.heard()
    assert heard[:3] == b"i\x88\x82"
    assert len(heard) == 9
    world.passes(6)
    assert client.line.aborted
    assert a.line.aborted


def test_a_server_that_does_not_answer(make: Make) -> None:
    world = make()
    client, a = websocket(world)
    world.load(*DRAINED, settings=SETTINGS)
    client.says(ANSWER)
    assert a.heard() == ANSWER
    world.passes(4)
    assert client.is_open
    world.passes(2)
    assert client.line.aborted
    assert a.line.aborted


def test_peers_that_close_anyway_get_no_frame(make: Make) -> None:
    world = make()
    client, a = websocket(world)
    a.says(CLOSE)
    assert client.heard() == CLOSE
    world.load(*DRAINED, settings=SETTINGS)
    assert client.heard() == b""
    client.says(ANSWER)
    assert a.heard() == ANSWER
    a.ends()
    client.ends()
    assert client.line.ended


@pytest.mark.parametrize("by", ["stop", "hand over", "delete the server", "maintenance", "reset"])
def test_other_ways_to_leave(make: Make, by: str) -> None:
    world = make()
    client, a = websocket(world)
    if by == "stop":
        world.director.submit(StopService("s"))
    elif by == "hand over":
        world.director.hand_over({})
    elif by == "delete the server":
        world.load(*HTTP[:2], HTTP[3], settings=SETTINGS)
    elif by == "maintenance":
        world.load(*DRAINED, settings=SETTINGS)
        client, a = websocket(world, B)
        world.load(*DRAINED[:3], f"server = {B} maintenance", settings=SETTINGS)
    else:
        world.load(*DRAINED, settings=SETTINGS)
        client.heard()
        client.resets()
        world.passes(20)
        assert a.line.aborted
        return
    assert client.heard() == CLOSE
    client.says(ANSWER)
    a.ends()
    client.ends()


def test_an_upgrade_that_a_stopped_service_completes(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/", "Connection: Upgrade", "Upgrade: websocket"))
    a = world.accepts(A)
    world.director.hand_over({})
    a.says(SWITCHED)
    assert client.heard().endswith(b"\r\n\r\n" + CLOSE)


@pytest.mark.parametrize(
    ("settings", "protocol"), [("", "websocket"), (SETTINGS, "other")], ids=["off", "another protocol"]
)
def test_what_is_relayed_otherwise_stays(make: Make, settings: str, protocol: str) -> None:
    world = make(*HTTP, settings=settings)
    client = world.client()
    client.says(get("/", "Connection: Upgrade", f"Upgrade: {protocol}"))
    a = world.accepts(A)
    a.says(SWITCHED.replace(b"websocket", protocol.encode()))
    client.heard()
    world.load(*DRAINED, settings=SETTINGS)
    world.passes(60)
    assert client.heard() == b""
    assert client.is_open


def test_connections_are_closed_one_after_the_other(make: Make) -> None:
    """Within drain_spread seconds; a request meanwhile is the last one of its connection."""
    settings = f"{SETTINGS} drain_spread = 10"
    world = make(*HTTP, settings=settings)
    clients = [websocket(world, (A, B)[place % 2])[0] for place in range(10)]
    idle = world.client()
    world.director.submit(StopService("s"))
    told = []
    for _ in range(10):
        world.passes(1)
        told.append(sum(client.heard() == CLOSE for client in clients))
    assert sum(told) == 10
    assert max(told) <= 3
    assert idle.line.ended or idle.line.disconnecting


@pytest.mark.parametrize("what", ["server", "service"])
def test_a_drain_that_is_cancelled_closes_no_more_connections(make: Make, what: str) -> None:
    """By `--ready`, or a start of the service, before all of `drain_spread` is over."""
    settings = f"{SETTINGS} drain_spread = 10"
    world = make(*HTTP, settings=settings)
    clients = [websocket(world, (A, B)[place % 2])[0] for place in range(20)]

    def told() -> int:
        return sum(CLOSE in client.heard() for client in clients)

    if what == "server":
        world.load(*DRAINED, settings=settings)
    else:
        world.director.submit(StopService("s"))
    world.passes(3)
    assert 0 < told() < 10
    if what == "server":
        world.load(*HTTP, settings=settings)
    else:
        world.director.submit(StartService("s"))
    world.passes(20)
    assert told() == 0


def test_a_request_before_its_turn_is_the_last_one(make: Make) -> None:
    world = make(*HTTP, settings="drain_spread = 100 drain_timeout = 200")
    clients = [world.client() for _ in range(3)]
    world.director.submit(StopService("s"))
    left = [client for client in clients if client.is_open and not client.line.ended]
    assert len(left) >= 2
    left[0].says(get())
    world.accepts(A).says(answer())
    assert left[0].heard().endswith(b"Connection: close\r\n\r\nhello")


def test_idle_connections_to_a_drained_server_are_closed(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    a = world.accepts(A)
    a.says(answer())
    assert a.is_open
    world.load(*DRAINED)
    assert not a.is_open
