"""Fuzz targets for the readers of HTTP: the result does not depend on how the bytes are split, and h11 agrees.

Each target takes any bytes and returns; an AssertionError or any other exception is a find.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import h11

from ktcpvs.protocols import http1
from ktcpvs.protocols.http1 import BadFrame, BadRequest, BadResponse, Chunked, Frame, HeadReader, RequestHead
from ktcpvs.protocols.http1.body import MAX_CHUNK_LINE_BYTES, MAX_TRAILER_BYTES
from ktcpvs.protocols.http1.hop_by_hop import FRAMING_FIELDS

SIZES = (1, 2, 7, 64, 1 << 20)
"""The sizes of pieces in which the same bytes are read."""

HEAD_SIZE = 512
LINES = 20


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in pieces of `size` bytes."""
    return (data[begin : begin + size] for begin in range(0, len(data), size))


def only(outcomes: list[object]) -> object:
    """The outcome, which must be the same every time."""
    assert all(outcome == outcomes[0] for outcome in outcomes), outcomes
    return outcomes[0]


# Requests.


def request(data: bytes) -> None:
    """The head of a request, for both of its readers: HeadReader, and the expression that matches a whole head."""
    head = only([_head(data, size) for size in SIZES])
    whole = http1.read_whole_head(data, HEAD_SIZE, LINES, HEAD_SIZE)
    assert whole is None or whole == head
    came = data if http1.REQUEST.match(data) or not isinstance(head, RequestHead) else data.lstrip(b"\r\n")
    taken = _taken(came)
    if taken is not None:
        assert isinstance(head, RequestHead), "only one of two readers takes it"
        assert (taken.method, taken.target, taken.minor) == (head.method, head.target, bool(head.minor))
        _goes_on_as_it_was_read(taken)
        _h11_reads_the_same(taken, came[: len(taken.line) + len(taken.fields.lines) + 2])


def _head(data: bytes, size: int) -> RequestHead | str:
    """The outcome of HeadReader for `data` in pieces: the head, or the error."""
    reader = HeadReader(HEAD_SIZE, LINES)
    fed = b""
    try:
        for piece in pieces(data, size):
            fed += piece
            head = reader.feed(piece)
            assert reader.received == fed, "a reader looks and never eats"
            if head is not None:
                assert head.size <= min(len(fed), HEAD_SIZE)
                return head
            assert len(fed) < HEAD_SIZE, "what never ends is held"
    except BadRequest as bad:
        assert bad.status in (400, 414, 431, 505)
        assert str(bad).isprintable()
        # A head is refused as early as possible; if it is incomplete, that depends on the pieces.
        return "refused" if b"\n\n" in data or b"\n\r\n" in data or len(data) >= HEAD_SIZE else "begun"
    return "begun"


def _taken(data: bytes) -> http1.Request | None:
    """The request as the switch reads it from bytes that come at once."""
    found = http1.REQUEST.match(data)
    if found is None or found.end() > HEAD_SIZE or found[5].count(b"\n") > LINES:
        return None
    try:
        return http1.Request(found)
    except BadRequest as bad:
        assert bad.status in (400, 501)
        return None


def _goes_on_as_it_was_read(taken: http1.Request) -> None:
    """Check that a reader of the forwarded head finds the same body after it, and would not change the head."""
    added = b"Via: 1.1 k\r\n"
    for own, lines in ((taken.head(), 0), (taken.head(added, frozenset((b"via",))), 1)):
        again = http1.REQUEST.fullmatch(own)
        assert again is not None
        second = http1.Request(again)
        assert second.length == taken.length
        assert (second.method, second.path, second.minor) == (taken.method, taken.path, True)
        assert second.host == taken.host
        assert second.upgrades() == taken.upgrades()
        assert second.fields.has_trailers == taken.fields.has_trailers
        assert second.expect == taken.expect
        assert second.head() == own
        assert len(re.findall(rb"(?im)^via:", own)) == lines or not lines


def _h11_reads_the_same(taken: http1.Request, came: bytes) -> None:
    """Compare with h11 on the received head and on the forwarded head, if h11 accepts them."""
    for head, target in ((came, taken.target), (taken.head(), taken.path)):
        theirs = _h11_request(head, target)
        if theirs is None:
            continue
        assert theirs.method == taken.method
        assert theirs.http_version > b"1.0" or (head is came and not taken.minor)
        fields = [(name, value) for name, value in theirs.headers if name in FRAMING_FIELDS]
        framing = [(name, value.lower()) for name, value in fields if name != b"host"]
        if taken.length == http1.CHUNKED:
            assert framing == [(b"transfer-encoding", b"chunked")]
        else:
            assert [(name, int(value)) for name, value in framing] in ([], [(b"content-length", taken.length)])
            assert framing or taken.length == 0
            assert head is came or framing in ([], [(b"content-length", b"%d" % taken.length)])
        if target == taken.path:
            assert [value for name, value in fields if name == b"host"] in ([taken.host], [])


def _h11_request(head: bytes, target: bytes) -> h11.Request | None:
    """Replace a target with bytes from 0x80 on, which h11 does not accept."""
    head = head.replace(b" %b HTTP/" % target, b" /fuzz HTTP/", 1)
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(head)
    try:
        event = server.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


# Responses.

METHODS = (b"GET", b"HEAD", b"POST")


def response(data: bytes) -> None:
    """The head of a response."""
    for method in METHODS:
        for minor in (True, False):
            read = only([_response(data, method, minor, size) for size in SIZES])
            if isinstance(read, tuple):
                _answer_goes_on(data, method, minor)


def _response(data: bytes, method: bytes, minor: bool, size: int) -> tuple[bytes, int, bool, int | None, int] | str:
    received = b""
    for piece in pieces(data, size):
        received += piece
        try:
            read = http1.read_response(received, method, HEAD_SIZE, len(received) - len(piece), minor)
        except BadResponse as bad:
            assert bad.status == 502
            assert str(bad).isprintable()
            return "refused"
        if read is not None:
            answer, end = read
            return answer.head, answer.status, answer.keep_alive, answer.length, end
        assert len(received) <= HEAD_SIZE, "what never ends is held"
    return "begun"


def _answer_goes_on(data: bytes, method: bytes, minor: bool) -> None:
    """minor: False for a client of HTTP/1.0, which must get no transfer coding."""
    read = http1.read_response(data, method, HEAD_SIZE, minor=minor)
    assert read is not None
    answer, end = read
    assert answer.whole == data[:end]
    assert not (answer.keep_alive and answer.until_close)
    own = answer.head + b"\r\n"
    if answer.status < 200 or answer.status == 204:
        assert not re.search(rb"(?im)^content-length:", own), "a length where no body can be"
    if answer.status < 200 or answer.status in (204, 304) or not minor:
        assert not re.search(rb"(?im)^transfer-encoding:", own), "a coding where none can be"
    assert len(re.findall(rb"(?im)^(?:content-length|transfer-encoding):", own)) <= 1
    again = http1.read_response(own, method, HEAD_SIZE + 16, minor=minor)
    assert again is not None
    assert again[1] == len(own)
    is_decoded = isinstance(answer.frame, Chunked) and not minor
    assert answer.is_delimited is not (answer.until_close or is_decoded)
    assert (again[0].status, again[0].length, again[0].until_close) == (
        answer.status,
        answer.length,
        answer.until_close or is_decoded,
    )
    assert again[0].head == answer.head
    if answer.status < 200:
        return
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "h"), ("Content-Length", "0")]))
    client.send(h11.EndOfMessage())
    client.receive_data(own)
    try:
        head, then = client.next_event(), client.next_event()
    except h11.RemoteProtocolError:
        return  # it is stricter
    assert isinstance(head, h11.Response)
    assert head.status_code == answer.status
    assert (then is h11.NEED_DATA) == (not answer.frame.done), "h11 sees another body"


# Bodies.


def chunks(data: bytes) -> None:
    """A chunked body ends at the same byte for all sizes of pieces, and for h11."""
    ended = only([_end(Chunked(), data, size) for size in SIZES])
    content = only([_end(Chunked(decode=True), data, size) for size in SIZES])
    if not isinstance(ended, tuple) or not isinstance(content, tuple):
        return
    end, onward = ended
    assert (end, content[1]) == _plain_end(data)
    assert content[0] == end
    assert _end(Chunked(), onward, 1 << 20) == (len(onward), onward), "it is not the strict form"
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + onward + b"next")
    event, theirs = server.next_event(), b""
    while isinstance(event, h11.Request | h11.Data):
        theirs += bytes(event.data) if isinstance(event, h11.Data) else b""
        try:
            event = server.next_event()
        except h11.RemoteProtocolError:
            return  # it is stricter
    assert isinstance(event, h11.EndOfMessage), event
    assert (server.trailing_data[0], theirs) == (b"next", content[1])


def _plain_end(data: bytes) -> tuple[int, bytes]:
    """Return the end of a chunked body, and its content, read in the simplest way."""
    position, content = 0, b""
    while True:
        line_end = data.index(b"\r\n", position)
        digits = data[position:line_end].partition(b";")[0].rstrip(b" \t")
        assert digits
        assert not digits.strip(b"0123456789abcdefABCDEF")
        position = line_end + 2
        if not int(digits, 16):
            break
        content += data[position : position + int(digits, 16)]
        position += int(digits, 16) + 2
        assert data[position - 2 : position] == b"\r\n"
    while not data.startswith(b"\r\n", position):
        position = data.index(b"\r\n", position) + 2
    return position + 2, content


def feed_all(frame: Frame, data: bytes) -> tuple[int, bytes]:
    """Feed `data` in as many calls as it takes; return how many bytes belong to the body, and the bytes to send on."""
    total, onward = 0, b""
    while total < len(data) and not frame.done:
        taken = frame.feed(data[total:])
        assert 0 < taken <= len(data) - total
        onward += data[total : total + taken] if frame.onward is None else frame.onward
        total += taken
    return total, onward


def _end(frame: Frame, data: bytes, size: int) -> tuple[int, bytes] | str:
    """Feed `data` in pieces; return what `feed_all` returns, or a word when the body has not ended."""
    total, onward = 0, b""
    for piece in pieces(data, size):
        try:
            taken, went_on = feed_all(frame, piece)
        except BadFrame as bad:
            assert str(bad).isprintable()
            # A malformed line is refused as early as possible, which depends on the pieces.
            return "refused" if data.endswith(b"\n") else "begun"
        assert 0 <= taken <= len(piece)
        assert taken == len(piece) or frame.done
        assert len(getattr(frame, "_line", b"")) <= max(MAX_CHUNK_LINE_BYTES, MAX_TRAILER_BYTES), (
            "what never ends is held"
        )
        total += taken
        onward += went_on
        if frame.done:
            assert frame.feed(data[total:]) == 0, "it takes what is not its own"
            return total, onward
    return "begun"


TARGETS: dict[str, Callable[[bytes], None]] = {"request": request, "response": response, "chunks": chunks}
