"""Fuzz targets for HTTP/2: header blocks, and whole connections in both roles; the compiled code, the plain one, h2 and
hpack agree.

Each target takes any bytes and returns; an AssertionError or any other exception is a find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import hpack

from ktcpvs.protocols import http1
from ktcpvs.protocols.http1 import BadRequest, BadResponse
from ktcpvs.protocols.http2 import (
    Client,
    Connection,
    ConnectionEnded,
    HeaderList,
    HPACKError,
    Limits,
    MalformedMessage,
    Request,
    RequestReceived,
    ResponseReceived,
    Server,
    connection,
    field_block,
    hpack_decoder,
    hpack_encoder,
    request_list,
)
from ktcpvs.protocols.http2.constants import PREFACE
from ktcpvs.protocols.http2.hpack import Decoder, Encoder
from tests.fuzz.messages import SIZES, only, pieces

LIST_SIZE, FIELDS = 2000, 40

LIMITS = Limits(
    max_list_size=LIST_SIZE, max_fields=FIELDS, max_block_size=1000, max_concurrent_streams=4, stream_window=100,
    connection_window=70_000, max_crumbs=3, max_continuations=3,
)  # fmt: skip

REQUEST = HeaderList(((b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"h"), (b":path", b"/")))

# Header blocks.


def _blocks(data: bytes) -> Iterator[bytes]:
    """Blocks, each behind a byte with its length."""
    while data:
        yield data[1 : 1 + data[0]]
        data = data[1 + data[0] :]


def header_blocks(data: bytes) -> None:
    """Header blocks of one connection, as hpack reads them; read, they are encoded, and hpack reads the same again."""
    ours, theirs = Decoder(LIST_SIZE, FIELDS), hpack.Decoder(1 << 20)
    encoder, again = Encoder(), hpack.Decoder(1 << 20)
    plain, plain_encoder = hpack_decoder.Decoder(LIST_SIZE, FIELDS), hpack_encoder.Encoder()
    for block in _blocks(data):
        expected: list[tuple[bytes, bytes]] | None
        try:
            expected = [(bytes(name), bytes(value)) for name, value in theirs.decode(block, raw=True)]
        except hpack.HPACKError:
            expected = None
        try:
            section = ours.decode(block)
        except HPACKError as error:
            assert str(error).isprintable()
            try:
                plain.decode(block)
            except HPACKError:
                return
            raise AssertionError("only the compiled decoder refuses it") from None
        assert expected is not None, "hpack refuses it"
        same = plain.decode(block)
        assert (same.fields, same.sensitive, same.is_too_large) == (
            section.fields,
            section.sensitive,
            section.is_too_large,
        )
        pairs = tuple((field.name, field.value) for field in section.fields)
        size = sum(len(name) + len(value) + 32 for name, value in expected)
        if section.is_too_large:
            assert size > LIST_SIZE or len(expected) > FIELDS
            continue
        assert pairs == tuple(expected)
        assert size <= LIST_SIZE
        headers = HeaderList(pairs, section.sensitive)
        for _ in range(3):
            coded = encoder.encode(headers)
            assert coded == plain_encoder.encode(headers)
            assert [tuple(pair) for pair in again.decode(coded, raw=True)] == list(pairs)
        try:
            _one_reading(section.request())
        except MalformedMessage as malformed:
            assert str(malformed).isprintable()


def _one_reading(request: Request) -> None:
    """Check that the head in HTTP/1 is read as the request is, and becomes the same header list again."""
    for is_whole in (True, False):
        head = request.head(is_whole)
        found = http1.REQUEST.fullmatch(head)
        assert found is not None
        try:
            read = http1.Request(found)
        except BadRequest:
            assert request.method in (b"CONNECT", b"TRACE")
            return
        assert (read.method, read.target, read.host) == (request.method, request.path, request.authority)
        assert read.length == (request.length if request.length is not None else 0 if is_whole else http1.CHUNKED)
        # The request line, Host, the fields, the framing, the empty line: no field became two.
        assert head.count(b"\n") == head.count(b"\r") == 3 + request.lines.count(b"\n") + _added(request, is_whole)
    pairs = dict(request_list(request.head(True), b"http").pairs)
    assert (pairs[b":method"], pairs[b":path"], pairs[b":authority"]) == (
        request.method,
        request.path,
        request.authority,
    )


def _added(request: Request, is_whole: bool) -> int:
    """The number of lines that the framing and TE take."""
    has_length = request.length is None and (not is_whole or request.method in (b"POST", b"PUT", b"PATCH"))
    return has_length + 2 * request.has_trailers


# Connections.


def _in_both_forms(make: Callable[[], Connection]) -> Iterator[Callable[[], Connection]]:
    """Yield what makes a connection with the compiled code, and what makes one without it."""
    yield make

    def made() -> Connection:
        with (
            mock.patch.object(field_block, "Decoder", hpack_decoder.Decoder),
            mock.patch.object(connection, "Encoder", hpack_encoder.Encoder),
        ):
            return make()

    yield made


def _drive(end: Connection, data: bytes, size: int) -> tuple[object, ...]:
    """Give `data` to an end in pieces, whose owner passes nothing on; return what happened."""
    seen: list[Any] = []
    requests: list[Request] = []
    opening = sum(map(len, end.take_output()))
    assert opening < 1000
    for piece in pieces(data, size):
        for event in end.receive(piece, 0):
            seen.append(_seen(event))
            if isinstance(event, RequestReceived):
                requests.append(event.request)
        assert end.held_bytes < 20_000 + 17 * len(data), "what never ends is held"
        assert len(end.streams) <= LIMITS.max_concurrent_streams
        assert end.flow_control.receive_window <= LIMITS.connection_window
    for request in requests:
        _one_reading(request)
    assert any(kind == "ConnectionEnded" for kind, *_ in seen) == end.is_over
    return tuple(seen), b"".join(end.take_output()), end.is_over


def _seen(event: Any) -> tuple[object, ...]:
    kind = type(event).__name__
    if isinstance(event, RequestReceived):
        return kind, event.stream_id, event.request.head(event.end_stream), event.end_stream
    if isinstance(event, ResponseReceived):
        return kind, event.stream_id, event.response.head(b"GET", 0 if event.end_stream else None), event.end_stream
    if isinstance(event, ConnectionEnded):
        assert event.reason.isprintable()
    return kind, *[getattr(event, name) for name in type(event).__slots__ if name not in ("response", "__weakref__")]


def http2_server(data: bytes) -> None:
    """The bytes of a client behind its preface give the same events however they are split; h2 sees the same."""
    forms = list(_in_both_forms(lambda: Server(LIMITS)))
    outcome = only([_drive(make(), PREFACE + data, size) for size in SIZES for make in forms])
    assert isinstance(outcome, tuple)
    events, _, is_over = outcome
    if not is_over:
        _h2_sees_the_same(data, events)


def _h2_sees_the_same(data: bytes, events: tuple[Any, ...]) -> None:
    """Compare heads, bodies and trailers with those that h2 sees, if it accepts the bytes."""
    theirs = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    theirs.initiate_connection()
    try:
        seen = theirs.receive_data(PREFACE + data)
    except h2.exceptions.ProtocolError:
        return  # it is stricter, or its windows are smaller
    bodies: dict[int, bytes] = {}
    for event in seen:
        if isinstance(event, h2.events.DataReceived):
            bodies[event.stream_id or 0] = bodies.get(event.stream_id or 0, b"") + (event.data or b"")
    ours: dict[int, bytes] = {}
    for kind, *rest in events:
        if kind == "DataReceived":
            ours[rest[0]] = ours.get(rest[0], b"") + rest[1]
    for stream_id, body in ours.items():
        assert bodies.get(stream_id, b"").startswith(body) or not body
    paths = {
        event.stream_id: dict(event.headers or ())[b":path"]
        for event in seen
        if isinstance(event, h2.events.RequestReceived) and b":path" in dict(event.headers or ())
    }
    for kind, *rest in events:
        if kind == "RequestReceived" and rest[0] in paths:
            assert paths[rest[0]] == rest[1].split(b" ", 2)[1]


def http2_client(data: bytes) -> None:
    """The bytes of a server to a client with three requests give the same events and output however it is split."""

    def end() -> Client:
        client = Client(LIMITS)
        for _ in range(3):
            client.send_request(REQUEST, b"GET", end_stream=True)
        return client

    outcome = only([_drive(make(), data, size) for size in SIZES for make in _in_both_forms(end)])
    assert isinstance(outcome, tuple)
    for kind, *rest in outcome[0]:
        if kind == "ResponseReceived":
            try:
                read = http1.read_response(rest[1], b"GET", 1 << 16)
            except BadResponse:
                raise AssertionError("HTTP/1 refuses the head") from None
            assert read is not None
            assert read[1] == len(rest[1])


TARGETS: dict[str, Callable[[bytes], None]] = {
    "header_blocks": header_blocks,
    "http2_server": http2_server,
    "http2_client": http2_client,
}
