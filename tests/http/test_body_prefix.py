"""Schedulers that see the first bytes of a body: the request is held for them, and goes on unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from http2_frames import data, headers, number
from http2_service import BEGIN, Connection
from hypothesis import given
from hypothesis import strategies as st
from memory import A, B, Peer, World, answer, get
from zope.interface import implementer

from ktcpvs.http.body_prefix import CONTINUE, BodyPrefix
from ktcpvs.interfaces import EACH_REQUEST, Choice, IScheduler, Request, ServiceView
from ktcpvs.protocols.http1 import CHUNKED
from ktcpvs.protocols.http2 import constants as h2

SIZE = 8


@implementer(IScheduler)
class Bound:
    """The first server that is left; keeps what it has seen."""

    def __init__(self, service: ServiceView, seen: list[bytes]) -> None:
        self._destinations = service.destinations
        self._seen = seen

    def choose(self, request: Request) -> Choice | None:
        self._seen.append(request.body_prefix)
        left = [one for one in self._destinations if one not in request.tried]
        return Choice(left[0], "the first") if left else None


class Reader:
    """The plugin. seen: the beginnings of bodies."""

    name = "reader"
    unit = EACH_REQUEST

    def __init__(self, size: int = SIZE) -> None:
        self.body_prefix = size
        self.seen: list[bytes] = []

    def bind(self, service: ServiceView, previous: Any) -> Bound:
        return Bound(service, self.seen)


class ReadingWorld(World):
    def __init__(self, size: int = SIZE, settings: str = "") -> None:
        self.reader = Reader(size)
        servers = (f"server = {A}", f"server = {B}")
        super().__init__("scheduler = reader", *servers, settings=settings, schedulers=(self.reader,))

    @property
    def seen(self) -> list[bytes]:
        """What the scheduler has seen since the last call."""
        found = list(self.reader.seen)
        self.reader.seen.clear()
        return found

    def kept(self) -> tuple[Peer, Peer]:
        """Return a client, and its server, which keeps the connection."""
        client = self.client()
        client.says(get())
        server = self.accepts(A)
        server.says(answer())
        server.heard()
        client.heard()
        assert self.seen == [b""]
        return client, server


Make = Callable[..., ReadingWorld]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[ReadingWorld] = []

    def make_world(*args: Any, **options: Any) -> ReadingWorld:
        made.append(ReadingWorld(*args, **options))
        return made[-1]

    yield make_world
    for world in made:
        world.reset_all()
        world.close()


def post(length: int, *lines: str) -> bytes:
    return get("/", *lines, f"Content-Length: {length}", method="POST")


def chunked(*lines: str) -> bytes:
    return get("/", *lines, "Transfer-Encoding: chunked", method="POST")


def test_a_request_is_held_until_enough_of_its_body_has_come(make: Make) -> None:
    world = make()
    client, server = world.kept()
    client.says(post(20) + b"0123")
    assert (world.seen, server.heard()) == ([], b"")
    client.says(b"4567")
    assert (world.seen, server.heard()) == ([b"01234567"], post(20) + b"01234567")
    client.says(b"89abcdefghij")
    assert server.heard() == b"89abcdefghij"
    server.says(answer())
    assert client.heard() == answer()


@pytest.mark.parametrize("body", [b"a", b"0123456", b"01234567", b"0123456789"])
def test_a_whole_body(make: Make, body: bytes) -> None:
    world = make()
    client, server = world.kept()
    for request in (post(len(body)) + body, chunked() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)):
        client.says(request)
        assert (world.seen, server.heard()) == ([body[:SIZE]], request)
        server.says(answer())
        assert client.heard() == answer()
        client.says(get())
        assert (world.seen, server.heard()) == ([b""], get())  # nothing is left of the one before
        server.says(answer())
        assert client.heard() == answer()


def test_a_chunked_body_in_pieces(make: Make) -> None:
    world = make()
    client, server = world.kept()
    sent = chunked() + b"3\r\nabc\r\n2;x=y\r\nde\r\n4\r\nfghi\r\n0\r\nX-T: 1\r\n\r\n"
    for place in range(len(sent) - 4):
        client.says(sent[place : place + 1])
    assert world.seen == [b"abcdefgh"]
    client.says(sent[-4:])
    assert server.heard() == sent
    server.says(answer())
    assert client.heard() == answer()


def test_an_expectation_is_met_by_the_switch(make: Make) -> None:
    world = make()
    client, server = world.kept()
    client.says(post(10, "Expect: 100-continue"))
    assert client.heard() == CONTINUE
    assert server.heard() == b""
    client.says(b"0123456789")
    assert world.seen == [b"01234567"]
    assert server.heard() == post(10) + b"0123456789"  # it is not asked again
    server.says(answer())
    assert client.heard() == answer()


def test_the_wait_ends(make: Make) -> None:
    world = make(settings="body_prefix_timeout = 2")
    client = world.client()
    client.says(post(10) + b"0123")
    world.passes(1)
    assert client.heard() == b""
    world.passes(5)
    assert b" 408 " in client.heard()
    assert world.seen == []
    assert world.called() == []


def test_a_client_that_leaves_or_sends_nonsense(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(post(10) + b"0123")
    client.ends()
    world.settle()
    client = world.client()
    client.says(chunked() + b"1\r\na\r\n")
    client.says(b"x\r\n")
    assert b" 400 " in client.heard()
    assert (world.seen, world.called()) == ([], [])


def test_the_next_server_gets_the_whole_body(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(post(10) + b"0123456789")
    world.refuses(A)
    server = world.accepts(B)
    assert world.seen == [b"01234567"] * 2
    assert server.heard() == post(10) + b"0123456789"
    server.says(answer())
    assert client.heard() == answer()


def test_a_full_server_stops_the_client(make: Make) -> None:
    """Nothing but the prefix is read ahead of a connection to a server."""
    world = make()
    client = world.client()
    client.says(post(100) + b"0123456789")
    client.says(b"more")
    assert not client.is_read()
    server = world.accepts(A)
    assert server.heard() == post(100) + b"0123456789more"
    assert client.is_read()


def test_pipelined_requests(make: Make) -> None:
    world = make()
    client, server = world.kept()
    client.says(post(10) + b"0123")
    client.says(b"456789" + post(2) + b"ab" + get())
    for request, prefix in ((post(10) + b"0123456789", b"01234567"), (post(2) + b"ab", b"ab"), (get(), b"")):
        assert (world.seen, server.heard()) == ([prefix], request)
        server.says(answer())
        assert client.heard() == answer()


@pytest.mark.parametrize("size", [SIZE, 100_000])
def test_http2(make: Make, size: int) -> None:
    world = make(size)
    connection = Connection(world)
    pairs = ((b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"h"))
    connection.says(BEGIN + headers(1, pairs, end_stream=False))
    assert world.seen == []
    for _ in range(10):
        connection.says(data(1, bytes(15_000)))
    connection.says(data(1, b"abc", end_stream=True))
    assert world.seen == [bytes(size)]
    (request,) = connection.requests
    assert request.count(0) == 150_000
    assert connection.got().responses == {1: True}


@pytest.mark.parametrize("length", [(), ((b"content-length", b"10"),)], ids=["unknown", "known"])
def test_an_expectation_over_http2_is_met_by_the_switch(make: Make, length: tuple[tuple[bytes, bytes], ...]) -> None:
    world = make()
    connection = Connection(world)
    pairs = ((b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"h"), *length)
    connection.says(BEGIN + headers(1, (*pairs, (b"expect", b"100-continue")), end_stream=False))
    assert connection.got().statuses == {1: b"100"}
    assert world.seen == []
    connection.says(data(1, b"0123456789", end_stream=True))
    assert world.seen == [b"01234567"]
    (request,) = connection.requests
    assert b"xpect" not in request  # it is not asked again
    assert connection.heard.count(b"hello") == 1
    assert connection.got().responses == {1: True}


def test_expectations_over_http2_that_come_to_nothing(make: Make) -> None:
    """A body that came with its head, none at all, one that does not come, and a client that resets its stream."""
    world = make(settings="body_prefix_timeout = 2")
    connection = Connection(world)
    pairs = ((b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"h"))
    expecting = (*pairs, (b"expect", b"100-continue"))
    whole = headers(1, expecting, end_stream=False) + data(1, b"0123456789", end_stream=True)
    connection.says(BEGIN + whole + headers(3, expecting, end_stream=True))
    assert (world.seen, connection.got().responses) == ([b"01234567", b""], {1: True, 3: True})
    connection.says(headers(5, expecting, end_stream=False) + headers(7, expecting, end_stream=False))
    connection.says(number(h2.RST_STREAM, 7, h2.CANCEL))
    world.passes(6)
    connection.says(b"")
    got = connection.got()
    assert world.seen == []
    assert (got.responses[5], got.responses[7], got.is_open) == (True, False, True)
    assert b"did not come within 2 seconds" in connection.heard
    connection.says(headers(9, pairs, end_stream=True))
    assert connection.got().responses[9]


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1), st.integers(1, 200), st.data())
def test_the_content_of_any_chunks(chunks: list[bytes], size: int, source: st.DataObject) -> None:
    sent = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    prefix = BodyPrefix(size, CHUNKED, 0)
    while sent:
        step = source.draw(st.integers(1, len(sent)))
        prefix.feed(sent[:step])
        sent = sent[step:]
    assert prefix.content == b"".join(chunks)[:size]
    assert prefix.is_complete == (sum(map(len, chunks)) >= size)


def test_much_framing_and_little_content() -> None:
    prefix = BodyPrefix(10_000, CHUNKED, 0)
    while not prefix.is_complete:
        prefix.feed(b"1;%b\r\na\r\n" % (b"x" * 4000))
    assert len(prefix.held) < 90_000
    assert set(prefix.content) == {ord("a")}
