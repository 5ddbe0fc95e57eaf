"""Frames of WebSockets are followed by their headers, however their bytes come."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from ktcpvs.protocols.websocket import SERVICE_RESTART, FrameFollower, close_frame

frames = st.builds(
    lambda opcode, data, masked, fin: Frame(opcode, data, fin=fin).serialize(mask=masked),
    st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.CONT]),
    st.one_of(st.binary(max_size=20), st.integers(120, 70_000).map(bytes)),
    st.booleans(),
    st.booleans(),
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[begin:end] for begin, end in pairwise(ends)]


@given(st.lists(frames, min_size=1, max_size=4), st.lists(st.integers(0, 1 << 20), max_size=12))
def test_boundaries_are_where_frames_end(sent: list[bytes], places: list[int]) -> None:
    boundaries, at = {0}, 0
    for frame in sent:
        at += len(frame)
        boundaries.add(at)
    follower, at = FrameFollower(), 0
    for piece in cut(b"".join(sent), places):
        assert follower.is_at_boundary is (at in boundaries)
        assert follower.advance(piece) == len(piece)
        at += len(piece)
    assert follower.is_at_boundary
    assert not follower.has_close


@given(st.lists(frames, min_size=1, max_size=4), st.integers(0, 1 << 20), st.lists(st.integers(0, 1 << 20), max_size=6))
def test_it_stops_at_the_next_boundary(sent: list[bytes], begin: int, places: list[int]) -> None:
    whole = b"".join(sent)
    begin %= len(whole) + 1
    follower = FrameFollower()
    follower.advance(whole[:begin])
    ends, at = [0], 0
    for frame in sent:
        at += len(frame)
        ends.append(at)
    expected = next(end for end in ends if end >= begin)
    passed = begin
    for piece in cut(whole[begin:], places):
        taken = follower.advance(piece, stops=True)
        passed += taken
        if taken < len(piece) or follower.is_at_boundary:
            break
    assert passed == expected
    assert follower.is_at_boundary


@given(st.booleans(), st.integers(0, 8))
def test_a_close_frame_is_noticed_and_valid(masked: bool, place: int) -> None:
    data = close_frame(SERVICE_RESTART, b"mask" if masked else b"")
    follower = FrameFollower()
    for piece in cut(b"\x81\x00" + data, [place]):
        follower.advance(piece)
    assert follower.has_close
    assert follower.is_at_boundary
    reader = StreamReader()
    reader.feed_data(data)
    parsing = Frame.parse(reader.read_exact, mask=masked)
    with pytest.raises(StopIteration) as parsed:
        next(parsing)
    assert parsed.value.value.opcode is Opcode.CLOSE
    assert parsed.value.value.data == SERVICE_RESTART.to_bytes(2, "big")


@pytest.mark.parametrize(
    "frame", [b"\x89\x00", b"\x89\x80\x01\x02\x03\x04", b"\x82\x01x"], ids=["empty", "masked", "one"]
)
def test_many_short_frames_need_no_call_each(frame: bytes) -> None:
    """All clients wait while the frames of one read are followed."""
    follower, calls = FrameFollower(), 0

    def count(*of: object) -> None:
        nonlocal calls
        calls += 1

    data = frame * 10_000
    sys.setprofile(count)
    try:
        assert follower.advance(data) == len(data)
    finally:
        sys.setprofile(None)
    assert calls < 100
    assert follower.is_at_boundary
