"""HTTP/2 connections of clients in memory: each stream is an exchange of its own; h2 is the client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import pytest
from memory import A, B, Peer, World, answer, worlds

from ktcpvs.dispatch.access_log import AccessLogWriter
from ktcpvs.http.http2_client_connection import HTTP2ClientConnection
from ktcpvs.http.http2_response_heads import ResponseHeads
from ktcpvs.inspect.views import Views
from ktcpvs.model.clients import NOWHERE
from ktcpvs.protocols.http2 import Limits
from ktcpvs.protocols.websocket import close_frame
from ktcpvs.streams.contract import TLSFacts
from ktcpvs.streams.stream import Stream

Make = Callable[..., World]

LINES = (
    "scheduler = phttp", f"server = {A}", f"server = {B}",
    f'rule = pattern "^/a" use server {A}', f'rule = pattern "^/b" use server {B}',
)  # fmt: skip


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds(*LINES) as made:
        yield made


def h2_client() -> Any:
    """A client's end of HTTP/2 by h2, which has begun."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="latin-1"))
    client.initiate_connection()
    return client


def request_fields(path: str = "/a", method: str = "GET", scheme: str = "http") -> list[tuple[str, str]]:
    return [(":method", method), (":scheme", scheme), (":authority", "h"), (":path", path)]


class H2Client:
    """A client that speaks HTTP/2 by h2, on a line to the switch."""

    def __init__(self, world: World, **limits: int) -> None:
        self.world = world
        self.h2 = h2_client()
        self.peer = Peer(Stream())
        world.peers.append(self.peer)
        self.events: list[Any] = []
        self.ended: list[Any] = []
        build = lambda: world.live.client_factory.build_stream(("192.0.2.1", 4711), None, None)  # noqa: E731
        self.switch = HTTP2ClientConnection(
            world.live.traffic,
            self.peer.stream,
            ("192.0.2.1:4711", "192.0.2.1"),
            build,
            world.live.open_connections,
            Limits(**limits),
            ResponseHeads(),
            ended=self.ended.append,
        )
        self.talks()

    def talks(self) -> None:
        """Send what h2 has to say, and take what the switch has sent, until neither has more."""
        for _ in range(100):
            said = self.h2.data_to_send()
            if said and self.peer.stream.is_open and self.peer.is_read():
                self.peer.says(said)
            self.world.turns(1)
            heard = self.peer.heard()
            if heard:
                self.events += self.h2.receive_data(heard)
            if not said and not heard:
                return
        raise AssertionError("the conversation does not end")

    def asks(
        self, stream_id: int, path: str = "/a", method: str = "GET", *fields: tuple[str, str], end: bool = True
    ) -> None:
        self.h2.send_headers(stream_id, [*request_fields(path, method), *fields], end_stream=end)
        self.talks()

    def got(self, stream_id: int) -> tuple[str, bytes, bool]:
        """The status, the body and whether the response has ended."""
        self.talks()
        status, body, has_ended = "", b"", False
        for event in self.events:
            if getattr(event, "stream_id", None) == stream_id:
                if isinstance(event, h2.events.ResponseReceived):
                    status = dict(event.headers)[":status"]
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                elif isinstance(event, h2.events.StreamEnded):
                    has_ended = True
        return status, body, has_ended

    def resets(self) -> list[tuple[int, int]]:
        return [
            (event.stream_id, event.error_code) for event in self.events if isinstance(event, h2.events.StreamReset)
        ]


def test_a_request_reaches_its_server_and_its_response_the_client(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a?b=c", "GET", ("x-a", "1"), ("cookie", "a=1"), ("cookie", "b=2"))
    server = world.accepts(A)
    assert server.heard() == b"GET /a?b=c HTTP/1.1\r\nhost: h\r\nx-a: 1\r\ncookie: a=1; b=2\r\n\r\n"
    server.says(answer(b"hello", "X-B: 2"))
    assert client.got(1) == ("200", b"hello", True)
    (response,) = [event for event in client.events if isinstance(event, h2.events.ResponseReceived)]
    assert ("x-b", "2") in response.headers
    assert client.resets() == []
    assert not client.switch.transports
    assert not world.live.connections


def test_streams_are_exchanges_of_their_own(make: Make) -> None:
    """The first one waits for its server, the second one is answered, and a kept server connection is used again."""
    world = make()
    client = H2Client(world)
    client.asks(1, "/a")
    first = world.accepts(A)
    client.asks(3, "/b")
    second = world.accepts(B)
    second.heard()
    second.says(answer(b"two"))
    assert client.got(3) == ("200", b"two", True)
    assert client.got(1) == ("", b"", False)
    client.asks(5, "/b")
    assert world.called() == []
    second.says(answer(b"three"))
    assert client.got(5) == ("200", b"three", True)
    first.heard()
    first.says(answer(b"one"))
    assert client.got(1) == ("200", b"one", True)


def test_a_body_goes_on_in_chunks_and_a_chunked_response_as_data(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a", "POST", end=False)
    server = world.accepts(A)
    client.h2.send_data(1, b"hello")
    client.talks()
    client.h2.send_data(1, b" you", end_stream=True)
    client.talks()
    head, _, body = server.heard().partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert body == b"5\r\nhello\r\n4\r\n you\r\n0\r\n\r\n"
    server.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    assert client.got(1) == ("200", b"abc", False)
    server.says(b"2\r\nde\r\n0\r\n\r\n")
    assert client.got(1) == ("200", b"abcde", True)


def test_a_body_with_a_length_goes_on_with_it(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a", "POST", ("content-length", "5"), end=False)
    server = world.accepts(A)
    client.h2.send_data(1, b"hello", end_stream=True)
    client.talks()
    assert server.heard() == b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhello"
    server.says(answer(b""))
    assert client.got(1) == ("200", b"", True)


def test_a_request_that_came_with_its_body_goes_on_in_one_piece(make: Make) -> None:
    """So it takes the fast path, though the frames of several streams are mixed."""
    world = make()
    client = H2Client(world)
    servers = []
    for stream_id in (1, 3, 5):
        client.asks(stream_id)
        servers.append(world.accepts(A))
    for server in servers:
        server.heard()
        server.says(answer())
    client.talks()
    for stream_id, length in ((7, 5), (9, 0), (11, 5)):
        fields = [("content-length", str(length))] if length else []
        client.h2.send_headers(stream_id, [*request_fields("/a", "POST"), *fields])
    client.h2.send_data(9, b"world", end_stream=True)
    client.h2.send_data(7, b"hel")
    client.h2.send_data(11, b"again", end_stream=True)
    client.h2.send_data(7, b"lo", end_stream=True)
    client.talks()
    carried = client.switch.transports
    assert {stream_id: one.connection.exchange.is_plain for stream_id, one in carried.items()} == {
        7: False, 9: True, 11: True,
    }  # fmt: skip
    assert sorted(server.heard() for server in servers) == [
        b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nagain",
        b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhello",
        b"POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n5\r\nworld\r\n0\r\n\r\n",
    ]
    for server in servers:
        server.says(answer(b"done"))
    assert [client.got(stream_id) for stream_id in (7, 9, 11)] == [("200", b"done", True)] * 3


def test_windows_open_again_after_bodies_that_came_at_once(make: Make) -> None:
    world = make()
    client = H2Client(world, stream_window=20_000, connection_window=65_535)
    server = None
    for number in range(20):
        client.h2.send_headers(2 * number + 1, request_fields("/a", "POST"))
        client.h2.send_data(2 * number + 1, bytes(10_000), end_stream=True)
        client.talks()
        server = server or world.accepts(A)
        assert len(server.heard()) > 10_000
        server.says(answer())
        assert client.got(2 * number + 1)[2]


def test_interim_responses(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a")
    server = world.accepts(A)
    server.says(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(b"x"))
    assert client.got(1) == ("200", b"x", True)
    (hint,) = [event for event in client.events if isinstance(event, h2.events.InformationalResponseReceived)]
    assert ("link", "</x>") in hint.headers


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_head_and_responses_without_a_body(make: Make, method: str) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a", method)
    server = world.accepts(A)
    server.says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (5 if method == "HEAD" else 0))
    assert client.got(1) == ("200", b"", True)


def test_a_response_that_ends_with_its_connection(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a")
    server = world.accepts(A)
    server.says(b"HTTP/1.1 200 OK\r\n\r\nhello")
    assert client.got(1) == ("200", b"hello", False)
    server.ends()
    assert client.got(1) == ("200", b"hello", True)


def test_a_response_that_breaks_off_resets_the_stream_alone(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a")
    server = world.accepts(A)
    server.says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
    server.resets()
    assert client.got(1) == ("200", b"hello", False)
    assert client.resets() == [(1, h2.errors.ErrorCodes.INTERNAL_ERROR)]
    client.asks(3, "/b")
    world.accepts(B).says(answer(b"x"))
    assert client.got(3) == ("200", b"x", True)


def test_a_client_that_resets_a_stream_abandons_its_request(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a")
    server = world.accepts(A)
    client.h2.reset_stream(1, h2.errors.ErrorCodes.CANCEL)
    client.talks()
    assert server.line.aborted
    assert not client.switch.transports


def test_the_errors_of_the_switch(make: Make) -> None:
    world = make()
    client = H2Client(world, max_list_size=1000)
    client.asks(1, "/nothing")
    assert client.got(1)[0] == "503"
    client.asks(3, "/a", "GET", ("x-a", "x" * 1000))
    status, body, has_ended = client.got(3)
    assert (status, has_ended) == ("431", True)
    assert body.startswith(b"431 Request Header Fields Too Large\nktcpvs: ")
    client.h2.send_headers(5, [(":method", "CONNECT"), (":authority", "h:80")])
    assert client.got(5)[0] == "501"


def test_an_early_response_ends_the_upload(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a", "POST", end=False)
    server = world.accepts(A)
    server.says(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
    assert client.got(1) == ("413", b"no", True)
    client.h2.send_data(1, b"late")
    client.talks()
    assert client.resets() == []
    world.passes(world.context.settings.linger_timeout + 2)
    client.talks()
    assert client.resets() == [(1, h2.errors.ErrorCodes.NO_ERROR)]


@pytest.mark.parametrize("length", [(), (("content-length", "10"),)])
def test_an_upload_goes_on_after_an_early_response(make: Make, length: tuple[tuple[str, str], ...]) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a", "POST", *length, end=False)
    server = world.accepts(A)
    client.h2.send_data(1, b"hello")
    client.talks()
    server.says(answer(b"ok"))
    assert client.got(1) == ("200", b"ok", True)
    client.h2.send_data(1, b" you!", end_stream=True)
    client.talks()
    assert server.heard().endswith(b"hello you!" if length else b"5\r\nhello\r\n5\r\n you!\r\n0\r\n\r\n")
    assert client.resets() == []
    assert not client.switch.transports
    client.asks(3, "/a")
    assert world.called() == []  # the server connection is kept
    server.says(answer(b"more"))
    assert client.got(3) == ("200", b"more", True)


def test_an_upload_that_goes_on_too_long_is_reset_without_an_error(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a", "POST", end=False)
    server = world.accepts(A)
    server.says(answer(b"ok"))
    assert client.got(1) == ("200", b"ok", True)
    assert client.resets() == []
    world.passes(world.context.settings.linger_timeout + 2)
    client.talks()
    assert client.resets() == [(1, h2.errors.ErrorCodes.NO_ERROR)]
    assert server.line.aborted
    assert not client.switch.transports
    assert not world.live.connections


def test_an_upload_that_waits_for_its_server_goes_on_after_an_early_response(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a", "POST", ("content-length", "20000"), end=False)
    server = world.accepts(A)
    server.fills_up()
    client.h2.send_data(1, bytes(10_000))
    client.talks()
    client.h2.send_data(1, bytes(10_000), end_stream=True)
    client.talks()
    server.says(answer(b"ok"))
    assert client.got(1) == ("200", b"ok", True)
    server.takes_again()
    client.talks()
    assert server.heard().endswith(bytes(20_000))
    assert client.resets() == []
    assert not client.switch.transports


def test_the_client_is_read_as_fast_as_its_server_takes(make: Make) -> None:
    """While the server does not read, the window of the stream closes; other streams go on."""
    world = make()
    client = H2Client(world, stream_window=20_000)
    client.asks(1, "/a", "POST", end=False)
    server = world.accepts(A)
    server.heard()
    server.fills_up()
    sent = 0
    while client.h2.local_flow_control_window(1) > 0 and sent < 200_000:
        size = min(client.h2.local_flow_control_window(1), 10_000)
        client.h2.send_data(1, bytes(size))
        sent += size
        client.talks()
    assert sent <= 40_000
    client.asks(3, "/b")
    world.accepts(B).says(answer(b"x"))
    assert client.got(3) == ("200", b"x", True)
    server.takes_again()
    client.talks()
    assert client.h2.local_flow_control_window(1) > 0
    client.h2.end_stream(1)
    client.talks()
    server.says(answer(b"done"))
    assert client.got(1) == ("200", b"done", True)


def test_a_server_is_read_as_fast_as_the_client_takes(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a")
    server = world.accepts(A)
    server.says(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    sent = 0
    while server.is_read() and sent < 1_000_000:
        server.says(bytes(20_000))
        sent += 20_000
        client.talks()
    assert sent < 200_000
    while sent < 1_000_000 or not client.got(1)[2]:
        for event in client.events:
            if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                client.h2.acknowledge_received_data(event.flow_controlled_length, 1)
                event.flow_controlled_length = 0
        client.talks()
        if server.is_read() and sent < 1_000_000:
            server.says(bytes(20_000))
            sent += 20_000
    assert client.got(1) == ("200", bytes(1_000_000), True)


def test_a_websocket_by_extended_connect(make: Make) -> None:
    world = make(*LINES, "upgrade = websocket")
    client = H2Client(world)
    pairs = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "h"),
        (":path", "/a"),
    ]
    client.h2.send_headers(1, [*pairs, ("sec-websocket-version", "13")])
    client.talks()
    server = world.accepts(A)
    head = server.heard()
    assert head.startswith(b"GET /a HTTP/1.1\r\n")
    assert b"sec-websocket-key: " in head
    server.says(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: x\r\n\r\nhi"
    )
    assert client.got(1) == ("200", b"hi", False)
    client.h2.send_data(1, b"frames")
    client.talks()
    assert server.heard() == b"frames"
    server.ends()
    client.h2.end_stream(1)
    assert client.got(1)[2]


def test_a_websocket_by_extended_connect_is_closed_when_its_server_drains(make: Make) -> None:
    settings = "websocket_close_timeout = 5"
    world = make(*LINES, settings=settings)
    client = H2Client(world)
    client.h2.send_headers(
        1, [(":method", "CONNECT"), (":protocol", "websocket"), *request_fields("/a")[1:], ("x", "y")]
    )
    client.talks()
    server = world.accepts(A)
    server.heard()
    server.says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x02hi")
    assert client.got(1) == ("200", b"\x81\x02hi", False)
    world.load("scheduler = phttp", f"server = {A} 0", *LINES[2:], settings=settings)
    assert client.got(1) == ("200", b"\x81\x02hi\x88\x02\x03\xf4", False)
    client.h2.send_data(1, close_frame(1012, b"mask"))
    client.talks()
    assert server.heard()[:2] == b"\x88\x82"
    server.ends()
    client.h2.end_stream(1)
    assert client.got(1)[2]


def test_a_websocket_by_extended_connect_is_rebalanced(make: Make) -> None:
    """The older one is closed; the newer one and a request on the same connection go on."""
    settings, one = "websocket_close_timeout = 5", ("scheduler = phttp", f"server = {A}")
    world = make(*one, settings=settings)
    client = H2Client(world)
    for stream in (1, 3):
        fields = [(":method", "CONNECT"), (":protocol", "websocket"), *request_fields("/a")[1:]]
        client.h2.send_headers(stream, fields)
        client.talks()
        server = world.accepts(A)
        server.heard()
        server.says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        assert client.got(stream) == ("200", b"", False)
        world.passes(1)
    client.asks(5, "/b")
    server = world.accepts(A)
    world.load(*one, f"server = {B}", settings=settings)
    moves = world.live.rebalancing.begin(50, resets=True)
    assert {str(server.address): (row.active, row.moving) for server, row in moves.items()} == {A: (3, 1), B: (0, 0)}
    assert client.got(1) == ("200", b"\x88\x02\x03\xf4", False)
    assert client.got(3) == ("200", b"", False)
    server.says(answer())
    assert client.got(5) == ("200", b"hello", True)


def test_a_connection_error_ends_all_streams(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a")
    server = world.accepts(A)
    client.peer.says(bytes(9))
    world.turns(2)
    assert server.line.aborted
    assert client.ended == [client.switch]
    assert client.peer.heard() != b""


def test_a_client_that_disconnects_abandons_its_requests(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a")
    server = world.accepts(A)
    client.peer.resets()
    assert server.line.aborted
    assert client.ended == [client.switch]


PING_ACK = b"\0\0\x08\x06\x01\0\0\0\0shutdown"


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """(type, payload) of the frames; h2 reads nothing behind a GOAWAY."""
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        found.append((data[3], data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def test_a_graceful_end_lets_streams_finish(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a")
    server = world.accepts(A)
    client.switch.retire()
    kinds = [kind for kind, _ in frames(client.peer.heard())]
    assert kinds == [7, 6]
    client.peer.says(PING_ACK)
    assert [(kind, payload[:4]) for kind, payload in frames(client.peer.heard())] == [(7, b"\0\0\0\1")]
    assert client.peer.is_open
    server.says(answer(b"last"))
    world.turns(1)
    assert frames(client.peer.heard())[-1] == (0, b"last")
    world.turns(3)
    assert client.ended == [client.switch]
    assert client.peer.line.ended


def test_an_idle_connection_ends_when_its_client_knows(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.switch.retire()
    assert client.ended == []
    client.peer.says(PING_ACK)
    assert client.ended == [client.switch]
    assert client.peer.line.ended


def test_a_client_that_does_not_acknowledge_the_end(make: Make) -> None:
    """The second GOAWAY comes nevertheless."""
    world = make()
    client = H2Client(world)
    client.asks(1, "/a")
    server = world.accepts(A)
    client.switch.retire()
    client.peer.heard()
    world.passes(12)
    assert [(kind, payload[:4]) for kind, payload in frames(client.peer.heard())] == [(7, b"\0\0\0\1")]
    server.says(answer(b"last"))
    world.turns(3)
    assert client.ended == [client.switch]


def test_an_idle_connection_is_closed(make: Make) -> None:
    world = make()
    client = H2Client(world)
    world.passes(world.context.settings.keepalive_timeout + 6)
    assert client.ended == [client.switch]


def test_the_timeouts_are_those_of_the_service(make: Make) -> None:
    world = make(*LINES, "keepalive_timeout = 2")
    client = H2Client(world)
    world.passes(1)
    assert client.ended == []
    world.passes(4)
    assert client.ended == [client.switch]


# By prior knowledge, through a service.


def begun(world: World) -> tuple[Any, Peer]:
    """A client that has connected to the service and speaks HTTP/2."""
    return h2_client(), world.client()


@pytest.mark.parametrize("size", [1, 5, 24, 1000])
def test_a_client_that_begins_with_the_preface_speaks_http2(make: Make, size: int) -> None:
    world = make(*LINES)
    client, peer = begun(world)
    client.send_headers(1, request_fields(), end_stream=True)
    said = client.data_to_send()
    for begin in range(0, len(said), size):
        peer.says(said[begin : begin + size])
    server = world.accepts(A)
    assert len(world.live.http2_clients) == 1
    assert world.live.living == 1
    assert server.heard() == b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n"
    server.says(answer(b"hello"))
    world.turns(3)
    assert any(isinstance(event, h2.events.StreamEnded) for event in client.receive_data(peer.heard()))
    assert world.live.living == 1
    peer.resets()
    assert world.live.living == 0


def over_tls(world: World, alpn: str | None) -> Peer:
    """A client that has completed a handshake with the service."""
    peer = Peer(Stream())
    world.peers.append(peer)
    peer.stream.tls = TLSFacts("TLSv1.3", alpn=alpn)
    peer.stream.called = "203.0.113.1", 443  # as a proxy has told it
    connection = world.live.client_factory.build_admitted(("192.0.2.1", 4711), NOWHERE, peer.stream)
    connection.take_over(peer.stream, b"")
    return peer


def test_a_client_that_has_chosen_http2_in_its_handshake_speaks_it(make: Make) -> None:
    """Servers learn the scheme, and behind a header of the PROXY protocol the protocol that they are spoken to."""
    world = make(*LINES, "x_forwarded_proto = replace")
    client = h2_client()
    peer = over_tls(world, "h2")
    assert frames(peer.heard())[0][0] == 4  # the server's SETTINGS need not wait for the client's
    client.send_headers(1, request_fields(scheme="https"), end_stream=True)
    peer.says(client.data_to_send())
    server = world.accepts(A)
    assert server.heard() == b"GET /a HTTP/1.1\r\nhost: h\r\nX-Forwarded-Proto: https\r\n\r\n"
    (stream,) = world.live.connections
    assert stream.origin().tls == TLSFacts("TLSv1.3", alpn="http/1.1")
    assert stream.origin().destination == ("203.0.113.1", 443)
    server.says(answer(b"hello"))
    world.turns(1)
    assert frames(peer.heard())[-1] == (0, b"hello")
    peer.resets()
    assert world.live.living == 0


def test_a_client_that_has_chosen_http2_must_begin_with_its_preface(make: Make) -> None:
    world = make(*LINES)
    peer = over_tls(world, "h2")
    peer.says(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
    last, payload = frames(peer.heard())[-1]
    assert (last, payload[:8]) == (7, bytes(7) + b"\1")  # GOAWAY: PROTOCOL_ERROR
    assert peer.line.ended
    assert world.called() == []


def tells_to_speak_http1(heard: bytes) -> bool:
    """Whether a client has got SETTINGS, and a GOAWAY with HTTP_1_1_REQUIRED."""
    (settings, _), (goaway, payload) = frames(heard)
    assert payload[8:] == b"HTTP/2 is not supported here; use HTTP/1.1"
    return (settings, goaway, payload[:8]) == (4, 7, bytes(7) + b"\x0d")


@pytest.mark.parametrize("alpn", [None, "http/1.1"])
def test_over_tls_there_is_no_prior_knowledge(make: Make, alpn: str | None) -> None:
    world = make(*LINES)
    peer = over_tls(world, alpn)
    peer.says(h2_client().data_to_send())
    assert tells_to_speak_http1(peer.heard())


@pytest.mark.parametrize("is_tls", [False, True])
def test_clients_must_speak_http2_where_nothing_else_is_spoken(make: Make, is_tls: bool) -> None:
    world = make(*LINES, "http2 = only")
    good, bad = (over_tls(world, None) if is_tls else world.client() for _ in range(2))
    client = h2_client()
    client.send_headers(1, request_fields(), end_stream=True)
    good.says(client.data_to_send())
    world.accepts(A).says(answer(b"hello"))
    world.turns(1)
    assert frames(good.heard())[-1] == (0, b"hello")
    bad.says(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
    last, payload = frames(bad.heard())[-1]
    assert (last, payload[:8]) == (7, bytes(7) + b"\1")  # GOAWAY: PROTOCOL_ERROR
    assert bad.line.ended
    assert world.called() == []


@pytest.mark.parametrize("lines", [(*LINES, "http2 = off"), ("scheduler = http", *LINES[1:])], ids=["off", "http"])
def test_the_preface_is_refused_where_clients_speak_http1_only(make: Make, lines: tuple[str, ...]) -> None:
    """With a GOAWAY that says so, since a client of HTTP/2 cannot read a response of HTTP/1."""
    world = make(*lines)
    for size in (1000, 17, 1):
        client, peer = begun(world)
        client.send_headers(1, request_fields(), end_stream=True)
        sent = client.data_to_send()
        for start in range(0, len(sent), size):
            peer.says(sent[start : start + size])
        heard = peer.heard()
        assert tells_to_speak_http1(heard)
        _, ended = client.receive_data(heard)
        assert (ended.error_code, ended.last_stream_id) == (h2.errors.ErrorCodes.HTTP_1_1_REQUIRED, 0)
        peer.ends()
    assert world.called() == []
    assert world.live.traffic.counters.refusals == {505: 3}


def test_the_preface_behind_a_request_is_refused(make: Make) -> None:
    world = make(*LINES)
    client, peer = begun(world)
    peer.says(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
    world.accepts(A).says(answer(b"x"))
    peer.heard()
    peer.says(client.data_to_send())
    assert peer.heard().startswith(b"HTTP/1.1 505 ")


def test_a_service_that_stops_lets_streams_finish(make: Make) -> None:
    world = make(*LINES)
    client, peer = begun(world)
    client.send_headers(1, request_fields(), end_stream=True)
    peer.says(client.data_to_send())
    server = world.accepts(A)
    peer.heard()
    world.live.stop()
    peer.says(PING_ACK)
    assert [kind for kind, _ in frames(peer.heard())] == [7, 6, 7]
    server.says(answer(b"last"))
    world.turns(1)
    assert frames(peer.heard())[-1] == (0, b"last")
    world.turns(3)
    assert peer.line.ended
    assert len(world.live.http2_clients) == 0


def test_an_address_counts_its_connections_and_its_requests(make: Make) -> None:
    """Streams are no connections, and each request counts for the rate."""
    world = make(*LINES, "client_connections = 1", "client_rate = 2/h")
    client, peer = begun(world)
    for stream_id in (1, 3, 5):
        pairs = [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/a")]
        client.send_headers(stream_id, pairs, end_stream=True)
    peer.says(client.data_to_send())
    events = client.receive_data(peer.heard())
    statuses = [(e.stream_id, dict(e.headers)[":status"]) for e in events if isinstance(e, h2.events.ResponseReceived)]
    assert statuses == [(5, "429")]
    assert world.comes("192.0.2.1") is None
    peer.resets()
    assert world.comes("192.0.2.1") is not None


def test_requests_that_the_switch_answers_itself_take_turns(make: Make) -> None:
    world = make(*LINES)
    client, peer = begun(world)
    peer.says(client.data_to_send())
    client.receive_data(peer.heard())
    statuses = []
    for round_ in range(3):
        for number in range(80):
            pairs = [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/nothing")]
            client.send_headers(1 + 2 * (80 * round_ + number), pairs, end_stream=True)
        peer.says(client.data_to_send())
        for _ in range(12):
            events = client.receive_data(peer.heard())
            statuses += [dict(e.headers)[":status"] for e in events if isinstance(e, h2.events.ResponseReceived)]
            world.turns(1)
        peer.says(client.data_to_send())
    assert statuses == ["503"] * 240


def test_a_body_in_frames_of_one_byte_goes_on_in_larger_pieces(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a", "POST", end=False)
    server = world.accepts(A)
    for begin in range(0, 4000, 500):
        for number in range(begin, begin + 500):
            client.h2.send_data(1, b"%d" % (number % 10), end_stream=number == 3999)
        client.talks()
    chunks = server.heard().partition(b"\r\n\r\n")[2].split(b"\r\n")
    assert b"".join(chunks[1::2]) == b"0123456789" * 400
    assert len(chunks) < 2 * 20
    server.says(answer(b"ok"))
    assert client.got(1) == ("200", b"ok", True)


def test_bodies_in_tiny_frames_of_many_streams_in_turn_go_on_in_larger_pieces(make: Make) -> None:
    world = make()
    client = H2Client(world)
    streams = range(1, 41, 2)
    servers = []
    for stream in streams:
        client.asks(stream, "/a", "POST", end=False)
        servers.append(world.accepts(A))
    for number in range(40):
        for stream in streams:
            client.h2.send_data(stream, b"%d" % (number % 10), end_stream=number == 39)
    client.talks()
    for stream, server in zip(streams, servers, strict=True):
        chunks = server.heard().partition(b"\r\n\r\n")[2].split(b"\r\n")
        assert b"".join(chunks[1::2]) == b"0123456789" * 4
        assert len(chunks) < 2 * 4
        server.says(answer(b"ok"))
        assert client.got(stream) == ("200", b"ok", True)


def test_requests_that_are_reset_at_once_reach_no_server(make: Make) -> None:
    world = make()
    client = H2Client(world)
    for number in range(40):
        client.h2.send_headers(1 + 2 * number, request_fields(), end_stream=number % 2 == 0)
        if number % 2:
            client.h2.send_data(1 + 2 * number, b"body")
        client.h2.reset_stream(1 + 2 * number, h2.errors.ErrorCodes.CANCEL)
    client.h2.send_headers(81, request_fields(), end_stream=True)
    client.talks()
    server = world.accepts(A)
    server.says(answer(b"ok"))
    assert client.got(81) == ("200", b"ok", True)


def test_the_connection_counts_as_a_client_and_its_streams_do_not(make: Make) -> None:
    world = make(*LINES, "maxclients = 2")
    client, peer = begun(world)
    for stream_id in (1, 3, 5):
        pairs = [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/a")]
        client.send_headers(stream_id, pairs, end_stream=True)
    peer.says(client.data_to_send())
    live = world.live
    assert len(live.connections) == 3
    assert (live.clients.in_all, live.active, live.living, live.traffic.counters.total) == (1, 1, 1, 1)
    peer.resets()
    assert (live.clients.in_all, live.active, live.living, live.traffic.counters.total) == (0, 0, 0, 1)


def test_own_responses_count_as_requests_and_bytes(make: Make) -> None:
    world = make(*LINES, 'rule = path /ok use respond 200 "fine"')
    client = H2Client(world, max_list_size=1000)

    def counted() -> tuple[int, int, int, int]:
        stats = Views(world.director).stats("s")["services"][0]["stats"]
        assert stats["refused"] == sum(stats["refusals"].values())
        return stats["requests"], stats["refused"], stats["bytes_in"], stats["bytes_out"]

    before = counted()
    for number, (path, method, fields, status) in enumerate(
        [
            ("/ok", "GET", (), "200"), ("/ok", "POST", (("content-length", "5"),), "200"),
            ("/nothing", "GET", (), "503"), ("/ok", "GET", (("x-a", "x" * 1000),), "431"),
            ("/ok", "GET", tuple(600 * [("a", "")]), "431"),
        ]
    ):  # fmt: skip
        client.asks(1 + 2 * number, path, method, *fields, end=method != "POST")
        got = client.got(1 + 2 * number)
        assert (got[0], got[2]) == (status, True)
        now = counted()
        assert (now[0], now[1]) == (before[0] + 1, before[1] + (status != "200"))
        assert now[2] >= before[2]
        assert now[3] > before[3] + len(got[1])
        before = now
    client.asks(21, "/a")
    world.accepts(A).says(answer())
    assert client.got(21)[0] == "200"
    client.peer.resets()
    world.settle()
    assert counted()[:2] == (6, 3)


@pytest.mark.parametrize("has_tls", [False, True])
def test_a_connection_without_streams_is_active(make: Make, has_tls: bool) -> None:
    world = make(*LINES)
    client, peer = (h2_client(), over_tls(world, "h2")) if has_tls else begun(world)
    live, servers = world.live, list[Peer]()
    for stream_id in (1, 3):
        client.send_headers(stream_id, request_fields(), end_stream=True)
        peer.says(client.data_to_send())
        servers = servers or [world.accepts(A)]
        servers[0].says(answer(b"ok"))
        world.turns(3)
        events = client.receive_data(peer.heard())
        assert any(isinstance(event, h2.events.StreamEnded) for event in events)
        assert (len(live.connections), live.active, live.traffic.counters.total) == (0, 1, 1)
    world.client()  # which has sent nothing yet
    assert (live.active, live.traffic.counters.total) == (2, 2)


def test_limits_are_settings() -> None:
    limits = "http2_streams = 7 http2_stream_window = 32 http2_window = 128"
    with worlds(*LINES, settings=limits) as make:
        world = make()
        client, peer = begun(world)
        peer.says(client.data_to_send())
        client.receive_data(peer.heard())
        assert client.remote_settings.max_concurrent_streams == 7
        assert client.remote_settings.initial_window_size == 32 << 10
        assert client.outbound_flow_control_window == 128 << 10


def test_floods_are_counted() -> None:
    """One budget for all kinds of frames that ask for nothing; then the connection ends with ENHANCE_YOUR_CALM."""
    with worlds(*LINES, settings="http2_glitches = 20") as make:
        world = make()
        client, peer = begun(world)
        peer.says(client.data_to_send())
        peer.heard()
        sent = 0
        while world.live.http2_clients.floods == 0:
            sent += 1
            assert sent <= 30, "the flood goes on"
            unknown, priority = b"\0\0\1\xee\0\0\0\0\1x", b"\0\0\5\2\0\0\0\0\1" + bytes(5)
            peer.says(unknown if sent % 2 else priority)
        last, payload = frames(peer.heard())[-1]
        assert (last, payload[4:8]) == (7, b"\0\0\0\x0b")
        assert b"more than 20 frames that ask for nothing" in payload
        assert world.live.http2_clients.glitches == 21
        assert len(world.live.http2_clients) == 0


# Requests of gRPC.

GRPC = ("content-type", "application/grpc"), ("te", "trailers")


def grpc_status(client: H2Client, stream_id: int) -> tuple[str, str]:
    """The statuses of HTTP and gRPC in the head of a response."""
    client.talks()
    (response,) = [
        event
        for event in client.events
        if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream_id
    ]
    fields = dict(response.headers)
    return fields[":status"], fields.get("grpc-status", "")


@pytest.mark.parametrize("where", ["connecting", "queued", "waiting", "uploading"])
def test_a_deadline_ends_a_request_in_every_state_before_its_response(where: str) -> None:
    lines = "scheduler = phttp", f"server = {A} 1 maxconn 1", f'rule = pattern "." use server {A}'
    with worlds(*lines) as make:
        world = make()
        if where == "queued":
            first = world.client()
            first.says(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            world.accepts(A)
        client = H2Client(world)
        client.asks(1, "/a", "POST", *GRPC, ("grpc-timeout", "2500m"), end=where != "uploading")
        server = world.accepts(A) if where in ("waiting", "uploading") else None
        world.passes(2)
        assert client.got(1) == ("", b"", False)
        world.passes(1)
        assert grpc_status(client, 1) == ("200", "4")
        if server is not None:
            assert not server.is_open
        world.settle()
        assert not client.switch.transports
        if where == "connecting":
            world.refuses_all()
        if where == "queued":
            first.resets()


def test_a_deadline_ends_a_response_too(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a", "POST", *GRPC, ("grpc-timeout", "2S"))
    server = world.accepts(A)
    server.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    assert client.got(1) == ("200", b"hello", False)
    world.passes(3)
    client.talks()
    assert [stream_id for stream_id, _ in client.resets()] == [1]
    assert not server.is_open
    assert world.live.traffic.counters.broken_responses == 1


def test_a_deadline_of_a_request_that_is_over_does_nothing(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, "/a", "POST", *GRPC, ("grpc-timeout", "2S"))
    world.accepts(A).says(answer(b"hello"))
    assert client.got(1) == ("200", b"hello", True)
    world.passes(5)
    assert client.resets() == []


@pytest.mark.parametrize(("path", "status"), [("/a", "14"), ("/none", "14")])
def test_errors_of_the_switch_are_statuses_of_grpc(make: Make, path: str, status: str) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1, path, "POST", *GRPC)
    if path == "/a":
        world.refuses_all()
        world.refuses_all()
    assert grpc_status(client, 1) == ("200", status)


def test_trailers_of_http1_responses_arrive(make: Make) -> None:
    world = make()
    client = H2Client(world)
    client.asks(1)
    world.accepts(A).says(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 17\r\nVia: x\r\n\r\n"
    )
    assert client.got(1) == ("200", b"hello", True)
    (trailers,) = [event for event in client.events if isinstance(event, h2.events.TrailersReceived)]
    assert list(trailers.headers) == [("x-sum", "17")]


# The version of the client.


class Lines:
    """An access log in memory."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.written.append(line)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("form", "expected"), [("json", b'"protocol": "HTTP/2.0"'), ("combined", b' HTTP/2.0" 200 ')])
def test_the_access_log_and_via_name_the_version(make: Make, method: str, form: str, expected: bytes) -> None:
    """Also for plain requests on kept server connections, which take another way."""
    world = make(*LINES, "via = append")
    log: Any = Lines()
    world.live.traffic.http2_access_log.writer = AccessLogWriter(world.context, log, form, "s", "phttp", is_http2=True)
    world.live.apply_settings()
    client, peer = begun(world)
    server: Peer | None = None
    for number in range(3):
        pairs = [(":method", method), (":scheme", "http"), (":authority", "h"), (":path", "/a")]
        client.send_headers(2 * number + 1, pairs, end_stream=True)
        peer.says(client.data_to_send())
        server = server or world.accepts(A)
        assert b"\r\nVia: 2 ktcpvs\r\n" in server.heard()
        server.says(answer(b"hello"))
        world.turns(3)
        client.receive_data(peer.heard())
    assert len(log.written) == 3
    assert all(expected in line for line in log.written)
    other = world.client()
    other.says(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"\r\nVia: 1.1 ktcpvs\r\n" in world.accepts(A).heard()
    assert len(log.written) == 3


def test_the_access_log_has_requests_whose_head_is_too_large(make: Make) -> None:
    world = make()
    log: Any = Lines()
    world.live.traffic.http2_access_log.writer = AccessLogWriter(world.context, log, "json", "s", "phttp", True)
    client = H2Client(world, max_list_size=1000)
    client.asks(1, "/a", "GET", ("x-a", "x" * 1000))
    assert client.got(1)[0] == "431"
    (line,) = map(json.loads, log.written)
    assert (line["client"], line["status"], line["why"], line["server"]) == ("192.0.2.1", 431, "too_large", None)
    assert line["ending"].startswith("431: the header list has more than 1000 bytes")
