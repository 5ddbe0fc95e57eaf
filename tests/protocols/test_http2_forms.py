"""The compiled fast path of HTTP/2 and the plain methods see and send the same, whatever comes."""

from __future__ import annotations

from typing import Any

import hpack
from http2_forms import both
from http2_frames import GET, OK, POST, PREFACE, SETTINGS_ACK, data, frame, headers, number, settings
from hypothesis import example, given
from hypothesis import strategies as st

from ktcpvs.protocols.http2 import Client, Connection, Limits, Request, RequestReceived, Response, Server
from ktcpvs.protocols.http2 import constants as h2

LIMITS = Limits(
    max_list_size=600,
    max_fields=12,
    max_crumbs=2,
    max_concurrent_streams=3,
    stream_window=100,
    connection_window=65_600,
)

ALL_NAMES = (
    b":method", b":scheme", b":authority", b":path", b":protocol", b":status", b"host", b"cookie",
    b"content-length",
    b"te", b"http2-settings", b"expect", b"connection", b"keep-alive", b"proxy-connection", b"upgrade",
    b"transfer-encoding", b"content_length", b"transfer.encoding", b"authorization", b"accept", b"X-Upper", b"",
    b":x",
    b"a b", b"grpc-status", b"x" * 40,
)  # fmt: skip
NAMES = st.sampled_from(ALL_NAMES)
ALL_VALUES = (
    b"GET", b"POST", b"HEAD", b"CONNECT", b"OPTIONS", b"/", b"/a?b", b"*", b"/a b", b"/#", b"a.example",
    b"A.example:80",
    b"a..b", b"[::1]:8", b"a.example:", b"a.b.:123456", b"http", b"https", b"HTTP", b"ftp", b"200", b"204", b"304",
    b"103", b"101", b"020", b"0", b"3", b"03", b"+3", b"9" * 18, b"9" * 19, b"trailers", b"TRAILERS",
    b"100-continue",
    b"websocket", b"", b" a", b"a\t", b"a\r\nb", b"\x80\xff", b"a=b", b"y" * 100, b"z" * 600,
)  # fmt: skip
VALUES = st.sampled_from(ALL_VALUES)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=5)
REQUESTS = (
    st.tuples(
        st.permutations(GET)
        | st.tuples(
            st.tuples(st.just(b":method"), st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"CONNECT", b"OPTIONS"])),
            st.tuples(st.just(b":scheme"), st.sampled_from([b"http", b"https", b"HTTP"])),
            st.tuples(st.just(b":authority"), VALUES),
            st.tuples(st.just(b":path"), VALUES),
        ),
        st.lists(
            st.tuples(
                st.sampled_from(
                    [b"host", b"cookie", b"content-length", b"te", b"accept", b"authorization", b"http2-settings"]
                ),
                VALUES,
            ),
            max_size=4,
        ),
    ).map(lambda parts: [*parts[0], *parts[1]])
    | FIELDS
)  # fmt: skip
RESPONSES = (
    st.tuples(
        st.sampled_from([OK, [(b":status", b"204")], [(b":status", b"304")], [(b":status", b"103")]]),
        st.lists(
            st.tuples(st.sampled_from([b"content-length", b"server", b"cookie", b"te", b"grpc-status"]), VALUES),
            max_size=3,
        ),
    ).map(lambda parts: [*parts[0], *parts[1]])
    | FIELDS
)  # fmt: skip

STREAMS = st.sampled_from([1, 1, 3, 3, 5, 7, 2, 11])
CONTENTS = st.sampled_from([b"", b"abc", b"abc", b"0", b"x" * 90, b"x" * 101])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("headers"), STREAMS, st.integers(0, 3), st.booleans(), st.sampled_from([0, 0, 0, 1, 2, 3])),
        st.tuples(st.just("data"), STREAMS, CONTENTS, st.booleans(), st.booleans()),
        st.tuples(st.just("window"), STREAMS | st.just(0), st.sampled_from([0, 1, 1000, (1 << 31) - 1])),
        st.tuples(st.just("reset"), STREAMS),
        st.tuples(st.just("ping")),
        st.tuples(st.just("send"), STREAMS, st.sampled_from([b"", b"abc", b"x" * 70_000]), st.booleans()),
        st.tuples(st.just("raw"), st.binary(max_size=12)),
    ),
    max_size=14,
)


def _seen(event: Any) -> Any:
    """An event as a value: heads by their parts."""
    values = [type(event).__name__]
    for name in type(event).__slots__:
        value = getattr(event, name, None) if name != "__weakref__" else None
        if isinstance(value, Request):
            heads = value.head(event.end_stream), value.head(False)
            value = tuple(getattr(value, part) for part in Request.__slots__ if part != "_whole")
            if isinstance(event, RequestReceived) and event.head:
                assert event.head == heads[0] or (event.end_stream and event.head.startswith(heads[1]))
        elif isinstance(value, Response):
            value = tuple(getattr(value, part) for part in Response.__slots__)
        values.append(value)
    return values


def _state(end: Connection) -> Any:
    """What a connection has come to: the windows, its streams, its counts."""
    streams = [[getattr(stream, name) for name in type(stream).__slots__] for stream in end.streams.values()]
    return (
        streams,
        end.flow_control.send_window,
        end.flow_control.receive_window,
        end.is_over,
        end.glitches,
        end.held_bytes,
    )


def _said(lists: list[Any], steps: list[Any]) -> list[Any]:
    """Turn header lists into blocks of one encoder, and steps into frames; a step that sends stays."""
    encoder = hpack.Encoder()
    out: list[Any] = []
    for step in steps:
        match step:
            case ("headers", stream_id, which, end_stream, form):
                fields = lists[which % len(lists)]
                coded = encoder.encode(
                    [hpack.NeverIndexedHeaderTuple(*pair) if pair[0] == b"authorization" else pair for pair in fields]
                )
                flags = h2.END_HEADERS | (h2.END_STREAM if end_stream else 0)
                if form == 1:
                    coded, flags = b"\0\0\0\0\x10" + coded, flags | h2.HAS_PRIORITY
                elif form == 2:
                    coded, flags = b"\2" + coded + b"\0\0", flags | h2.PADDED
                elif form == 3 and len(coded) > 1:
                    out.append(
                        frame(h2.HEADERS, flags & h2.END_STREAM, stream_id, coded[:1])
                        + frame(h2.CONTINUATION, h2.END_HEADERS, stream_id, coded[1:])
                    )
                    continue
                out.append(frame(h2.HEADERS, flags, stream_id, coded))
            case ("data", stream_id, content, end_stream, is_padded):
                if is_padded:
                    flags = h2.PADDED | (h2.END_STREAM if end_stream else 0)
                    out.append(frame(h2.DATA, flags, stream_id, b"\1" + content + b"\0"))
                else:
                    out.append(data(stream_id, content, end_stream))
            case ("window", stream_id, size):
                out.append(number(h2.WINDOW_UPDATE, stream_id, size))
            case ("reset", stream_id):
                out.append(number(h2.RST_STREAM, stream_id, h2.CANCEL))
            case ("ping",):
                out.append(frame(h2.PING, payload=b"12345678"))
            case ("raw", piece):
                out.append(piece)
            case _:
                out.append(step)
    return out


def _compare(ends: tuple[Any, Any], said: list[Any], joins: int) -> None:
    """Let both ends read the same, `joins` frames at a time, and send the same."""
    waiting = b""
    for number_, step in enumerate([*said, ("flush",)]):
        if isinstance(step, bytes):
            waiting += step
            if number_ % joins:
                continue
        first, second = ([_seen(event) for event in end.receive(waiting, 0)] for end in ends)
        assert first == second
        waiting = b""
        if isinstance(step, tuple) and step[0] == "send":
            results = [_send(end, *step[1:]) for end in ends]
            assert results[0] == results[1]
        assert b"".join(ends[0].take_output()) == b"".join(ends[1].take_output())
        assert _state(ends[0]) == _state(ends[1])


def _send(end: Any, stream_id: int, body: bytes, is_whole: bool) -> Any:
    if isinstance(end, Server):
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(body) + (not is_whole))
        return end.respond(stream_id, head + body, b"GET")
    if not end.can_open:
        return None
    head = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n" % len(body)
    return end.request(head + body if is_whole else head, b"http", is_whole)


@given(st.lists(REQUESTS, min_size=4, max_size=4), STEPS, st.integers(1, 4), st.booleans())
@example([POST] * 4, [("headers", 1, 0, False, 0), ("data", 1, b"abc", True, False)], 4, True)
def test_servers_of_both_forms(lists: list[Any], steps: list[Any], joins: int, is_joined: bool) -> None:
    ends = both(lambda: Server(LIMITS, joins_requests=is_joined))
    _compare(ends, [PREFACE + settings() + SETTINGS_ACK, *_said(lists, steps)], joins)


@given(st.lists(RESPONSES, min_size=4, max_size=4), STEPS, st.integers(1, 4), st.sampled_from([b"GET", b"HEAD"]))
@example([OK] * 4, [("headers", 1, 0, False, 0), ("data", 1, b"abc", True, False)], 3, b"GET")
def test_clients_of_both_forms(lists: list[Any], steps: list[Any], joins: int, method: bytes) -> None:
    ends = both(lambda: Client(LIMITS, joins_responses=True))
    for end in ends:
        for _ in range(3):
            end.request(b"%b / HTTP/1.1\r\nHost: a\r\n\r\n" % method, b"http")
        assert len(end.streams) == 3
    _compare(ends, [settings() + SETTINGS_ACK, *_said(lists, steps)], joins)


ALL_LINE_NAMES = (
    b"Server", b"X-a", b"Connection", b"Keep-Alive", b"Proxy-Connection", b"Transfer-Encoding", b"Content-Length",
    b"content_length", b"Upgrade", b"TE", b"Host", b"HTTP2-Settings", b"Expect", b"Authorization", b"Cookie",
    b"a b", b"",
)  # fmt: skip
LINE_NAMES = st.sampled_from(ALL_LINE_NAMES)
ALL_LINE_VALUES = (
    b"", b"a", b" b ", b"\tc", b"close", b"keep-alive, TE", b"X-a", b"chunked", b"Chunked ", b"gzip, chunked",
    b"3", b"0",
    b"03", b"3, 3", b"trailers", b"a.example", b"[::1]", b"\x80", b"a\0b", b"websocket",
)  # fmt: skip
LINE_VALUES = st.sampled_from(ALL_LINE_VALUES)
LINES = st.lists(st.tuples(LINE_NAMES, LINE_VALUES), max_size=4).map(
    lambda pairs: b"".join(b"%b: %b\r\n" % pair for pair in pairs)
)
ALL_FRAMINGS = (b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"content-length: 0\r\n", b"")
FRAMINGS = st.sampled_from(ALL_FRAMINGS)
ALL_BODIES = (
    b"", b"abc", b"abcd", b"3\r\nabc\r\n0\r\n\r\n", b"1\r\na\r\n02\r\nbc\r\n0\r\n\r\n", b"0\r\n\r\n",
    b"3\r\nabc\r\n0\r\ngrpc-status: 0\r\n\r\n", b"0\r\ngrpc-message: a\r\nvia: b\r\n\r\n",
    b"3;a=b\r\nabc\r\n0\r\n\r\n",
    b"3\r\nabcd\r\n0\r\n\r\n", b"3\r\nabc\r\n", b"x\r\n", b"FFFFFFFF\r\n", b"0\r\ncontent-type: b\r\n\r\n",
    b"0\r\n\r\nmore",
)  # fmt: skip
BODIES = st.sampled_from(ALL_BODIES)


def _one_message(pieces: list[bytes]) -> list[Any]:
    """The frames of an output: DATA frames that follow one another as one."""
    decoder = hpack.Decoder()
    said = b"".join(pieces)
    out: list[Any] = []
    while said:
        size, kind, flags = int.from_bytes(said[:3], "big"), said[3], said[4]
        payload, said = said[9 : 9 + size], said[9 + size :]
        if kind == h2.DATA and out and out[-1][0] == h2.DATA:
            out[-1] = (kind, flags, out[-1][2] + payload)
        else:
            out.append((kind, flags, decoder.decode(payload, raw=True) if kind == h2.HEADERS else payload))
    return out


ALL_STATUSES = (b"200 OK", b"200 ", b"200", b"404 Not Found", b"204 No", b"304 Not", b"100 C", b"2000", b"99 x")
STATUSES = st.sampled_from(ALL_STATUSES)


def _compare_responses(method: bytes, status: bytes, lines: bytes, body: bytes) -> None:
    outputs = []
    for end in both(lambda: Server(Limits())):
        end.receive(PREFACE + settings() + SETTINGS_ACK + headers(1, GET), 0)  # a request
        end.take_output()
        message = b"HTTP/1.1 %b\r\n%b\r\n%b" % (status, lines, body)
        is_sent = end.respond(1, message, method)  # type: ignore[attr-defined]
        outputs.append((is_sent, _one_message(end.take_output()), _state(end)[:3]))
    assert outputs[0] == outputs[1]


def _compare_requests(method: bytes, target: bytes, lines: bytes, body: bytes, is_whole: bool) -> None:
    outputs = []
    for end in both(lambda: Client(Limits())):
        end.receive(settings() + SETTINGS_ACK, 0)
        end.take_output()
        head = b"%b %b HTTP/1.1\r\nHost: a.example\r\n%b\r\n" % (method, target, lines)
        stream_id = end.request(head + body if is_whole else head, b"http", is_whole)  # type: ignore[attr-defined]
        outputs.append((stream_id, _one_message(end.take_output()), _state(end)[:3]))
    assert outputs[0] == outputs[1]


@given(st.sampled_from([b"GET", b"HEAD"]), STATUSES, LINES, FRAMINGS, BODIES)
def test_whole_responses_of_both_forms(method: bytes, status: bytes, lines: bytes, framing: bytes, body: bytes) -> None:
    _compare_responses(method, status, lines + framing, body)


@given(
    st.sampled_from([b"GET", b"POST", b"HEAD", b"CONNECT", b"a b", b"x" * 65]),
    st.sampled_from([b"/", b"/a?b=c", b"*", b"http://a/", b"/#"]),
    LINES, FRAMINGS, BODIES, st.booleans(),
)  # fmt: skip
def test_whole_requests_of_both_forms(
    method: bytes, target: bytes, lines: bytes, framing: bytes, body: bytes, is_whole: bool
) -> None:
    _compare_requests(method, target, lines + framing, body, is_whole)


def test_blocks_without_the_table_mean_the_same_again() -> None:
    """A block that is remembered for a request that ends is not taken for one that goes on."""
    for end in both(lambda: Server(Limits())):
        end.receive(PREFACE + settings() + SETTINGS_ACK, 0)
        posts = [(b":method", b"POST"), *GET[1:]]
        said = b"".join(headers(number_, posts, end_stream=number_ % 4 == 1) for number_ in range(1, 17, 2))
        heads = [event.head for event in end.receive(said, 0)]  # type: ignore[union-attr]
        assert [b"chunked" in head for head in heads] == [False, True] * 4


INDEXED = b"\xbe"
"""The block of the newest entry of the dynamic table."""


def _literal(name: bytes, value: bytes) -> bytes:
    """The block of a short field that enters the table."""
    return b"\x40" + bytes((len(name),)) + name + bytes((len(value),)) + value


def test_a_request_is_forgotten_when_the_table_changes() -> None:
    begin = b"\x82\x86\x84\x01\x01a"  # GET, http, /, and an authority that does not enter the table
    blocks = [
        begin + _literal(b"x", b"1"),
        begin + INDEXED,
        begin + INDEXED,
        begin + _literal(b"x", b"2"),
        begin + INDEXED,
    ]
    for end in both(lambda: Server(Limits())):
        end.receive(PREFACE + settings() + SETTINGS_ACK, 0)
        said = [frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 2 * n + 1, coded) for n, coded in enumerate(blocks)]
        events: list[Any] = end.receive(b"".join(said), 0)
        assert [event.request.lines for event in events] == [b"x: %d\r\n" % value for value in (1, 1, 1, 2, 2)]


def test_a_response_is_forgotten_when_the_table_changes() -> None:
    blocks = [b"\x88" + _literal(b"x", b"1"), b"\x88" + INDEXED, b"\x88" + _literal(b"x", b"2"), b"\x88" + INDEXED]
    for end in both(lambda: Client(Limits())):
        end.receive(settings() + SETTINGS_ACK, 0)
        for _ in blocks:
            end.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"http")  # type: ignore[attr-defined]
        said = [frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 2 * n + 1, coded) for n, coded in enumerate(blocks)]
        events: list[Any] = end.receive(b"".join(said), 0)
        assert [event.response.lines for event in events] == [b"x: %d\r\n" % value for value in (1, 1, 2, 2)]


MANY = Limits(max_concurrent_streams=10_000, max_stream_errors=10_000, max_glitches=10_000)


def test_each_field_of_a_request() -> None:
    ends = both(lambda: Server(MANY))
    said, stream_id = PREFACE + settings() + SETTINGS_ACK, 1
    for name in ALL_NAMES:
        for value in ALL_VALUES:
            for fields in ([*GET, (name, value)], [*GET, (name, value), (name, value)], [*GET[1:], (name, value)]):
                said += headers(stream_id, fields, bool(stream_id & 2))
                stream_id += 2
    _compare(ends, [said], 1)
    assert not ends[0].is_over
    assert ends[0].last_stream_id == stream_id - 2  # type: ignore[attr-defined]


def test_each_field_of_a_response_and_of_trailers() -> None:
    ends = both(lambda: Client(MANY, joins_responses=True))
    said, stream_id = settings() + SETTINGS_ACK, 1
    for name in ALL_NAMES:
        for value in ALL_VALUES:
            said += headers(stream_id, [*OK, (name, value)])
            said += headers(stream_id + 2, OK, False) + headers(stream_id + 2, [(name, value)])
            said += headers(stream_id + 4, [*OK, (name, value)])
            stream_id += 6
    for end in ends:
        for number_ in range(1, stream_id, 2):
            message = b"%b / HTTP/1.1\r\nHost: a\r\n\r\n" % (b"HEAD" if number_ % 6 == 5 else b"GET")
            assert end.request(message, b"http") == number_  # type: ignore[attr-defined]
    _compare(ends, [said], 1)
    assert not ends[0].is_over


def test_each_line_of_a_whole_message() -> None:
    framings = (b"content-length: 3\r\n", b"transfer-encoding: chunked\r\n", b"")
    for name in ALL_LINE_NAMES:
        for value in ALL_LINE_VALUES:
            for framing, body in zip(framings, (b"abc", b"3\r\nabc\r\n0\r\n\r\n", b""), strict=True):
                lines = b"%b: %b\r\n%b" % (name, value, framing)
                _compare_responses(b"GET", b"200 OK", lines, body)
                _compare_requests(b"POST", b"/", lines, body, True)


def test_each_body_of_a_whole_message() -> None:
    for framing in ALL_FRAMINGS:
        for body in ALL_BODIES:
            for method in (b"GET", b"HEAD"):
                for status in ALL_STATUSES:
                    _compare_responses(method, status, framing, body)
            for is_whole in (True, False):
                _compare_requests(b"POST", b"/", framing, body, is_whole)
