"""A stream is detached from its transport: its peer notices nothing, no byte is lost, and the stream can still end
it."""

from __future__ import annotations

import contextlib
import gc
import random
import select
import socket
import time
from collections.abc import Iterator

import pytest
from reactors import Lines, Owner, Producer, ReactorThread, descriptors, descriptors_taken, flushed, settled
from servers import ending, read_all, read_exactly, reset, wait_for
from twisted.internet.testing import StringTransport

from ktcpvs.relay.poller import SocketPoller
from ktcpvs.streams.contract import NotDetachable
from ktcpvs.streams.detached import DetachedTransport
from ktcpvs.streams.stream import Stream
from ktcpvs.system.sockets import RESET_ON_CLOSE

BULK = random.Random(1).randbytes(6_000_000)
"""More than the kernel's buffers hold."""


@pytest.fixture
def poller(thread: ReactorThread) -> Iterator[SocketPoller]:
    poller = thread.run(SocketPoller, thread.reactor)
    yield poller
    thread.run(poller.close)


class Hand:
    """An engine whose bytes a test moves itself. asked: the calls of the transport, in order.

    on_its_way: whether it holds unsent bytes.
    """

    def __init__(self, poller: SocketPoller) -> None:
        self.asked: list[str] = []
        self.on_its_way = False
        self.transport = DetachedTransport(self, poller.call_soon)
        self.sock: socket.socket
        self.taken = False

    def has_unsent(self, transport: DetachedTransport) -> bool:
        assert transport is self.transport
        return self.on_its_way

    def stop_reading(self, transport: DetachedTransport) -> None:
        assert transport is self.transport
        self.asked.append("read no more")

    def forget(self, transport: DetachedTransport) -> None:
        assert transport is self.transport
        assert self.sock.fileno() >= 0
        self.asked.append("forget")

    def take(self, stream: Stream) -> None:
        assert stream.detach_obstacle() is None
        sock = stream.detach(self.transport)
        assert isinstance(sock, socket.socket)
        self.sock = sock
        assert stream.transport is self.transport
        self.taken = True

    def read(self, size: int) -> bytes:
        """Read `size` bytes from the bare socket, once it is detached."""
        data = bytearray()

        def more() -> bool:
            if not self.taken:
                return False
            with contextlib.suppress(BlockingIOError):
                data.extend(self.sock.recv(size - len(data)))
            return len(data) == size

        wait_for(more)
        return bytes(data)


def taken(lines: Lines, poller: SocketPoller, owner: Owner) -> Hand:
    """Detach the stream from its transport."""
    hand = Hand(poller)
    lines.thread.run(hand.take, owner.stream)
    return hand


def silent(peer: socket.socket) -> bool:
    """Return whether nothing has come, neither data nor an end nor a reset."""
    return not select.select([peer], [], [], 0)[0]


def a_moment(thread: ReactorThread) -> None:
    """Wait long enough for an event that must not occur."""
    for _ in range(5):
        thread.run(lambda: None)
    time.sleep(0.02)


@pytest.mark.parametrize("reset_on_close", [False, True])
def test_the_peer_notices_nothing(lines: Lines, poller: SocketPoller, reset_on_close: bool) -> None:
    owner, peer = lines.line()
    peer.sendall(b"hello")
    owner.has(b"hello")
    owner.write(b"and hello")
    assert read_exactly(peer, 9) == b"and hello"
    wait_for(lambda: lines.thread.run(flushed, owner.stream))
    before = settled(lines.thread)
    if reset_on_close and not lines.is_unix:  # set by close_with_reset
        handle = owner.stream.transport.getHandle()
        lines.thread.run(handle.setsockopt, socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    hand = taken(lines, poller, owner)
    a_moment(lines.thread)
    assert silent(peer)
    assert (owner.heard, owner.stream.is_open) == ([], True)
    assert owner.stream.transport.getHandle() is hand.sock
    wait_for(lambda: descriptors() == before, "the old descriptor to be closed")
    peer.sendall(b"still there")
    assert hand.read(11) == b"still there"
    assert hand.sock.send(b"so am I") == 7
    assert read_exactly(peer, 7) == b"so am I"
    a_moment(lines.thread)
    assert owner.data == b"hello"
    assert hand.asked == []


def test_what_waits_in_the_kernel_is_there(lines: Lines, poller: SocketPoller) -> None:
    owner, peer = lines.line()
    owner.do("pause")
    first = BULK[:50_000]
    peer.sendall(first)
    hand = taken(lines, poller, owner)
    peer.sendall(b"and more")
    assert hand.read(50_008) == first + b"and more"
    assert owner.data == b""


def test_in_the_middle_of_what_comes(lines: Lines, poller: SocketPoller) -> None:
    """No byte is lost or read twice while the peer keeps sending."""
    owner, peer = lines.line()
    hand = Hand(poller)

    def leave(_: bytes) -> None:
        if len(owner.data) > 500_000:
            hand.take(owner.stream)

    owner.received = leave
    received = bytearray()
    peer.setblocking(False)
    start = 0
    while len(owner.data) + len(received) < len(BULK):
        with contextlib.suppress(BlockingIOError):
            start += peer.send(BULK[start : start + 300_000])
        if hand.taken:
            with contextlib.suppress(BlockingIOError):
                received += hand.sock.recv(1 << 20)
    assert len(owner.data) > 500_000
    assert owner.data + received == BULK
    assert owner.heard == []


@pytest.mark.parametrize("pause", [False, True])
def test_from_the_first(lines: Lines, poller: SocketPoller, pause: bool) -> None:
    """Detach within `made`, or later if the stream was paused there."""
    hand = Hand(poller)

    def at_once(owner: Owner) -> None:
        if pause:
            owner.stream.pause()
        else:
            hand.take(owner.stream)

    owner, peer = lines.line(at_once, b"said before")
    if lines.how == "called" and pause and lines.thread.name == "uvloop":
        wait_for(lambda: refusal(lines, owner))  # uvloop begins to read, so the stream is held: see below
        return
    if pause:
        lines.thread.run(hand.take, owner.stream)
    assert hand.read(11) == b"said before"
    a_moment(lines.thread)
    assert silent(peer)
    assert (owner.data, owner.heard) == (b"", [])
    owner.do("close")
    owner.hears("lost")
    assert ending(peer) == "end"


def test_with_the_first_that_comes(lines: Lines, poller: SocketPoller) -> None:
    hand = Hand(poller)

    def at_once(owner: Owner) -> None:
        owner.received = lambda _: hand.take(owner.stream)

    owner, peer = lines.line(at_once, b"first")
    owner.has(b"first")
    peer.sendall(b"second")
    assert hand.read(6) == b"second"
    owner.do("close")
    owner.hears("lost")
    assert (owner.data, ending(peer)) == (b"first", "end")


def test_what_was_written_just_before(lines: Lines, poller: SocketPoller) -> None:
    """uvloop sends at once, so that nothing is buffered; Twisted sends in its next turn."""
    owner, peer = lines.line()
    hand = Hand(poller)

    def write_and_leave() -> bool:
        owner.stream.write(b"one")
        owner.stream.writev([b"two", b"three"])
        if not flushed(owner.stream):
            assert owner.stream.detach(hand.transport) is NotDetachable.BUFFERED
            return False
        hand.take(owner.stream)
        return True

    left = lines.thread.run(write_and_leave)
    assert left == (lines.thread.name == "uvloop")
    assert read_exactly(peer, 11) == b"onetwothree"
    if not left:
        wait_for(lambda: lines.thread.run(flushed, owner.stream))


def test_what_is_buffered_must_go_first(lines: Lines) -> None:
    owner, peer = lines.line()
    owner.write(BULK)
    assert not lines.thread.run(flushed, owner.stream)
    assert read_exactly(peer, len(BULK)) == BULK
    wait_for(lambda: lines.thread.run(flushed, owner.stream))


def test_a_producer_is_not_told(lines: Lines, poller: SocketPoller) -> None:
    owner, _ = lines.line()
    producer = Producer()
    lines.thread.run(owner.stream.set_backpressure, producer)
    taken(lines, poller, owner)
    owner.do("close")
    owner.hears("lost")
    assert producer.told == []


# How a detached connection ends.


@pytest.mark.parametrize("unread", [b"", b"nobody reads this"])
def test_a_close(lines: Lines, poller: SocketPoller, unread: bytes) -> None:
    owner, peer = lines.line()
    hand = taken(lines, poller, owner)
    small = BULK[:50_000]
    assert hand.sock.send(small) == len(small)
    peer.sendall(unread)
    heard_within_the_call: list[str] = []
    lines.thread.run(lambda: (owner.stream.close(), owner.stream.close(), heard_within_the_call.extend(owner.heard)))
    assert heard_within_the_call == []
    owner.hears("lost")
    assert read_exactly(peer, len(small)) == small
    if not (unread and lines.is_unix):
        assert ending(peer) == "end"
    assert hand.sock.fileno() == -1
    assert hand.asked == ["read no more", "forget"]
    owner.do("abort", "close", "half_close", "pause", "resume", "close_with_reset")
    a_moment(lines.thread)
    assert owner.heard == ["lost"]


def test_a_reset(lines: Lines, poller: SocketPoller) -> None:
    owner, peer = lines.line()
    hand = taken(lines, poller, owner)
    owner.do("abort", "abort", "close")
    owner.hears("broken")
    assert ending(peer) == ("end" if lines.is_unix else "reset")
    assert hand.asked == ["forget"]
    assert hand.sock.fileno() == -1


def test_a_close_that_becomes_a_reset(lines: Lines, poller: SocketPoller) -> None:
    owner, peer = lines.line()
    hand = taken(lines, poller, owner)
    owner.do("close", "abort")
    owner.hears("broken")
    assert ending(peer) == ("end" if lines.is_unix else "reset")
    assert hand.asked == ["read no more", "forget"]


def test_a_reset_after_what_was_sent(lines: Lines, poller: SocketPoller) -> None:
    owner, peer = lines.line()
    hand = taken(lines, poller, owner)
    hand.sock.send(b"last words")
    assert read_exactly(peer, 10) == b"last words"
    owner.do("close_with_reset")
    assert ending(peer) == ("end" if lines.is_unix else "reset")
    owner.hears("lost")


def test_an_end_and_then_a_close(lines: Lines, poller: SocketPoller) -> None:
    owner, peer = lines.line()
    hand = taken(lines, poller, owner)
    owner.do("half_close", "half_close")
    assert read_all(peer) == b""
    peer.sendall(b"an answer")
    assert hand.read(9) == b"an answer"
    a_moment(lines.thread)
    assert (owner.heard, hand.asked) == ([], [])
    owner.do("close")
    owner.hears("lost")


def test_ends_wait_for_what_is_on_its_way(lines: Lines, poller: SocketPoller) -> None:
    owner, peer = lines.line()
    hand = taken(lines, poller, owner)
    hand.on_its_way = True
    owner.do("half_close")
    a_moment(lines.thread)
    assert silent(peer)

    def drain() -> None:
        hand.sock.send(b"the rest")
        hand.on_its_way = False
        hand.transport.drained()

    lines.thread.run(drain)
    assert read_all(peer) == b"the rest"
    assert (owner.heard, hand.asked) == ([], [])


def test_a_close_waits_for_what_is_on_its_way(lines: Lines, poller: SocketPoller) -> None:
    owner, peer = lines.line()
    hand = taken(lines, poller, owner)
    hand.on_its_way = True
    owner.do("half_close", "close")
    a_moment(lines.thread)
    assert silent(peer)
    assert (owner.heard, hand.asked) == ([], ["read no more"])

    def drain() -> None:
        hand.sock.send(b"the rest")
        hand.on_its_way = False
        hand.transport.drained()

    lines.thread.run(drain)
    owner.hears("lost")
    assert read_all(peer) == b"the rest"
    assert hand.asked == ["read no more", "forget"]


def test_a_reset_waits_for_nothing(lines: Lines, poller: SocketPoller) -> None:
    owner, peer = lines.line()
    hand = taken(lines, poller, owner)
    hand.on_its_way = True
    owner.do("close", "abort")
    owner.hears("broken")
    assert ending(peer) == ("end" if lines.is_unix else "reset")


def test_what_the_system_breaks(lines: Lines, poller: SocketPoller) -> None:
    owner, _ = lines.line()
    hand = taken(lines, poller, owner)

    def break_it() -> list[str]:
        hand.transport.broken()
        hand.transport.broken()
        return [*owner.heard]

    assert lines.thread.run(break_it) == ["broken"]
    assert hand.asked == ["forget"]
    assert hand.sock.fileno() == -1
    owner.do("close", "abort", "half_close")
    a_moment(lines.thread)
    assert owner.heard == ["broken"]


def test_what_breaks_while_it_is_closed(lines: Lines, poller: SocketPoller) -> None:
    owner, _ = lines.line()
    hand = taken(lines, poller, owner)
    lines.thread.run(lambda: (owner.stream.close(), hand.transport.broken(), owner.stream.close()))
    owner.hears("broken")
    a_moment(lines.thread)
    assert owner.heard == ["broken"]


# Streams that cannot be detached.


def refusal(lines: Lines, owner: Owner) -> NotDetachable | None:
    answer: NotDetachable | None = lines.thread.run(owner.stream.detach_obstacle)
    return answer


def test_an_ended_or_closing_stream_cannot_be_detached(lines: Lines) -> None:
    owner, peer = lines.line()
    assert refusal(lines, owner) is None
    owner.do("half_close")
    assert refusal(lines, owner) == NotDetachable.HALF_CLOSED
    assert read_all(peer) == b""

    owner, _ = lines.line()
    reasons = lines.thread.run(lambda: (owner.stream.close(), owner.stream.detach_obstacle()))
    assert reasons[1] == NotDetachable.CLOSING
    owner.hears("lost")
    assert refusal(lines, owner) == NotDetachable.NOT_OPEN

    owner, _ = lines.line()
    reasons = lines.thread.run(lambda: (owner.stream.abort(), owner.stream.detach_obstacle()))
    assert reasons[1] == NotDetachable.CLOSING


def test_a_stream_whose_peer_has_ended_cannot_be_detached(lines: Lines) -> None:
    owner, peer = lines.line()
    peer.shutdown(socket.SHUT_WR)
    owner.hears("ended")
    assert refusal(lines, owner) == NotDetachable.PEER_ENDED
    owner.do("close")


def test_a_stream_whose_peer_has_reset_cannot_be_detached(lines: Lines) -> None:
    owner, peer = lines.line()
    peer.sendall(b"x")
    owner.has(b"x")
    reset(peer)
    wait_for(lambda: owner.heard)
    assert refusal(lines, owner) in (
        NotDetachable.NOT_OPEN,
        NotDetachable.PEER_ENDED,
    )  # a unix socket


def test_a_stream_with_undelivered_bytes_cannot_be_detached(lines: Lines, poller: SocketPoller) -> None:
    """uvloop reads from a connection that it made even if reading is paused: those bytes must be delivered first."""
    owner, _ = lines.line(lambda owner: owner.stream.pause(), b"first")
    if lines.thread.name != "uvloop" or lines.how != "called":
        assert refusal(lines, owner) is None
        return
    assert refusal(lines, owner) == NotDetachable.UNREAD
    owner.do("resume")
    owner.has(b"first")
    assert refusal(lines, owner) is None
    taken(lines, poller, owner)


def test_a_stream_without_a_socket_cannot_be_detached() -> None:
    stream = Stream()
    assert stream.detach_obstacle() == NotDetachable.NOT_OPEN
    stream.makeConnection(StringTransport())
    assert stream.detach_obstacle() == NotDetachable.NO_SOCKET


def test_without_a_descriptor_nothing_happens(lines: Lines) -> None:
    owner, peer = lines.line()

    def fail() -> None:
        with descriptors_taken(), pytest.raises(OSError, match="Too many open files"):
            owner.stream.duplicate_socket()

    lines.thread.run(fail)
    peer.sendall(b"hello")
    owner.has(b"hello")
    owner.write(b"hello")
    assert read_exactly(peer, 5) == b"hello"


def living() -> int:
    """Return the number of streams and transports in memory."""
    names = ("Stream", "UVTransport", "Server", "Client", "DetachedTransport")
    return sum(type(thing).__name__ in names for thing in gc.get_objects())


def test_nothing_holds_on_to_the_old_transport_nor_to_what_is_over(lines: Lines, poller: SocketPoller) -> None:
    lines.line()
    settled(lines.thread)
    gc.disable()
    try:
        before = living()
        for last in ("close", "abort"):
            owner, _ = lines.line()
            hand = taken(lines, poller, owner)
            if lines.thread.name == "epoll" and lines.how == "called":
                gc.collect()  # Twisted's connectors form reference cycles
            wait_for(lambda: living() == before + 2, "the old transport to be freed")
            owner.do(last)
            wait_for(lambda owner=owner: owner.heard)
            owner.stream = None
            lines.owners.remove(owner)
            del owner, hand
            wait_for(lambda: living() == before, "all to be freed")
    finally:
        gc.enable()
