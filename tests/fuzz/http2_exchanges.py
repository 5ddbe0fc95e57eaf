"""Fuzz targets for messages between HTTP/1 and HTTP/2 servers, and for whole connections of HTTP/2 on both sides.

A script of `http2_connections` begins with a byte for the service (SERVICES). Events follow: a letter of EVENTS in
`connections.py`, two bytes with a length, and the bytes that are sent. A client or server that speaks HTTP/2 begins
correctly, so that its frames are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import hpack

from ktcpvs.protocols import http1
from ktcpvs.protocols.http1 import BadFrame, BadRequest
from ktcpvs.protocols.http1.body import UntilClose
from ktcpvs.protocols.http2 import (
    Client,
    DataReceived,
    Limits,
    MalformedMessage,
    Request,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
)
from ktcpvs.protocols.http2.client_messages import RequestBody, RequestHeads, ResponseWriter
from ktcpvs.protocols.http2.constants import CONTINUATION, HEADERS, PREFACE
from ktcpvs.protocols.http2.fields import make_field
from tests.fuzz.connections import EVENTS, A, Play, asked_of, requests_of
from tests.fuzz.guarded_amp import Failures
from tests.fuzz.messages import SIZES, only, pieces

HEAD = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
SETTINGS_FRAME = b"\0\0\0\4\0\0\0\0\0"

# Messages.


def http2_request(data: bytes) -> None:
    """A request of HTTP/1 for an HTTP/2 server: its header list is read as the same request, its body has the same
    content however it is split."""
    try:
        head = RequestHeads().read(data, b"http", False)
    except (BadRequest, MalformedMessage, BadFrame):
        return
    found = http1.REQUEST.match(data)
    assert found is not None
    try:
        read = http1.Request(found)
        again = Request([make_field(*pair) for pair in head.headers.pairs])
    except (BadRequest, MalformedMessage):
        return  # the exchange, which reads it before, refuses it
    assert (again.method, again.authority) == (read.method, read.host)
    assert again.path == read.path or read.method == b"CONNECT"
    rest = data[head.size :]

    def content(size: int) -> tuple[object, ...]:
        body = RequestBody(head)
        got = b""
        try:
            for piece in pieces(rest, size):
                got += b"".join(body.feed(piece))
        except BadFrame:
            return ("bad",)
        return got, body.has_ended, None if body.trailers is None else body.trailers.pairs

    outcome = only([content(size) for size in SIZES])
    if outcome != ("bad",) and head.length not in (http1.CHUNKED, 0):
        assert isinstance(outcome, tuple)
        assert outcome[0] == rest[: head.length]


def http2_response(data: bytes) -> None:
    """What a server of HTTP/2 sends is one response of HTTP/1 with the same content, however it is split, and taken as
    it comes or at once."""
    outcomes = [_response_of(data, size, at_once) for size in SIZES for at_once in (False, True)]
    only([(content, is_whole) for content, is_whole, _ in outcomes])


def _response_of(data: bytes, size: int, at_once: bool) -> tuple[bytes, bool, bytes]:
    """The content, whether the response is whole, and its bytes in HTTP/1."""
    head = RequestHeads().read(HEAD, b"http", False)
    client, writer = Client(Limits()), ResponseWriter(head)
    stream = client.send_request(head.headers, head.method, end_stream=True)
    written, content = b"", b""
    for piece in pieces(SETTINGS_FRAME + data, size):
        for event in client.receive(piece, 0):
            if getattr(event, "stream_id", 0) != stream:
                continue
            if isinstance(event, StreamReset):
                return b"", False, written
            content += _write(writer, event)
        if not at_once and (writer.has_begun or writer.has_ended):
            written += writer.take()
    written += writer.take()
    if not writer.has_begun:
        return b"", False, written
    assert _content_of(written, writer.has_ended) == content
    return content, writer.has_ended, written


def _write(writer: ResponseWriter, event: object) -> bytes:
    """Have an event of the stream written. Return its content."""
    if isinstance(event, ResponseReceived):
        if event.response.status < 200:
            writer.interim(event.response)
        else:
            writer.begin(event.response, event.end_stream)
    elif isinstance(event, DataReceived):
        writer.data(event.data, event.end_stream)
        return event.data
    elif isinstance(event, TrailersReceived):
        writer.trailers(event.lines)
    return b""


def _content_of(written: bytes, is_whole: bool) -> bytes:
    """The content of the response in HTTP/1, with nothing behind it."""
    status = 0
    while status < 200:
        read = http1.read_response(written, b"GET", 1 << 20)
        assert read is not None, written
        response, end = read
        status, written = response.status, written[end:]
    frame = http1.Chunked(decode=True) if isinstance(response.frame, http1.Chunked) else response.frame
    content = b""
    while written and not frame.done:
        taken = frame.feed(written)
        content += written[:taken] if frame.onward is None else frame.onward
        written = written[taken:]
    assert not written, "bytes behind the response"
    assert frame.done or not is_whole or isinstance(frame, UntilClose)
    return content


# Connections.

_RULE = f'rule = pattern ".*" use server {A}'
SERVICES = {
    b"c": ("scheduler = phttp", f"server = {A}", _RULE),
    b"s": ("scheduler = phttp", f"server = {A} 1 h2", _RULE),
    b"b": ("scheduler = phttp", f"server = {A} 1 h2", _RULE),
}
"""c: clients speak HTTP/2. s: servers do. b: both do."""

HTTP2_CLIENTS, HTTP2_SERVERS = b"cb", b"sb"


class HTTP2Play(Play):
    """A switch whose clients, servers or both speak HTTP/2."""

    def __init__(self, service: bytes) -> None:
        super().__init__(service, SERVICES[service])
        self._service = service

    def happens(self, event: bytes, said: bytes) -> None:
        clients, servers = len(self.clients), len(self.servers)
        super().happens(event, said)
        if len(self.clients) > clients and self._service in HTTP2_CLIENTS:
            super().happens(b"c", PREFACE + SETTINGS_FRAME)
        if len(self.servers) > servers and self._service in HTTP2_SERVERS:
            self.says(self.servers[-1], SETTINGS_FRAME)


def _events(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    while len(data) >= 3:
        end = 3 + int.from_bytes(data[1:3], "big")
        yield data[:1], data[3:end]
        data = data[end:]


def http2_connections(data: bytes) -> None:
    """Play a script: no exception, nothing left or held, whole frames, and no request that the switch did not send."""
    service = data[:1]
    if service not in SERVICES:
        return
    with Failures():
        play = HTTP2Play(service)
        play.happens(b"n", b"")
        for _, (event, said) in zip(range(100), _events(data[1:]), strict=False):
            if event in EVENTS and event not in (b"l", b"m", b"M"):
                play.happens(event, said)
        ended = play.ends()
    if service in HTTP2_CLIENTS:
        for _, heard in ended.clients:
            for fields in _header_lists(heard):
                assert all(name == b":status" for name, _ in fields if name.startswith(b":"))
    if service not in HTTP2_SERVERS:
        seen = [one for said, heard in ended.servers for one in requests_of(said, heard, told=False)]
        assert len(seen) == ended.sent, f"servers see {len(seen)} requests, the switch sent {ended.sent}"
        return
    lists = [fields for _, heard in ended.servers for fields in _header_lists(heard.removeprefix(PREFACE))]
    requests = [fields for fields in lists if b":method" in dict(fields)]
    for fields in requests:
        assert Request([make_field(*pair) for pair in fields]).authority
    assert ended.sent or not requests
    if service == b"s":
        known = {(method, path) for said, _ in ended.clients for method, path, _ in asked_of(said)}
        made = {(dict(fields)[b":method"], dict(fields)[b":path"]) for fields in requests}
        assert known >= made, "a server sees a request that no client made"


def _header_lists(heard: bytes) -> list[list[tuple[bytes, bytes]]]:
    """All header lists in an output, which ends with a whole frame. Raises AssertionError for responses of HTTP/1
    behind frames."""
    decoder, block, found = hpack.Decoder(1 << 20), b"", []
    if heard.startswith(b"HTTP/1.1 "):
        return []
    while heard:
        size = int.from_bytes(heard[:3], "big")
        assert len(heard) >= 9 + size, "an output ends within a frame"
        assert size <= 1 << 14
        if heard[3] in (HEADERS, CONTINUATION):
            block += heard[9 : 9 + size]
            if heard[4] & 4:
                found.append([(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)])
                block = b""
        heard = heard[9 + size :]
    return found


TARGETS: dict[str, Callable[[bytes], None]] = {
    "http2_request": http2_request,
    "http2_response": http2_response,
    "http2_connections": http2_connections,
}
