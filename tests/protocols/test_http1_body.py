"""The ends of bodies, exact to the byte however the data is split; ambiguous forms are refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.protocols.http1 import BadFrame, Chunked, Frame
from ktcpvs.protocols.http1.body import MAX_CHUNK_LINE_BYTES, MAX_TRAILER_BYTES, Length, UntilClose

TCHAR = [b"%c" % letter for letter in b"!#$%&'*+-.^_`|~0189AFZafz"]
TEXT = [b"%c" % letter for letter in b"\t !#$;:,=az09[]~\x80\xff"]

tokens = st.lists(st.sampled_from(TCHAR), min_size=1, max_size=8).map(b"".join)
quoted = (
    st.lists(st.sampled_from([*TEXT, b'\\"', b"\\\\", b"\\a"]), max_size=8).map(b"".join).map(lambda q: b'"%b"' % q)
)
extensions = st.lists(
    st.builds(
        lambda name, value: b";" + name + value, tokens, st.just(b"") | (tokens | quoted).map(lambda v: b"=" + v)
    ),
    max_size=3,
).map(b"".join)
trailers = st.lists(
    st.builds(
        lambda name, value: b"x%b:%b\r\n" % (name, value),
        tokens,
        st.lists(st.sampled_from(TEXT), max_size=8).map(b"".join),
    ),
    max_size=3,
).map(b"".join)


@st.composite
def chunked_bodies(draw: st.DrawFn) -> bytes:
    body = b""
    for data in draw(st.lists(st.binary(min_size=1, max_size=300), max_size=5)):
        size = draw(st.sampled_from([b"%x", b"%X", b"%015x"])) % len(data)
        body += size + draw(extensions) + b"\r\n" + data + b"\r\n"
    last = draw(st.sampled_from([b"0", b"00", b"0" * 15]))
    return body + last + draw(extensions) + b"\r\n" + draw(trailers) + b"\r\n"


def fed(frame: Frame, data: bytes, size: int) -> int:
    """Return how many bytes the frame takes from `data` in pieces of this size."""
    total = 0
    for begin in range(0, len(data), size):
        piece = data[begin : begin + size]
        while piece and not frame.done:  # again, if it was too much for one call
            taken = frame.feed(piece)
            assert taken
            total += taken
            piece = piece[taken:]
        if frame.done:
            break
    return total


def test_it_reads_only_some_lines_at_once() -> None:
    for body in (b"1\r\nx\r\n" * 10_000, (b"1" + b";a" * 2000 + b"\r\nx\r\n") * 1000):
        frame = Chunked()
        taken = frame.feed(body)
        assert 0 < taken < 512 * 80
        assert not frame.done
        assert taken + fed(frame, body[taken:], 1 << 20) == len(body)


@examples(150)
@given(body=chunked_bodies(), following=st.binary(max_size=10), size=st.integers(1, 700))
def test_a_chunked_body_ends_where_it_ends(body: bytes, following: bytes, size: int) -> None:
    frame = Chunked()
    assert fed(frame, body + following, size) == len(body)
    assert frame.done
    assert frame.feed(following) == 0


@examples(100)
@given(body=chunked_bodies(), places=st.lists(st.integers(0, 3000), max_size=8))
def test_in_pieces_of_any_size(body: bytes, places: list[int]) -> None:
    bounds = sorted({0, len(body), *(place % len(body) for place in places)})
    frame = Chunked()
    for begin, end in pairwise(bounds):
        assert not frame.done
        assert frame.feed(body[begin:end]) == end - begin
    assert frame.done


@examples(150)
@given(body=chunked_bodies(), place=st.integers(0, 3000), change=st.binary(max_size=3), removed=st.integers(0, 3))
def test_a_damaged_body_is_the_same_in_every_split(body: bytes, place: int, change: bytes, removed: int) -> None:
    place %= len(body)
    body = body[:place] + change + body[place + removed :]
    seen = set()
    for size in (1, 2, 7, len(body) or 1):
        frame = Chunked()
        try:
            seen.add((fed(frame, body, size), frame.done))
        except BadFrame:
            seen.add((-1, False))
    # In pieces, a line that is too long is refused before its end; as a whole, it is refused as malformed.
    assert len(seen) == 1 or (seen == {(-1, False), (len(body), False)} and not body.endswith(b"\n"))


@examples(300)
@given(st.lists(st.binary(max_size=40), max_size=8))
def test_any_bytes_at_all(pieces: list[bytes]) -> None:
    frame = Chunked()
    try:
        for piece in pieces:
            taken = frame.feed(piece)
            assert taken == len(piece) or (frame.done and taken < len(piece))
    except BadFrame:
        pass


@pytest.mark.parametrize(
    "begun",
    [b"x", b"+", b" ", b"\r", b"5 a", b"5\t6", b"5 \0", b"0x", b"5\0", b"5;\0", b"5\rx", b"5;a\rb", b"0" * 16, b";"],
)
def test_a_size_that_cannot_become_one_is_refused_before_its_line_ends(begun: bytes) -> None:
    for size in (1, len(begun)):
        with pytest.raises(BadFrame):
            fed(Chunked(), begun, size)


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("more", [0, 1])
def test_the_line_of_a_chunk_has_a_longest(size: int, more: int) -> None:
    line = b"5;" + b"a" * (MAX_CHUNK_LINE_BYTES - 4 + more) + b"\r\n"
    frame = Chunked()
    if not more:
        assert fed(frame, line, size) == MAX_CHUNK_LINE_BYTES
        return
    with pytest.raises(BadFrame):
        fed(frame, line, size)


def test_a_line_that_never_ends() -> None:
    for begin, line in ((b"", b"5;" + b"a" * 100000), (b"0\r\n", b"a: " + b"b" * 100000)):
        frame = Chunked()
        assert frame.feed(begin) == len(begin)
        with pytest.raises(BadFrame):
            fed(frame, line, 1000)


@pytest.mark.parametrize("size", [7, 1 << 20])
@pytest.mark.parametrize("more", [0, 1])
def test_trailers_have_a_size(size: int, more: int) -> None:
    lines = (b"a: " + b"b" * 11 + b"\r\n") * (MAX_TRAILER_BYTES // 16)
    frame = Chunked()
    assert frame.feed(b"0\r\n") == 3
    if not more:
        assert fed(frame, lines + b"\r\n", size) == len(lines) + 2
        assert frame.done
        return
    with pytest.raises(BadFrame):
        fed(frame, lines + b"a:\r\n", size)


@pytest.mark.parametrize(
    "name",
    [
        b"content-length", b"Content_Length", b"TRANSFER-ENCODING", b"transfer.encoding", b"Host",
    ],
)  # fmt: skip
def test_trailer_fields_that_are_refused(name: bytes) -> None:
    with pytest.raises(BadFrame):
        Chunked().feed(b"0\r\n" + name + b": 1\r\n\r\n")
    assert_trailer_goes_on(b"X" + name, True)


@pytest.mark.parametrize(
    "name",
    [
        b"Connection", b"Trailer", b"TE", b"Upgrade", b"Content-Type", b"Content_Encoding", b"Authorization", b"Cookie",
        b"Forwarded", b"X-Forwarded-Proto", b"X_FORWARDED_FOR", b"x.forwarded-host", b"Via", b"Expect",
    ],
)  # fmt: skip
def test_trailer_fields_that_do_not_go_on(name: bytes) -> None:
    assert_trailer_goes_on(name, False)
    assert_trailer_goes_on(b"X" + name, True)


def assert_trailer_goes_on(name: bytes, goes_on: bool) -> None:
    frame = Chunked()
    line = name + b": 1\r\n"
    data = b"0\r\n" + line + b"A: b\r\n\r\n"
    assert frame.feed(data) == len(data)
    assert frame.done
    assert frame.onward == (None if goes_on else b"0\r\nA: b\r\n\r\n")


LOOSE = [
    (b"5  \r\nhello\r\n0\t\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    (b"5 ; a = b ;c\r\nhello\r\n0;d \r\n\r\n", b"5;a=b;c\r\nhello\r\n0;d\r\n\r\n"),
    (b'5;a= " ; \\"= " \r\nhello\r\n0\r\n\r\n', b'5;a=" ; \\"= "\r\nhello\r\n0\r\n\r\n'),
    (b"5\r\nhello\r\n0\r\nCookie: a\r\nA: b\r\n\r\n", b"5\r\nhello\r\n0\r\nA: b\r\n\r\n"),
]


@pytest.mark.parametrize(("came", "strict"), LOOSE)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_loose_forms_go_on_in_the_strict_form(came: bytes, strict: bytes, size: int) -> None:
    assert onward(Chunked(), came + b"next", size) == strict
    assert onward(Chunked(), strict + b"next", size) == strict
    assert onward(Chunked(decode=True), came + b"next", size) == b"hello"


def onward(frame: Frame, data: bytes, size: int) -> bytes:
    """Return what is forwarded of `data` in pieces of this size. No line is forwarded before it is complete."""
    out = b""
    for begin in range(0, len(data), size):
        piece = data[begin : begin + size]
        taken = frame.feed(piece)
        out += piece[:taken] if frame.onward is None else frame.onward
        if frame.done:
            break
    return out


def test_a_line_goes_on_when_it_is_complete() -> None:
    frame = Chunked()
    assert frame.feed(b"5\r\nhello\r\n1;a") == 13
    assert (frame.onward, frame.held) == (b"5\r\nhello\r\n", b"1;a")
    assert frame.feed(b"=b\r") == 3
    assert (frame.onward, frame.held) == (b"", b"1;a=b\r")
    assert frame.feed(b"\nx") == 2
    assert (frame.onward, frame.held) == (b"1;a=b\r\nx", b"")
    assert frame.feed(b"\r") == 1
    assert (frame.onward, frame.held) == (None, b"")


def test_the_largest_chunk_is_not_collected() -> None:
    frame = Chunked()
    assert frame.feed(b"f" * 15 + b"\r\n") == 17
    for _ in range(3):
        assert frame.feed(b"x" * 65536) == 65536
    assert not frame.done


@given(length=st.integers(0, 50), data=st.binary(max_size=60), size=st.integers(1, 60))
def test_a_length(length: int, data: bytes, size: int) -> None:
    frame = Length(length)
    assert fed(frame, data, size) == min(length, len(data))
    assert frame.done == (len(data) >= length)


def test_until_close() -> None:
    frame = UntilClose()
    assert frame.feed(b"anything") == 8
    assert not frame.done
