"""Heads and bodies of HTTP/1: a corpus of valid messages and known attacks, random messages, and a comparison with
h11."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise, product

import h11
import pytest
from cases import check_each
from examples import examples
from hypothesis import example, given
from hypothesis import strategies as st

from ktcpvs.protocols.http1 import (
    CHUNKED,
    REQUEST,
    BadFrame,
    BadRequest,
    BadResponse,
    Chunked,
    EarlyCheck,
    Frame,
    HeadReader,
    Request,
    Response,
    read_response,
)
from ktcpvs.protocols.http1.body import Length, UntilClose
from tests.protocols.corpus_entries import CorpusEntry, entries, unescaped

HEAD_SIZE = 65536
FOLLOWING = [b"", b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n", b"\0\xff\r\n\r\n0\r\n\r\n"]


REQUESTS = list(entries("requests"))
RESPONSES = list(entries("responses"))
WAYS = ("whole", "bytes", "following", "following binary")
"""In which a message arrives: see `pieces_of`."""


def pieces_of(message: bytes, way: str) -> tuple[list[bytes], bytes]:
    """Return the pieces in which the message arrives, and the bytes after it."""
    if way == "bytes":
        return [message[position : position + 1] for position in range(len(message))], b""
    following = {"whole": b"", "following": FOLLOWING[1], "following binary": FOLLOWING[2]}[way]
    return [message + following], following


@dataclass
class Taken:
    """The result of reading: a message, its body, and the remaining bytes."""

    message: Request | Response
    frame: Frame
    body: bytes
    rest: bytes
    onward: bytes
    """The body as it is forwarded."""


def body_of(frame: Frame, data: bytes, pieces: Iterator[bytes]) -> tuple[bytes, bytes, bytes]:
    """Return the body as received, the remaining bytes, and the body as forwarded."""
    body = onward = b""
    while True:
        taken = frame.feed(data)
        body += data[:taken]
        onward += data[:taken] if frame.onward is None else frame.onward
        rest = data[taken:]
        if frame.done:
            return body, rest + b"".join(pieces), onward
        assert not rest
        data = next(pieces, b"")
        if not data:
            return body, b"", onward


def take_request(pieces: list[bytes], head_size: int = HEAD_SIZE) -> Taken | None:
    """Read a request from what a client sends, as the switch does; None if its head has not ended."""
    coming = iter(pieces)
    reader: HeadReader | None = None
    for data in coming:
        found = REQUEST.match(data) if reader is None else None
        if found is None:
            reader = reader or HeadReader(head_size, 100, check_lines=EarlyCheck().feed)
            if reader.feed(data) is None:
                continue
            data = bytes(reader.received).lstrip(b"\r\n")
            found = REQUEST.match(data)
            if found is None:
                raise BadRequest(400, "the head has a form that HTTP/1.1 forbids")
        request = Request(found)
        frame = request.frame()
        try:
            parts = body_of(frame, data[found.end() :], coming)
        except BadFrame as bad:
            raise BadRequest(400, str(bad)) from None
        return Taken(request, frame, *parts)
    return None


def take_response(
    pieces: list[bytes], method: bytes, head_size: int = HEAD_SIZE, *, minor: bool = True
) -> Taken | None:
    """Read a response from what a server sends, as the switch does; None if its head has not ended."""
    coming = iter(pieces)
    received = b""
    for data in coming:
        received += data
        read = read_response(received, method, head_size, len(received) - len(data), minor)
        if read is not None:
            response, end = read
            try:
                parts = body_of(response.frame, received[end:], coming)
            except BadFrame as bad:
                raise BadResponse(str(bad)) from None
            return Taken(response, response.frame, *parts)
    return None


def test_the_corpus_is_large_enough() -> None:
    assert len(REQUESTS) >= 150
    assert len(RESPONSES) >= 50
    for corpus in (REQUESTS, RESPONSES):
        assert len({entry.name for entry in corpus}) == len(corpus)
        assert len({(entry.message, entry.method, entry.minor) for entry in corpus}) == len(corpus)


def name_of(case: tuple[CorpusEntry, str]) -> str:
    entry, way = case
    return f"{entry.name}, {way}"


def test_the_corpus_of_requests() -> None:
    check_each(product(REQUESTS, WAYS), lambda case: check_request(*case), name=name_of)


def check_request(entry: CorpusEntry, way: str) -> None:
    pieces, following = pieces_of(entry.message, way)
    verdict = entry.verdict
    if verdict == ["incomplete"]:
        if not following:
            assert take_request(pieces) is None
        return
    if verdict[0].isdigit():
        with pytest.raises(BadRequest) as refused:
            take_request(pieces)
        assert refused.value.status == int(verdict[0])
        assert str(refused.value)
        return
    if entry.says("unfinished") and following:
        return
    taken = take_request(pieces)
    assert taken is not None
    request = taken.message
    assert isinstance(request, Request)
    assert verdict[0] == "ok"
    assert request.path == unescaped(verdict[1])
    assert request.length == (CHUNKED if verdict[2] == "chunked" else int(verdict[2]))
    assert request.keep_alive == {"keep": True, "close": False}[verdict[3]]
    assert request.expect == entry.says("expect")
    for word in verdict[4:]:
        if word.startswith("host="):
            assert request.host == word[5:].encode("ascii")
        else:
            assert word in ("expect", "unfinished") or word.startswith("upgrade=")
    asked = [word[8:] for word in verdict[4:] if word.startswith("upgrade=")]
    assert b",".join(request.upgrades()).decode() == "".join(asked)
    assert request.head() == entry.head
    assert taken.onward == (taken.body if entry.body is None else entry.body)
    assert taken.frame.done != entry.says("unfinished")
    assert taken.rest == entry.rest + following


def test_the_corpus_of_responses() -> None:
    check_each(product(RESPONSES, WAYS), lambda case: check_response(*case), name=name_of)


def check_response(entry: CorpusEntry, way: str) -> None:
    pieces, following = pieces_of(entry.message, way)
    verdict = entry.verdict
    if verdict == ["incomplete"]:
        if not following:
            assert take_response(pieces, entry.method, minor=entry.minor) is None
        return
    if verdict == ["502"]:
        with pytest.raises(BadResponse) as refused:
            take_response(pieces, entry.method, minor=entry.minor)
        assert refused.value.status == 502
        assert str(refused.value)
        return
    if entry.says("unfinished") and following:
        return
    # The length of a body is known before any of it has come.
    read = read_response(entry.message, entry.method, HEAD_SIZE, minor=entry.minor)
    assert read is not None
    frame = read[0].frame
    framed = str(frame.left) if isinstance(frame, Length) else "until-close" if read[0].until_close else "chunked"
    assert isinstance(frame, UntilClose) == read[0].until_close
    taken = take_response(pieces, entry.method, minor=entry.minor)
    assert taken is not None
    response = taken.message
    assert isinstance(response, Response)
    assert ["ok", str(response.status), framed] == verdict[:3]
    assert response.keep_alive == {"keep": True, "close": False}[verdict[3]]
    assert response.head + b"\r\n" == entry.head
    assert taken.onward == (taken.body if entry.body is None else entry.body)
    assert taken.frame.done != entry.says("unfinished")
    assert taken.rest == entry.rest + following


# Cases written by hand.


@pytest.mark.parametrize(
    "lines",
    [
        b"Host: a..b\r\n", b"Host: a\r\nA: b\r\nHOST: a\r\n", b"Content-Length: x\r\n", b"Content-Length: 010\r\n",
        b"Content-Length: 3\r\nContent-Length: 4\r\n", b"Content-Length: 3, 4\r\n", b"Transfer-Encoding: gzip\r\n",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"Content_Length: 3\r\n",
        b"Transfer.Encoding: chunked\r\n", b"Connection: close, Host\r\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 4, 1000])
def test_a_head_is_refused_at_the_line_that_spoils_it(lines: bytes, size: int) -> None:
    head = b"POST / HTTP/1.1\r\nX: y\r\n" + lines
    reader = HeadReader(HEAD_SIZE, 100, check_lines=EarlyCheck().feed)
    pieces = [head[begin : begin + size] for begin in range(0, len(head), size)]
    for piece in pieces[:-1]:
        assert reader.feed(piece) is None
    with pytest.raises(BadRequest):
        reader.feed(pieces[-1])
    with pytest.raises(BadRequest):
        take_request([head + b"\r\n"])


def test_no_coding_in_http_1_0_is_waited_for() -> None:
    reader = HeadReader(HEAD_SIZE, 100, check_lines=EarlyCheck().feed)
    with pytest.raises(BadRequest):
        reader.feed(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n")


def test_lines_of_the_switch_come_last() -> None:
    taken = take_request([b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"])
    assert taken is not None
    assert isinstance(taken.message, Request)
    assert taken.message.head(b"Via: 1.1 k\r\n") == (
        b"GET / HTTP/1.1\r\nHost: h\r\nVia: 1.1 k\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )


def test_connection_with_as_many_names_as_a_head_holds() -> None:
    names = [b"%x" % number for number in range(10000)]
    head = b"GET / HTTP/1.1\r\nHost: h\r\n2710: stays\r\n270f: goes\r\nConnection: " + b",".join(names) + b"\r\n\r\n"
    found = REQUEST.match(head)
    assert found is not None
    assert Request(found).head() == b"GET / HTTP/1.1\r\nHost: h\r\n2710: stays\r\n\r\n"


@pytest.mark.parametrize("way", ["whole", "bytes", "following"])
@pytest.mark.parametrize("more", [0, 1])
def test_the_head_of_a_response_has_a_size(way: str, more: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: " + b"x" * (400 + more) + b"\r\n\r\n"
    pieces, _ = pieces_of(head, way)
    if not more:
        assert take_response(pieces, b"GET", len(head)) is not None
        return
    with pytest.raises(BadResponse) as refused:
        take_response(pieces, b"GET", len(head) - more)
    assert refused.value.status == 502


def test_a_response_that_never_ends_its_head() -> None:
    with pytest.raises(BadResponse) as refused:
        take_response([b"HTTP/1.1 200 OK\r\n"] + [b"A: b\r\n"] * 1000, b"GET", 512)
    assert refused.value.status == 502


# Random

TOKEN = b"!#$%&'*+-.^_`|~09AZaz"
KNOWN = re.compile(
    rb"(?i)host|content.length|transfer.encoding|connection|proxy-connection|keep-alive|te|upgrade|http2-settings|expect"
)


def text(letters: bytes, **limits: int) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from([b"%c" % letter for letter in letters]), **limits).map(b"".join)  # type: ignore[arg-type]


tokens = text(TOKEN, min_size=1, max_size=12)
methods = st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH"]) | tokens.filter(
    lambda token: token not in (b"CONNECT", b"TRACE")
)
targets = text(b"/abz09?&=%.~!$'()*+,;:@\"<>\\^`{|}\x80\xff", max_size=20).map(lambda rest: b"/" + rest)
values = text(b"ab09 \t:;,=\"'\\\x80\xff", max_size=15)
names = tokens.filter(lambda name: not KNOWN.fullmatch(name))
fields = st.lists(st.tuples(names, values).map(lambda pair: b"%b:%b\r\n" % pair), max_size=5)
hosts = st.sampled_from([b"h", b"example.org:80", b"[::1]", b"[2001:db8::1]:8080", b"a_b%2d.", b""])


EXTENSIONS = [
    *((strict, strict) for strict in (b"", b";a", b";a=b", b';a="b c\\"";d', b";x=1;y=2")),
    (b"  ", b""), (b" ;a", b";a"), (b"; a =\tb ", b";a=b"), (b';a= " ; " ; c', b';a=" ; ";c'), (b"\t;a;b ", b";a;b"),
]  # fmt: skip
"""Extensions of a chunk as received, and as forwarded."""


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """A chunked body, its content, and its forwarded form."""
    body = content = strict = b""
    extension = st.sampled_from(EXTENSIONS)
    for data in draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4)):
        size = draw(st.sampled_from([b"%x", b"%X", b"%04x"])) % len(data)
        loose, own = draw(extension)
        body += size + loose + b"\r\n" + data + b"\r\n"
        strict += size + own + b"\r\n" + data + b"\r\n"
        content += data
    size = draw(st.sampled_from([b"0", b"000"]))
    loose, own = draw(extension)
    body += size + loose + b"\r\n"
    strict += size + own + b"\r\n"
    trailer = st.sampled_from([b"A: b\r\n", b"x-y:\r\n", b"Digest: \xff \r\n", b"Vary: a\r\n"])
    dropped = st.sampled_from([b"Cookie: a\r\n", b"X_Forwarded-For: b\r\n", b"Content-Type: c\r\n"])
    for line, goes_on in draw(
        st.lists(st.tuples(trailer, st.just(True)) | st.tuples(dropped, st.just(False)), max_size=3)
    ):
        body += line
        strict += line if goes_on else b""
    return body + b"\r\n", content, strict + b"\r\n"


@dataclass
class Parts:
    method: bytes
    target: bytes
    minor: int
    host: bytes
    lines: bytes
    body: bytes
    content: bytes
    length: int
    onward: bytes
    """The whole request as forwarded."""

    @property
    def head(self) -> bytes:
        return b"%b %b HTTP/1.%d\r\n%b\r\n" % (self.method, self.target, self.minor, self.lines)


@st.composite
def requests(draw: st.DrawFn) -> Parts:
    minor = draw(st.sampled_from([1, 1, 1, 0, 2]))
    host = draw(hosts)
    lines = draw(fields)
    lines.insert(draw(st.integers(0, len(lines))), b"%b: %b\r\n" % (draw(st.sampled_from([b"Host", b"hOST"])), host))
    kind = draw(st.sampled_from(["none", "length", "chunked"] if minor else ["none", "length"]))
    body = content = strict = b""
    length = 0
    onward = lines
    if kind == "length":
        body = content = strict = draw(st.binary(max_size=30))
        length = len(body)
        form = draw(st.sampled_from([b"%d", b"%d, %d", b"%d,\t%d,%d"] + [b"00%d"] * (length < 8)))
        onward = [*lines, b"Content-Length: %d\r\n" % length]
        place = draw(st.integers(0, len(lines)))
        lines.insert(place, b"Content-Length: %b\r\n" % form.replace(b"%d", b"%d" % length))
        if form == b"%d":
            onward = lines
            if draw(st.booleans()):
                onward = [line for line in lines if not line.startswith(b"Content-Length:")]
                onward.append(b"Content-Length: %d\r\n" % length)
                lines.insert(draw(st.integers(0, len(lines))), b"content-lengtH:%d\r\n" % length)
    elif kind == "chunked":
        body, content, strict = draw(chunked_bodies())
        length = CHUNKED
        lines.insert(draw(st.integers(0, len(lines))), b"Transfer-Encoding: chunked\r\n")
    method, target = draw(methods), draw(targets)
    head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, b"".join(onward))
    return Parts(method, target, minor, host, b"".join(lines), body, content, length, head + strict)


def cut(message: bytes, places: list[int]) -> list[bytes]:
    bounds = sorted({0, len(message), *(place % (len(message) + 1) for place in places)})
    return [message[begin:end] for begin, end in pairwise(bounds)]


cuts = st.lists(st.integers(0, 1000), max_size=6)


@examples(150)
@given(parts=requests(), places=cuts, following=st.sampled_from(FOLLOWING))
def test_a_request_is_its_parts(parts: Parts, places: list[int], following: bytes) -> None:
    taken = take_request(cut(parts.head + parts.body + following, places))
    assert taken is not None
    request = taken.message
    assert isinstance(request, Request)
    assert (request.method, request.target, request.path) == (parts.method, parts.target, parts.target)
    assert (request.minor, request.host, request.length) == (bool(parts.minor), parts.host, parts.length)
    assert request.lines == parts.lines
    assert request.head() + taken.onward == parts.onward
    assert (taken.frame.done, taken.body, taken.rest) == (True, parts.body, following)


@examples(100)
@given(parts=requests(), hop=st.lists(names, min_size=1, max_size=3), data=st.data())
def test_what_connection_names_ends_here(parts: Parts, hop: list[bytes], data: st.DataObject) -> None:
    lines = parts.lines.splitlines(True)
    for name in hop:
        lines.insert(data.draw(st.integers(0, len(lines))), name.swapcase() + b": x\r\n")
    lines.insert(data.draw(st.integers(0, len(lines))), b"Connection: " + b", ".join(hop) + b"\r\n")
    taken = take_request([b"GET / HTTP/1.1\r\n" + b"".join(lines) + b"\r\n" + parts.body])
    gone = {b"connection", *(name.lower() for name in hop)}
    assert taken is not None
    assert isinstance(taken.message, Request)
    kept = parts.onward.partition(b"\r\n")[2].partition(b"\r\n\r\n")[0].split(b"\r\n")
    kept = [line + b"\r\n" for line in kept if line.split(b":")[0].lower() not in gone]
    assert taken.message.head() == b"GET / HTTP/1.1\r\n" + b"".join(kept) + b"\r\n"


@examples(200)
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_at_all(pieces: list[bytes]) -> None:
    with suppress(BadRequest):
        take_request([piece for piece in pieces if piece])
    with suppress(BadResponse):
        take_response([piece for piece in pieces if piece], b"GET")


# Random mutations of valid requests: h11 accepts what the switch accepts, and reads the same.

BITS = [
    b" ", b"\t", b"\r", b"\n", b"\r\n", b"\0", b"\x0b", b"\x7f", b"\xff", b":", b",", b";", b'"', b"0", b"5", b"-",
    b"+", b"_", b"#", b"@", b"/", b"\r\n ", b"\r\n\r\n", b"HTTP/1.0", b"HTTP/1.1", b"http://x", b"chunked",
    b"identity", b"close", b"CONNECT", b"HEAD", b"Host: x\r\n", b"Content-Length: 3\r\n", b"Content-Length: 0\r\n",
    b"0\r\n\r\n", b"1\r\na\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n",
    b"Connection: close\r\n", b";a=b", b"Connection: Content-Length\r\n", b"Connection: a\r\n",
    b"Connection: upgrade\r\n", b"Upgrade: websocket\r\n", b"Expect: 100-continue\r\n", b"HTTP/1.2",
    b"Upgrade: a/1, b\r\n",
    b"TE: trailers, gzip\r\n", b"Content-Length: 003\r\n", b"Content-Length: 3,3\r\n", b" ;a = b ", b"Cookie: c\r\n",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    parts = draw(requests())
    message = parts.head + parts.body + draw(st.sampled_from(FOLLOWING))
    for _ in range(draw(st.integers(0, 3))):
        # Most mutations that matter are at the beginning or the end of a line.
        edges = [found.start() for found in re.finditer(rb"(?m)^|$|[: ]", message)]
        place = draw(st.sampled_from(edges) | st.integers(0, len(message)))
        removed = draw(st.sampled_from([0, 0, 0, 1, 2, 8]))
        message = message[:place] + draw(st.sampled_from([b"", *BITS])) + message[place + removed :]
    return message


@examples(150)
@given(message=mutated(), places=cuts)
def test_in_pieces_a_request_is_what_it_is_whole(message: bytes, places: list[int]) -> None:
    def outcome(pieces: list[bytes]) -> object:
        try:
            taken = take_request(pieces)
        except BadRequest:
            return "refused"
        if taken is None:
            return "incomplete"
        assert isinstance(taken.message, Request)
        return taken.message.head(), taken.onward, taken.body, taken.rest

    assert outcome(cut(message, places)) == outcome([message])


def heard_by_h11(message: bytes) -> tuple[h11.Request, bytes, bool, bytes]:
    """Return the request, the content of its body, whether that is complete, and the remaining bytes."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(message)
    request = server.next_event()
    assert isinstance(request, h11.Request), request
    content = b""
    while True:
        event = server.next_event()
        if isinstance(event, h11.Data):
            content += event.data
        elif isinstance(event, h11.EndOfMessage):
            return request, content, True, server.trailing_data[0]
        else:
            assert event is h11.NEED_DATA
            return request, content, False, b""


def for_h11(message: bytes, target: bytes) -> bytes:
    """Replace what only h11 refuses: a target with bytes from 0x80 on, which the switch accepts."""
    return message.replace(target, bytes(byte if byte < 0x80 else 0x7E for byte in target), 1)


@examples(400)
@given(mutated())
@example(b"GET http://h HTTP/1.1\r\nHost: x\r\n\r\n")
@example(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nrest")
def test_what_is_taken_h11_takes_too(message: bytes) -> None:
    """Messages that only h11 accepts are not compared, since the switch forwards none of them."""
    try:
        taken = take_request([message])
    except BadRequest:
        return
    if taken is None:
        return
    ours = taken.message
    assert isinstance(ours, Request)
    # h11 reads the forwarded message in the same way, and the switch would forward it unchanged.
    held = taken.frame.held if isinstance(taken.frame, Chunked) else b""
    onward = ours.head() + taken.onward + held + taken.rest
    passed, content, ended, rest = heard_by_h11(for_h11(onward, ours.path))
    assert passed.method == ours.method
    assert passed.target == for_h11(ours.path, ours.path)
    assert passed.http_version == b"1.1"
    assert (ended, rest) == (taken.frame.done, taken.rest)
    assert dict(passed.headers).get(b"host", b"") == ours.host
    again = take_request([onward])
    assert again is not None
    assert isinstance(again.message, Request)
    assert again.message.head() == ours.head()
    assert (again.body, again.rest) == (taken.onward + held, taken.rest)
    assert again.onward == taken.onward

    # So does h11 with the received message, except for loose forms that it refuses.
    message = message.lstrip(b"\r\n")  # h11 refuses empty lines before a request
    try:
        theirs, *heard = heard_by_h11(for_h11(message, ours.target))
    except h11.RemoteProtocolError:
        assert taken.onward != taken.body
        return
    assert theirs.method == ours.method
    assert theirs.target == for_h11(ours.target, ours.target)
    assert (theirs.http_version == b"1.0") is not ours.minor
    assert heard == [content, ended, rest]


@examples(100)
@given(parts=requests(), places=cuts)
def test_h11_reads_the_content_of_a_body_as_it_was_meant(parts: Parts, places: list[int]) -> None:
    taken = take_request(cut(parts.head + parts.body, places))
    assert taken is not None
    assert taken.message.head() + taken.onward == parts.onward  # type: ignore[union-attr]
    _, content, ended, rest = heard_by_h11(for_h11(parts.onward, parts.target))
    assert (content, ended, rest) == (parts.content, True, b"")
