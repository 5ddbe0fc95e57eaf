"""Servers of HTTP/2 that go away: what they have not begun is sent again, whatever becomes of the connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from memory import World, worlds
from test_http2_servers import LINES, H2Server, accepts, post

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds(*LINES) as made:
        yield made


def _violates(server: H2Server) -> None:
    server.peer.says(b"\0\0\x01\x06\0\0\0\0\0\0")  # a PING of one byte


ENDS: dict[str, Callable[[H2Server], None]] = {
    "FIN": lambda server: server.peer.ends(),
    "reset": lambda server: server.peer.resets(),
    "violation": _violates,
}


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_the_connection_behind_a_goaway_concerns_no_request_that_waits_for_another(
    make: Make, end: str
) -> None:
    """Its method is POST: what a server may have begun would not be repeated."""
    world = make()
    client = world.client()
    client.says(post(b"hello", 10))
    server = accepts(world)
    assert server.body(1) == b"hello"
    server.h2.close_connection(last_stream_id=0)
    server.talks()
    ENDS[end](server)
    world.turns(3)
    again = accepts(world)
    client.says(b" you!")
    ((stream_id, head),) = again.heads()
    assert head[":method"] == "POST"
    assert again.body(stream_id) == b"hello you!"
    again.answers(stream_id, b"done")
    assert client.heard().endswith(b"done")
    assert world.called() == []


def test_no_connection_is_made_for_a_request_whose_client_has_left(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(post(b"hello", 10))
    server = accepts(world)
    server.h2.close_connection(last_stream_id=0)
    server.talks()
    server.peer.ends()
    client.resets()
    world.settle()
    world.turns(3)
    assert world.context.descriptors.used == 0
