"""Responses that break off after their beginning are counted, unless their client has ended them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from http2_frames import headers, number, read
from http2_service import BEGIN
from memory import A, Peer, World, answer, get, worlds

from ktcpvs.inspect.client_connections import close_connection
from ktcpvs.inspect.views import Views
from ktcpvs.model.clients import NOWHERE
from ktcpvs.model.edits import StopService
from ktcpvs.protocols.http2 import constants as h2
from ktcpvs.streams.contract import TLSFacts
from ktcpvs.streams.stream import Stream

TIMEOUT = 30
LINES = ("scheduler = phttp", f"server = {A}", f'rule = pattern ".*" use server {A}', f"read_timeout = {TIMEOUT}")

BEGUN = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfour"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nfour"

PAIRS = ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/a"), (b":authority", b"h"))

Make = Callable[..., World]
Ending = Callable[[World, Peer], object]

pytestmark = pytest.mark.usefixtures("form")

each_version = pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds(*LINES) as make:
        yield make


class Client:
    """A client whose request has got to its server, of either version of HTTP."""

    def __init__(self, world: World, version: str) -> None:
        self.is_http2 = version == "HTTP/2"
        if self.is_http2:
            self.peer = world.peer(Stream())
            self.peer.stream.tls = TLSFacts("TLSv1.3", alpn="h2")
            built = world.live.client_factory.build_admitted(("192.0.2.1", 4711), NOWHERE, self.peer.stream)
            built.take_over(self.peer.stream, b"")
            self.peer.says(BEGIN + headers(1, PAIRS))
        else:
            self.peer = world.client()
            self.peer.says(get())

    def cancels(self) -> None:
        if self.is_http2:
            self.peer.says(number(h2.RST_STREAM, 1, h2.CANCEL))
        else:
            self.peer.resets()

    def got_a_reset(self, world: World) -> bool:
        """Whether the client has noticed that its response is incomplete."""
        world.turns(3)
        if self.is_http2 and self.peer.is_open:
            return any(one.kind == h2.RST_STREAM and one.stream_id == 1 for one in read(self.peer.heard()))
        return self.peer.line.aborted or self.peer.line.reset_on_close


def counted(world: World) -> tuple[int, int, int]:
    """(broken responses, refused, failures of the server), as `--stats` shows them."""
    (service,) = Views(world.director).stats("s")["services"]
    stats = service["stats"]
    return stats["broken_responses"], stats["refused"], service["servers"][0]["stats"]["failures"]


def stop(world: World, _: Peer) -> None:
    world.director.submit(StopService("s"))
    world.passes(world.context.settings.drain_timeout + 2)


def close(world: World, _: Peer) -> None:
    (connection,) = Views(world.director).connections("s")
    close_connection(world.director, connection["id"])


@each_version
@pytest.mark.parametrize(
    ("begun", "end", "failures"),
    [
        pytest.param(BEGUN, lambda _, server: server.ends(), 1, id="closed"),
        pytest.param(CHUNKED, lambda _, server: server.ends(), 1, id="closed-chunked"),
        pytest.param(BEGUN, lambda _, server: server.resets(), 1, id="reset"),
        pytest.param(UNTIL_CLOSE, lambda _, server: server.resets(), 1, id="reset-until-close"),
        pytest.param(CHUNKED, lambda _, server: server.says(b"what\r\n"), 1, id="invalid-chunk"),
        pytest.param(BEGUN, lambda world, _: world.passes(2 * TIMEOUT), 1, id="read-timeout"),
        pytest.param(BEGUN, stop, 0, id="drain-timeout"),
        pytest.param(BEGUN, close, 0, id="closed-by-a-command"),
    ],
)
def test_a_broken_response_is_counted_once(make: Make, version: str, begun: bytes, end: Ending, failures: int) -> None:
    world = make(*LINES, "drain_timeout = 5")
    client = Client(world, version)
    server = world.accepts(A)
    server.says(begun)
    world.turns(3)
    assert counted(world) == (0, 0, 0)
    end(world, server)
    assert client.got_a_reset(world)
    assert counted(world) == (1, 0, failures)


@each_version
def test_a_response_that_breaks_off_on_a_kept_connection_is_counted(make: Make, version: str) -> None:
    """Its request has taken the fast path."""
    world = make()
    first = Client(world, version)
    server = world.accepts(A)
    server.says(answer())
    world.turns(3)
    first.peer.resets()
    client = Client(world, version)
    assert world.called() == []
    server.says(BEGUN)
    server.ends()
    assert client.got_a_reset(world)
    assert counted(world) == (1, 0, 1)


@each_version
def test_what_the_client_ends_is_not_counted(make: Make, version: str) -> None:
    world = make()
    client = Client(world, version)
    server = world.accepts(A)
    server.says(BEGUN)
    client.cancels()
    world.turns(3)
    assert not server.is_open
    assert counted(world) == (0, 0, 0)


@each_version
def test_a_client_that_does_not_read_has_ended_its_response(make: Make, version: str) -> None:
    world = make()
    client = Client(world, version)
    server = world.accepts(A)
    server.says(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    client.peer.fills_up()
    while server.is_read():
        server.says(b"x" * 10_000)
    world.passes(3 * TIMEOUT)
    assert not client.peer.is_open
    assert counted(world) == (0, 0, 0)


@each_version
def test_a_response_that_has_not_begun_is_refused_and_not_broken(make: Make, version: str) -> None:
    world = make()
    Client(world, version)
    server = world.accepts(A)
    server.says(b"HTTP/1.1 200 OK\r\nContent-")
    server.ends()
    world.turns(3)
    assert counted(world) == (0, 1, 1)


@each_version
@pytest.mark.parametrize("status", ["200 OK", "500 Internal Server Error"])
def test_whole_responses_are_not_broken(make: Make, version: str, status: str) -> None:
    world = make()
    Client(world, version)
    server = world.accepts(A)
    server.says(answer(status=status))
    server.ends()
    world.turns(3)
    assert counted(world) == (0, 0, 0)
