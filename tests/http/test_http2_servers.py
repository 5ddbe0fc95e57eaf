"""Servers that speak HTTP/2, in memory: their requests are streams of shared connections; h2 is the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest
from memory import A, B, Peer, World, get, log_into, worlds

from ktcpvs.http.http2_server_connection import HTTP2ServerConnection

Make = Callable[..., World]

LINES = "scheduler = phttp", f"server = {A} 1 h2", f'rule = pattern ".*" use server {A}'
TWO = (
    "scheduler = phttp", "balance = rr", f"server = {A} 1 h2", f"server = {B} 1 h2",
    f'rule = pattern ".*" use server {A} server {B}',
)  # fmt: skip


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds(*LINES) as made:
        yield made


class H2Server:
    """A server that speaks HTTP/2 by h2, at the other end of a connection of the switch."""

    def __init__(self, world: World, peer: Peer, **settings: int) -> None:
        self.world = world
        self.peer = peer
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="latin-1"))
        codes = {h2.settings.SettingCodes[name]: value for name, value in settings.items()}
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=codes)
        self.h2.initiate_connection()
        self.events: list[Any] = []
        self.talks()

    def talks(self) -> None:
        """Say what h2 has to say, and take what the switch has sent, until neither has more."""
        for _ in range(200):
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

    def heads(self) -> list[tuple[int, dict[str, str]]]:
        """The requests so far: their streams and header fields."""
        self.talks()
        return [
            (event.stream_id, dict(event.headers))
            for event in self.events
            if isinstance(event, h2.events.RequestReceived)
        ]

    def body(self, stream_id: int) -> bytes:
        self.talks()
        found = [one for one in self.events if isinstance(one, h2.events.DataReceived) and one.stream_id == stream_id]
        return b"".join(event.data for event in found)

    def has_ended(self, stream_id: int) -> bool:
        """Whether the request is complete."""
        self.talks()
        return any(isinstance(one, h2.events.StreamEnded) and one.stream_id == stream_id for one in self.events)

    def resets(self) -> list[tuple[int, int]]:
        self.talks()
        return [(one.stream_id, one.error_code) for one in self.events if isinstance(one, h2.events.StreamReset)]

    def answers(self, stream_id: int, body: bytes = b"hello", *fields: tuple[str, str], status: str = "200") -> None:
        self.h2.send_headers(stream_id, [(":status", status), *fields], end_stream=not body)
        if body:
            self.h2.send_data(stream_id, body, end_stream=True)
        self.talks()


def accepts(world: World, address: str = A, **settings: int) -> H2Server:
    """Accept the pending connection attempt."""
    return H2Server(world, world.accepts(address), **settings)


def post(body: bytes, length: int) -> bytes:
    """A request with the beginning of a body."""
    return get("/a", f"Content-Length: {length}", method="POST", body=body)


def comes(world: World) -> Peer:
    peer = world.comes("192.0.2.1")
    assert peer is not None
    return peer


def connections(world: World) -> list[HTTP2ServerConnection]:
    """The open ones to the server A."""
    (destination,) = [one for one in world.live.usable if str(one.address) == A]
    return world.live.server_connections.http2.connections(destination)


def test_a_request_is_a_stream_and_its_response_goes_back(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a?b=c", "X-A: 1", "Connection: keep-alive, X-Hop", "X-Hop: 1", "TE: trailers"))
    server = accepts(world)
    ((stream_id, head),) = server.heads()
    assert head == {
        ":method": "GET", ":scheme": "http", ":authority": "h", ":path": "/a?b=c", "x-a": "1", "te": "trailers",
    }  # fmt: skip
    assert server.has_ended(stream_id)
    server.answers(stream_id, b"hello", ("x-b", "2"))
    assert client.heard() == b"HTTP/1.1 200 \r\nx-b: 2\r\ncontent-length: 5\r\n\r\nhello"


def test_requests_one_after_the_other_are_streams_of_one_connection(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    server = accepts(world)
    for number in range(20):
        stream_id, head = server.heads()[-1]
        assert (stream_id, head[":path"]) == (2 * number + 1, "/a")
        server.answers(stream_id, b"x" * number, ("content-length", str(number)))
        assert client.heard().endswith(b"\r\n\r\n" + b"x" * number)
        client.says(get())
    assert world.called() == []
    (destination,) = world.live.usable
    assert destination.reused == 20
    assert destination.active == 1


def test_requests_at_the_same_time_share_a_connection(make: Make) -> None:
    """They do so from the first one on, while the connection is being made."""
    world = make()
    clients = [comes(world) for _ in range(5)]
    for number, client in enumerate(clients):
        client.says(get(f"/{number}"))
    server = accepts(world)
    assert [head[":path"] for _, head in server.heads()] == ["/0", "/1", "/2", "/3", "/4"]
    for stream_id, head in reversed(server.heads()):
        server.answers(stream_id, head[":path"].encode())
    for number, client in enumerate(clients):
        assert client.heard().endswith(f"\r\n\r\n/{number}".encode())
    assert world.live.server_connections.open == 1


def test_a_full_connection_gets_another_beside_it(make: Make) -> None:
    world = make()
    clients = [comes(world) for _ in range(3)]
    for client in clients:
        client.says(get())
    first = accepts(world, MAX_CONCURRENT_STREAMS=2)
    assert len(first.heads()) == 2
    second = accepts(world, MAX_CONCURRENT_STREAMS=2)
    assert len(second.heads()) == 1
    assert len(connections(world)) == 2
    first.answers(1)
    assert clients[0].heard().endswith(b"hello")
    clients[0].says(get("/again"))
    assert first.heads()[-1][1][":path"] == "/again"


def test_the_limit_of_our_own_holds_too() -> None:
    with worlds(*LINES, settings="http2_server_streams = 1") as make:
        world = make()
        clients = [comes(world) for _ in range(2)]
        clients[0].says(get())
        first = accepts(world)
        clients[1].says(get())
        second = accepts(world)
        assert len(first.heads()) == len(second.heads()) == 1


def test_a_server_that_accepts_no_streams_fails(make: Make) -> None:
    world = make()
    lines: list[str] = []
    world.context.log = log_into(lines)
    client = world.client()
    client.says(get())
    accepts(world, MAX_CONCURRENT_STREAMS=0)
    assert b"HTTP/1.1 503 " in client.heard()
    assert [line for line in lines if "HTTP/2: the server accepts no streams" in line]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the server's first bytes are not the SETTINGS of HTTP/2"),
        (None, "the server has closed the connection before its settings"),
    ],
)
def test_a_server_that_does_not_speak_http2_fails(make: Make, said: bytes | None, reason: str) -> None:
    world = make()
    lines: list[str] = []
    world.context.log = log_into(lines)
    client = world.client()
    client.says(get())
    server = world.accepts(A)
    if said is None:
        server.ends()
    else:
        server.says(said)
    world.turns(2)
    assert b"HTTP/1.1 503 " in client.heard()
    assert [line for line in lines if f"HTTP/2: {reason}" in line or f"PROTOCOL_ERROR: {reason}" in line]


def test_a_server_that_sends_no_settings_fails(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    world.accepts(A)
    world.passes(8)
    world.settle()
    assert b"HTTP/1.1 503 " in client.heard()


@pytest.mark.parametrize("by", ["goaway", "refused"])
def test_a_request_that_the_server_has_not_begun_is_sent_again(make: Make, by: str) -> None:
    """Whatever its method, with its body."""
    world = make()
    client = world.client()
    client.says(post(b"hello", 10))
    server = accepts(world)
    assert server.body(1) == b"hello"
    if by == "goaway":
        server.h2.close_connection(last_stream_id=0)
        server.talks()
        again = accepts(world)
    else:
        server.h2.reset_stream(1, h2.errors.ErrorCodes.REFUSED_STREAM)
        server.talks()
        again = server
    client.says(b" you!")
    ((stream_id, head),) = again.heads()[-1:]
    assert head[":method"] == "POST"
    assert again.body(stream_id) == b"hello you!"
    again.answers(stream_id, b"done")
    assert client.heard().endswith(b"done")
    assert world.called() == []


def test_a_request_that_is_refused_again_and_again_fails(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(post(b"hello", 5))
    server = accepts(world)
    for number in range(3):
        server.h2.reset_stream(2 * number + 1, h2.errors.ErrorCodes.REFUSED_STREAM)
        server.talks()
    assert len(server.heads()) == 3
    assert b"HTTP/1.1 502 " in client.heard()


def test_a_request_that_the_server_may_have_begun_is_not_repeated(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(post(b"hello", 5))
    server = accepts(world)
    server.h2.reset_stream(1, h2.errors.ErrorCodes.INTERNAL_ERROR)
    server.talks()
    assert len(server.heads()) == 1
    assert b"HTTP/1.1 502 " in client.heard()
    assert world.called() == []


def test_streams_in_flight_finish_after_a_goaway(make: Make) -> None:
    world = make()
    first, second = comes(world), comes(world)
    first.says(get("/1"))
    server = accepts(world)
    server.heads()
    server.h2.close_connection(last_stream_id=1)
    server.talks()
    second.says(get("/2"))
    other = accepts(world)
    # h2 refuses to send on a connection that it has closed, so the response's frames are written here.
    head = b"\0\0\x01\x01\x04\0\0\0\x01\x88"
    body = b"\0\0\x05\0\x01\0\0\0\x01hello"
    server.peer.says(head + body)
    assert first.heard().endswith(b"hello")
    other.answers(1, b"other")
    assert second.heard().endswith(b"other")
    world.turns(2)
    assert server.peer.line.disconnecting


def test_maxconn_counts_streams() -> None:
    lines = "scheduler = phttp", f"server = {A} 1 maxconn 1 h2", f'rule = pattern ".*" use server {A}'
    with worlds(*lines) as make:
        world = make()
        first, second = comes(world), comes(world)
        first.says(get("/1"))
        server = accepts(world)
        second.says(get("/2"))
        assert len(server.heads()) == 1
        server.answers(1)
        assert [head[":path"] for _, head in server.heads()] == ["/1", "/2"]
        server.answers(3)
        assert second.heard().endswith(b"hello")


def test_a_client_that_leaves_cancels_its_stream_alone(make: Make) -> None:
    world = make()
    first, second = comes(world), comes(world)
    first.says(get("/1"))
    server = accepts(world)
    second.says(get("/2"))
    assert len(server.heads()) == 2
    first.resets()
    assert server.resets() == [(1, h2.errors.ErrorCodes.CANCEL)]
    server.answers(3)
    assert second.heard().endswith(b"hello")
    third = comes(world)
    third.says(get("/3"))
    assert server.heads()[-1][1][":path"] == "/3"
    assert world.called() == []


def test_trailers_and_interim_responses_go_back(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    server = accepts(world)
    server.heads()
    server.h2.send_headers(1, [(":status", "103"), ("link", "</a>")])
    server.talks()
    assert client.heard() == b"HTTP/1.1 103 \r\nlink: </a>\r\n\r\n"
    server.h2.send_headers(1, [(":status", "200")])
    server.talks()
    assert client.heard() == b"HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n"
    server.h2.send_data(1, b"hello")
    server.h2.send_headers(1, [("x-sum", "17")], end_stream=True)
    server.talks()
    assert client.heard() == b"5\r\nhello\r\n0\r\nx-sum: 17\r\n\r\n"


CHUNKED_OK = b"HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("fields", [(), ("TE: trailers",)])
def test_trailers_behind_a_body_with_a_length_go_back(make: Make, fields: tuple[str, ...]) -> None:
    """HTTP/1.1 has none there, so the body is chunked."""
    world = make()
    client = world.client()
    client.says(get("/a", *fields))
    server = accepts(world)
    for stream_id in (1, 3):
        server.heads()
        server.h2.send_headers(stream_id, [(":status", "200"), ("content-length", "5")])
        server.h2.send_data(stream_id, b"hello")
        server.h2.send_headers(stream_id, [("grpc-status", "0")], end_stream=True)
        server.talks()
        assert client.heard() == CHUNKED_OK + b"5\r\nhello\r\n0\r\ngrpc-status: 0\r\n\r\n"
        client.says(get("/a", *fields))


@pytest.mark.parametrize(
    ("fields", "begun", "ended"),
    [
        (("TE: trailers",), CHUNKED_OK + b"3\r\nhel\r\n", b"2\r\nlo\r\n0\r\ngrpc-status: 0\r\n\r\n"),
        ((), b"HTTP/1.1 200 \r\ncontent-length: 5\r\n\r\nhel", b"lo"),
    ],
    ids=["accepted", "not accepted"],
)
def test_trailers_that_may_follow(make: Make, fields: tuple[str, ...], begun: bytes, ended: bytes) -> None:
    """A response that comes in pieces is chunked only if its client accepts trailers."""
    world = make()
    client = world.client()
    client.says(get("/a", *fields))
    server = accepts(world)
    server.heads()
    server.h2.send_headers(1, [(":status", "200"), ("content-length", "5")])
    server.h2.send_data(1, b"hel")
    server.talks()
    assert client.heard() == begun
    server.h2.send_data(1, b"lo")
    server.h2.send_headers(1, [("grpc-status", "0")], end_stream=True)
    server.talks()
    assert client.heard() == ended


def test_a_whole_response_follows_an_interim_one(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    server = accepts(world)
    server.heads()
    server.h2.send_headers(1, [(":status", "103"), ("link", "</a>")])
    server.h2.send_headers(1, [(":status", "200"), ("content-length", "5")])
    server.h2.send_data(1, b"hello", end_stream=True)
    server.talks()
    assert client.heard() == b"HTTP/1.1 103 \r\nlink: </a>\r\n\r\nHTTP/1.1 200 \r\ncontent-length: 5\r\n\r\nhello"


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_whole_response_waits_for_a_client_that_does_not_read(make: Make, is_lost: bool) -> None:
    """It arrives even if the connection to the server is lost meanwhile."""
    world = make()
    client = world.client()
    client.says(get())
    server = accepts(world)
    server.heads()
    client.fills_up()
    server.answers(1, b"hello", ("content-length", "5"))
    (connection,) = connections(world)
    (transport,) = connection.transports
    assert transport.has_input()
    assert not transport.is_idle
    if is_lost:
        server.peer.resets()
    client.takes_again()
    world.turns(2)
    assert client.heard().endswith(b"\r\n\r\nhello")
    assert not transport.has_input()
    assert transport.is_idle
    client.says(get())
    assert (world.called() == [A]) is is_lost


def test_idle_streams_do_not_count_for_pool_size() -> None:
    with worlds(*LINES, settings="pool_size = 1") as make:
        world = make()
        clients = [comes(world) for _ in range(5)]
        for client in clients:
            client.says(get())
        server = accepts(world)
        for _ in range(3):
            for stream_id, _ in server.heads()[-5:]:
                server.answers(stream_id)
            for client in clients:
                client.heard()
                client.says(get())
        server.heads()
        (connection,) = connections(world)
        assert len(connection.transports) == 5
        (destination,) = world.live.usable
        assert destination.reused == 15


@pytest.mark.parametrize("by", ["goaway", "refused"])
def test_a_whole_request_that_the_server_has_not_begun_is_sent_again(make: Make, by: str) -> None:
    """On the fast path too, which takes a connection that was used before."""
    world = make()
    client = world.client()
    client.says(get())
    server = accepts(world)
    server.heads()
    server.answers(1)
    client.heard()
    client.says(post(b"hello", 5))
    assert world.connection.exchange.is_plain
    assert server.body(3) == b"hello"
    again = server
    if by == "goaway":
        server.h2.close_connection(last_stream_id=1)
        server.talks()
        again = accepts(world)
    else:
        server.h2.reset_stream(3, h2.errors.ErrorCodes.REFUSED_STREAM)
        server.talks()
    ((stream_id, head),) = again.heads()[-1:]
    assert head[":method"] == "POST"
    assert again.body(stream_id) == b"hello"
    again.answers(stream_id, b"done")
    assert client.heard().endswith(b"done")


@pytest.mark.parametrize("sends_reset", [False, True])
def test_a_whole_request_that_may_have_been_begun_is_not_repeated(make: Make, sends_reset: bool) -> None:
    world = make()
    client = world.client()
    client.says(get())
    server = accepts(world)
    server.heads()
    server.answers(1)
    client.heard()
    client.says(post(b"hello", 5))
    assert server.body(3) == b"hello"
    if sends_reset:
        server.h2.reset_stream(3, h2.errors.ErrorCodes.INTERNAL_ERROR)
        server.talks()
    else:
        server.peer.resets()
    world.settle()
    assert b"HTTP/1.1 502 " in client.heard()
    assert world.called() == []


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200"), ("GET", "204"), ("GET", "304")])
def test_responses_without_a_body(make: Make, method: str, status: str) -> None:
    world = make()
    client = world.client()
    client.says(get(method=method))
    server = accepts(world)
    for number in range(2):
        if number:
            client.says(get(method=method))
        stream_id = server.heads()[-1][0]
        server.answers(stream_id, b"", ("etag", '"a"'), status=status)
        assert client.heard() == f'HTTP/1.1 {status} \r\netag: "a"\r\n\r\n'.encode()


def test_a_long_body_waits_for_the_windows_of_the_server(make: Make) -> None:
    """The server's window of 65,535 bytes is all that is sent; then the client is not read."""
    world = make()
    client = world.client()
    size = 1 << 20
    client.says(post(b"", size))
    server = accepts(world)
    sent = 0
    while client.is_read() and sent < size:
        client.says(b"x" * 16384)
        sent += 16384
        world.turns(2)
    assert sent < 400_000
    assert len(server.body(1)) == 65535
    acknowledged = 0
    while not server.has_ended(1):
        got = len(server.body(1))
        server.h2.acknowledge_received_data(got - acknowledged, 1)
        acknowledged = got
        server.talks()
        while client.is_read() and sent < size:
            client.says(b"x" * 16384)
            sent += 16384
            server.talks()
    assert server.body(1) == b"x" * size


def test_a_client_that_does_not_read_holds_its_own_stream_back(make: Make) -> None:
    world = make()
    slow, fast = comes(world), comes(world)
    slow.says(get("/slow"))
    server = accepts(world)
    fast.says(get("/fast"))
    server.heads()
    server.h2.send_headers(1, [(":status", "200")])
    server.talks()
    slow.fills_up()
    while server.h2.local_flow_control_window(1) > 0:
        server.h2.send_data(1, b"x" * min(16384, server.h2.local_flow_control_window(1)))
        server.talks()
    server.h2.send_headers(3, [(":status", "200")])
    server.h2.send_data(3, b"hello", end_stream=True)
    server.talks()
    assert b"hello" in fast.heard()
    slow.takes_again()
    server.talks()
    assert server.h2.local_flow_control_window(1) > 0
    server.h2.send_data(1, b"end", end_stream=True)
    server.talks()
    assert slow.heard().endswith(b"end\r\n0\r\n\r\n")


def test_an_early_response_leaves_the_upload_going_on(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(post(b"12345", 10))
    server = accepts(world)
    assert server.body(1) == b"12345"
    server.answers(1, b"early")
    assert client.heard().endswith(b"early")
    client.says(b"67890")
    assert server.body(1) == b"1234567890"
    assert server.has_ended(1)
    client.says(get("/next"))
    assert server.heads()[-1][1][":path"] == "/next"
    server.answers(3)
    assert client.heard().endswith(b"hello")


def test_a_reset_behind_a_whole_response_only_ends_the_upload(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(post(b"12345", 10))
    server = accepts(world)
    server.body(1)
    server.h2.send_headers(1, [(":status", "413")], end_stream=True)
    server.h2.reset_stream(1, h2.errors.ErrorCodes.NO_ERROR)
    server.talks()
    assert b"HTTP/1.1 413 " in client.heard()
    client.says(b"67890" + get("/next"))
    assert server.body(1) == b"12345"
    assert server.heads()[-1][1][":path"] == "/next"
    server.answers(3)
    assert client.heard().endswith(b"hello")


def test_a_response_that_breaks_off_resets_the_client(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    server = accepts(world)
    server.heads()
    server.h2.send_headers(1, [(":status", "200")])
    server.h2.send_data(1, b"hel")
    server.h2.reset_stream(1, h2.errors.ErrorCodes.INTERNAL_ERROR)
    server.talks()
    assert client.heard().endswith(b"3\r\nhel\r\n")
    assert client.line.reset_on_close or client.line.aborted


def test_an_idempotent_request_is_repeated_when_the_connection_dies(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    server = accepts(world)
    server.answers(server.heads()[0][0])
    client.heard()
    client.says(get())
    server.heads()
    server.peer.resets()
    again = accepts(world)
    again.answers(again.heads()[0][0], b"again")
    assert client.heard().endswith(b"again")


def test_an_idle_connection_is_pinged_and_closed_when_it_is_silent() -> None:
    with worlds(*LINES, settings="http2_ping = 5 keepalive_timeout = 120") as make:
        world = make()
        client = world.client()
        client.says(get())
        server = accepts(world)
        server.answers(server.heads()[0][0])
        for _ in range(3):
            world.passes(11)
            server.talks()
        pings = [event for event in server.events if isinstance(event, h2.events.PingReceived)]
        assert len(pings) >= 2
        assert server.peer.is_open
        world.passes(21)  # it does not answer any more
        assert server.peer.line.aborted
        assert connections(world) == []


def test_an_idle_connection_ends_after_keepalive_timeout(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    server = accepts(world)
    server.answers(server.heads()[0][0])
    client.resets()
    world.passes(29)
    assert server.peer.is_open
    world.passes(12)
    server.talks()
    assert [event for event in server.events if isinstance(event, h2.events.ConnectionTerminated)]
    assert server.peer.line.disconnecting


def test_an_edit_that_changes_how_to_connect_lets_streams_finish(make: Make) -> None:
    world = make()
    client, other = comes(world), comes(world)
    client.says(get())
    server = accepts(world)
    server.heads()
    world.load("scheduler = phttp", f"server = {A} 1", f'rule = pattern ".*" use server {A}')
    other.says(get("/http1"))
    plain = world.accepts(A)
    assert plain.heard() == get("/http1")
    server.answers(1)
    assert client.heard().endswith(b"hello")
    world.turns(2)
    assert server.peer.line.disconnecting


def test_a_websocket_is_an_extended_connect(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/first"))
    server = accepts(world, ENABLE_CONNECT_PROTOCOL=1)
    server.answers(server.heads()[0][0])
    client.heard()
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    client.says(get("/chat", "Upgrade: websocket", "Connection: Upgrade", key, "Sec-WebSocket-Version: 13"))
    stream_id, head = server.heads()[-1]
    assert head[":method"] == "CONNECT"
    assert head[":protocol"] == "websocket"
    assert head[":path"] == "/chat"
    assert "sec-websocket-key" not in head
    server.h2.send_headers(stream_id, [(":status", "200")])
    server.talks()
    response = client.heard()
    assert response.startswith(b"HTTP/1.1 101 ")
    assert b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in response
    client.says(b"ping")
    assert server.body(stream_id) == b"ping"
    server.h2.send_data(stream_id, b"pong")
    server.talks()
    assert client.heard() == b"pong"
    server.h2.end_stream(stream_id)
    server.talks()
    assert client.line.ended or client.line.disconnecting
    client.ends()
    assert server.has_ended(stream_id)


def test_a_server_without_extended_connect_gets_no_upgrade(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/chat", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"))
    server = accepts(world)
    ((stream_id, head),) = server.heads()
    assert head[":method"] == "GET"
    assert "upgrade" not in head
    server.answers(stream_id, b"no", status="400")
    assert b"HTTP/1.1 400 " in client.heard()


def test_a_second_server_gets_the_request_when_the_first_cannot_be_reached() -> None:
    with worlds(*TWO) as make:
        world = make()
        client = world.client()
        client.says(get())
        (first,) = world.called()
        world.refuse(world.reactor.tcpClients[-1][2])
        (second,) = world.called()
        assert {first, second} == {A, B}
        server = H2Server(world, world.connects())
        server.answers(server.heads()[0][0])
        assert client.heard().endswith(b"hello")


def test_a_server_that_is_told_its_client_gets_a_connection_for_each_request() -> None:
    lines = "scheduler = phttp", f"server = {A} 1 h2 proxy v1", f'rule = pattern ".*" use server {A}'
    with worlds(*lines) as make:
        world = make()
        client = world.client()
        for _ in range(2):
            client.says(get())
            peer = world.accepts(A)
            said = peer.heard()
            line, _, rest = said.partition(b"\r\n")
            assert line.startswith(b"PROXY TCP4 192.0.2.1 ")
            server = H2Server.__new__(H2Server)
            server.world, server.peer, server.events = world, peer, []
            config = h2.config.H2Configuration(client_side=False, header_encoding="latin-1")
            server.h2 = h2.connection.H2Connection(config)
            server.h2.initiate_connection()
            server.events += server.h2.receive_data(rest)
            server.talks()
            server.answers(server.heads()[0][0])
            assert client.heard().endswith(b"hello")
            world.turns(2)
            assert peer.line.disconnecting


def test_many_requests_of_many_clients(make: Make) -> None:
    world = make()
    clients = [comes(world) for _ in range(150)]
    for number, client in enumerate(clients):
        client.says(get(f"/{number}"))
    assert world.called() == [A, A]
    servers = [
        H2Server(world, world.peer(factory.buildProtocol(None))) for _, _, factory, *_ in world.reactor.tcpClients
    ]
    assert [len(server.heads()) for server in servers] == [100, 50]
    for server in servers:
        for stream_id, head in server.heads():
            server.answers(stream_id, head[":path"].encode())
    for number, client in enumerate(clients):
        assert client.heard().endswith(f"\r\n\r\n/{number}".encode())
