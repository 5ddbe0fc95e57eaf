"""Whole messages in HTTP/1.1 on streams of HTTP/2: sent in one call, and received as one event."""

from __future__ import annotations

from typing import Any

import pytest

from ktcpvs.protocols.http2 import (
    Client,
    DataReceived,
    InterimReceived,
    Limits,
    RequestReceived,
    ResponseReceived,
    Server,
    SettingsReceived,
    StreamReset,
    TrailersReceived,
    WholeResponse,
    response_list,
)

pytestmark = pytest.mark.usefixtures("http2_form")

GET = b"GET /a HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nhost: a.example\r\ncontent-length: 3\r\n\r\nabc"
GRPC = (
    b"POST /s/m HTTP/1.1\r\nhost: a.example\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n"
    b"connection: te\r\nte: trailers\r\n\r\n5\r\n\0\0\0\0\0\r\n0\r\n\r\n"
)
OK = b"HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: 3\r\n\r\nabc"
WITH_TRAILERS = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n0\r\ngrpc-status: 0\r\n\r\n"
)


class Pair:
    """A client and a server, connected."""

    def __init__(self, server: Server | None = None, **limits: int) -> None:
        """limits: of the client."""
        self.client = Client(Limits(**limits), joins_responses=True)
        self.server = server or Server(Limits())
        for _ in range(2):
            self.to_server()
            self.to_client()

    def to_server(self) -> list[Any]:
        return self.server.receive(b"".join(self.client.take_output()), 0)

    def to_client(self) -> list[Any]:
        return self.client.receive(b"".join(self.server.take_output()), 0)

    def asked(self, data: bytes = GET) -> int:
        """Send a request; return its stream."""
        stream_id = self.client.request(data, b"http")
        assert stream_id
        self.to_server()
        return stream_id


def test_a_request_arrives_with_its_head() -> None:
    pair = Pair()
    assert pair.client.request(GET, b"http") == 1
    (event,) = pair.to_server()
    assert isinstance(event, RequestReceived)
    assert event.head == b"GET /a HTTP/1.1\r\nhost: a.example\r\naccept: */*\r\n\r\n"
    assert event.end_stream
    assert event.request.scheme == b"http"


def test_a_request_arrives_with_its_body() -> None:
    pair = Pair()
    assert pair.client.request(POST, b"http") == 1
    begun, piece = pair.to_server()
    assert begun.head == POST[:-3]
    assert not begun.end_stream
    assert piece == DataReceived(1, b"abc", True)


def test_a_chunked_request_arrives_without_its_chunks() -> None:
    pair = Pair()
    assert pair.client.request(GRPC, b"http") == 1
    begun, piece = pair.to_server()
    assert b"te: trailers\r\n" in begun.head
    assert b"chunked" in begun.head
    assert piece == DataReceived(1, bytes(5), True)


def test_a_request_with_trailers() -> None:
    pair = Pair()
    assert pair.client.request(GRPC[:-2] + b"a-b: c\r\n\r\n", b"http") == 1
    events = pair.to_server()
    assert events[1:] == [DataReceived(1, bytes(5), False), TrailersReceived(1, b"a-b: c\r\n")]


def test_a_head_whose_body_follows() -> None:
    pair = Pair()
    assert pair.client.request(POST[:-3], b"http", is_whole=False) == 1
    pair.client.send_data(1, b"abc", end_stream=True)
    begun, piece = pair.to_server()
    assert begun.head == POST[:-3]
    assert piece == DataReceived(1, b"abc", True)


@pytest.mark.parametrize(
    "data",
    [
        b"", GET[:-2], b"nothing\r\n\r\n", POST[:-1], GRPC[:-2], GRPC.replace(b"\r\n5\r\n", b"\r\nx\r\n"),
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n" + bytes(70000),
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=["nothing", "no end", "no head", "cut off", "no last chunk", "bad chunk", "bad length", "window", "2 lengths"],
)  # fmt: skip
def test_what_is_no_whole_request_sends_nothing(data: bytes) -> None:
    pair = Pair()
    assert pair.client.request(data, b"http") == 0
    assert not pair.client.has_output
    assert not pair.client.streams
    assert pair.client.request(GET, b"http") == 1


def test_a_websocket_is_no_whole_request() -> None:
    pair = Pair()
    upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"
    assert pair.client.settings.allows_connect
    assert pair.client.request(upgrade, b"http") == 0


def test_a_response_arrives_as_a_whole() -> None:
    pair = Pair()
    stream_id = pair.asked()
    assert pair.server.respond(stream_id, OK, b"GET")
    assert not pair.server.streams
    assert pair.to_client() == [
        WholeResponse(stream_id, b"HTTP/1.1 200 \r\nserver: s\r\ncontent-length: 3\r\n\r\nabc"),
    ]
    assert not pair.client.streams


def test_connection_specific_fields_end_here() -> None:
    pair = Pair()
    stream_id = pair.asked()
    lines = b"Connection: close, X-A\r\nKeep-Alive: 3\r\nX-A: b\r\nX-C: d\r\n"
    assert pair.server.respond(stream_id, OK.replace(b"Server: s\r\n", lines), b"GET")
    (event,) = pair.to_client()
    assert event.data == b"HTTP/1.1 200 \r\nx-c: d\r\ncontent-length: 3\r\n\r\nabc"


def test_a_response_with_trailers_arrives_as_a_whole() -> None:
    pair = Pair()
    stream_id = pair.asked(GRPC)
    assert pair.server.respond(stream_id, WITH_TRAILERS, b"POST")
    (event,) = pair.to_client()
    head = b"HTTP/1.1 200 \r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n"
    assert event == WholeResponse(stream_id, head + b"3\r\nabc\r\n0\r\ngrpc-status: 0\r\n\r\n")


@pytest.mark.parametrize(
    ("method", "head"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    ],
)
def test_responses_without_a_body(method: bytes, head: bytes) -> None:
    pair = Pair()
    stream_id = pair.asked(GET.replace(b"GET", method))
    assert pair.server.respond(stream_id, head, method)
    (event,) = pair.to_client()
    status, _, lines = head.partition(b"\r\n")
    assert event == WholeResponse(stream_id, status[:13] + b"\r\n" + lines)


@pytest.mark.parametrize(
    "data",
    [
        b"", OK[:-1], OK[:30], b"nothing\r\n\r\n", WITH_TRAILERS[:-2], b"HTTP/1.1 200 OK\r\n\r\nto the end",
        b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + bytes(70000),
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nA b: c\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=[
        "nothing", "cut off", "half a head", "no head", "no last chunk", "no length", "interim", "switch", "window",
        "bad length", "bad name",
    ],
)  # fmt: skip
def test_what_is_no_whole_response_sends_nothing(data: bytes) -> None:
    pair = Pair()
    stream_id = pair.asked()
    assert not pair.server.respond(stream_id, data, b"GET")
    assert not pair.server.has_output
    assert stream_id in pair.server.streams
    assert pair.server.respond(stream_id, OK, b"GET")


def test_a_response_on_a_stream_that_is_over_is_ignored() -> None:
    pair = Pair()
    stream_id = pair.asked()
    assert pair.server.respond(stream_id, OK, b"GET")
    pair.to_client()
    assert pair.server.respond(stream_id, OK, b"GET")
    assert not pair.server.has_output


def test_a_response_that_comes_in_pieces_is_not_joined() -> None:
    pair = Pair()
    stream_id = pair.asked()
    pair.server.send_headers(stream_id, response_list(OK))
    (begun,) = pair.to_client()
    assert isinstance(begun, ResponseReceived)
    pair.server.send_data(stream_id, b"abc", end_stream=True)
    assert pair.to_client() == [DataReceived(stream_id, b"abc", True)]


def test_an_interim_response_comes_before_a_whole_one() -> None:
    pair = Pair()
    stream_id = pair.asked()
    pair.server.send_headers(stream_id, response_list(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"))
    assert pair.server.respond(stream_id, OK, b"GET")
    interim, whole = pair.to_client()
    assert isinstance(interim, InterimReceived)
    assert isinstance(whole, WholeResponse)


def test_a_response_before_the_end_of_its_request_is_not_joined() -> None:
    pair = Pair()
    stream_id = pair.client.request(POST[:-3], b"http", is_whole=False)
    pair.to_server()
    assert pair.server.respond(stream_id, OK, b"POST")
    pair.server.reset(stream_id, 0)
    begun, piece, reset = pair.to_client()
    assert isinstance(begun, ResponseReceived)
    assert piece == DataReceived(stream_id, b"abc", True)
    assert isinstance(reset, StreamReset)


def test_responses_of_several_streams_are_joined_in_the_order_of_their_ends() -> None:
    pair = Pair()
    first, second, third = (pair.asked() for _ in range(3))
    pair.server.send_headers(first, response_list(OK))
    assert pair.server.respond(third, OK, b"GET")
    pair.server.send_data(first, b"a")
    pair.server.reset(second, 1)
    pair.server.send_data(first, b"bc", end_stream=True)
    events = pair.to_client()
    assert [(type(event), event.stream_id) for event in events] == [
        (WholeResponse, third), (StreamReset, second), (WholeResponse, first),
    ]  # fmt: skip
    assert events[2].data.endswith(b"\r\n\r\nabc")


def test_what_whole_messages_held_is_given_back() -> None:
    pair = Pair(connection_window=70_000, stream_window=30_000)
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + bytes(20000)
    for _ in range(10):
        stream_id = pair.asked()
        assert pair.server.respond(stream_id, body, b"GET")
        (event,) = [event for event in pair.to_client() if not isinstance(event, SettingsReceived)]
        assert len(event.data) > 20000
        pair.to_server()
    assert pair.client.flow_control.receive_window >= 35_000


@pytest.mark.parametrize("message", [POST, GRPC])
def test_a_request_with_its_whole_body_is_one_event(message: bytes) -> None:
    pair = Pair(server=Server(Limits(), joins_requests=True))
    assert pair.client.request(message, b"http") == 1
    (event,) = pair.to_server()
    assert isinstance(event, RequestReceived)
    assert event.end_stream
    assert event.head == event.request.head(False) + message.partition(b"\r\n\r\n")[2]
    assert pair.server.streams[1].has_ended
    assert not pair.server.streams[1].held


def test_an_empty_body_is_joined() -> None:
    pair = Pair(server=Server(Limits(), joins_requests=True))
    stream_id = pair.client.request(GRPC[: GRPC.index(b"5\r\n")], b"http", is_whole=False)
    pair.client.send_data(stream_id, b"", end_stream=True)
    (event,) = pair.to_server()
    assert event.end_stream
    assert event.head.endswith(b"\r\n\r\n0\r\n\r\n")


def test_requests_are_joined_with_bodies_in_one_piece() -> None:
    pair = Pair(server=Server(Limits(), joins_requests=True))
    first, second, third = (pair.client.request(POST[:-3], b"http", is_whole=False) for _ in range(3))
    pair.client.send_data(first, b"abc", end_stream=True)
    pair.client.send_data(second, b"a")
    pair.client.send_data(second, b"bc", end_stream=True)
    *requests, piece, last = pair.to_server()
    assert [event.stream_id for event in requests] == [first, second, third]
    assert [event.end_stream for event in requests] == [True, False, False]
    assert requests[0].head == POST
    assert requests[1].head == POST[:-3]
    assert [piece, last] == [DataReceived(second, b"a", False), DataReceived(second, b"bc", True)]
    pair.client.send_data(third, b"abc", end_stream=True)
    assert pair.to_server() == [DataReceived(third, b"abc", True)]


def test_joined_bodies_are_given_back() -> None:
    pair = Pair(server=Server(Limits(connection_window=70_000), joins_requests=True))
    body = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 16000\r\n\r\n" + bytes(16000)
    for _ in range(10):
        assert pair.client.request(body, b"http")
        (event,) = pair.to_server()
        assert event.head.endswith(b"\r\n\r\n" + bytes(16000))
        assert pair.server.respond(event.stream_id, OK, b"POST")
        pair.to_client()
    assert pair.client.flow_control.send_window >= 70_000 - 2 * 35_000
