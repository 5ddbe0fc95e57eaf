"""Requests of HTTP/2 as a server of HTTP/1 gets them: what two readers could understand in two ways reaches no server.

Each case goes through a service. The corpus of HTTP/1 is replayed, as far as HTTP/2 can express it, and must come out
as it does there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from http2_frames import GET, POST, Pairs, block, data, frame, headers, number
from http2_service import BEGIN, LINES, Connection
from memory import World, worlds

from ktcpvs.protocols import http1
from ktcpvs.protocols.http1 import REQUEST, Request
from ktcpvs.protocols.http2 import MalformedMessage, Response
from ktcpvs.protocols.http2 import constants as h2
from ktcpvs.protocols.http2.fields import make_field
from tests.protocols.corpus_entries import CorpusEntry, entries
from tests.protocols.test_http2_fields import MALFORMED

Make = Callable[..., World]
END = h2.END_STREAM
WHOLE = h2.END_STREAM | h2.END_HEADERS
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n"


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds(*LINES) as made:
        yield made


def outcome(world: World, said: bytes) -> tuple[list[bytes], bytes, bool]:
    """The whole requests that the server gets, the rest, and whether the client's request was refused."""
    connection = Connection(world)
    connection.says(BEGIN + said)
    got = connection.got()
    rest = connection.unfinished()
    connection.peer.resets()
    world.turns(3)
    for server in world.peers:  # the next case gets connections of its own
        if server is not connection.peer and server.is_open:
            server.closes()
    world.turns(3)
    is_refused = bool(got.resets) or got.ended not in (None, h2.NO_ERROR)
    is_refused |= any(status >= b"400" for status in got.statuses.values())
    return connection.requests, rest, is_refused


def test_malformed_header_lists_reach_no_server(make: Make) -> None:
    """All of them, as the only request and behind a good one, with a body that is a request of HTTP/1."""
    world = make()
    wrong = []
    for name, pairs in MALFORMED:
        said = headers(1, pairs, False) + data(1, SMUGGLED, True)
        if outcome(world, said) != ([], b"", True):
            wrong.append(name)
    assert wrong == []
    assert len(MALFORMED) >= 150


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"


def post(body: bytes, *fields: tuple[bytes, bytes], method: bytes = b"POST", path: bytes = b"/") -> bytes:
    """A request with a body in one piece."""
    pairs = [(b":method", method), *GET[1:3], (b":path", path), *fields]
    return headers(1, pairs, False) + data(1, body, True)


CHUNKED = b"transfer-encoding: chunked\r\n"


def head(method: bytes = b"POST", fields: bytes = CHUNKED, path: bytes = b"/") -> bytes:
    return b"%b %b HTTP/1.1\r\nhost: a.example\r\n%b\r\n" % (method, path, fields)


PASSED: tuple[tuple[str, bytes, bytes], ...] = (
    ("a body that is a request", post(SMUGGLED), head() + chunked(SMUGGLED)),
    ("a body that is the end of chunks", post(b"0\r\n\r\n" + SMUGGLED), head() + chunked(b"0\r\n\r\n" + SMUGGLED)),
    ("a body that is a chunk", post(b"5\r\nhello\r\n0\r\n\r\n"), head() + chunked(b"5\r\nhello\r\n0\r\n\r\n")),
    ("GET with a body", post(SMUGGLED, method=b"GET"), head(b"GET") + chunked(SMUGGLED)),
    ("DELETE with a body", post(SMUGGLED, method=b"DELETE"), head(b"DELETE") + chunked(SMUGGLED)),
    ("OPTIONS with a body", post(SMUGGLED, method=b"OPTIONS"), head(b"OPTIONS") + chunked(SMUGGLED)),
    ("HEAD with a body", post(SMUGGLED, method=b"HEAD"), head(b"HEAD") + chunked(SMUGGLED)),
    (
        "a length, and a body of it",
        post(SMUGGLED, (b"content-length", b"%d" % len(SMUGGLED))),
        head(fields=b"content-length: %d\r\n" % len(SMUGGLED)) + SMUGGLED,
    ),
    ("a length of 0 and an empty body", post(b"", (b"content-length", b"0")), head(fields=b"content-length: 0\r\n")),
    ("an empty body", post(b""), head() + chunked(b"")),
    ("no body", headers(1, POST), head(fields=b"content-length: 0\r\n")),
    ("GET without a body", headers(1, GET), head(b"GET", b"")),
    ("GET with a length of 0", headers(1, [*GET, (b"content-length", b"0")]), head(b"GET", b"content-length: 0\r\n")),
    ("a body in pieces", headers(1, POST, False) + data(1, b"a") + data(1, b"b", True),
     head() + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"),
    ("empty pieces", headers(1, POST, False) + data(1, b"") + data(1, b"b") + data(1, b"", True),
     head() + b"1\r\nb\r\n0\r\n\r\n"),
    ("padding that is a request",
     headers(1, POST, False) + frame(h2.DATA, END | h2.PADDED, 1, bytes((len(SMUGGLED),)) + b"a" + SMUGGLED),
     head() + chunked(b"a")),
    ("padding of the head that is a request",
     frame(h2.HEADERS, WHOLE | h2.PADDED, 1, bytes((len(SMUGGLED),)) + block(GET) + SMUGGLED), head(b"GET", b"")),
    ("trailers", headers(1, POST, False) + data(1, b"a") + headers(1, [(b"x-sum", b"1")]),
     head() + b"1\r\na\r\n0\r\nx-sum: 1\r\n\r\n"),
    ("trailers behind a length",
     headers(1, [*POST, (b"content-length", b"1")], False) + data(1, b"a") + headers(1, [(b"x-sum", b"1")]),
     head(fields=b"content-length: 1\r\n") + b"a"),
    ("trailers that would frame a body, behind one without",
     headers(1, POST, False) + data(1, b"a") + headers(1, [(b"trailer", b"x")]),
     head() + b"1\r\na\r\n0\r\n\r\n"),
    ("a path that is a request in escapes", headers(1, [*GET[:3], (b":path", b"/%20HTTP/1.1%0d%0aHost:%20b")]),
     head(b"GET", b"", b"/%20HTTP/1.1%0d%0aHost:%20b")),
    ("a path with a second authority", headers(1, [*GET[:3], (b":path", b"//b.example/a")]),
     head(b"GET", b"", b"//b.example/a")),
    ("a value that is a field in escapes", headers(1, [*GET, (b"x-a", b"1%0d%0atransfer-encoding: chunked")]),
     head(b"GET", b"x-a: 1%0d%0atransfer-encoding: chunked\r\n")),
    ("a value with a tab and high bytes", headers(1, [*GET, (b"x-a", b"a\tb\xff")]),
     head(b"GET", b"x-a: a\tb\xff\r\n")),
    ("crumbs of a cookie", headers(1, [*GET, (b"cookie", b"a=1"), (b"cookie", b"b=2")]),
     head(b"GET", b"cookie: a=1; b=2\r\n")),
    ("host besides :authority, in another case", headers(1, [*GET, (b"host", b"A.Example")]), head(b"GET", b"")),
    ("host instead of :authority", headers(1, [*GET[:2], GET[3], (b"host", b"a.example")]), head(b"GET", b"")),
    ("te: trailers", headers(1, [*GET, (b"te", b"trailers")]), head(b"GET", b"Connection: TE\r\nTE: trailers\r\n")),
    ("http2-settings", headers(1, [*GET, (b"http2-settings", b"AAMAAABk")]), head(b"GET", b"")),
    ("two streams, each with a body", headers(1, POST, False) + headers(3, POST, False) + data(3, b"b", True),
     head() + chunked(b"b")),
    ("a proxy's field twice", headers(1, [*GET, (b"x-forwarded-for", b"1"), (b"x-forwarded-for", b"2")]),
     head(b"GET", b"x-forwarded-for: 1\r\nx-forwarded-for: 2\r\n")),
)  # fmt: skip
"""A name, what the client sends, and the request that the server gets; no other one, and nothing behind it."""


@pytest.mark.parametrize("name", [name for name, *_ in PASSED])
def test_a_request_has_one_reading(make: Make, name: str) -> None:
    said, expected = next((said, expected) for one, said, expected in PASSED if one == name)
    requests, rest, is_refused = outcome(make(), said)
    assert (requests[:1], is_refused) == ([expected], False)
    if name.startswith("two streams"):
        assert requests == [expected]
        assert rest == head()
    else:
        assert (requests, rest) == ([expected], b"")


def length(number: int | bytes) -> tuple[bytes, bytes]:
    return b"content-length", number if isinstance(number, bytes) else b"%d" % number


UNFINISHED: tuple[tuple[str, bytes], ...] = (
    ("a length of 0 and a body that is a request", post(SMUGGLED, length(0))),
    ("a length below the body", post(b"x" + SMUGGLED, length(1))),
    ("a length above the body", post(SMUGGLED, length(1000))),
    ("a length below the body, in pieces",
     headers(1, [*POST, length(1)], False) + data(1, b"x") + data(1, SMUGGLED, True)),
    ("a length below the body, in pieces without an end",
     headers(1, [*POST, length(1)], False) + data(1, b"x") + data(1, SMUGGLED)),
    ("a length without a body", headers(1, [*POST, length(5)])),
    ("a length of GET without a body", headers(1, [*GET, length(5)])),
    ("a length above the body, then trailers",
     headers(1, [*POST, length(5)], False) + data(1, b"a") + headers(1, [(b"x-a", b"1")])),
    ("a body behind trailers",
     headers(1, POST, False) + data(1, b"a") + headers(1, [(b"x-a", b"1")]) + data(1, SMUGGLED, True)),
    *(
        (f"a trailer {name.decode()}", headers(1, POST, False) + data(1, b"a") + headers(1, [(name, value)]))
        for name, value in (
            (b"transfer-encoding", b"chunked"), (b"content-length", b"0"), (b"host", b"b.example"),
            (b"connection", b"close"), (b":path", b"/"), (b":status", b"200"), (b"upgrade", b"h2c"),
            (b"content_length", b"5"), (b"X-A", b"b"), (b"x a", b"b"), (b"x-a", b"b\r\n\r\n" + SMUGGLED),
            (b"x-a\r\n\r\nGET / HTTP/1.1", b"b"), (b"x-a", b"b\0"), (b"te", b"gzip"), (b"", b"b"),
        )
    ),
    ("a second header section that does not end the stream",
     headers(1, POST, False) + data(1, b"a") + headers(1, GET, False)),
    ("a second request on the stream", headers(1, POST, False) + headers(1, GET)),
    ("a stream that is reset", headers(1, POST, False) + data(1, b"a") + number(h2.RST_STREAM, 1, h2.CANCEL)),
    ("a connection that ends", headers(1, POST, False) + data(1, b"a") + frame(h2.PING, 0, 0, b"7 bytes")),
)  # fmt: skip
"""Requests whose end is malformed: the server may have got a beginning, and never an end."""


@pytest.mark.parametrize("name", [name for name, _ in UNFINISHED])
def test_a_request_with_a_malformed_end_stays_unfinished(make: Make, name: str) -> None:
    said = dict(UNFINISHED)[name]
    requests, rest, is_refused = outcome(make(), said)
    assert requests == []
    assert is_refused or "is reset" in name
    assert b"0\r\n\r\n" not in rest
    assert SMUGGLED not in rest
    assert REQUEST.match(rest) is None or not whole(rest)


def whole(received: bytes) -> bool:
    """Whether a request of HTTP/1 with its body is here."""
    found = REQUEST.match(received)
    assert found is not None
    frame = Request(found).frame()
    frame.feed(received[found.end() :])
    return frame.done


# The corpus of HTTP/1.

REQUESTS = list(entries("requests"))
_LINE = re.compile(rb"([^ ]+) ([^ ]+) HTTP/1\.1")
_ABSOLUTE = re.compile(rb"(?i)https?://([^/?#]*)(.*)", re.DOTALL)
_ABOUT_FRAMING = frozenset((b"transfer-encoding", b"connection", b"proxy-connection", b"keep-alive", b"upgrade", b"te"))


def pairs_of(head: bytes) -> Pairs | None:
    """A head of HTTP/1 in HTTP/2, as far as it goes; None for one that HTTP/2 cannot express: another version, line
    ends and folded lines where HTTP/2 has none, and a target with an authority without a Host."""
    first, *lines = head.split(b"\r\n")
    found = _LINE.fullmatch(first)
    if found is None or any(line[:1] in b" \t" or b":" not in line for line in lines if line):
        return None
    method, target = found[1], found[2]
    fields = [
        (name.lower(), value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines if line)
    ]
    hosts = [value for name, value in fields if name == b"host"]
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is not None:
        if not hosts:
            return None
        target = absolute[2] if absolute[2][:1] == b"/" else b"/" + absolute[2]
        target = b"*" if method == b"OPTIONS" and not absolute[2] else target
        hosts = hosts if len(hosts) > 1 else [absolute[1]]
    pseudo = [(b":method", method), (b":scheme", b"http"), (b":path", target)]
    if len(hosts) == 1:
        pseudo.append((b":authority", hosts[0]))
        fields = [field for field in fields if field[0] != b"host"]
    return [*pseudo, *fields]


def reading(head: bytes) -> tuple[Any, ...]:
    """What a server reads of a head, but for its framing: that is HTTP/2's own."""
    found = REQUEST.match(head)
    assert found is not None
    message = Request(found)
    fields = []
    for line in message.lines.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name and name.lower() not in (*_ABOUT_FRAMING, b"host", b"content-length", b"cookie"):
            fields.append((name.lower(), value.strip(b" \t")))
    return message.method, message.path, message.host, sorted(fields)


STRICTER = {
    "requests-fields: an empty Host, as RFC 9112, section 3.2, has it for a target without an authority",
    "requests-length: the same length twice",
    "requests-length: a list of equal lengths",
    "requests-length: a list of equal lengths with white space",
    "requests-length: zeros in front of a digit that is the same in octal",
    "requests-length: two zeros",
    "requests-length: the same length in three forms, between other fields",
    "requests-length: many zeros in front",
}
"""What HTTP/1 allows, for the sake of old clients, and HTTP/2 does not."""

EXPRESSIBLE = [
    (entry, pairs)
    for entry in REQUESTS
    if entry.verdict != ["incomplete"] and (pairs := pairs_of(entry.message.partition(b"\r\n\r\n")[0])) is not None
]


def said_by(entry: CorpusEntry, pairs: Pairs) -> bytes:
    """The request in HTTP/2: without the framing of HTTP/1 if that is valid, and else as it came."""
    if entry.verdict[0] != "ok":
        return headers(1, pairs)
    message = Request(REQUEST.match(entry.message))  # type: ignore[arg-type]
    hop = {option.strip().lower() for name, value in pairs if name == b"connection" for option in value.split(b",")}
    pairs = [pair for pair in pairs if pair[0] not in (*_ABOUT_FRAMING, *hop)]
    frame_of_body = message.frame()
    body = entry.message[REQUEST.match(entry.message).end() :]  # type: ignore[union-attr]
    content = http1.Chunked(decode=True) if isinstance(frame_of_body, http1.Chunked) else frame_of_body
    taken = content.feed(body)
    body = body[:taken] if content.onward is None else content.onward
    if not message.length:
        return headers(1, pairs)
    return headers(1, pairs, False) + data(1, body, content.done)


@pytest.mark.parametrize("kind", sorted({entry.name.partition(":")[0] for entry in REQUESTS}))
def test_the_corpus_of_http1_comes_out_as_in_http1(make: Make, kind: str) -> None:
    world = make()
    wrong = []
    for entry, pairs in EXPRESSIBLE:
        if not entry.name.startswith(kind):
            continue
        requests, rest, is_refused = outcome(world, said_by(entry, pairs))
        if entry.verdict[0] == "ok" and entry.name not in STRICTER:
            received = requests[0] if requests else rest
            is_right = bool(received) and reading(received) == reading(entry.head) and not is_refused
        else:
            is_right = (requests, rest, is_refused) == ([], b"", True)
        if not is_right:
            wrong.append((entry.name, entry.verdict, requests, rest, is_refused))
    assert wrong == []


def test_most_of_the_corpus_can_be_expressed() -> None:
    assert len(EXPRESSIBLE) >= 300
    assert {entry.name for entry, _ in EXPRESSIBLE if entry.verdict[0] == "ok"} >= STRICTER


# Responses of servers that speak HTTP/2.

STRICTER_RESPONSES = {
    "responses-body: zeros before a length: it is decimal, and servers do write it",
    "responses-body: 101",
    "responses-body: the same length twice",
    "responses-body: a list of lengths",
    "responses-body: 204 with a length of many zeros",
    "responses-body: 204 with a length that is no number and a coding that nobody knows",
}
"""What HTTP/1 allows, and HTTP/2 does not."""

RESPONSES = list(entries("responses"))
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([^ ]+)(?: [\t -~\x80-\xff]*)?")


def response_pairs(entry: CorpusEntry) -> Pairs | None:
    """The head of a response in HTTP/2; None for one that HTTP/2 cannot express."""
    first, *lines = entry.message.partition(b"\r\n\r\n")[0].split(b"\r\n")
    found = _STATUS_LINE.fullmatch(first)
    if found is None or any(line[:1] in b" \t" or b":" not in line for line in lines if line):
        return None
    fields = [
        (name.lower(), value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines if line)
    ]
    return [(b":status", found[1]), *fields]


def is_accepted(pairs: Pairs) -> bool:
    try:
        Response([make_field(*pair) for pair in pairs])
    except MalformedMessage:
        return False
    return True


def test_the_corpus_of_responses_comes_out_as_in_http1() -> None:
    """Heads that HTTP/1 refuses are refused, and those that it accepts are accepted without the framing of HTTP/1."""
    wrong, counts = [], [0, 0]
    for entry in RESPONSES:
        pairs = response_pairs(entry)
        if pairs is None or entry.verdict == ["incomplete"]:
            continue
        is_good = entry.verdict[0] == "ok"
        if is_good:
            hop = {word.strip().lower() for name, value in pairs if name == b"connection" for word in value.split(b",")}
            pairs = [pair for pair in pairs if pair[0] not in (*_ABOUT_FRAMING, *hop)]
        counts[is_good] += 1
        if is_accepted(pairs) != (is_good and entry.name not in STRICTER_RESPONSES):
            wrong.append((entry.name, entry.verdict, pairs))
    assert wrong == []
    assert min(counts) >= 20
