"""Header sections of HTTP/2: which are requests, responses and trailers, and what they are in HTTP/1.1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.protocols import http1
from ktcpvs.protocols.http1 import BadRequest
from ktcpvs.protocols.http2 import (
    MalformedMessage,
    Request,
    Response,
    request_list,
    response_list,
    trailer_list,
    websocket_accepted_list,
    websocket_list,
)
from ktcpvs.protocols.http2.fields import Field, make_field
from ktcpvs.protocols.http2.request import read_trailers

Pairs = list[tuple[bytes, bytes]]

GET: Pairs = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.example"), (b":path", b"/")]
POST: Pairs = [(b":method", b"POST"), *GET[1:]]
WEBSOCKET: Pairs = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]]


def fields(pairs: Pairs) -> list[Field]:
    return [make_field(*pair) for pair in pairs]


def request(pairs: Pairs) -> Request:
    return Request(fields(pairs))


def changed(name: bytes, value: bytes | None, pairs: Pairs = GET) -> Pairs:
    """The pairs with another value of one of them; None: without it."""
    return [(one, value if one == name else old) for one, old in pairs if one != name or value is not None]


# Requests that are passed on.


@pytest.mark.parametrize(
    ("pairs", "head"),
    [
        (GET, b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        (changed(b":path", b"/a?b=c&d=%2f"), b"GET /a?b=c&d=%2f HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        (changed(b":path", b"//b.example/"), b"GET //b.example/ HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        (changed(b":authority", b"[::1]:8080"), b"GET / HTTP/1.1\r\nhost: [::1]:8080\r\n\r\n"),
        (changed(b":scheme", b"HTTPS"), b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        ([*GET, (b"x-a", b"1"), (b"x-a", b"2")], b"GET / HTTP/1.1\r\nhost: a.example\r\nx-a: 1\r\nx-a: 2\r\n\r\n"),
        ([*GET, (b"x-a", b"")], b"GET / HTTP/1.1\r\nhost: a.example\r\nx-a: \r\n\r\n"),
        ([*GET, (b"x-a", b"a\tb \xff")], b"GET / HTTP/1.1\r\nhost: a.example\r\nx-a: a\tb \xff\r\n\r\n"),
        ([*GET, (b"host", b"A.Example")], b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        ([*GET, (b"http2-settings", b"AAMAAABk")], b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        ([*GET, (b"priority", b"u=1, i")], b"GET / HTTP/1.1\r\nhost: a.example\r\npriority: u=1, i\r\n\r\n"),
        (
            [*changed(b":authority", None), (b"host", b"b.example")],
            b"GET / HTTP/1.1\r\nhost: b.example\r\n\r\n",
        ),
        (
            [*GET, (b"cookie", b"a=1"), (b"x-a", b"1"), (b"cookie", b"b=2"), (b"cookie", b"c=3")],
            b"GET / HTTP/1.1\r\nhost: a.example\r\nx-a: 1\r\ncookie: a=1; b=2; c=3\r\n\r\n",
        ),
        (
            [*GET, (b"te", b"trailers")],
            b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: te\r\nte: trailers\r\n\r\n",
        ),
        (
            [(b":method", b"OPTIONS"), *changed(b":path", b"*")[1:]],
            b"OPTIONS * HTTP/1.1\r\nhost: a.example\r\n\r\n",
        ),
        (POST, b"POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 0\r\n\r\n"),
        ([*POST, (b"content-length", b"0")], b"POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 0\r\n\r\n"),
        ([*GET, (b"expect", b"100-continue")], b"GET / HTTP/1.1\r\nhost: a.example\r\nexpect: 100-continue\r\n\r\n"),
    ],
)
def test_a_request_without_a_body_as_a_head_of_http1(pairs: Pairs, head: bytes) -> None:
    assert request(pairs).head(is_whole=True) == head
    found = http1.REQUEST.fullmatch(head)
    assert found is not None
    read = http1.Request(found)
    assert (read.method, read.host, read.length) == (pairs[0][1], request(pairs).authority, 0)


@pytest.mark.parametrize(
    ("more", "framing"),
    [
        ([], b"transfer-encoding: chunked\r\n"),
        ([(b"content-length", b"5")], b"content-length: 5\r\n"),
        ([(b"content-length", b"0")], b"content-length: 0\r\n"),
    ],
)
def test_a_request_with_a_body_as_a_head_of_http1(more: Pairs, framing: bytes) -> None:
    head = request([*POST, *more]).head(is_whole=False)
    assert head == b"POST / HTTP/1.1\r\nhost: a.example\r\n%b\r\n" % framing
    found = http1.REQUEST.fullmatch(head)
    assert found is not None
    assert http1.Request(found).length == (int(more[0][1]) if more else http1.CHUNKED)


def test_the_head_of_connect_is_refused_as_in_http1() -> None:
    head = request([(b":method", b"CONNECT"), (b":authority", b"a.example:80")]).head(is_whole=False)
    found = http1.REQUEST.match(head)
    assert found is not None
    with pytest.raises(BadRequest) as refused:
        http1.Request(found)
    assert refused.value.status == 501


def test_extended_connect_becomes_an_upgrade() -> None:
    pairs = [*WEBSOCKET, (b"sec-websocket-version", b"13"), (b"sec-websocket-protocol", b"chat")]
    head = request(pairs).upgrade_head(b"dGhlIHNhbXBsZSBub25jZQ==")
    assert head == (
        b"GET / HTTP/1.1\r\nhost: a.example\r\nsec-websocket-version: 13\r\nsec-websocket-protocol: chat\r\n"
        b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    found = http1.REQUEST.fullmatch(head)
    assert found is not None
    assert http1.Request(found).upgrades() == (b"websocket",)
    with pytest.raises(BadRequest, match="only implemented for WebSocket"):
        request(changed(b":protocol", b"connect-udp", WEBSOCKET)).upgrade_head(b"key")


# Requests that are malformed.

CONTROLS = [bytes((code,)) for code in range(32) if code != 9] + [b"\x7f"]
NOT_IN_NAMES = [
    *CONTROLS,
    b" ",
    b"\t",
    b":",
    b"(",
    b")",
    b",",
    b"/",
    b";",
    b"=",
    b"@",
    b"[",
    b"\\",
    b'"',
    b"\x80",
    b"\xff",
]

MALFORMED: list[tuple[str, Pairs]] = [
    *[(f"{bad!r} in a name", [*GET, (b"x" + bad + b"a", b"1")]) for bad in NOT_IN_NAMES],
    *[(f"{bad!r} in a value", [*GET, (b"x-a", b"1" + bad + b"2")]) for bad in CONTROLS],
    *[(f"{bad!r} in :path", changed(b":path", b"/a" + bad + b"b")) for bad in (*CONTROLS, b" ", b"\t", b"#")],
    *[
        (f"{bad!r} in :method", changed(b":method", b"GE" + bad + b"T"))
        for bad in (b" ", b"\r\n", b"\0", b":", b"/", b"\xff")
    ],
    *[
        (f"{bad!r} in :authority", changed(b":authority", b"a" + bad + b"b"))
        for bad in (b" ", b"\r\n", b"\0", b"@", b"/", b"?", b"#", b",", b"\\", b"..", b"\xff", b":x")
    ],
    *[(f"a value with {name}", [*GET, (b"x-a", value)]) for name, value in [
        ("a blank in front", b" a"), ("a tab in front", b"\ta"), ("a blank behind", b"a "), ("a tab behind", b"a\t"),
        ("a request behind CRLF", b"1\r\nTransfer-Encoding: chunked"), ("a header behind LF", b"1\nhost: b"),
    ]],
    *[(f"{name.decode()}", [*GET, (name, value)]) for name, value in [
        (b"connection", b"close"), (b"connection", b"x-a"), (b"proxy-connection", b"keep-alive"),
        (b"keep-alive", b"timeout=5"), (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"identity"),
        (b"upgrade", b"h2c"), (b"te", b"gzip"), (b"te", b"trailers, deflate"), (b"te", b""),
        (b"content_length", b"5"), (b"content.length", b"5"), (b"transfer_encoding", b"chunked"),
        (b"transfer.encoding", b"chunked"), (b"", b"a"), (b":", b"a"), (b":unknown", b"a"), (b":status", b"200"),
        (b":Path", b"/"), (b" host", b"b"), (b"host ", b"b"), (b"Host", b"a.example"), (b"X-A", b"1"),
        (b"x-A", b"1"), (b"content-length\r\nx", b"1"), (b"x: y\r\nz", b"1"),
    ]],
    *[(f"Content-Length {value!r}", [*POST, (b"content-length", value)]) for value in (
        b"", b"-1", b"+1", b"01", b"1 ", b"0x5", b"1,1", b"1, 2", b"5;q=1", b"9" * 19, b"\xb2", b"1e3", b"1_000",
    )],
    *[(f"Content-Length {one.decode()} and {two.decode()}", [*POST, (b"content-length", one), (b"content-length", two)])
      for one, two in [(b"5", b"6"), (b"5", b"5"), (b"0", b"5")]],
    *[(f"without {name.decode()}", changed(name, None)) for name in (b":method", b":scheme", b":path")],
    *[(f"{name.decode()} twice", [*GET[:4], (name, value)]) for name, value in GET],
    *[
        (f"{name.decode()} behind a field", [*changed(name, None), (b"x-a", b"1"), (name, value)])
        for name, value in GET
    ],
    *[(f"{name.decode()} empty", changed(name, b"")) for name in (b":method", b":scheme", b":path")],
    ("no authority and no host", changed(b":authority", None)),
    ("an empty authority", changed(b":authority", b"")),
    ("an empty host", [*changed(b":authority", None), (b"host", b"")]),
    ("host differs from :authority", [*GET, (b"host", b"b.example")]),
    ("host has another port", [*GET, (b"host", b"a.example:81")]),
    ("two hosts", [*GET, (b"host", b"a.example"), (b"host", b"a.example")]),
    ("two hosts without :authority", [*changed(b":authority", None), (b"host", b"a"), (b"host", b"a")]),
    ("a malformed host", [*changed(b":authority", None), (b"host", b"a b")]),
    ("a host that is a list", [*changed(b":authority", None), (b"host", b"a,b")]),
    ("a path without a slash", changed(b":path", b"a")),
    ("an absolute form as path", changed(b":path", b"http://b.example/")),
    ("an authority as path", changed(b":path", b"b.example:80")),
    ("a query as path", changed(b":path", b"?a")),
    ("* for GET", changed(b":path", b"*")),
    ("*a", changed(b":path", b"*a")),
    ("a request line in the path", changed(b":path", b"/ HTTP/1.1\r\nhost: b")),
    ("a request line in the method", changed(b":method", b"GET / HTTP/1.1\r\nhost: b\r\n\r\nGET")),
    ("a method of 65 bytes", changed(b":method", b"M" * 65)),
    ("the scheme ftp", changed(b":scheme", b"ftp")),
    ("a scheme with a slash", changed(b":scheme", b"http://a/")),
    ("CONNECT with a path", [(b":method", b"CONNECT"), *GET[2:]]),
    ("CONNECT with a scheme", [(b":method", b"CONNECT"), (b":authority", b"a:1"), (b":scheme", b"http")]),
    ("CONNECT without authority", [(b":method", b"CONNECT")]),
    (":protocol with GET", [*GET[:1], (b":protocol", b"websocket"), *GET[1:]]),
    (":protocol without path", changed(b":path", None, WEBSOCKET)),
    (":protocol without scheme", changed(b":scheme", None, WEBSOCKET)),
    ("an empty :protocol", changed(b":protocol", b"", WEBSOCKET)),
    (":protocol with a blank", changed(b":protocol", b"web socket", WEBSOCKET)),
]  # fmt: skip


@pytest.mark.parametrize("pairs", [pytest.param(pairs, id=name) for name, pairs in MALFORMED])
def test_malformed_requests_are_refused(pairs: Pairs) -> None:
    with pytest.raises(MalformedMessage) as refused:
        request(pairs)
    assert str(refused.value).isprintable()
    assert str(refused.value)


def test_there_are_many_cases() -> None:
    assert len(MALFORMED) >= 150
    assert len({name for name, _ in MALFORMED}) >= 150


# Any request that is accepted has one reading in HTTP/1.

ANY_NAME = st.sampled_from(
    [
        b":method", b":path", b":scheme", b":authority", b":protocol", b"host", b"cookie", b"te", b"content-length",
        b"x-a", b"transfer-encoding", b"connection", b"Host", b"expect", b"priority", b"content_length",
    ]
) | st.binary(max_size=6)  # fmt: skip
ANY_VALUE = st.sampled_from(
    [
        b"GET", b"POST", b"CONNECT", b"OPTIONS", b"/", b"*", b"http", b"a.example", b"websocket", b"trailers", b"5",
        b"0", b"",
    ]
) | st.binary(max_size=8)  # fmt: skip


@given(st.lists(st.tuples(ANY_NAME, ANY_VALUE), max_size=8), st.booleans(), st.booleans())
def test_an_accepted_request_is_read_by_http1_as_it_was_sent(more: Pairs, has_get: bool, is_whole: bool) -> None:
    pairs = [*GET, *more] if has_get else more
    try:
        found = request(pairs)
    except MalformedMessage:
        return
    if found.method == b"CONNECT":
        return
    head = found.head(is_whole)
    match = http1.REQUEST.fullmatch(head)
    assert match is not None
    if found.method == b"TRACE" and not (is_whole or found.length == 0):
        with pytest.raises(BadRequest):
            http1.Request(match)
        return
    read = http1.Request(match)
    assert (read.method, read.target, read.host) == (found.method, found.path, found.authority)
    assert read.length == (found.length if found.length is not None else 0 if is_whole else http1.CHUNKED)
    # Every line is one field that came, or one that we have added.
    came = [b"%b: %b" % pair for pair in pairs if pair[0][:1] != b":" and pair[0] not in (b"cookie", b"te")]
    added = (b"host: ", b"cookie: ", b"content-length: 0", b"transfer-encoding: chunked", b"connection: te", b"te: ")
    for line in head.split(b"\r\n")[1:-2]:
        assert line in came or line.startswith(added), line


# Responses.


@pytest.mark.parametrize(
    ("pairs", "method", "size", "head"),
    [
        ([(b":status", b"200")], b"GET", 0, b"HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n"),
        ([(b":status", b"200")], b"GET", 17, b"HTTP/1.1 200 \r\ncontent-length: 17\r\n\r\n"),
        ([(b":status", b"200")], b"GET", None, b"HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n"),
        ([(b":status", b"200")], b"HEAD", 0, b"HTTP/1.1 200 \r\n\r\n"),
        ([(b":status", b"204")], b"GET", 0, b"HTTP/1.1 204 \r\n\r\n"),
        ([(b":status", b"304"), (b"etag", b'"a"')], b"GET", 0, b'HTTP/1.1 304 \r\netag: "a"\r\n\r\n'),
        ([(b":status", b"103"), (b"link", b"</a>")], b"GET", False, b"HTTP/1.1 103 \r\nlink: </a>\r\n\r\n"),
        (
            [(b":status", b"200"), (b"content-length", b"5"), (b"set-cookie", b"a"), (b"set-cookie", b"b")],
            b"GET",
            None,
            b"HTTP/1.1 200 \r\ncontent-length: 5\r\nset-cookie: a\r\nset-cookie: b\r\n\r\n",
        ),
    ],
)
def test_a_response_as_a_head_of_http1(pairs: Pairs, method: bytes, size: int | None, head: bytes) -> None:
    response = Response(fields(pairs))
    assert response.head(method, size) == head
    read = http1.read_response(head, method, 4096)
    assert read is not None
    assert read[0].status == response.status
    assert read[1] == len(head)


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [(b"x-a", b"1")],
        [(b":status", b"200"), (b":status", b"200")],
        [(b":status", b"20")],
        [(b":status", b"0200")],
        [(b":status", b"099")],
        [(b":status", b"2 0")],
        [(b":status", b"101")],
        [(b"x-a", b"1"), (b":status", b"200")],
        [(b":status", b"200"), (b":path", b"/")],
        [(b":status", b"200"), (b":method", b"GET")],
        [(b":status", b"200"), (b"connection", b"close")],
        [(b":status", b"200"), (b"transfer-encoding", b"chunked")],
        [(b":status", b"200"), (b"content-length", b"1"), (b"content-length", b"1")],
        [(b":status", b"200"), (b"X-A", b"1")],
        [(b":status", b"200"), (b"x-a", b"1\r\nset-cookie: b")],
    ],
)
def test_malformed_responses_are_refused(pairs: Pairs) -> None:
    with pytest.raises(MalformedMessage):
        Response(fields(pairs))


# Trailers.


def test_trailers_are_lines_of_http1() -> None:
    assert read_trailers(fields([(b"grpc-status", b"0"), (b"x-a", b"1")])) == b"grpc-status: 0\r\nx-a: 1\r\n"
    assert read_trailers([]) == b""


@pytest.mark.parametrize(
    "pairs",
    [
        [(b":status", b"200")], [(b":path", b"/")], [(b"content-length", b"5")], [(b"host", b"a")],
        [(b"transfer-encoding", b"chunked")], [(b"connection", b"close")], [(b"X-A", b"1")], [(b"x-a", b"1\r\n")],
        [(b"content_length", b"5")],
    ],
)  # fmt: skip
def test_malformed_trailers_are_refused(pairs: Pairs) -> None:
    with pytest.raises(MalformedMessage):
        read_trailers(fields(pairs))


# From HTTP/1.


def test_a_response_of_http1_as_a_header_list() -> None:
    head = (
        b"HTTP/1.1 200 Fine\r\nServer: a\r\nConnection: x-a, close\r\nX-A: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Transfer-Encoding: chunked\r\nSet-Cookie:  a=1 \r\nSet-Cookie: b=2\r\nX-Empty:\r\n\r\n"
    )
    assert response_list(head).pairs == (
        (b":status", b"200"),
        (b"server", b"a"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"x-empty", b""),
    )
    assert response_list(b"HTTP/1.1 404\r\nA: b\r\n").pairs == ((b":status", b"404"), (b"a", b"b"))


def test_a_request_of_http1_as_a_header_list() -> None:
    head = (
        b"POST /a?b HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\nConnection: TE\r\nTE: trailers\r\n"
        b"Authorization: Basic eA==\r\nContent-Length: 5\r\nUpgrade: websocket\r\n\r\n"
    )
    headers = request_list(head, b"https", frozenset((b"x-token",)))
    assert headers.pairs == (
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"a.example"),
        (b":path", b"/a?b"),
        (b"accept", b"*/*"),
        (b"authorization", b"Basic eA=="),
        (b"content-length", b"5"),
        (b"te", b"trailers"),
    )
    assert headers.sensitive == {b"authorization", b"proxy-authorization", b"x-token"}


def test_a_websocket_upgrade_as_an_extended_connect_and_back() -> None:
    head = (
        b"GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    headers = websocket_list(head, b"https")
    assert headers.pairs == (
        (b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        (b":scheme", b"https"),
        (b":authority", b"a.example"),
        (b":path", b"/chat"),
        (b"sec-websocket-version", b"13"),
    )
    again = request(list(headers.pairs)).upgrade_head(b"key")
    assert b"sec-websocket-version: 13\r\n" in again
    accepted = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )
    assert websocket_accepted_list(accepted).pairs == ((b":status", b"200"), (b"sec-websocket-protocol", b"chat"))


def test_trailers_of_http1_as_a_header_list() -> None:
    assert trailer_list(b"Grpc-Status: 0\r\nX-A: b\r\n").pairs == ((b"grpc-status", b"0"), (b"x-a", b"b"))


@given(
    st.lists(
        st.tuples(st.from_regex(rb"[A-Za-z-]{1,8}", fullmatch=True), st.from_regex(rb"[!-~]{0,8}", fullmatch=True))
    )
)
def test_a_list_made_of_any_head_is_a_valid_response(lines: Pairs) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + b"".join(b"%b: %b\r\n" % pair for pair in lines) + b"\r\n"
    if http1.read_response(head, b"GET", 4096) is None:
        return
    pairs = list(response_list(head).pairs)
    if all(name not in (b"content-length", b"content_length") for name, _ in pairs):
        assert Response(fields(pairs)).status == 200
