"""HTTP/2 connections in both roles: transcripts of frames, each with what RFC 9113 says of it."""

from __future__ import annotations

from typing import Any

import hpack
import pytest
from http2_frames import (
    GET,
    OK,
    POST,
    PREFACE,
    SETTINGS_ACK,
    Frame,
    Talk,
    block,
    client_talk,
    data,
    frame,
    headers,
    number,
    read,
    settings,
    string,
)

from ktcpvs.protocols.http2 import (
    Client,
    ConnectionEnded,
    DataReceived,
    GoAwayReceived,
    HeaderList,
    InterimReceived,
    Limits,
    PingAcknowledged,
    PriorityUpdated,
    RequestReceived,
    RequestRefused,
    ResponseReceived,
    Server,
    SettingsReceived,
    StreamReset,
    TrailersReceived,
    WindowOpened,
)
from ktcpvs.protocols.http2 import constants as h2

pytestmark = pytest.mark.usefixtures("http2_form")

RESPONSE = HeaderList(((b":status", b"200"),))
REQUEST = HeaderList(tuple(GET))


def kinds(events: list[Any]) -> list[str]:
    return [type(event).__name__ for event in events]


def ended(events: list[Any]) -> int:
    """The error code with which the connection has ended."""
    assert isinstance(events[-1], ConnectionEnded), events
    return events[-1].code


# The beginning.


def test_a_server_opens_with_its_settings_and_its_window() -> None:
    opening = Talk(stream_window=100_000, connection_window=300_000, max_concurrent_streams=7).opening
    assert [one.kind for one in opening] == [h2.SETTINGS, h2.WINDOW_UPDATE]
    values = {
        opening[0].payload[at : at + 2]: int.from_bytes(opening[0].payload[at + 2 : at + 6], "big")
        for at in range(0, len(opening[0].payload), 6)
    }
    assert values[b"\0\x03"] == 7
    assert values[b"\0\x04"] == 100_000
    assert values[b"\0\x08"] == values[b"\0\x09"] == 1
    assert opening[1].number == 300_000 - 65535


def test_a_client_opens_with_the_preface_and_refuses_push() -> None:
    out = b"".join(Client(Limits()).take_output())
    assert out.startswith(PREFACE)
    assert read(out)[0].payload.startswith(b"\0\x02\0\0\0\0")


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"PRX", PREFACE[:-1] + b"\r",
        PREFACE + frame(h2.PING, payload=b"8 bytes."), PREFACE + headers(1, GET),
    ],
)  # fmt: skip
def test_a_server_refuses_other_beginnings(said: bytes) -> None:
    server = Server(Limits())
    assert (
        ended([event for place in range(len(said)) for event in server.receive(said[place : place + 1], 0)])
        == h2.PROTOCOL_ERROR
    )
    assert read(b"".join(server.take_output()))[-1].kind == h2.GOAWAY
    assert server.receive(headers(1, GET), 0) == []


def test_a_client_refuses_a_server_that_does_not_begin_with_settings() -> None:
    assert ended(Client(Limits()).receive(b"HTTP/1.1 400 Bad Request\r\n\r\n", 0)) == h2.PROTOCOL_ERROR


def test_settings_are_acknowledged() -> None:
    talk = Talk()
    assert talk.says(settings((h2.INITIAL_WINDOW_SIZE, 10), (0xFF, 1))) == [SettingsReceived()]
    assert talk.sent() == [Frame(h2.SETTINGS, h2.ACK, 0, b"")]
    assert talk.says(SETTINGS_ACK) == []


# A request and its response.


def test_a_request_without_a_body_and_its_response() -> None:
    talk = Talk()
    (event,) = talk.says(headers(1, GET))
    assert isinstance(event, RequestReceived)
    assert (event.stream_id, event.end_stream, event.request.path) == (1, True, b"/")
    talk.end.send_headers(1, RESPONSE)
    assert talk.end.send_data(1, b"hello", end_stream=True) == 5
    sent = talk.sent()
    assert sent == [
        Frame(h2.HEADERS, h2.END_HEADERS, 1, b"\x88"),
        Frame(h2.DATA, h2.END_STREAM, 1, b"hello"),
    ]
    assert not talk.end.streams


def test_a_request_with_a_body_trailers_and_padding() -> None:
    talk = Talk()
    padded = frame(
        h2.HEADERS, h2.END_HEADERS | h2.PADDED | h2.HAS_PRIORITY, 1, b"\x03" + b"\0\0\0\0\x10" + block(POST) + b"\0\0\0"
    )
    body = frame(h2.DATA, h2.PADDED, 1, b"\x04hello\0\0\0\0") + frame(h2.DATA, h2.PADDED, 1, b"\x00 you")
    trailers = headers(1, [(b"x-a", b"1")])
    events = talk.says(padded + body + trailers)
    assert kinds(events) == ["RequestReceived", "DataReceived", "DataReceived", "TrailersReceived"]
    assert [event.data for event in events[1:3]] == [b"hello", b" you"]
    assert events[3] == TrailersReceived(1, b"x-a: 1\r\n")
    talk.end.send_headers(1, RESPONSE)
    talk.end.send_headers(1, HeaderList(((b"grpc-status", b"0"),)), end_stream=True)
    assert [one.flags for one in talk.sent()] == [h2.END_HEADERS, h2.END_HEADERS | h2.END_STREAM]
    assert not talk.end.streams


def test_interim_and_early_responses() -> None:
    talk = Talk()
    talk.says(headers(1, POST, end_stream=False))
    talk.end.send_headers(1, HeaderList(((b":status", b"103"),)))
    talk.end.send_headers(1, HeaderList(((b":status", b"413"),)), end_stream=True)
    assert 1 in talk.end.streams
    talk.end.reset(1, h2.NO_ERROR)
    assert talk.codes() == [(h2.RST_STREAM, 1, h2.NO_ERROR)]
    assert talk.says(data(1, b"late"), data(1, b"", end_stream=True), headers(1, [(b"x-a", b"1")])) == []


def test_a_header_block_in_continuations() -> None:
    talk = Talk()
    whole = block(GET)
    pieces = [whole[:1], whole[1:20], b"", whole[20:]]
    said = frame(h2.HEADERS, h2.END_STREAM, 1, pieces[0])
    said += b"".join(frame(h2.CONTINUATION, 0, 1, piece) for piece in pieces[1:3])
    assert talk.says(said) == []
    (event,) = talk.says(frame(h2.CONTINUATION, h2.END_HEADERS, 1, pieces[3]))
    assert event.end_stream
    assert event.request.authority == b"a.example"


def test_a_long_header_list_is_sent_in_continuations() -> None:
    talk = Talk()
    talk.says(headers(1, GET))
    talk.end.send_headers(1, HeaderList(((b":status", b"200"), *[(b"x-%d" % at, bytes(1000)) for at in range(40)])))
    sent = talk.sent()
    assert [one.kind for one in sent] == [h2.HEADERS, *[h2.CONTINUATION] * (len(sent) - 1)]
    assert [one.flags for one in sent] == [0] * (len(sent) - 1) + [h2.END_HEADERS]
    assert all(len(one.payload) <= 16384 for one in sent)
    decoder = hpack.Decoder(1 << 20)
    assert len(list(decoder.decode(b"".join(one.payload for one in sent), raw=True))) == 41


def test_the_same_bytes_mean_the_same_however_they_are_split() -> None:
    said = PREFACE + settings() + SETTINGS_ACK + headers(1, POST, end_stream=False) + data(1, b"abc", end_stream=True)
    said += headers(3, GET) + number(h2.RST_STREAM, 3, h2.CANCEL) + headers(5, [*GET, (b"A", b"")])
    outcomes = []
    for size in (1, 2, 7, 9, 10, len(said)):
        server = Server(Limits())
        events = [event for at in range(0, len(said), size) for event in server.receive(said[at : at + size], 0)]
        outcomes.append(
            (
                [(type(event), event.stream_id) for event in events if hasattr(event, "stream_id")],
                b"".join(server.take_output()),
            )
        )
    assert len(outcomes[0][0]) == 5
    assert all(outcome == outcomes[0] for outcome in outcomes)


def test_a_client_gets_a_response() -> None:
    talk = client_talk()
    assert talk.end.can_open
    stream_id = talk.end.send_request(REQUEST, b"GET", end_stream=True)
    assert (stream_id, talk.end.send_request(REQUEST, b"GET", end_stream=True)) == (1, 3)
    talk.sent()
    events = talk.says(
        headers(1, [(b":status", b"103")], end_stream=False),
        headers(1, OK, end_stream=False),
        data(1, b"hello"),
        headers(1, [(b"grpc-status", b"0")]),
    )
    assert kinds(events) == ["InterimReceived", "ResponseReceived", "DataReceived", "TrailersReceived"]
    assert isinstance(events[0], InterimReceived)
    assert isinstance(events[1], ResponseReceived)
    assert events[0].response.status == 103
    assert list(talk.end.streams) == [3]


# Frames that a peer must not send: what, frames after the preface, scope, error code.

CONNECTION, STREAM = "connection", "stream"
BLOCK = block(GET)
OPEN = headers(1, POST, end_stream=False)
BOTH = headers(1, GET)

ERRORS: list[tuple[str, bytes, str, int]] = [
    ("a frame that is too large", frame(h2.DATA, 0, 1, bytes(16385)), CONNECTION, h2.FRAME_SIZE_ERROR),
    ("DATA on stream 0", data(0, b"a"), CONNECTION, h2.PROTOCOL_ERROR),
    ("DATA on an idle stream", data(1, b"a"), CONNECTION, h2.PROTOCOL_ERROR),
    ("DATA on an idle stream of the server", data(2, b"a"), CONNECTION, h2.PROTOCOL_ERROR),
    ("DATA behind the end", BOTH + data(1, b"a"), STREAM, h2.STREAM_CLOSED),
    ("DATA padded beyond its end", OPEN + frame(h2.DATA, h2.PADDED, 1, b"\x05abcd"), CONNECTION, h2.PROTOCOL_ERROR),
    ("DATA padded without a byte", OPEN + frame(h2.DATA, h2.PADDED, 1), CONNECTION, h2.FRAME_SIZE_ERROR),
    ("HEADERS on stream 0", headers(0, GET), CONNECTION, h2.PROTOCOL_ERROR),
    ("HEADERS on an even stream", headers(2, GET), CONNECTION, h2.PROTOCOL_ERROR),
    ("HEADERS behind the end", BOTH + headers(1, [(b"x-a", b"1")]), STREAM, h2.STREAM_CLOSED),
    ("HEADERS of an earlier stream", headers(5, GET) + headers(3, GET), CONNECTION, h2.PROTOCOL_ERROR),
    (
        "HEADERS that depend on themselves",
        frame(h2.HEADERS, 0x25, 1, b"\0\0\0\x01\x10" + BLOCK),
        STREAM,
        h2.PROTOCOL_ERROR,
    ),
    ("HEADERS with a priority of 4 bytes", frame(h2.HEADERS, 0x25, 1, b"\0\0\0\x01"), CONNECTION, h2.FRAME_SIZE_ERROR),
    (
        "HEADERS padded beyond their end",
        frame(h2.HEADERS, h2.PADDED | 5, 1, b"\xff" + BLOCK[:20]),
        CONNECTION,
        h2.PROTOCOL_ERROR,
    ),
    ("an invalid header block", frame(h2.HEADERS, 5, 1, b"\x80"), CONNECTION, h2.COMPRESSION_ERROR),
    (
        "trailers that do not end the stream",
        OPEN + headers(1, [(b"x-a", b"1")], end_stream=False),
        STREAM,
        h2.PROTOCOL_ERROR,
    ),
    ("trailers with a pseudo-header field", OPEN + headers(1, [(b":method", b"GET")]), STREAM, h2.PROTOCOL_ERROR),
    ("a malformed request", headers(1, [*GET, (b"X-A", b"1")]), STREAM, h2.PROTOCOL_ERROR),
    (
        "no body where Content-Length says one",
        headers(1, [*POST, (b"content-length", b"1")]),
        STREAM,
        h2.PROTOCOL_ERROR,
    ),
    (
        "a body that is too long",
        headers(1, [*POST, (b"content-length", b"1")], False) + data(1, b"ab"),
        STREAM,
        h2.PROTOCOL_ERROR,
    ),
    (
        "a body that is too short",
        headers(1, [*POST, (b"content-length", b"2")], False) + data(1, b"a", True),
        STREAM,
        h2.PROTOCOL_ERROR,
    ),
    (
        "a body that is too short before trailers",
        headers(1, [*POST, (b"content-length", b"2")], False) + headers(1, []),
        STREAM,
        h2.PROTOCOL_ERROR,
    ),
    ("PRIORITY on stream 0", frame(h2.PRIORITY, 0, 0, bytes(5)), CONNECTION, h2.PROTOCOL_ERROR),
    ("PRIORITY of 4 bytes", OPEN + frame(h2.PRIORITY, 0, 1, bytes(4)), STREAM, h2.FRAME_SIZE_ERROR),
    ("PRIORITY that depends on itself", OPEN + frame(h2.PRIORITY, 0, 1, b"\0\0\0\x01\0"), STREAM, h2.PROTOCOL_ERROR),
    ("RST_STREAM on stream 0", number(h2.RST_STREAM, 0, 8), CONNECTION, h2.PROTOCOL_ERROR),
    ("RST_STREAM on an idle stream", number(h2.RST_STREAM, 1, 8), CONNECTION, h2.PROTOCOL_ERROR),
    ("RST_STREAM of 5 bytes", OPEN + frame(h2.RST_STREAM, 0, 1, bytes(5)), CONNECTION, h2.FRAME_SIZE_ERROR),
    ("SETTINGS on a stream", OPEN + frame(h2.SETTINGS, 0, 1), CONNECTION, h2.PROTOCOL_ERROR),
    ("SETTINGS of 5 bytes", frame(h2.SETTINGS, 0, 0, bytes(5)), CONNECTION, h2.FRAME_SIZE_ERROR),
    ("an ACK of SETTINGS with a setting", frame(h2.SETTINGS, 1, 0, bytes(6)), CONNECTION, h2.FRAME_SIZE_ERROR),
    ("SETTINGS_ENABLE_PUSH 2", settings((h2.ENABLE_PUSH, 2)), CONNECTION, h2.PROTOCOL_ERROR),
    (
        "SETTINGS_INITIAL_WINDOW_SIZE 2^31",
        settings((h2.INITIAL_WINDOW_SIZE, 1 << 31)),
        CONNECTION,
        h2.FLOW_CONTROL_ERROR,
    ),
    ("SETTINGS_MAX_FRAME_SIZE 16383", settings((h2.MAX_FRAME_SIZE, 16383)), CONNECTION, h2.PROTOCOL_ERROR),
    ("SETTINGS_MAX_FRAME_SIZE 2^24", settings((h2.MAX_FRAME_SIZE, 1 << 24)), CONNECTION, h2.PROTOCOL_ERROR),
    ("SETTINGS_ENABLE_CONNECT_PROTOCOL 2", settings((h2.ENABLE_CONNECT_PROTOCOL, 2)), CONNECTION, h2.PROTOCOL_ERROR),
    ("SETTINGS_NO_RFC7540_PRIORITIES 2", settings((h2.NO_RFC7540_PRIORITIES, 2)), CONNECTION, h2.PROTOCOL_ERROR),
    ("PUSH_PROMISE", OPEN + frame(h2.PUSH_PROMISE, 4, 1, b"\0\0\0\x02" + BLOCK), CONNECTION, h2.PROTOCOL_ERROR),
    ("PING on a stream", OPEN + frame(h2.PING, 0, 1, bytes(8)), CONNECTION, h2.PROTOCOL_ERROR),
    ("PING of 7 bytes", frame(h2.PING, 0, 0, bytes(7)), CONNECTION, h2.FRAME_SIZE_ERROR),
    ("GOAWAY on a stream", OPEN + frame(h2.GOAWAY, 0, 1, bytes(8)), CONNECTION, h2.PROTOCOL_ERROR),
    ("GOAWAY of 7 bytes", frame(h2.GOAWAY, 0, 0, bytes(7)), CONNECTION, h2.FRAME_SIZE_ERROR),
    ("WINDOW_UPDATE of 3 bytes", frame(h2.WINDOW_UPDATE, 0, 0, bytes(3)), CONNECTION, h2.FRAME_SIZE_ERROR),
    ("WINDOW_UPDATE of 0", number(h2.WINDOW_UPDATE, 0, 0), CONNECTION, h2.PROTOCOL_ERROR),
    ("WINDOW_UPDATE of 0 on a stream", OPEN + number(h2.WINDOW_UPDATE, 1, 0), STREAM, h2.PROTOCOL_ERROR),
    ("WINDOW_UPDATE beyond 2^31-1", number(h2.WINDOW_UPDATE, 0, (1 << 31) - 1), CONNECTION, h2.FLOW_CONTROL_ERROR),
    (
        "WINDOW_UPDATE beyond 2^31-1 on a stream",
        OPEN + number(h2.WINDOW_UPDATE, 1, (1 << 31) - 1),
        STREAM,
        h2.FLOW_CONTROL_ERROR,
    ),
    ("WINDOW_UPDATE on an idle stream", number(h2.WINDOW_UPDATE, 1, 1), CONNECTION, h2.PROTOCOL_ERROR),
    (
        "SETTINGS that open a window beyond 2^31-1",
        OPEN + number(h2.WINDOW_UPDATE, 1, 1000) + settings((h2.INITIAL_WINDOW_SIZE, (1 << 31) - 1)),
        CONNECTION,
        h2.FLOW_CONTROL_ERROR,
    ),
    ("CONTINUATION without HEADERS", OPEN + frame(h2.CONTINUATION, 4, 1, BLOCK), CONNECTION, h2.PROTOCOL_ERROR),
    ("CONTINUATION on stream 0", frame(h2.CONTINUATION, 4, 0), CONNECTION, h2.PROTOCOL_ERROR),
    (
        "CONTINUATION of another stream",
        frame(h2.HEADERS, 1, 1, BLOCK) + frame(h2.CONTINUATION, 4, 3),
        CONNECTION,
        h2.PROTOCOL_ERROR,
    ),
    ("DATA within a header block", frame(h2.HEADERS, 0, 1, BLOCK) + data(1, b""), CONNECTION, h2.PROTOCOL_ERROR),
    (
        "an unknown frame within a header block",
        frame(h2.HEADERS, 0, 1, BLOCK) + frame(0xFA),
        CONNECTION,
        h2.PROTOCOL_ERROR,
    ),
    (
        "PRIORITY_UPDATE on a stream",
        OPEN + frame(h2.PRIORITY_UPDATE, 0, 1, b"\0\0\0\x01u=1"),
        CONNECTION,
        h2.PROTOCOL_ERROR,
    ),
    ("PRIORITY_UPDATE for stream 0", frame(h2.PRIORITY_UPDATE, 0, 0, b"\0\0\0\0u=1"), CONNECTION, h2.PROTOCOL_ERROR),
    ("PRIORITY_UPDATE of 3 bytes", frame(h2.PRIORITY_UPDATE, 0, 0, bytes(3)), CONNECTION, h2.PROTOCOL_ERROR),
]


@pytest.mark.parametrize(("said", "scope", "code"), [pytest.param(*case[1:], id=case[0]) for case in ERRORS])
def test_what_a_client_must_not_send(said: bytes, scope: str, code: int) -> None:
    """After a stream error the connection goes on, after a connection error it does not."""
    talk = Talk()
    events = talk.says(said)
    expected = (h2.GOAWAY, 0, code) if scope == CONNECTION else (h2.RST_STREAM, 1, code)
    assert talk.codes()[:1] == [expected]
    if scope == CONNECTION:
        assert ended(events) == code
        assert talk.end.is_over
        assert talk.says(headers(7, GET)) == []
    else:
        assert kinds(talk.says(headers(7, GET))) == ["RequestReceived"]
        assert 1 not in talk.end.streams


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (headers(1, GET) + data(1, b"a"), h2.STREAM_CLOSED),
        (headers(1, GET) + headers(1, GET), h2.STREAM_CLOSED),
    ],
    ids=["DATA", "HEADERS"],
)
def test_frames_on_a_closed_stream_end_the_connection(said: bytes, code: int) -> None:
    talk = Talk()
    first = said[: len(headers(1, GET))]
    talk.says(first)
    talk.end.send_headers(1, RESPONSE, end_stream=True)
    assert ended(talk.says(said[len(first) :])) == code


def test_late_frames_of_a_stream_that_the_client_has_reset_end_the_connection() -> None:
    talk = Talk()
    assert kinds(talk.says(OPEN, number(h2.RST_STREAM, 1, h2.CANCEL))) == ["RequestReceived", "StreamReset"]
    assert talk.says(number(h2.WINDOW_UPDATE, 1, 5), frame(h2.PRIORITY, 0, 1, bytes(5))) == []
    assert ended(talk.says(data(1, b"a"))) == h2.STREAM_CLOSED


def test_frames_on_streams_that_are_ignored() -> None:
    talk = Talk()
    talk.says(
        frame(0xFA, 0xFF, 77, b"unknown"),
        frame(h2.PRIORITY, 0, 9, bytes(5)),
        frame(h2.PRIORITY_UPDATE, 0, 0, b"\0\0\0\x0bu=1"),
    )
    assert talk.sent() == []
    assert talk.says(headers(1, GET), frame(h2.PRIORITY_UPDATE, 0, 0, b"\0\0\0\x01u=1"))[1] == PriorityUpdated(
        1, b"u=1"
    )


# What a server must not send.

RESPONSES: list[tuple[str, bytes, str, int]] = [
    ("DATA before the response", data(1, b"a"), STREAM, h2.PROTOCOL_ERROR),
    ("DATA on stream 3", data(3, b"a"), CONNECTION, h2.PROTOCOL_ERROR),
    ("HEADERS on stream 2", headers(2, OK), CONNECTION, h2.PROTOCOL_ERROR),
    ("HEADERS on stream 3", headers(3, OK), CONNECTION, h2.PROTOCOL_ERROR),
    ("a response without a status", headers(1, [(b"x-a", b"1")]), STREAM, h2.PROTOCOL_ERROR),
    ("101", headers(1, [(b":status", b"101")], False), STREAM, h2.PROTOCOL_ERROR),
    ("103 that ends the stream", headers(1, [(b":status", b"103")]), STREAM, h2.PROTOCOL_ERROR),
    (
        "a body that is too long",
        headers(1, [*OK, (b"content-length", b"1")], False) + data(1, b"ab"),
        STREAM,
        h2.PROTOCOL_ERROR,
    ),
    (
        "a body that is too short",
        headers(1, [*OK, (b"content-length", b"3")], False) + data(1, b"ab", True),
        STREAM,
        h2.PROTOCOL_ERROR,
    ),
    ("no body where there is one", headers(1, [*OK, (b"content-length", b"3")]), STREAM, h2.PROTOCOL_ERROR),
    ("a body behind 204", headers(1, [(b":status", b"204")], False) + data(1, b"a"), STREAM, h2.PROTOCOL_ERROR),
    (
        "trailers that do not end the stream",
        headers(1, OK, False) + headers(1, [(b"x-a", b"1")], False),
        STREAM,
        h2.PROTOCOL_ERROR,
    ),
    ("DATA behind the end", headers(1, OK) + data(1, b"a"), CONNECTION, h2.STREAM_CLOSED),
    ("PUSH_PROMISE", frame(h2.PUSH_PROMISE, 4, 1, b"\0\0\0\x02" + BLOCK), CONNECTION, h2.PROTOCOL_ERROR),
    ("SETTINGS_ENABLE_PUSH 1", settings((h2.ENABLE_PUSH, 1)), CONNECTION, h2.PROTOCOL_ERROR),
    ("SETTINGS_ENABLE_CONNECT_PROTOCOL back to 0", settings((8, 1)) + settings((8, 0)), CONNECTION, h2.PROTOCOL_ERROR),
    ("PRIORITY_UPDATE", frame(h2.PRIORITY_UPDATE, 0, 0, b"\0\0\0\x01u=1"), CONNECTION, h2.PROTOCOL_ERROR),
]


@pytest.mark.parametrize(("said", "scope", "code"), [pytest.param(*case[1:], id=case[0]) for case in RESPONSES])
def test_what_a_server_must_not_send(said: bytes, scope: str, code: int) -> None:
    talk = client_talk()
    talk.end.send_request(REQUEST, b"GET", end_stream=True)
    talk.sent()
    events = talk.says(said)
    assert talk.codes()[:1] == [(h2.GOAWAY, 0, code) if scope == CONNECTION else (h2.RST_STREAM, 1, code)]
    assert talk.end.is_over == (scope == CONNECTION)
    assert kinds(events)[-1] == ("ConnectionEnded" if scope == CONNECTION else "StreamReset")


def test_a_response_to_head_has_a_length_and_no_body() -> None:
    talk = client_talk()
    talk.end.send_request(HeaderList(((b":method", b"HEAD"), *GET[1:])), b"HEAD", end_stream=True)
    (event,) = talk.says(headers(1, [*OK, (b"content-length", b"100")]))
    assert event.response.length == 100
    assert not talk.end.is_over
    assert not talk.end.streams


def test_a_client_does_not_exceed_the_streams_of_the_server() -> None:
    talk = client_talk()
    talk.says(settings((h2.MAX_CONCURRENT_STREAMS, 1)))
    talk.end.send_request(REQUEST, b"GET", end_stream=True)
    assert not talk.end.can_open
    talk.says(headers(1, OK))
    assert talk.end.can_open


def test_goaway_tells_which_requests_may_be_repeated() -> None:
    talk = client_talk()
    for _ in range(3):
        talk.end.send_request(REQUEST, b"GET", end_stream=True)
    events = talk.says(frame(h2.GOAWAY, 0, 0, b"\0\0\0\x03\0\0\0\0bye"))
    assert events[0] == GoAwayReceived(3, h2.NO_ERROR, b"bye")
    assert [(event.stream_id, event.is_unprocessed) for event in events[1:]] == [(5, True)]
    assert not talk.end.can_open
    (refused,) = talk.says(number(h2.RST_STREAM, 1, h2.REFUSED_STREAM))
    assert refused.is_unprocessed
    (cancelled,) = talk.says(number(h2.RST_STREAM, 3, h2.CANCEL))
    assert not cancelled.is_unprocessed


# Flow control.


def test_a_body_is_sent_as_the_windows_allow() -> None:
    talk = Talk()
    talk.says(settings((h2.INITIAL_WINDOW_SIZE, 10)), headers(1, GET), headers(3, GET))
    talk.sent()
    end = talk.end
    end.send_headers(1, RESPONSE)
    assert end.send_data(1, b"0123456789abc", end_stream=True) == 10
    assert end.send_data(1, b"abc", end_stream=True) == 0
    assert [(one.flags, one.payload) for one in talk.sent()[1:]] == [(0, b"0123456789")]
    assert talk.says(number(h2.WINDOW_UPDATE, 1, 2)) == [WindowOpened(1)]
    assert end.send_data(1, b"abc", end_stream=True) == 2
    assert talk.says(settings((h2.INITIAL_WINDOW_SIZE, 11)))[0] == WindowOpened(1)
    assert end.send_data(1, b"c", end_stream=True) == 1
    assert [(one.flags, one.payload) for one in talk.sent() if one.kind == h2.DATA] == [(0, b"ab"), (1, b"c")]


def test_a_window_may_become_negative() -> None:
    """RFC 9113, section 6.9.2."""
    talk = Talk()
    talk.says(headers(1, GET))
    assert talk.end.send_data(1, b"0123456789") == 10
    talk.says(settings((h2.INITIAL_WINDOW_SIZE, 4)))
    assert talk.end.streams[1].send_window == -6
    assert talk.end.send_data(1, b"a", end_stream=True) == 0
    assert talk.says(number(h2.WINDOW_UPDATE, 1, 6)) == []
    assert talk.end.send_data(1, b"a", end_stream=True) == 0
    assert talk.says(number(h2.WINDOW_UPDATE, 1, 1)) == [WindowOpened(1)]
    assert talk.end.send_data(1, b"a", end_stream=True) == 1


def test_an_empty_end_fits_into_a_negative_window() -> None:
    """RFC 9113, section 6.9.1: a body whose end comes by itself ends, even if the peer has made its windows smaller."""
    talk = Talk()
    talk.says(headers(1, GET))
    talk.end.send_headers(1, HeaderList(((b":status", b"200"),)))
    assert talk.end.send_data(1, b"0123456789") == 10
    talk.says(settings((h2.INITIAL_WINDOW_SIZE, 0)))
    assert talk.end.streams[1].send_window == -10
    talk.sent()
    assert talk.end.send_data(1, b"", end_stream=True) == 0
    assert talk.sent() == [Frame(h2.DATA, h2.END_STREAM, 1, b"")]
    assert 1 not in talk.end.streams


def test_the_window_of_the_connection_is_shared() -> None:
    talk = Talk()
    talk.says(settings((h2.INITIAL_WINDOW_SIZE, 1 << 20)), headers(1, GET), headers(3, GET))
    assert talk.end.send_data(1, bytes(70_000)) == 65535
    assert talk.end.send_data(3, b"a", end_stream=True) == 0
    assert talk.end.send_data(3, b"", end_stream=True) == 0
    assert 3 not in talk.end.streams, "an empty end needs no window"
    assert talk.says(number(h2.WINDOW_UPDATE, 0, 100_000)) == [WindowOpened(0)]
    assert talk.end.send_data(1, bytes(4465), end_stream=True) == 4465
    sizes = [len(one.payload) for one in talk.sent() if one.kind == h2.DATA and one.stream_id == 1]
    assert sizes == [16384, 16384, 16384, 16383, 4465]


def test_the_peer_may_send_more_when_the_owner_has_passed_it_on() -> None:
    talk = Talk(stream_window=1000, connection_window=1 << 20)
    talk.says(OPEN)
    talk.says(data(1, bytes(1000)))
    assert talk.sent() == []
    talk.end.acknowledge(1, 499)
    assert talk.sent() == []
    talk.end.acknowledge(1, 1)
    assert talk.sent() == [Frame(h2.WINDOW_UPDATE, 0, 1, (500).to_bytes(4, "big"))]
    assert kinds(talk.says(data(1, bytes(500)))) == ["DataReceived"]
    (event,) = talk.says(data(1, b"a"))
    assert (event.code, event.by_peer) == (h2.FLOW_CONTROL_ERROR, False)


def test_the_peer_may_not_exceed_the_window_of_the_connection() -> None:
    talk = Talk(stream_window=1 << 20, connection_window=65535)
    talk.says(OPEN)
    for _ in range(3):
        talk.says(data(1, bytes(16384)))
    assert ended(talk.says(data(1, bytes(16384)))) == h2.FLOW_CONTROL_ERROR


def test_padding_and_bodies_that_are_dropped_are_given_back() -> None:
    talk = Talk(connection_window=65536, stream_window=65536)
    talk.says(OPEN)
    before = talk.end.flow_control.receive_window
    for _ in range(40):  # of padding
        talk.says(frame(h2.DATA, h2.PADDED, 1, b"\xff" + bytes(255) + b"a"))
        talk.end.acknowledge(1, 1)
    talk.end.reset(1, h2.CANCEL)
    for _ in range(8):  # late ones
        talk.says(data(1, bytes(16384)))
    assert not talk.end.is_over
    given = sum(one.number for one in talk.sent() if one.kind == h2.WINDOW_UPDATE and not one.stream_id)
    assert talk.end.flow_control.receive_window == before + given - 40 * 257 - 8 * 16384


def test_what_a_reset_stream_held_is_given_back() -> None:
    talk = Talk(connection_window=65535, stream_window=65535)
    for stream_id in range(1, 41, 2):
        events = talk.says(
            headers(stream_id, POST, end_stream=False),
            data(stream_id, bytes(16000)),
            number(h2.RST_STREAM, stream_id, h2.CANCEL),
        )
        assert kinds(events) == ["RequestReceived", "DataReceived", "StreamReset"]
        talk.end.acknowledge(stream_id, 16000)


def test_our_initial_window_holds_once_it_is_acknowledged() -> None:
    server = Server(Limits(stream_window=10, connection_window=1 << 20))
    server.receive(PREFACE + settings() + OPEN + data(1, bytes(100)), 0)
    assert server.streams[1].receive_window == 65435
    server.receive(SETTINGS_ACK, 0)
    assert server.streams[1].receive_window == -90
    server.acknowledge(1, 100)
    assert server.streams[1].receive_window == 10


def test_a_smaller_initial_window_does_not_leave_a_stream_closed() -> None:
    """Data that was passed on before the client knew our window: little then, and more than the window now."""
    server = Server(Limits(stream_window=1000, connection_window=1 << 20))
    server.receive(PREFACE + settings() + OPEN + data(1, bytes(16384)), 0)
    server.acknowledge(1, 16384)
    server.take_output()
    server.receive(SETTINGS_ACK, 0)
    assert read(b"".join(server.take_output())) == [Frame(h2.WINDOW_UPDATE, 0, 1, (16384).to_bytes(4, "big"))]
    assert server.streams[1].receive_window == 1000


# PING and the graceful end.


def test_pings() -> None:
    talk = Talk()
    assert talk.says(frame(h2.PING, 0, 0, b"12345678")) == []
    assert talk.sent() == [Frame(h2.PING, h2.ACK, 0, b"12345678")]
    talk.end.ping(b"abcdefgh")
    assert talk.sent() == [Frame(h2.PING, 0, 0, b"abcdefgh")]
    assert talk.says(frame(h2.PING, h2.ACK, 0, b"abcdefgh")) == [PingAcknowledged(b"abcdefgh")]


def test_a_graceful_end_has_two_goaways() -> None:
    talk = Talk()
    talk.says(headers(1, GET))
    talk.end.shut_down()
    first, ping = talk.sent()
    assert (first.kind, first.number, first.code) == (h2.GOAWAY, (1 << 31) - 1, h2.NO_ERROR)
    assert kinds(talk.says(headers(3, GET))) == ["RequestReceived"], "it was on its way"
    assert talk.says(frame(h2.PING, h2.ACK, 0, ping.payload)) == []
    (second,) = talk.sent()
    assert (second.kind, second.number) == (h2.GOAWAY, 3)
    assert talk.says(headers(5, POST, end_stream=False), data(5, b"ignored"), number(h2.RST_STREAM, 5, h2.CANCEL)) == []
    assert not talk.end.is_drained
    for stream_id in (1, 3):
        talk.end.send_headers(stream_id, RESPONSE, end_stream=True)
    assert talk.end.is_drained
    assert talk.codes() == []


def test_a_graceful_end_goes_on_without_the_acknowledgement() -> None:
    talk = Talk()
    talk.end.shut_down()
    talk.end.shut_down()
    talk.end.shut_down()
    assert [one.number for one in talk.sent() if one.kind == h2.GOAWAY] == [(1 << 31) - 1, 0]
    assert talk.end.is_drained


def test_header_blocks_of_ignored_streams_are_decoded() -> None:
    """Else the tables of both ends would differ (RFC 9113, section 4.3)."""
    talk = Talk()
    talk.says(headers(1, GET))
    talk.end.goaway()
    talk.says(frame(h2.HEADERS, 5, 3, block(GET) + b"\x40\x01a\x01b"))
    talk.says(frame(h2.HEADERS, 5, 5, block(GET) + b"\xbe"))
    assert not talk.end.is_over


# Limits.


def test_a_stream_too_many_is_refused_and_may_be_repeated() -> None:
    talk = Talk(max_concurrent_streams=2)
    talk.says(headers(1, GET), headers(3, GET), frame(h2.HEADERS, 5, 5, block(GET) + b"\x40\x01a\x01b"))
    assert talk.codes() == [(h2.RST_STREAM, 5, h2.REFUSED_STREAM)]
    talk.end.send_headers(1, RESPONSE, end_stream=True)
    (event,) = talk.says(frame(h2.HEADERS, 5, 7, block(GET) + b"\xbe"))
    assert b"a: b\r\n" in event.request.lines


def test_a_header_list_that_is_too_large_gets_431() -> None:
    talk = Talk(max_list_size=2000)
    (event,) = talk.says(headers(1, [*GET, (b"x-a", bytes(2000))]))
    assert isinstance(event, RequestRefused)
    assert (event.status, event.end_stream) == (431, True)
    talk.end.send_headers(1, HeaderList(((b":status", b"431"),)), end_stream=True)
    assert not talk.end.streams
    assert kinds(talk.says(headers(3, GET))) == ["RequestReceived"]


def test_too_many_crumbs_get_431() -> None:
    talk = Talk(max_crumbs=3)
    assert kinds(talk.says(headers(1, [*GET, *[(b"cookie", b"a=b")] * 3]))) == ["RequestReceived"]
    (event,) = talk.says(headers(3, [*GET, *[(b"cookie", b"a=b")] * 4]))
    assert (event.status, "Cookie" in event.reason) == (431, True)


def test_a_header_block_that_is_too_long_ends_the_connection() -> None:
    talk = Talk(max_block_size=20_000)
    assert talk.says(frame(h2.HEADERS, 1, 1, bytes(16384))) == []
    assert ended(talk.says(frame(h2.CONTINUATION, 0, 1, bytes(16384)))) == h2.ENHANCE_YOUR_CALM
    talk = Talk(max_block_size=1000)
    assert ended(talk.says(frame(h2.HEADERS, 5, 1, bytes(1001)))) == h2.ENHANCE_YOUR_CALM


def test_a_response_that_is_too_large_is_a_stream_error() -> None:
    talk = client_talk(max_list_size=2000)
    talk.end.send_request(REQUEST, b"GET", end_stream=True)
    (event,) = talk.says(headers(1, [*OK, (b"x-a", bytes(2000))]))
    assert isinstance(event, StreamReset)
    assert "2000 bytes" in event.reason


# The owner.


def test_what_the_owner_sends_on_a_stream_that_is_over_is_ignored() -> None:
    talk = Talk()
    talk.says(OPEN, number(h2.RST_STREAM, 1, h2.CANCEL))
    talk.end.send_headers(1, RESPONSE)
    assert talk.end.send_data(1, b"hello", end_stream=True) == 5
    talk.end.reset(1, h2.CANCEL)
    talk.end.acknowledge(1, 5)
    assert talk.sent() == []


def test_a_long_piece_is_not_copied_behind_its_header() -> None:
    talk = Talk()
    talk.says(headers(1, GET))
    talk.end.take_output()
    body = bytes(10_000)
    talk.end.send_data(1, body, end_stream=True)
    assert talk.end.take_output()[1] is body


def test_held_bytes_and_texts() -> None:
    talk = Talk()
    talk.says(frame(h2.HEADERS, 0, 1, b"abc"), b"\0\0")
    assert talk.end.held_bytes == 5
    assert "0 streams" in repr(talk.end)
    talk = Talk()
    talk.says(OPEN)
    assert "open" in repr(talk.end.streams[1])
    assert isinstance(talk.says(data(1, b"a"))[0], DataReceived)
    assert string(b"a") == b"\x01a"
