"""Random conversations with h2, in both roles: both ends see the same messages, wherever the bytes are cut."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
from examples import examples
from hypothesis import Phase, given
from hypothesis import strategies as st

from ktcpvs.protocols.http2 import (
    Client,
    ConnectionEnded,
    DataReceived,
    HeaderList,
    InterimReceived,
    Limits,
    RequestReceived,
    ResponseReceived,
    Server,
    StreamReset,
    TrailersReceived,
    response_list,
)
from ktcpvs.protocols.http2 import constants as numbers

SIZES = st.sampled_from([0, 1, 5, 1000, 20_000, 70_000])
MORE = st.lists(
    st.tuples(
        st.sampled_from(["x-a", "accept", "user-agent", "x-long", "authorization", "etag"]),
        st.sampled_from(["1", "", "text/html", "a" * 200, "b" * 3000]),
    ),
    max_size=4,
)
TRAILERS = st.none() | st.just([("x-check", "1"), ("grpc-status", "0")])
MESSAGES = st.tuples(MORE, st.none() | SIZES, TRAILERS, st.booleans())
"""Fields, the size of the body, trailers, and whether the stream is reset in its middle."""

PLANS = st.lists(st.tuples(MESSAGES, MESSAGES), min_size=1, max_size=5)
CUTS = st.lists(st.integers(1, 40_000), min_size=1, max_size=30)
LIMITS = st.builds(
    lambda stream, connection: Limits(stream_window=stream, connection_window=connection),
    st.sampled_from([1000, 65535, 100_000]),
    st.sampled_from([65535, 70_000, 1_000_000]),
)
THEIRS = st.fixed_dictionaries(
    {
        h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: st.sampled_from([1000, 65535, 1 << 20]),
        h2.settings.SettingCodes.MAX_FRAME_SIZE: st.sampled_from([16384, 20_000]),
        h2.settings.SettingCodes.HEADER_TABLE_SIZE: st.sampled_from([0, 100, 4096, 65536]),
    }
)


class Message:
    """The part of one stream that one end has received."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.trailers: list[tuple[bytes, bytes]] | None = None
        self.has_ended = False
        self.is_reset = False


class Sender:
    """Sends one message, as far as windows allow, through functions of either end."""

    def __init__(self, message: Any, start: Any, send: Any, finish: Any, reset: Any) -> None:
        self.fields, self.size, self.trailers, self.resets = message
        self.start, self.send, self.finish, self.reset = start, send, finish, reset
        self.at = 0
        self.state = "begin"

    def go_on(self) -> None:
        if self.state == "begin":
            is_whole = self.size is None and self.trailers is None and not self.resets
            self.start(self.fields, is_whole)
            self.state = "done" if is_whole else "body"
        if self.state == "body":
            body = body_of(self.size)
            if self.at < len(body):
                self.at += self.send(body[self.at :])
            if self.at == len(body):
                self.state = "done"
                if self.resets:
                    self.reset()
                else:
                    self.finish(self.trailers)


def body_of(size: int | None) -> bytes:
    return b"".join(b"%07d\n" % at for at in range(0, size or 0, 8))[:size]


def lines_of(pairs: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in pairs]


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in cuts * (1 + len(data) // sum(cuts)):
        if at >= len(data):
            break
        pieces.append(data[at : at + size])
        at += size
    return pieces


def fields_of(lines: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines.split(b"\r\n")[:-1])]


class Conversation:
    """Our end, and h2 at the other one, which acknowledges at once all that it gets."""

    def __init__(self, ours: Any, is_client: bool, theirs: dict[Any, int], cuts: list[int]) -> None:
        self.ours = ours
        self.is_client = is_client  # we are the client
        config = h2.config.H2Configuration(client_side=not is_client, header_encoding=None)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.h2.update_settings(theirs)
        self.cuts = cuts
        self.we_got: dict[int, Message] = defaultdict(Message)
        self.they_got: dict[int, Message] = defaultdict(Message)
        self.senders: dict[tuple[int, bool], Sender] = {}  # by stream and whether we send
        self.failure: Any = None

    def turn(self) -> bool:
        """Move everything once; return whether anything was moved."""
        before = {key: (sender.state, sender.at) for key, sender in self.senders.items()}
        for sender in list(self.senders.values()):
            sender.go_on()
        out = b"".join(self.ours.take_output())
        for piece in cut(out, self.cuts):
            for event in self.h2.receive_data(piece):
                self._they_get(event)
        back = self.h2.data_to_send()
        for piece in cut(back, self.cuts):
            for event in self.ours.receive(piece, 0):
                self._we_get(event)
        moved = {key: (sender.state, sender.at) for key, sender in self.senders.items()}
        return bool(out or back) or before != moved

    def run(self) -> None:
        for _ in range(5000):
            if not self.turn():
                return
        raise AssertionError("the conversation does not end")

    def _they_get(self, event: Any) -> None:
        stream_id = getattr(event, "stream_id", 0)
        got = self.they_got[stream_id] if stream_id else Message()
        if isinstance(event, h2.events.RequestReceived | h2.events.ResponseReceived):
            got.fields = list(event.headers)
            if isinstance(event, h2.events.RequestReceived):
                self.begin_response(stream_id, we_send=False)
        elif isinstance(event, h2.events.DataReceived):
            got.body += event.data
            if event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            got.trailers = list(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            got.has_ended = True
        elif isinstance(event, h2.events.StreamReset):
            got.is_reset = True
            for key in ((stream_id, True), (stream_id, False)):
                if key in self.senders:
                    self.senders[key].state = "done"
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.failure = event

    def _we_get(self, event: Any) -> None:
        if isinstance(event, ConnectionEnded):
            self.failure = event
            return
        stream_id = getattr(event, "stream_id", 0)
        got = self.we_got[stream_id] if stream_id else Message()
        if isinstance(event, RequestReceived | ResponseReceived):
            message = event.request if isinstance(event, RequestReceived) else event.response
            got.fields = fields_of(message.lines)
            got.has_ended = event.end_stream
            if isinstance(event, RequestReceived):
                self.begin_response(stream_id, we_send=True)
        elif isinstance(event, InterimReceived):
            assert event.response.status == 100
        elif isinstance(event, DataReceived):
            got.body += event.data
            got.has_ended = event.end_stream
            self.ours.acknowledge(stream_id, len(event.data))
        elif isinstance(event, TrailersReceived):
            got.trailers = fields_of(event.lines)
            got.has_ended = True
        elif isinstance(event, StreamReset):
            assert event.by_peer, event
            got.is_reset = True
            for key in ((stream_id, True), (stream_id, False)):
                if key in self.senders:
                    self.senders[key].state = "done"

    requests: list[Any]
    responses: list[Any]

    def begin_response(self, stream_id: int, we_send: bool) -> None:
        message = self.responses[stream_id >> 1]
        make = self.our_sender if we_send else self.their_sender
        self.senders[stream_id, we_send] = make(message, stream_id, [(":status", "200")])

    def our_sender(self, message: Any, stream_id: int, first: list[tuple[str, str]]) -> Sender:
        ours = self.ours

        def start(fields: Any, is_whole: bool) -> None:
            if first[0][0] == ":status":
                # h2 takes an interim response on a stream that it has just reset for an error, though what is on its
                # way then must be ignored (RFC 9113, section 5.1).
                if not self.requests[stream_id >> 1][3]:
                    ours.send_headers(stream_id, response_list(b"HTTP/1.1 100 Continue\r\n\r\n"))
                ours.send_headers(stream_id, HeaderList(tuple(lines_of(first + fields))), is_whole)
            else:
                assert ours.send_request(HeaderList(tuple(lines_of(first + fields))), b"POST", is_whole) == stream_id

        def finish(trailers: Any) -> None:
            if trailers is None:
                assert ours.send_data(stream_id, b"", end_stream=True) == 0
            else:
                ours.send_headers(stream_id, HeaderList(tuple(lines_of(trailers))), end_stream=True)

        return Sender(
            message,
            start,
            lambda data: ours.send_data(stream_id, data),
            finish,
            lambda: ours.reset(stream_id, numbers.CANCEL),
        )

    def their_sender(self, message: Any, stream_id: int, first: list[tuple[str, str]]) -> Sender:
        theirs = self.h2

        def start(fields: Any, is_whole: bool) -> None:
            theirs.send_headers(stream_id, first + fields, end_stream=is_whole)

        def send(data: bytes) -> int:
            window = theirs.local_flow_control_window(stream_id)
            size = min(len(data), window, theirs.max_outbound_frame_size)
            if size > 0:
                is_padded = 100 < size < min(window, theirs.max_outbound_frame_size) - 8
                theirs.send_data(stream_id, data[:size], pad_length=size % 8 if is_padded else None)
            return max(size, 0)

        def finish(trailers: Any) -> None:
            if trailers is None:
                theirs.send_data(stream_id, b"", end_stream=True)
            else:
                theirs.send_headers(stream_id, trailers, end_stream=True)

        return Sender(message, start, send, finish, lambda: theirs.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL))


REQUEST = [(":method", "POST"), (":scheme", "http"), (":authority", "a.example"), (":path", "/")]


def arrived(got: Message, sent: Any, other_resets: bool) -> None:
    """Check that a message came as it was sent; after a reset of either side, that it is a part of it."""
    fields, size, trailers, resets = sent
    body = body_of(size)
    pairs = [pair for pair in got.fields if pair[0][:1] != b":"]
    if got.is_reset or resets or other_resets:
        assert pairs in ([], lines_of(fields))
        assert body.startswith(got.body)
        return
    assert got.has_ended
    assert pairs == lines_of(fields)
    assert got.body == body
    assert got.trailers == (None if trailers is None else lines_of(trailers))


def converse(ours: Any, plan: list[Any], theirs: dict[Any, int], cuts: list[int]) -> Conversation:
    is_client = isinstance(ours, Client)
    talk = Conversation(ours, is_client, theirs, cuts)
    talk.requests = [request for request, _ in plan]
    talk.responses = [response for _, response in plan]
    talk.turn()
    talk.turn()  # h2 takes frames of the size that it has allowed only in calls behind the one with our acknowledgement
    for at, (request, _) in enumerate(plan):
        stream_id = 2 * at + 1
        make = talk.our_sender if is_client else talk.their_sender
        talk.senders[stream_id, is_client] = make(request, stream_id, REQUEST)
    talk.run()
    assert talk.failure is None, talk.failure
    for at, (request, response) in enumerate(plan):
        stream_id = 2 * at + 1
        to_server, to_client = (talk.they_got, talk.we_got) if is_client else (talk.we_got, talk.they_got)
        arrived(to_server[stream_id], request, response[3])
        arrived(to_client[stream_id], response, request[3])
    assert not ours.streams
    assert not ours.is_over
    return talk


@examples(40, phases=(Phase.explicit, Phase.generate))
@given(PLANS, LIMITS, THEIRS, CUTS)
def test_clients_of_h2(plan: list[Any], limits: Limits, theirs: dict[Any, int], cuts: list[int]) -> None:
    converse(Server(limits), plan, theirs, cuts)


@examples(40, phases=(Phase.explicit, Phase.generate))
@given(PLANS, LIMITS, THEIRS, CUTS)
def test_servers_of_h2(plan: list[Any], limits: Limits, theirs: dict[Any, int], cuts: list[int]) -> None:
    converse(Client(limits), plan, theirs, cuts)


class Pair:
    """Our client and our server, which pass on at once what they get."""

    def __init__(self, plan: list[Any], client: Client, server: Server, cuts: list[int]) -> None:
        self.plan, self.cuts = plan, cuts
        self.client, self.server = client, server
        self.got: dict[Any, dict[int, bytes]] = {client: defaultdict(bytes), server: defaultdict(bytes)}
        self.left: dict[Any, dict[int, bytes]] = {client: {}, server: {}}
        self.ended: dict[Any, set[int]] = {client: set(), server: set()}

    def turn(self) -> bool:
        """Move everything once; return whether anything was moved."""
        moved = False
        for end, peer in ((self.client, self.server), (self.server, self.client)):
            self.send(end)
            for piece in cut(b"".join(end.take_output()), self.cuts):
                moved = True
                for event in peer.receive(piece, 0):
                    self.take(peer, event)
        return moved

    def send(self, end: Any) -> None:
        left = self.left[end]
        for stream_id, body in list(left.items()):
            left[stream_id] = body[end.send_data(stream_id, body, end_stream=True) :]
            stream = end.streams.get(stream_id)
            if stream is None or stream.is_ended:
                del left[stream_id]

    def take(self, end: Any, event: Any) -> None:
        assert not isinstance(event, ConnectionEnded | StreamReset), event
        if isinstance(event, RequestReceived):
            self.server.send_headers(event.stream_id, HeaderList(((b":status", b"200"),)))
            self.left[self.server][event.stream_id] = body_of(self.plan[event.stream_id >> 1][1][1])
        if isinstance(event, DataReceived):
            self.got[end][event.stream_id] += event.data
            end.acknowledge(event.stream_id, len(event.data))
        if getattr(event, "end_stream", False):
            self.ended[end].add(event.stream_id)


@examples(40, phases=(Phase.explicit, Phase.generate))
@given(PLANS, LIMITS, LIMITS, CUTS)
def test_our_client_and_our_server(plan: list[Any], one: Limits, other: Limits, cuts: list[int]) -> None:
    """Both ends ours: every request and response arrives, with any windows."""
    pair = Pair(plan, Client(one), Server(other), cuts)
    for request, _ in plan:
        headers = HeaderList(tuple(lines_of(REQUEST + request[0])))
        stream_id = pair.client.send_request(headers, b"POST", end_stream=False)
        pair.left[pair.client][stream_id] = body_of(request[1])
    turns = 0
    while pair.turn():
        turns += 1
        assert turns < 200_000, "the conversation does not end"
    for at, (request, response) in enumerate(plan):
        stream_id = 2 * at + 1
        assert pair.got[pair.server][stream_id] == body_of(request[1])
        assert pair.got[pair.client][stream_id] == body_of(response[1])
        assert stream_id in pair.ended[pair.client]
        assert stream_id in pair.ended[pair.server]
    assert not pair.client.streams
    assert not pair.server.streams
