"""HeadReader: every case whole, byte by byte, and with bytes that follow."""

from __future__ import annotations

from itertools import pairwise

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.scheduling import Request
from ktcpvs.protocols.http1 import BadRequest, HeadReader, RequestHead, error_response, read_whole_head
from ktcpvs.protocols.http1.target import path_of

GOOD = {
    b"GET / HTTP/1.1\r\n\r\n": (b"GET", b"/", b"/", 1, ()),
    b"GET /a?b=c HTTP/1.0\r\nHost: h\r\n\r\n": (b"GET", b"/a?b=c", b"/a?b=c", 0, ((b"host", b"h"),)),
    b"\r\nPOST /x HTTP/1.1\r\nA:b\r\nA: \t c d \t\r\n\r\n": (b"POST", b"/x", b"/x", 1, ((b"a", b"b"), (b"a", b"c d"))),
    b"GET http://h:80/p?q HTTP/1.1\r\n\r\n": (b"GET", b"http://h:80/p?q", b"/p?q", 1, ()),
    b"GET http://h?q HTTP/1.1\r\n\r\n": (b"GET", b"http://h?q", b"/?q", 1, ()),
    b"GET http://h HTTP/1.1\r\n\r\n": (b"GET", b"http://h", b"/", 1, ()),
    b"OPTIONS * HTTP/1.1\r\n\r\n": (b"OPTIONS", b"*", b"*", 1, ()),
    b"CONNECT h:443 HTTP/1.1\r\n\r\n": (b"CONNECT", b"h:443", b"h:443", 1, ()),
    b"brew /\xff\x80 HTTP/1.1\r\nX: \xe9\r\nEmpty:\r\n\r\n": (
        b"brew", b"/\xff\x80", b"/\xff\x80", 1, ((b"x", b"\xe9"), (b"empty", b"")),
    ),
}  # fmt: skip

BAD = [
    b"\0",
    b"\x16\x03\x01\x00\xf1\x01\x00\x00",
    b" GET / HTTP/1.1\r\n\r\n",
    b"GET  / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1 \r\n\r\n",
    b"GET /\r\n\r\n",
    b"GET / http/1.1\r\n\r\n",
    b"GET / HTTP/1.1\n\n",
    b"GET / HTTP/1.1\n\r\n",
    b"GET / HTTP/1.1\r\nA: b\n\r\n",
    b"GET / HTTP/1.1\r\nA: b\r\n\n",
    b"GET / HTTP/1.1\r\nA : b\r\n\r\n",
    b"GET / HTTP/1.1\r\n A: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
    b"GET / HTTP/1.1\r\nA: b\0\r\n\r\n",
    b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
    b"GET / HTTP/1.1\r\n: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nnothing\r\n\r\n",
    b"GET x HTTP/1.1\r\n\r\n",
    b"GET * HTTP/1.1\r\n\r\n",
    b"GET /a#b HTTP/1.1\r\n\r\n",
    b"GET h:443 HTTP/1.1\r\n\r\n",
    b"CONNECT / h HTTP/1.1\r\n\r\n",
    b"CONNECT h HTTP/1.1\r\n\r\n",
    b"G\xc3\x89T / HTTP/1.1\r\n\r\n",
    b"GET /a\tb HTTP/1.1\r\n\r\n",
    b"x" * 65,
    b"\r\n" * 600,
    b"hello\n",
]


def reader(max_size: int = 1024, max_lines: int = 10) -> HeadReader:
    return HeadReader(max_size, max_lines)


def fed(pieces: list[bytes], **limits: int) -> tuple[HeadReader, RequestHead | None]:
    one = reader(**limits)
    head = None
    for piece in pieces:
        head = one.feed(piece)
        if head is not None:
            break
    return one, head


def seen(head: RequestHead | None) -> object:
    return head and (head.method, head.target, head.path, head.minor, tuple(Request(lines=head.lines).headers))


@pytest.mark.parametrize("text", GOOD)
@pytest.mark.parametrize("following", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\0\xff body"])
def test_whole(text: bytes, following: bytes) -> None:
    one, head = fed([text + following])
    assert seen(head) == GOOD[text]
    assert head is not None
    assert head.size == len(text)
    assert one.received == text + following


@pytest.mark.parametrize("text", GOOD)
def test_byte_by_byte(text: bytes) -> None:
    one = reader()
    for position in range(len(text) - 1):
        assert one.feed(text[position : position + 1]) is None
    head = one.feed(text[-1:])
    assert seen(head) == GOOD[text]
    assert one.received == text


@given(text=st.sampled_from(list(GOOD)), cuts=st.lists(st.integers(1, 60), max_size=10))
def test_any_split_gives_the_same(text: bytes, cuts: list[int]) -> None:
    places = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    _, head = fed([text[start:end] for start, end in pairwise(places)])
    assert seen(head) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_bad_whole(text: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        reader().feed(text)
    assert refused.value.status == 400


@pytest.mark.parametrize("text", BAD)
def test_bad_byte_by_byte(text: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        fed([text[position : position + 1] for position in range(len(text))])
    assert refused.value.status == 400


@pytest.mark.parametrize("text", [b"GET / HTTP/0.9\r\n", b"GET / HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
@pytest.mark.parametrize("size", [1, 100])
def test_another_major_version(text: bytes, size: int) -> None:
    with pytest.raises(BadRequest) as refused:
        fed([text[place : place + size] for place in range(0, len(text), size)])
    assert refused.value.status == 505


@pytest.mark.parametrize("size", [1, 100])
def test_a_later_minor_version_is_read_as_ours(size: int) -> None:
    text = b"GET / HTTP/1.2\r\n\r\n"
    _, head = fed([text[place : place + size] for place in range(0, len(text), size)])
    assert head is not None
    assert head.minor == 1


LINE = b"GET / HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b"", b"\0"), (b"", b" "), (b"", b"\n"), (b"\r", b"G"), (b"\r\n", b"\n"), (b"GET", b":"), (b"GET", b"\r"),
        (b"G" * 64, b"G"), (b"GET ", b" "), (b"GET /", b"#"), (b"GET /", b"\0"), (b"GET /", b"\r"), (b"GET /", b"\n"),
        (b"GET / ", b"h"), (b"GET / HTTP", b" "), (b"GET / HTTP/", b"x"), (b"GET / HTTP/1", b"0"),
        (b"GET / HTTP/1.1", b" "), (b"GET / HTTP/1.1", b"0"), (b"GET / HTTP/1.1", b"\n"), (b"GET / HTTP/1.1\r", b"\r"),
        (b"GET * HTTP/1.1\r", b"\n"), (b"GET / HTTP/2.0\r", b"\n"), (LINE, b" "), (LINE, b":"), (LINE, b"\n"),
        (LINE + b"A", b" "), (LINE + b"A", b"\r"), (LINE + b"A", b"\xe9"), (LINE + b"A:", b"\0"), (LINE + b"A:", b"\n"),
        (LINE + b"A: b", b"\x7f"), (LINE + b"A: b\r", b"c"), (LINE + b"A: b\r\n", b"\t"), (LINE + b"A: b\r\n\r", b"\r"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_head_is_refused_at_the_first_byte_that_spoils_it(good: bytes, bad: bytes, size: int) -> None:
    one = reader()
    for place in range(0, len(good), size):
        assert one.feed(good[place : place + size]) is None
    with pytest.raises(BadRequest):
        one.feed(bad)
    with pytest.raises(BadRequest):
        reader().feed(good + bad)


@given(text=st.sampled_from(list(GOOD)), place=st.integers(0, 80), byte=st.integers(0, 255), size=st.integers(1, 9))
def test_a_changed_head_is_refused_at_the_same_byte_in_every_split(
    text: bytes, place: int, byte: int, size: int
) -> None:
    text = text[:place] + bytes((byte,)) + text[place + 1 :]

    def refused_after(size: int) -> int | None:
        one = reader()
        for begin in range(0, len(text), size):
            try:
                one.feed(text[begin : begin + size])
            except BadRequest:
                return begin + size
        return None

    exact, coarse = refused_after(1), refused_after(size)
    assert (coarse is None) == (exact is None)
    if exact is not None and coarse is not None:
        assert exact <= coarse < exact + size


def test_a_target_has_a_size() -> None:
    one = HeadReader(1024, 10, max_target=5)
    assert one.feed(b"GET /1234") is None
    with pytest.raises(BadRequest) as refused:
        one.feed(b"5")
    assert refused.value.status == 414
    assert HeadReader(1024, 10, max_target=5).feed(b"GET /1234 HTTP/1.1\r\n\r\n") is not None


def test_the_method_of_a_head_that_is_refused() -> None:
    one = reader()
    assert one.feed(b"\r\nHEA") is None
    assert one.method is None
    with pytest.raises(BadRequest):
        one.feed(b"D / HTTP/1.1\r\nnothing\r\n")
    assert one.method == b"HEAD"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"GET /" + b"x" * 1024, 414),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 1024, 431),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 1024 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 11 + b"\r\n", 431),
    ],
)
def test_too_much(text: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as refused:
        reader().feed(text)
    assert refused.value.status == status


def test_exactly_as_much_as_may_be() -> None:
    text = b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 10 + b"\r\n"
    assert reader(max_size=len(text)).feed(text) is not None
    with pytest.raises(BadRequest):
        reader(max_size=len(text) - 1).feed(text)


@examples(300)
@given(st.lists(st.binary(max_size=40), max_size=8))
def test_any_bytes_at_all(pieces: list[bytes]) -> None:
    one = reader(max_size=200)
    taken = b""
    for piece in pieces:
        taken += piece
        try:
            head = one.feed(piece)
        except BadRequest:
            break
        if head is not None:
            break
        assert len(taken) < 200
    assert one.received == taken


@given(st.binary(min_size=1, max_size=30))
def test_a_path_is_never_longer_than_its_target(target: bytes) -> None:
    try:
        path = path_of(b"GET", target)
    except BadRequest:
        return
    assert path.startswith(b"/")
    assert len(path) <= len(target) + 1


@pytest.mark.parametrize("status", [400, 408, 414, 431, 503])
def test_an_error_response_says_which_program_refuses_and_why(status: int) -> None:
    head, body = error_response(status, "the reason").split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Length: %d" % len(body) in head
    assert b"Connection: close" in head
    assert b"ktcpvs: the reason" in body


def test_an_error_response_to_head_has_no_body() -> None:
    assert error_response(503, "x", b"HEAD").endswith(b"\r\n\r\n")


@pytest.mark.parametrize("data", [*GOOD, *BAD])
@pytest.mark.parametrize("rest", [b"", b"GET /next HTTP/1.1\r\n\r\n"])
def test_a_whole_head_is_what_the_reader_reads(data: bytes, rest: bytes) -> None:
    whole = read_whole_head(data + rest, 1024, 10, 1024)
    if data in GOOD:
        assert whole in (None, reader().feed(data + rest))
        assert (whole is None) == (not GOOD[data][1].startswith(b"/") or data.startswith(b"\r\n"))
    else:
        assert whole is None


HEAD = b"GET /abc HTTP/1.1\r\nA: b\r\nC: d\r\n\r\n"


@pytest.mark.parametrize(
    ("size", "lines", "target"), [(len(HEAD), 2, 4), (len(HEAD) - 1, 2, 4), (len(HEAD), 1, 4), (len(HEAD), 2, 3)]
)
def test_a_whole_head_keeps_the_limits(size: int, lines: int, target: int) -> None:
    try:
        expected = HeadReader(size, lines, target).feed(HEAD)
    except BadRequest:
        expected = None
    assert read_whole_head(HEAD, size, lines, target) == expected
    assert (expected is None) == ((size, lines, target) != (len(HEAD), 2, 4))
