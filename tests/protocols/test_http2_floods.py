"""Peers that cause work without asking for anything: each flood ends the connection within its limit."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from http2_frames import GET, OK, POST, Talk, block, client_talk, data, frame, headers, number, settings

from ktcpvs.protocols.http2 import ConnectionEnded, HeaderList, RequestReceived
from ktcpvs.protocols.http2 import constants as h2

pytestmark = pytest.mark.usefixtures("http2_form")

MOST = 5
"""The limit of each kind in these tests."""

LIMITS = dict.fromkeys(
    (
        "max_resets", "max_stream_errors", "max_settings", "max_pings", "max_priorities", "max_window_updates",
        "max_empty_frames", "max_small_windows", "max_unknown_frames",
    ),
    MOST,
)  # fmt: skip

OPEN = headers(1, POST, end_stream=False)
ODD = range(3, 100_000, 2)


def resets() -> Iterator[bytes]:
    return (headers(number_, GET) + number(h2.RST_STREAM, number_, h2.CANCEL) for number_ in ODD)


def provoked_resets() -> Iterator[bytes]:
    """MadeYouReset: frames that are wrong for their stream, whose request a server may already handle."""
    return (headers(number_, GET) + number(h2.WINDOW_UPDATE, number_, 0) for number_ in ODD)


def malformed_requests() -> Iterator[bytes]:
    return (headers(number_, [*GET, (b"connection", b"close")]) for number_ in ODD)


def refused_streams() -> Iterator[bytes]:
    """Beyond the streams that may be open."""
    return (headers(number_, POST, end_stream=False) for number_ in ODD)


def closed_windows() -> Iterator[bytes]:
    return (number(h2.WINDOW_UPDATE, 1, 1) if at else number(h2.RST_STREAM, 1, h2.CANCEL) for at in count())


def always(piece: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: (piece for _ in count())


FLOODS: list[tuple[str, Callable[[], Iterator[bytes]]]] = [
    ("rapid resets", resets),
    ("provoked resets", provoked_resets),
    ("malformed requests", malformed_requests),
    ("refused streams", refused_streams),
    ("SETTINGS", always(settings((h2.INITIAL_WINDOW_SIZE, 100)))),
    ("empty SETTINGS", always(settings())),
    ("PING", always(frame(h2.PING, 0, 0, bytes(8)))),
    ("acknowledgements of SETTINGS", always(frame(h2.SETTINGS, h2.ACK))),
    ("acknowledgements of PING", always(frame(h2.PING, h2.ACK, 0, bytes(8)))),
    ("PRIORITY", always(frame(h2.PRIORITY, 0, 1, bytes(5)))),
    ("PRIORITY of idle streams", lambda: (frame(h2.PRIORITY, 0, number_, bytes(5)) for number_ in ODD)),
    ("PRIORITY_UPDATE", always(frame(h2.PRIORITY_UPDATE, 0, 0, b"\0\0\0\x01u=1"))),
    ("WINDOW_UPDATE", always(number(h2.WINDOW_UPDATE, 0, 1))),
    ("WINDOW_UPDATE of a stream", always(number(h2.WINDOW_UPDATE, 1, 1))),
    ("WINDOW_UPDATE of a closed stream", closed_windows),
    ("empty DATA", always(data(1, b""))),
    ("DATA that is only padding", always(frame(h2.DATA, h2.PADDED, 1, b"\x05" + bytes(5)))),
    ("empty CONTINUATION", lambda: (frame(h2.CONTINUATION if at else h2.HEADERS, 0, 3) for at in count())),
    ("unknown frames", always(frame(0xEE, 0, 1, b"x"))),
    ("GOAWAY", always(frame(h2.GOAWAY, 0, 0, bytes(8)))),
]


@pytest.mark.parametrize("flood", [pytest.param(flood, id=name) for name, flood in FLOODS])
def test_a_flood_ends_the_connection(flood: Callable[[], Iterator[bytes]]) -> None:
    """The limit counts for an interval; useful work allows some kinds a few more, so it may take twice as many."""
    talk = Talk(**LIMITS, max_concurrent_streams=20)
    talk.says(OPEN)
    for sent, piece in enumerate(flood()):
        assert sent <= 20 + 3 * (MOST + 20), "the flood goes on"
        events = talk.says(piece)
        if events and isinstance(events[-1], ConnectionEnded):
            break
    assert events[-1].code == h2.ENHANCE_YOUR_CALM
    assert " in 10 seconds" in events[-1].reason
    assert talk.codes()[-1] == (h2.GOAWAY, 0, h2.ENHANCE_YOUR_CALM)
    assert talk.end.glitches >= MOST - 1, "all but the SETTINGS and the ACK of each connection"
    assert not talk.end.streams
    assert talk.says(piece) == []


@pytest.mark.parametrize("flood", [pytest.param(flood, id=name) for name, flood in FLOODS if "CONT" not in name])
def test_the_same_frames_at_a_slow_rate_do_not(flood: Callable[[], Iterator[bytes]]) -> None:
    talk = Talk(**LIMITS, max_concurrent_streams=1000)
    talk.says(OPEN)
    for sent, piece in enumerate(flood()):
        if sent == 10 * MOST:
            break
        talk.now += 3
        assert not any(isinstance(event, ConnectionEnded) for event in talk.says(piece)), sent


def test_tiny_windows_end_the_connection() -> None:
    """CVE-2019-9511: each byte would cost a frame."""
    talk = Talk(**{**LIMITS, "max_window_updates": 1000})
    talk.says(settings((h2.INITIAL_WINDOW_SIZE, 1)), headers(1, GET))
    talk.end.send_headers(1, HeaderList(((b":status", b"200"),)))
    sent = talk.end.send_data(1, bytes(100))
    while not talk.end.is_over:
        talk.says(number(h2.WINDOW_UPDATE, 1, 1))
        sent += talk.end.send_data(1, bytes(100))
        assert sent <= 2 * MOST + 102
    assert talk.codes()[-1] == (h2.GOAWAY, 0, h2.ENHANCE_YOUR_CALM)


def test_a_client_that_reads_a_long_body_may_send_many_window_updates_and_pings() -> None:
    talk = Talk(**LIMITS)
    talk.says(headers(1, GET))
    for _ in range(100):
        talk.end.send_data(1, bytes(1000))
        events = talk.says(
            number(h2.WINDOW_UPDATE, 0, 1000), number(h2.WINDOW_UPDATE, 1, 1000), frame(h2.PING, 0, 0, bytes(8))
        )
        assert not events
    assert not talk.end.is_over


def test_resets_behind_the_end_of_a_response_are_not_counted() -> None:
    talk = Talk(**LIMITS)
    for stream_id in range(1, 100, 2):
        talk.says(headers(stream_id, POST, end_stream=False))
        talk.end.send_headers(stream_id, HeaderList(((b":status", b"413"),)), end_stream=True)
        talk.says(number(h2.RST_STREAM, stream_id, h2.CANCEL))
    assert not talk.end.is_over


def test_continuations_are_counted() -> None:
    """CVE-2024-27316: a header block that never ends."""
    talk = Talk(max_continuations=3)
    pieces = [frame(h2.HEADERS, 0, 1, b"\x82"), *[frame(h2.CONTINUATION, 0, 1, b"\x82")] * 3]
    assert talk.says(*pieces) == []
    (event,) = talk.says(pieces[1])
    assert (event.code, "3 CONTINUATION" in event.reason) == (h2.ENHANCE_YOUR_CALM, True)
    assert talk.end.held_bytes < 200


def test_a_header_bomb_costs_no_more_than_its_block() -> None:
    """An entry of the table that is repeated thousands of times (CVE-2026-49975)."""
    talk = Talk()
    value = b"v" * 3900
    talk.says(
        frame(
            h2.HEADERS,
            5,
            1,
            block(GET) + b"\x40\x01a\x7f" + bytes(((3900 - 127) & 127 | 128, (3900 - 127) >> 7)) + value,
        )
    )
    tracemalloc.start()
    try:
        for stream_id in range(3, 43, 2):
            (event,) = talk.says(frame(h2.HEADERS, 5, stream_id, block(GET) + b"\xbe" * 16000))
            assert event.status == 431
            talk.end.send_headers(stream_id, HeaderList(((b":status", b"431"),)), end_stream=True)
            talk.end.take_output()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 300_000


def test_memory_is_bounded_while_nothing_is_passed_on() -> None:
    """All streams upload; the owner passes nothing on: what it may get is the window of the connection."""
    talk = Talk(max_concurrent_streams=100, connection_window=200_000, stream_window=50_000)
    got = 0
    for turn in range(4):
        for stream_id in range(1, 200, 2):
            if not turn:
                talk.says(headers(stream_id, POST, end_stream=False))
            if talk.end.is_over:
                break
            got += sum(len(event.data) for event in talk.says(data(stream_id, bytes(10_000))) if hasattr(event, "data"))
    assert got <= 200_000
    assert talk.end.is_over
    assert talk.end.held_bytes < 30_000


def test_a_server_cannot_flood_a_client() -> None:
    talk = client_talk(**LIMITS)
    talk.end.send_request(HeaderList(tuple(GET)), b"GET", end_stream=True)
    talk.says(headers(1, OK, end_stream=False))
    while not talk.end.is_over:
        talk.says(data(1, b""))
        assert talk.end.glitches < 100
    assert talk.codes()[-1] == (h2.GOAWAY, 0, h2.ENHANCE_YOUR_CALM)


def test_many_requests_at_once_are_no_flood() -> None:
    talk = Talk(max_concurrent_streams=100)
    events = talk.says(b"".join(headers(stream_id, GET) for stream_id in range(1, 200, 2)))
    assert len([event for event in events if isinstance(event, RequestReceived)]) == 100
    assert talk.end.glitches == 0


def test_what_each_client_sends_is_no_glitch() -> None:
    """curl and browsers enlarge the window of the connection at its beginning, and say GOAWAY at its end."""
    talk = Talk()  # with SETTINGS, and the ACK of those of the server
    talk.says(number(h2.WINDOW_UPDATE, 0, 1 << 24), headers(1, GET))
    assert not talk.end.glitches
    talk.says(frame(h2.GOAWAY, 0, 0, bytes(8)))
    assert not talk.end.glitches
    talk.says(settings(), number(h2.WINDOW_UPDATE, 0, 1), number(h2.WINDOW_UPDATE, 0, 1))
    assert talk.end.glitches == 2, "SETTINGS, and the third WINDOW_UPDATE, since the request allows two"
    talk.says(frame(h2.GOAWAY, 0, 0, bytes(8)))
    assert talk.end.glitches == 3


def test_window_updates_for_pieces_of_the_interval_before_are_no_glitches() -> None:
    talk = Talk()
    talk.says(headers(1, GET))
    talk.end.send_headers(1, HeaderList(((b":status", b"200"),)))
    for _ in range(10):
        talk.end.send_data(1, bytes(1000))
        talk.now += 11
        talk.says(number(h2.WINDOW_UPDATE, 0, 1000), number(h2.WINDOW_UPDATE, 1, 1000))
    assert not talk.end.glitches
