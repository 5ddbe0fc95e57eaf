"""Streams of HTTP/2 that need a server connection: they wait while there is no descriptor for one."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import hpack
import pytest
from http2_frames import PREFACE, SETTINGS_ACK, data, headers, number, read, settings
from memory import A, B, Peer, World, answer, get, worlds
from test_http2_servers import H2Server

from ktcpvs.model.clients import NOWHERE
from ktcpvs.protocols.http2 import constants as h2
from ktcpvs.streams.contract import TLSFacts
from ktcpvs.streams.stream import Stream

Make = Callable[..., World]

ONE = "scheduler = phttp", f"server = {A}", f'rule = pattern ".*" use server {A}'
BY_PATH = (
    "scheduler = phttp", f"server = {A}", f"server = {B}",
    f'rule = pattern "^/a" use server {A}', f'rule = pattern "^/b" use server {B}',
)  # fmt: skip
LIMIT = 13
"""Descriptors: one for the listener. One client leaves 10 free, so five streams may connect."""


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds(*ONE, descriptors=LIMIT) as made:
        yield made


class Client:
    """A client that has chosen HTTP/2 in its handshake."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._decoder = hpack.Decoder()
        self._next = 1
        self._statuses: dict[int, str] = {}
        self.peer = Peer(Stream())
        world.peers.append(self.peer)
        self.peer.stream.tls = TLSFacts("TLSv1.3", alpn="h2")
        built = world.live.client_factory.build_admitted(("192.0.2.1", 4711), NOWHERE, self.peer.stream)
        built.take_over(self.peer.stream, b"")
        self.peer.says(PREFACE + settings() + SETTINGS_ACK)

    def asks(self, *paths: str, method: bytes = b"GET", body: bytes | None = None) -> list[int]:
        """Send requests at the same time; return their streams."""
        begun = []
        for path in paths:
            pairs = [(b":method", method), (b":scheme", b"http"), (b":authority", b"h"), (b":path", path.encode())]
            self.peer.says(headers(self._next, pairs, end_stream=body is None))
            if body is not None:
                self.peer.says(data(self._next, body, end_stream=True))
            begun.append(self._next)
            self._next += 2
        return begun

    def resets(self, *streams: int) -> None:
        for stream in streams:
            self.peer.says(number(h2.RST_STREAM, stream, h2.CANCEL))

    def statuses(self) -> dict[int, str]:
        """Of the responses so far, by stream."""
        self._world.turns(2)
        for frame in read(self.peer.heard()):
            if frame.kind == h2.HEADERS:
                self._statuses[frame.stream_id] = dict(self._decoder.decode(frame.payload))[":status"]
        return self._statuses


def responds(world: World, server: Peer) -> bytes:
    """Respond to the request that the server has got, and return it."""
    heard = server.heard()
    assert heard
    server.says(answer(b"hello"))
    world.turns(2)
    return heard


def test_streams_in_the_queue_of_a_server_hold_no_descriptor(make: Make) -> None:
    world = make("scheduler = phttp", f"server = {A} 1 maxconn 1", f'rule = pattern ".*" use server {A}')
    clients = [Client(world) for _ in range(3)]
    for client in clients:
        client.asks(*["/a"] * 50)
    assert len(world.live.traffic.queue) == 149
    assert world.context.descriptors.used == 6
    assert len(world.accepts_all()) == 1


def test_a_stream_that_waits_gets_the_connection_of_the_one_before(make: Make) -> None:
    world = make()
    client = Client(world)
    client.asks(*["/a"] * 5)
    servers = world.accepts_all()
    assert len(servers) == 5
    client.asks("/a6", "/a7")
    assert world.called() == []
    assert world.context.descriptors.are_free
    responds(world, servers[3])
    assert b"/a6" in servers[3].heard()
    servers[3].says(answer(b"hello"))
    assert b"/a7" in responds(world, servers[3])
    assert client.statuses() == {7: "200", 11: "200", 13: "200"}
    assert world.called() == []
    for server in servers[:3]:
        responds(world, server)
    assert world.live.stream_connections.pool.idle(next(iter(world.live.usable))) == 4


def test_one_for_another_server_gets_the_descriptor(make: Make) -> None:
    world = make(*BY_PATH)
    client = Client(world)
    client.asks(*["/a"] * 5)
    servers = world.accepts_all()
    client.asks("/b", "/a")
    responds(world, servers[0])
    world.settle()
    assert not servers[0].is_open
    assert b"/b" in responds(world, world.accepts(B))
    world.settle()
    assert b"/a" in world.accepts(A).heard()


def test_it_gets_no_connection_whose_server_has_sent_a_fin(make: Make) -> None:
    world = make()
    client = Client(world)
    client.asks(*["/a"] * 5)
    servers = world.accepts_all()
    client.asks("/last", method=b"POST", body=b"hello")
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        servers[0].line.descriptor = ours.fileno()
        responds(world, servers[0])
    world.settle()
    assert b"POST /last" in world.accepts(A).heard()


def test_it_connects_when_another_one_is_reset(make: Make) -> None:
    world = make()
    client = Client(world)
    first = client.asks(*["/a"] * 5)
    world.accepts_all()
    client.asks("/last", method=b"POST", body=b"hello")
    client.resets(first[0])
    world.settle()
    heard = world.accepts(A).heard()
    assert heard.startswith(b"POST /last ")
    assert b"\r\nhello\r\n" in heard


def test_after_queue_timeout_it_is_refused(make: Make) -> None:
    world = make(settings="queue_timeout = 3")
    client = Client(world)
    client.asks(*["/a"] * 5)
    servers = world.accepts_all()
    (late,) = client.asks("/late")
    world.passes(2)
    (later,) = client.asks("/later")
    world.passes(2)
    assert client.statuses() == {late: "503"}
    world.passes(2)
    assert client.statuses() == {late: "503", later: "503"}
    assert world.called() == []
    (destination,) = world.live.usable
    assert (destination.active, destination.failures) == (5, 0)
    responds(world, servers[0])
    assert client.asks("/again")
    assert b"/again" in responds(world, servers[0])


def test_one_that_is_reset_while_it_waits_gets_none(make: Make) -> None:
    world = make()
    client = Client(world)
    client.asks(*["/a"] * 5)
    servers = world.accepts_all()
    (left, _) = client.asks("/left", "/stays")
    client.resets(left)
    world.turns(2)
    responds(world, servers[0])
    assert b"/stays" in responds(world, servers[0])
    (destination,) = world.live.usable
    assert destination.active == 4
    assert left not in client.statuses()


def test_the_end_of_the_client_ends_the_wait(make: Make) -> None:
    world = make()
    client = Client(world)
    client.asks(*["/a"] * 50)
    world.accepts_all()
    client.peer.resets()
    world.settle()
    assert world.context.descriptors.used == 0
    assert world.called() == []


def test_each_client_of_http1_gets_its_connection_meanwhile(make: Make) -> None:
    world = make()
    streams = Client(world)
    streams.asks(*["/a"] * 50)
    assert len(world.accepts_all()) == 5
    clients = []
    while world.context.descriptors.are_free:
        clients.append(world.client())
    assert len(clients) == 3
    for client in clients:
        client.says(get())
    servers = world.accepts_all()
    assert len(servers) == 3
    for client, server in zip(clients, servers, strict=True):
        responds(world, server)
        assert client.heard().endswith(b"hello")
    assert world.context.descriptors.used <= LIMIT


def test_idle_connections_of_clients_of_http1_are_closed_for_streams(make: Make) -> None:
    world = make()
    clients = [world.client() for _ in range(5)]
    for client in clients:
        client.says(get())
    servers = world.accepts_all()
    for server in servers:
        responds(world, server)
    for client in clients:
        client.resets()
    assert sum(server.is_open for server in servers) == 5
    streams = Client(world)
    streams.asks(*["/a"] * 6)
    world.settle()
    assert not any(server.is_open for server in servers)
    assert len(world.accepts_all()) == 5


def test_idle_ones_are_closed_while_streams_wait(make: Make) -> None:
    """A client of HTTP/1 leaves while its server connection stays in the pool."""
    world = make()
    streams, client = Client(world), world.client()
    client.says(get())
    (server,) = world.accepts_all()
    streams.asks(*["/a"] * 9)
    assert len(world.accepts_all()) == 4
    responds(world, server)
    client.resets()
    world.settle()
    assert server.is_open
    world.passes(2)
    world.settle()
    assert not server.is_open
    assert len(world.accepts_all()) == 1


def test_connections_that_fail_at_once_let_the_others_wait_on(make: Make) -> None:
    world = make()
    client = Client(world)
    begun = client.asks(*["/a"] * 20)
    attempts = world.reactor.tcpClients
    for refused in range(20):
        assert len(attempts) == min(refused + 5, 20)
        world.refuse(attempts[refused][2])
        world.turns(2)
    assert client.statuses() == dict.fromkeys(begun, "503")
    assert world.context.descriptors.used == 2


def test_an_edit_of_the_server_concerns_connections_that_are_not_begun(make: Make) -> None:
    world = make()
    client = Client(world)
    client.asks(*["/a"] * 6)
    servers = world.accepts_all()
    world.load("scheduler = phttp", f"server = {A} 1 proxy v1", f'rule = pattern ".*" use server {A}')
    client.resets(1)
    world.settle()
    old = world.accepts(A)
    assert b"GET /a" in old.heard()
    old.says(answer(b"hello"))
    world.settle()
    assert not old.is_open, "it was made without the header of the PROXY protocol"
    assert client.statuses() == {11: "200"}
    assert servers[0].is_open is False


def test_streams_share_connections_of_http2_to_servers_without_more_descriptors(make: Make) -> None:
    world = make("scheduler = phttp", f"server = {A} 1 h2", f'rule = pattern ".*" use server {A}')
    clients = [Client(world) for _ in range(3)]
    begun = [stream for client in clients for stream in client.asks(*["/a"] * 30)]
    server = H2Server(world, world.accepts(A), MAX_CONCURRENT_STREAMS=100)
    assert len(server.heads()) == len(begun) == 90
    assert world.context.descriptors.used == 6
    for stream, _ in server.heads():
        server.answers(stream)
    assert all(set(client.statuses().values()) == {"200"} for client in clients)


def test_a_further_connection_of_http2_waits_too(make: Make) -> None:
    world = make("scheduler = phttp", f"server = {A} 1 h2", f'rule = pattern ".*" use server {A}')
    client = Client(world)
    client.asks(*["/a"] * 30)
    servers = [H2Server(world, world.accepts(A), MAX_CONCURRENT_STREAMS=4) for _ in range(5)]
    assert world.called() == []
    assert sum(len(server.heads()) for server in servers) == 20
    assert world.live.stream_connections.waiting == 1
    servers[0].answers(servers[0].heads()[0][0])
    assert len(servers[0].heads()) == 5, "the first one that waits has got the stream"
    servers[0].peer.resets()
    world.settle()
    assert len(H2Server(world, world.accepts(A), MAX_CONCURRENT_STREAMS=100).heads()) == 9 + 4


def test_streams_of_http2_are_handed_on_until_none_waits(make: Make) -> None:
    """More requests than one connection could carry wait, so there are several attempts."""
    lines = "scheduler = phttp", f"server = {A} 1 h2", f'rule = pattern ".*" use server {A}'
    world = make(*lines, settings="http2_server_streams = 4")
    client = Client(world)
    begun = client.asks(*["/a"] * 40)
    servers = [H2Server(world, peer) for peer in world.accepts_all()]
    assert len(servers) == world.live.stream_connections.waiting == 5
    answered = set()
    while len(client.statuses()) < 40:
        open_ones = [(server, stream) for server in servers for stream, _ in server.heads()]
        server, stream = next(one for one in open_ones if one not in answered)
        answered.add((server, stream))
        server.answers(stream)
    assert client.statuses() == dict.fromkeys(begun, "200")
    assert world.live.stream_connections.waiting == 0
    assert world.called() == []


def test_a_request_that_a_server_has_refused_waits_for_a_connection_of_http2(make: Make) -> None:
    """It moves there, which it could not to a stream that another request has used."""
    world = make("scheduler = phttp", f"server = {A} 1 h2", f'rule = pattern ".*" use server {A}')
    client = Client(world)
    for _ in range(3):
        world.client()
    begun = client.asks("/1", "/2")
    first = H2Server(world, world.accepts(A), MAX_CONCURRENT_STREAMS=1)
    second = H2Server(world, world.accepts(A), MAX_CONCURRENT_STREAMS=1)
    for _ in range(world.context.descriptors.room):
        world.client()
    first.h2.close_connection(last_stream_id=0)
    first.talks()
    assert world.live.stream_connections.waiting == 1
    second.answers(second.heads()[0][0])
    assert client.statuses() == {begun[1]: "200"}
    first.peer.ends()
    world.settle()
    world.passes(2)  # the second one is idle now, and is closed for it
    second.talks()
    world.settle()
    third = H2Server(world, world.accepts(A))
    ((stream, head),) = third.heads()
    assert head[":path"] == "/1"
    third.answers(stream)
    assert client.statuses() == dict.fromkeys(begun, "200")


def test_what_a_new_client_brings_serves_the_one_that_waits_longest(make: Make) -> None:
    world = make()
    for _ in range(4):
        world.client()
    first = Client(world)
    first.asks("/1", "/2", "/3")
    (server,) = world.accepts_all()
    assert b"/1" in server.heard()
    assert (world.called(), world.context.descriptors.free) == ([], 2)
    second = Client(world)
    assert b"/2" in world.accepts(A).heard()
    second.asks("/4")
    assert world.called() == []
    assert world.live.stream_connections.waiting == 2
