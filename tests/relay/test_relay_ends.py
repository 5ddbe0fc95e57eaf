"""Every state of a relayed connection ends without any action of its peers: what ends it, and when.

docs/timeouts.md has the table of these states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from memory import Peer, World, get

A = "10.0.0.1:80"
WLC = ("scheduler = wlc", f"server = {A}")
UPGRADES = ("scheduler = phttp", f"server = {A}", f'rule = pattern ".*" use server {A}')
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

READ_TIMEOUT, KEEPALIVE_TIMEOUT = 12, 20
LONGEST = 60
"""Seconds within which every connection of these tests must be over."""

Joined = tuple[World, Peer, Peer]
Join = Callable[..., Joined]


@pytest.fixture(params=["wlc", "upgrade"])
def join(request: pytest.FixtureRequest) -> Iterator[Join]:
    """Makes (a world, its client, its server) that are joined by a relay."""
    worlds: list[World] = []

    def make(read_timeout: int = READ_TIMEOUT) -> Joined:
        settings = f"read_timeout = {read_timeout} keepalive_timeout = {KEEPALIVE_TIMEOUT} linger_timeout = 1"
        world = World(*(WLC if request.param == "wlc" else UPGRADES), settings=settings)
        worlds.append(world)
        client = world.client()
        if request.param == "upgrade":
            client.says(get("/", "Connection: Upgrade", "Upgrade: websocket"))
        server = world.accepts(A)
        if request.param == "upgrade":
            server.says(SWITCHED)
        client.says(b"question")
        server.says(b"answer")
        return world, client, server

    yield make
    for world in worlds:
        world.close()


def nothing(client: Peer, server: Peer) -> None:
    """Send nothing."""


def client_takes_nothing(client: Peer, server: Peer) -> None:
    client.fills_up()


def server_takes_nothing(client: Peer, server: Peer) -> None:
    server.fills_up()


def client_has_ended(client: Peer, server: Peer) -> None:
    client.ends()


def server_has_ended(client: Peer, server: Peer) -> None:
    server.ends()


def both_have_ended(client: Peer, server: Peer) -> None:
    client.ends()
    server.ends()


def both_have_ended_and_the_client_takes_nothing(client: Peer, server: Peer) -> None:
    client.fills_up()
    both_have_ended(client, server)


def both_have_ended_and_the_server_takes_nothing(client: Peer, server: Peer) -> None:
    server.fills_up()
    both_have_ended(client, server)


def server_is_gone_and_the_client_takes_nothing(client: Peer, server: Peer) -> None:
    client.fills_up()
    server.resets()


def server_has_closed_and_the_client_takes_nothing(client: Peer, server: Peer) -> None:
    client.fills_up()
    server.closes()


def client_is_gone_and_the_server_takes_nothing(client: Peer, server: Peer) -> None:
    server.fills_up()
    client.resets()


def client_has_closed_and_the_server_takes_nothing(client: Peer, server: Peer) -> None:
    server.fills_up()
    client.closes()


STATES = (
    nothing,
    client_takes_nothing,
    server_takes_nothing,
    client_has_ended,
    server_has_ended,
    both_have_ended,
    both_have_ended_and_the_client_takes_nothing,
    both_have_ended_and_the_server_takes_nothing,
    server_is_gone_and_the_client_takes_nothing,
    server_has_closed_and_the_client_takes_nothing,
    client_is_gone_and_the_server_takes_nothing,
    client_has_closed_and_the_server_takes_nothing,
)
OPEN = STATES[:5]
"""States in which neither side is closed, and not both have ended: only the read timeout ends them."""

OVER = STATES[5:]


def test_the_document_has_all_of_them() -> None:
    text = (Path(__file__).parents[2] / "docs" / "timeouts.md").read_text()
    rows = text.partition("<!-- ends of relays: begin -->")[2].partition("<!-- ends of relays: end -->")[0]
    named = [line.split("|")[1].strip() for line in rows.splitlines() if line.startswith("|")]
    assert named[2:] == [state.__name__.replace("_", " ") for state in STATES]


@pytest.mark.parametrize("begins", STATES)
def test_every_state_ends(join: Join, begins: Callable[[Peer, Peer], None]) -> None:
    world, client, server = join()
    begins(client, server)
    for _ in range(LONGEST):
        world.passes(1)
        world.settle()
    assert not world.live.connections
    for peer in client, server:
        assert not peer.stream.is_open
        assert peer.line.aborted or not peer.line.unsent or peer.line.disconnecting


@pytest.mark.parametrize("begins", OVER)
def test_what_is_over_ends_without_a_read_timeout_too(join: Join, begins: Callable[[Peer, Peer], None]) -> None:
    world, client, server = join(read_timeout=0)
    begins(client, server)
    for _ in range(LONGEST):
        world.passes(1)
        world.settle()
    assert not world.live.connections


@pytest.mark.parametrize("begins", OPEN)
def test_without_a_read_timeout_what_is_open_stays(join: Join, begins: Callable[[Peer, Peer], None]) -> None:
    world, client, server = join(read_timeout=0)
    begins(client, server)
    for _ in range(LONGEST):
        world.passes(1)
        world.settle()
    assert len(world.live.connections) == 1
    client.resets()
    server.resets()


def test_a_slow_reader_gets_everything(join: Join) -> None:
    """The client reads slowly, for longer than any timeout after both sides have ended."""
    world, client, server = join()
    both_have_ended_and_the_client_takes_nothing(client, server)
    for _ in range(3 * READ_TIMEOUT):
        client.line.unsent -= 100
        world.passes(1)
        world.settle()
        assert not client.line.aborted
    client.line.unsent = 0
    world.settle()
    world.passes(2)
    assert not client.line.aborted
    assert not world.live.connections
