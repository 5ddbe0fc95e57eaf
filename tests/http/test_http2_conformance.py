"""HTTP/2 as the RFCs require it of servers, through a service: by section of RFC 9113 and RFC 7541.

Each case is a connection of its own to a service with a real exchange behind it. The cases of `h2spec`, which `make
h2spec` runs against a daemon, are all here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import hpack
import pytest
from http2_frames import GET, POST, PREFACE, SETTINGS_ACK, Pairs, block, data, frame, headers, number, read, settings
from http2_service import BEGIN, LINES, Connection, Got
from memory import World, answer, worlds

from ktcpvs.protocols.http2 import constants as h2

BLOCK = block(GET)
END, WHOLE, ONE = h2.END_STREAM, h2.END_STREAM | h2.END_HEADERS, h2.END_HEADERS
PADDED, PRIORITY = h2.PADDED, h2.HAS_PRIORITY
REQUEST, OPEN = headers(1, GET), headers(1, POST, False)
MAX_WINDOW = (1 << 31) - 1
PING = frame(h2.PING, payload=b"a ping..")
SERVED = "served"


@pytest.fixture
def make() -> Iterator[Callable[..., World]]:
    with worlds(*LINES) as made:
        yield made


Check = Callable[[Got], bool]


def served(*streams: int, status: bytes = b"200") -> Check:
    """Each of these streams gets a whole response, and the connection goes on."""
    wanted = streams or (1,)
    return lambda got: (
        got.responses == dict.fromkeys(wanted, True)
        and got.statuses == dict.fromkeys(wanted, status)
        and got.ended is None
        and got.is_open
    )


def ends(*codes: int) -> Check:
    """The connection ends with one of these errors."""
    return lambda got: got.ended in codes and not got.is_open


def resets(stream_id: int, *codes: int) -> Check:
    """The stream ends with one of these errors, and nothing else ends."""
    return lambda got: got.resets.get(stream_id) in codes and got.ended is None and got.is_open


def refuses(stream_id: int, status: bytes) -> Check:
    """The stream gets a response of the switch, and the connection goes on."""
    return lambda got: got.statuses.get(stream_id) == status and got.ended is None and got.is_open


def pongs(payload: bytes = b"a ping..") -> Check:
    return lambda got: payload in got.pongs and got.ended is None and got.is_open


def priority(stream_id: int, depends_on: int = 0, weight: int = 15, is_exclusive: bool = False) -> bytes:
    first = (depends_on | is_exclusive << 31).to_bytes(4, "big")
    return frame(h2.PRIORITY, 0, stream_id, first + bytes((weight,)))


def request(*more: bytes, begin: bytes = BLOCK, stream_id: int = 1) -> bytes:
    """A GET whose header block ends with these bytes."""
    return frame(h2.HEADERS, WHOLE, stream_id, begin + b"".join(more))


def fields(*pairs: tuple[bytes, bytes], without: bytes = b"", base: Pairs = GET, end: bool = True) -> bytes:
    """A request with further fields, and without one."""
    return headers(1, [*(pair for pair in base if pair[0] != without), *pairs], end)


def huffman(text: bytes) -> bytes:
    coded: bytes = hpack.huffman.HuffmanEncoder(*_codes()).encode(text)
    return bytes((0x80 | len(coded),)) + coded


def _codes() -> tuple[Any, Any]:
    from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

    return REQUEST_CODES, REQUEST_CODES_LENGTH


def text(value: bytes) -> bytes:
    return bytes((len(value),)) + value


Case = tuple[str, bytes, Check]
BIG = 1 << 14
GOAWAY_OF_CLIENT = frame(h2.GOAWAY, 0, 0, bytes(4) + (0xFF).to_bytes(4, "big"))
PROTOCOL, STREAM_CLOSED, SIZE = h2.PROTOCOL_ERROR, h2.STREAM_CLOSED, h2.FRAME_SIZE_ERROR
FLOW, COMPRESSION, REFUSED = h2.FLOW_CONTROL_ERROR, h2.COMPRESSION_ERROR, h2.REFUSED_STREAM
CONTINUED = frame(h2.HEADERS, END, 1, BLOCK[:5])

SECTIONS: dict[str, tuple[Case, ...]] = {
    "4.1 frame format": (
        ("an unknown type", frame(0x16, 0, 0, bytes(8)) + PING, pongs()),
        ("an undefined flag", frame(h2.PING, 0x16, 0, b"a ping.."), pongs()),
        ("the reserved bit of a stream", frame(h2.PING, 0, 1 << 31, b"a ping.."), pongs()),
    ),
    "4.2 frame size": (
        ("DATA of 2^14 bytes", OPEN + data(1, bytes(BIG), True), served()),
        ("DATA that is too large", OPEN + data(1, bytes(BIG + 1), True), ends(SIZE)),
        ("HEADERS that are too large", frame(h2.HEADERS, WHOLE, 1, BLOCK + bytes(BIG)), ends(SIZE)),
    ),
    "4.3 field sections": (
        ("a block that cannot be decoded", frame(h2.HEADERS, WHOLE, 1, b"\x40"), ends(COMPRESSION)),
        ("PRIORITY within a block", CONTINUED + priority(1), ends(PROTOCOL)),
        ("HEADERS of another stream within a block", CONTINUED + headers(3, GET), ends(PROTOCOL)),
    ),
    "5.1 stream states": (
        ("idle: DATA", data(1, b"x", True), ends(PROTOCOL)),
        ("idle: RST_STREAM", number(h2.RST_STREAM, 1, h2.CANCEL), ends(PROTOCOL)),
        ("idle: WINDOW_UPDATE", number(h2.WINDOW_UPDATE, 1, 100), ends(PROTOCOL)),
        ("idle: CONTINUATION", frame(h2.CONTINUATION, ONE, 1, BLOCK), ends(PROTOCOL)),
        ("idle: PRIORITY", priority(1) + REQUEST, served()),
        ("half closed: DATA", REQUEST + data(1, b"x", True), resets(1, STREAM_CLOSED)),
        ("half closed: HEADERS", REQUEST + REQUEST, resets(1, STREAM_CLOSED)),
        ("half closed: CONTINUATION", REQUEST + frame(h2.CONTINUATION, ONE, 1, BLOCK), ends(PROTOCOL, STREAM_CLOSED)),
        ("half closed: WINDOW_UPDATE", REQUEST + number(h2.WINDOW_UPDATE, 1, 100), served()),
        ("half closed: PRIORITY", REQUEST + priority(1), served()),
        ("half closed: RST_STREAM", REQUEST + number(h2.RST_STREAM, 1, h2.CANCEL) + PING, pongs()),
        ("reset: DATA", OPEN + number(h2.RST_STREAM, 1, h2.CANCEL) + data(1, b"x"), ends(STREAM_CLOSED)),
        ("reset: HEADERS", OPEN + number(h2.RST_STREAM, 1, h2.CANCEL) + REQUEST, ends(STREAM_CLOSED)),
        (
            "reset: CONTINUATION",
            OPEN + number(h2.RST_STREAM, 1, h2.CANCEL) + frame(h2.CONTINUATION, ONE, 1, BLOCK),
            ends(PROTOCOL, STREAM_CLOSED),
        ),
    ),
    "5.1.1 stream identifiers": (
        ("an even number", headers(2, GET), ends(PROTOCOL)),
        ("a number below the last one", headers(5, GET) + headers(3, GET), ends(PROTOCOL)),
    ),
    "5.3.1 dependencies": (
        ("HEADERS that depend on themselves",
         frame(h2.HEADERS, WHOLE | PRIORITY, 1, b"\0\0\0\x01\xff" + BLOCK), resets(1, PROTOCOL)),
        ("PRIORITY that depends on itself", OPEN + priority(1, 1), resets(1, PROTOCOL)),
    ),
    "5.4.1 connection errors": (
        ("a PING of another length", frame(h2.PING, 0, 0, bytes(6)), ends(SIZE)),
    ),
    "5.5 extensions": (
        ("an unknown frame", frame(0xFF, 0, 0, b"unknown") + REQUEST, served()),
        ("an unknown frame within a block", CONTINUED + frame(0xFF, 0, 0, b"unknown"), ends(PROTOCOL)),
        ("an unknown setting", settings((0xFF, 1)) + PING, pongs()),
    ),
    "6.1 DATA": (
        ("a body", OPEN + data(1, b"body", True), served()),
        ("a body in pieces", OPEN + data(1, b"bo") + data(1, b"dy", True), served()),
        ("with padding", OPEN + frame(h2.DATA, END | PADDED, 1, b"\x04body" + bytes(4)), served()),
        ("on stream 0", data(0, b"x"), ends(PROTOCOL)),
        ("on a stream that is not open", REQUEST + data(1, b"x"), resets(1, STREAM_CLOSED)),
        ("padding that is as long as the rest", OPEN + frame(h2.DATA, END | PADDED, 1, b"\x05body"), ends(PROTOCOL)),
    ),
    "6.2 HEADERS": (
        ("a request", REQUEST, served()),
        ("with padding", frame(h2.HEADERS, WHOLE | PADDED, 1, b"\x03" + BLOCK + bytes(3)), served()),
        ("with priority", frame(h2.HEADERS, WHOLE | PRIORITY, 1, b"\0\0\0\x00\xff" + BLOCK), served()),
        ("PRIORITY before CONTINUATION", CONTINUED + priority(1), ends(PROTOCOL)),
        ("HEADERS before CONTINUATION", CONTINUED + headers(3, GET), ends(PROTOCOL)),
        ("on stream 0", frame(h2.HEADERS, WHOLE, 0, BLOCK), ends(PROTOCOL)),
        ("padding that is too long", frame(h2.HEADERS, WHOLE | PADDED, 1, b"\xff" + BLOCK), ends(PROTOCOL)),
    ),
    "6.3 PRIORITY": (
        ("weight 1", priority(1, weight=0) + REQUEST, served()),
        ("weight 256", priority(1, weight=255) + REQUEST, served()),
        ("a dependency", priority(3, 1) + headers(5, GET), served(5)),
        ("an exclusive one", priority(3, 1, is_exclusive=True) + headers(5, GET), served(5)),
        ("an idle stream, then a lower one", priority(5, 3) + headers(3, GET), served(3)),
        ("on stream 0", priority(0), ends(PROTOCOL)),
        ("of another length", OPEN + frame(h2.PRIORITY, 0, 1, bytes(4)), resets(1, SIZE)),
    ),
    "6.4 RST_STREAM": (
        ("an open stream", OPEN + number(h2.RST_STREAM, 1, h2.CANCEL) + headers(3, GET), served(3)),
        ("an unknown code", OPEN + number(h2.RST_STREAM, 1, 0xFF) + PING, pongs()),
        ("on stream 0", number(h2.RST_STREAM, 0, h2.CANCEL), ends(PROTOCOL)),
        ("an idle stream", number(h2.RST_STREAM, 1, h2.CANCEL), ends(PROTOCOL)),
        ("of another length", OPEN + frame(h2.RST_STREAM, 0, 1, bytes(3)), ends(SIZE)),
    ),
    "6.5 SETTINGS": (
        ("all settings", settings((1, 4096), (2, 0), (3, 100), (4, 65535), (5, BIG), (6, 100)) + REQUEST, served()),
        ("an ACK with a payload", frame(h2.SETTINGS, h2.ACK, 0, bytes(6)), ends(SIZE)),
        ("on a stream", frame(h2.SETTINGS, 0, 1, bytes(6)), ends(PROTOCOL)),
        ("of a length that is no multiple of 6", frame(h2.SETTINGS, 0, 0, bytes(3)), ends(SIZE)),
        ("ENABLE_PUSH 2", settings((2, 2)), ends(PROTOCOL)),
        ("INITIAL_WINDOW_SIZE 2^31", settings((4, 1 << 31)), ends(FLOW)),
        ("MAX_FRAME_SIZE below 2^14", settings((5, BIG - 1)), ends(PROTOCOL)),
        ("MAX_FRAME_SIZE above 2^24-1", settings((5, 1 << 24)), ends(PROTOCOL)),
        ("several window sizes", settings((4, 100), (4, 1)) + REQUEST, lambda got: got.sizes[:1] == [1]),
    ),
    "6.6 PUSH_PROMISE": (
        ("of a client", OPEN + frame(h2.PUSH_PROMISE, ONE, 1, b"\0\0\0\x03" + BLOCK), ends(PROTOCOL)),
    ),
    "6.7 PING": (
        ("a PING", PING, pongs()),
        ("an ACK", frame(h2.PING, h2.ACK, 0, b"unasked.") + PING, lambda got: got.pongs == [b"a ping.."]),
        ("on a stream", frame(h2.PING, 0, 1, bytes(8)), ends(PROTOCOL)),
        ("of another length", frame(h2.PING, 0, 0, bytes(6)), ends(SIZE)),
    ),
    "6.8 GOAWAY": (
        ("a stream goes on", REQUEST + frame(h2.GOAWAY, 0, 0, bytes(8)), lambda got: got.responses == {1: True}),
        ("an unknown code", GOAWAY_OF_CLIENT + PING, lambda got: got.pongs == [b"a ping.."] or not got.is_open),
        ("on a stream", frame(h2.GOAWAY, 0, 1, bytes(8)), ends(PROTOCOL)),
    ),
    "6.9 WINDOW_UPDATE": (
        ("of the connection", number(h2.WINDOW_UPDATE, 0, 1) + REQUEST, served()),
        ("of a stream", REQUEST + number(h2.WINDOW_UPDATE, 1, 1), served()),
        ("of 0", number(h2.WINDOW_UPDATE, 0, 0), ends(PROTOCOL)),
        ("of 0, on a stream", OPEN + number(h2.WINDOW_UPDATE, 1, 0), resets(1, PROTOCOL)),
        ("of another length", frame(h2.WINDOW_UPDATE, 0, 0, bytes(3)), ends(SIZE)),
        ("beyond 2^31-1", number(h2.WINDOW_UPDATE, 0, MAX_WINDOW) * 2, ends(FLOW)),
        ("beyond 2^31-1, on a stream", OPEN + number(h2.WINDOW_UPDATE, 1, MAX_WINDOW) * 2, resets(1, FLOW)),
        ("a window of 1", settings((4, 1)) + REQUEST, lambda got: got.sizes == [1]),
        (
            "a window that grows after HEADERS",
            settings((4, 0)) + REQUEST + settings((4, 1)),
            lambda got: got.sizes == [1],
        ),
        (
            "a window that becomes negative",
            settings((4, 3)) + REQUEST + settings((4, 2)) + number(h2.WINDOW_UPDATE, 1, 2),
            lambda got: sum(got.sizes) in (4, 5) and got.ended is None,
        ),
    ),
    "6.10 CONTINUATION": (
        ("one", CONTINUED + frame(h2.CONTINUATION, ONE, 1, BLOCK[5:]), served()),
        (
            "several",
            CONTINUED + frame(h2.CONTINUATION, 0, 1, BLOCK[5:9]) + frame(h2.CONTINUATION, ONE, 1, BLOCK[9:]),
            served(),
        ),
        ("another frame between", CONTINUED + frame(h2.CONTINUATION, 0, 1) + data(1, b"x"), ends(PROTOCOL)),
        ("on stream 0", CONTINUED + frame(h2.CONTINUATION, ONE, 0, BLOCK[5:]), ends(PROTOCOL)),
        ("behind END_HEADERS", OPEN + frame(h2.CONTINUATION, ONE, 1, BLOCK), ends(PROTOCOL)),
        (
            "behind END_HEADERS of another one",
            frame(h2.HEADERS, 0, 1, block(POST)) + frame(h2.CONTINUATION, ONE, 1) * 2,
            ends(PROTOCOL),
        ),
        ("behind DATA", OPEN + data(1, b"x") + frame(h2.CONTINUATION, ONE, 1, BLOCK), ends(PROTOCOL)),
    ),
    "8.1 message framing": (
        ("GET", REQUEST, served()),
        ("HEAD", headers(1, [(b":method", b"HEAD"), *GET[1:]]), served()),
        ("POST", OPEN + data(1, b"body", True), served()),
        ("trailers", OPEN + data(1, b"body") + headers(1, [(b"x-sum", b"1")]), served()),
        ("a second HEADERS that does not end", OPEN + data(1, b"x") + headers(1, [(b"a", b"b")], False),
         resets(1, PROTOCOL)),
        ("too little content", fields((b"content-length", b"2"), base=POST, end=False) + data(1, b"x", True),
         resets(1, PROTOCOL)),
        (
            "too little content in pieces",
            fields((b"content-length", b"9"), base=POST, end=False) + data(1, b"body") + data(1, b"body", True),
            resets(1, PROTOCOL),
        ),
    ),
    "8.2 fields": (
        ("a name with an upper-case letter", fields((b"X-A", b"b")), resets(1, PROTOCOL)),
        ("connection", fields((b"connection", b"keep-alive")), resets(1, PROTOCOL)),
        ("te: trailers, deflate", fields((b"te", b"trailers, deflate")), resets(1, PROTOCOL)),
        ("te: trailers", fields((b"te", b"trailers")), served()),
    ),
    "8.3 pseudo-header fields": (
        ("an unknown one", fields((b":test", b"x")), resets(1, PROTOCOL)),
        ("that of a response", fields((b":status", b"200")), resets(1, PROTOCOL)),
        ("in trailers", OPEN + data(1, b"x") + headers(1, [(b":method", b"GET")]), resets(1, PROTOCOL)),
        ("behind a field", headers(1, [(b"x-a", b"b"), *GET]), resets(1, PROTOCOL)),
        ("an empty :path", fields((b":path", b""), without=b":path"), resets(1, PROTOCOL)),
        ("no :method", fields(without=b":method"), resets(1, PROTOCOL)),
        ("no :scheme", fields(without=b":scheme"), resets(1, PROTOCOL)),
        ("no :path", fields(without=b":path"), resets(1, PROTOCOL)),
        *((f"{name.decode()} twice", headers(1, [(name, value), *GET]), resets(1, PROTOCOL)) for name, value in GET),
    ),
    "RFC 7541, 6 representations": (
        ("indexed", request(begin=b"\x82\x86\x84" + b"\x41" + text(b"a")), served()),
        ("incremental, indexed name", request(b"\x7a" + text(b"agent")), served()),
        ("incremental, indexed name, Huffman", request(b"\x7a" + huffman(b"agent")), served()),
        ("incremental, new name", request(b"\x40" + text(b"x-test") + text(b"test")), served()),
        ("incremental, new name, Huffman", request(b"\x40" + huffman(b"x-test") + huffman(b"test")), served()),
        ("without indexing, indexed name", request(b"\x0f\x2b" + text(b"agent")), served()),
        ("without indexing, indexed name, Huffman", request(b"\x0f\x2b" + huffman(b"agent")), served()),
        ("without indexing, new name", request(b"\x00" + text(b"x-test") + text(b"test")), served()),
        ("without indexing, new name, Huffman", request(b"\x00" + huffman(b"x-test") + huffman(b"test")), served()),
        ("never indexed, indexed name", request(b"\x1f\x2b" + text(b"agent")), served()),
        ("never indexed, indexed name, Huffman", request(b"\x1f\x2b" + huffman(b"agent")), served()),
        ("never indexed, new name", request(b"\x10" + text(b"x-test") + text(b"test")), served()),
        ("never indexed, new name, Huffman", request(b"\x10" + huffman(b"x-test") + huffman(b"test")), served()),
        ("a change of the table's size", request(begin=b"\x20" + BLOCK), served()),
        ("two changes of the table's size", request(begin=b"\x20\x3f\xe1\x1f" + BLOCK), served()),
        ("index 0", request(b"\x80"), ends(COMPRESSION)),
        ("an index beyond the tables", request(b"\xc6"), ends(COMPRESSION)),
        ("a name's index beyond the tables", request(b"\x7f\x07" + text(b"x")), ends(COMPRESSION)),
        ("a change of the table's size at the end", request(b"\x3f\xe1\x1f"), ends(COMPRESSION)),
        ("a table that is larger than allowed", request(begin=b"\x3f\xe2\x1f" + BLOCK), ends(COMPRESSION)),
        ("padding of Huffman codes longer than 7 bits",
         request(b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"), ends(COMPRESSION)),
        ("padding of Huffman codes with zeros",
         request(b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"), ends(COMPRESSION)),
        ("the EOS symbol", request(b"\x00\x85\xf2\xb2\x4a\x84\xff\x88\x49\x50\x9f\xff\xff\xff\xfa\xff"),
         ends(COMPRESSION)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section(make: Callable[..., World], section: str) -> None:
    world = make()
    wrong = []
    for name, said, is_right in SECTIONS[section]:
        connection = Connection(world)
        connection.says(BEGIN + said)
        got = connection.got()
        if not is_right(got):
            wrong.append((name, got))
        connection.peer.resets()
    assert wrong == []


CLOSED = {
    "DATA": (data(1, b"x"), ends(STREAM_CLOSED)),
    "HEADERS": (REQUEST, ends(STREAM_CLOSED)),
    "CONTINUATION": (frame(h2.CONTINUATION, ONE, 1, BLOCK), ends(PROTOCOL, STREAM_CLOSED)),
    "PRIORITY": (priority(1) + headers(3, GET), served(1, 3)),
    "WINDOW_UPDATE": (number(h2.WINDOW_UPDATE, 1, 1) + headers(3, GET), served(1, 3)),
    "RST_STREAM": (number(h2.RST_STREAM, 1, h2.CANCEL) + headers(3, GET), served(1, 3)),
}


@pytest.mark.parametrize("kind", CLOSED)
def test_frames_on_a_stream_that_has_ended(make: Callable[..., World], kind: str) -> None:
    """RFC 9113, section 5.1: closed."""
    connection = Connection(make())
    connection.says(BEGIN + REQUEST)
    assert served()(connection.got())
    said, is_right = CLOSED[kind]
    connection.says(said)
    assert is_right(connection.got()), connection.got()


def test_more_streams_than_are_allowed(make: Callable[..., World]) -> None:
    """RFC 9113, section 5.1.2."""
    connection = Connection(make())
    connection.says(BEGIN + b"".join(headers(2 * n + 1, POST, False) for n in range(101)))
    assert connection.got().resets == {201: REFUSED}


def test_settings_are_acknowledged_in_order(make: Callable[..., World]) -> None:
    """RFC 9113, section 6.5.3: a PING behind them is acknowledged behind them."""
    connection = Connection(make())
    connection.says(PREFACE + settings() + settings((4, 1)) + PING)
    kinds = [(one.kind, one.flags & h2.ACK) for one in read(connection.heard)]
    acknowledged = [kind for kind, is_ack in kinds if is_ack]
    assert acknowledged == [h2.SETTINGS, h2.SETTINGS, h2.PING]


def test_a_connection_begins_with_settings(make: Callable[..., World]) -> None:
    """RFC 9113, section 3.4."""
    connection = Connection(make())
    connection.says(BEGIN)
    assert read(connection.heard)[0].kind == h2.SETTINGS
    assert connection.got().is_open


@pytest.mark.parametrize("said", [b"INVALID CONNECTION PREFACE\r\n\r\n", PREFACE + PING, b"GET / HTTP/1.1\r\n\r\n"])
def test_another_beginning(make: Callable[..., World], said: bytes) -> None:
    """RFC 9113, section 3.4."""
    connection = Connection(make())
    connection.says(said)
    assert ends(PROTOCOL)(connection.got())


def test_without_tls_another_beginning_is_a_bad_request_of_http1(make: Callable[..., World]) -> None:
    """Until the preface has come, such a client speaks HTTP/1."""
    world = make()
    client = world.client()
    client.says(b"INVALID CONNECTION PREFACE\r\n\r\n")
    assert client.heard().startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert client.line.ended


def test_an_error_behind_requests_leaves_nothing_behind(make: Callable[..., World]) -> None:
    """One of them is reset, so that for a moment there is no stream; all comes at once."""
    world = make()
    connection = Connection(world)
    reset = number(h2.RST_STREAM, 1, h2.CANCEL)
    connection.peer.says(BEGIN + REQUEST + reset + headers(3, GET) + number(h2.WINDOW_UPDATE, 99, 1))
    world.turns(3)
    assert not world.live.connections
    assert connection.peer.line.ended


@pytest.mark.parametrize("has_end", [True, False])
def test_a_response_that_comes_before_the_request_has_ended(make: Callable[..., World], has_end: bool) -> None:
    """RFC 9113, section 8.1: it is whole, and no error follows. The client may send its body to the end, or is asked
    not to when that takes too long."""
    world = make()
    connection = Connection(world)
    peer = connection.peer
    peer.says(BEGIN + OPEN + data(1, bytes(BIG)) * 3)
    world.turns(3)
    (server,) = world.accepts_all()
    server.says(answer(b"hello"))
    world.turns(5)
    for _ in range(20 if has_end else 1):  # more than the window of a stream
        peer.says(data(1, bytes(10_000)))
        world.turns(3)
    if has_end:
        peer.says(data(1, b"", True))
    world.turns(3)
    connection.heard += peer.heard()
    assert served()(connection.got())
    assert connection.got().resets == {}
    world.passes(world.context.settings.linger_timeout + 2)
    connection.heard += peer.heard()
    assert connection.got().resets == ({} if has_end else {1: h2.NO_ERROR})
    assert not world.live.connections


@pytest.mark.parametrize("size", [5, 1 << 20])
def test_a_window_that_never_opens(make: Callable[..., World], size: int) -> None:
    """SETTINGS_INITIAL_WINDOW_SIZE 0 and no WINDOW_UPDATE: the stream ends, with a short response and with one that the
    switch stops reading, and so does the connection."""
    world = make(settings="read_timeout = 5 keepalive_timeout = 4")
    connection = Connection(world)
    connection.peer.says(PREFACE + settings((h2.INITIAL_WINDOW_SIZE, 0)) + SETTINGS_ACK + REQUEST)
    world.turns(3)
    (server,) = world.accepts_all()
    response = answer(bytes(size))
    for begin in range(0, len(response), 1 << 16):
        if server.is_read():
            server.says(response[begin : begin + (1 << 16)])
        world.turns(3)
    assert server.is_read() == (size == 5)
    world.passes(30)
    connection.heard += connection.peer.heard()
    got = connection.got()
    assert (got.responses, got.sizes, got.ended) == ({1: False}, [], h2.NO_ERROR)
    assert list(got.resets) == [1]
    assert not world.live.connections


@pytest.mark.parametrize("has_data", [True, False])
def test_an_end_needs_no_window(make: Callable[..., World], has_data: bool) -> None:
    """RFC 9113, section 6.9.1: the end of a chunked body comes when the window of its stream is 0, or negative."""
    world = make()
    connection = Connection(world)
    connection.peer.says(BEGIN + REQUEST)
    world.turns(3)
    (server,) = world.accepts_all()
    server.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"5\r\nhello\r\n" * has_data)
    world.turns(3)
    connection.peer.says(settings((h2.INITIAL_WINDOW_SIZE, 0)))
    server.says(b"0\r\n\r\n")
    world.turns(3)
    connection.heard += connection.peer.heard()
    assert connection.got().responses == {1: True}
    assert sum(connection.got().sizes) == 5 * has_data
