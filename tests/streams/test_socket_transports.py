"""Streams over real sockets, on uvloop's own transports and on Twisted's: behaviour that is specific to sockets.

`test_stream_contract` checks the behaviour of all streams."""

from __future__ import annotations

import gc
import hashlib
import random
import socket
import threading
import time
from collections.abc import Callable

import pytest
from reactors import HoldsBack, Lines, Owner, Producer, ReactorThread, descriptors, settled, tcp_only
from servers import ending, read_all, read_exactly, reset, wait_for

BULK = random.Random(1).randbytes(6_000_000)
"""More than the kernel's buffers hold."""


def test_the_peer_ends_first(lines: Lines) -> None:
    owner, peer = lines.line()
    peer.sendall(b"last words")
    peer.shutdown(socket.SHUT_WR)
    owner.hears("ended")
    owner.has(b"last words")
    owner.write(b"an answer")
    assert read_exactly(peer, 9) == b"an answer"
    owner.do("half_close")
    assert ending(peer) == "end"
    owner.do("pause", "resume")
    owner.do("close")
    owner.hears("ended", "lost")


def test_the_stream_ends_first(lines: Lines) -> None:
    owner, peer = lines.line()
    owner.thread.run(lambda: (owner.stream.write(BULK), owner.stream.half_close()))
    assert read_all(peer) == BULK
    peer.sendall(b"still heard")
    owner.has(b"still heard")
    peer.close()
    owner.hears("ended")
    owner.do("close", "close")
    owner.hears("ended", "lost")


def test_what_is_written_after_the_end_is_dropped(lines: Lines) -> None:
    owner, peer = lines.line()
    owner.write(b"first")
    owner.do("half_close", "half_close")
    owner.write(b"too late")
    assert read_all(peer) == b"first"
    owner.do("close")
    owner.hears("lost")


def test_all_that_came_before_an_end_is_heard_first(lines: Lines) -> None:
    owner, peer = lines.line()
    peer.sendall(BULK)
    peer.shutdown(socket.SHUT_WR)
    owner.hears("ended")
    assert owner.data == BULK


def test_an_end_waits_while_reading_is_paused(lines: Lines) -> None:
    owner, peer = lines.line()
    owner.do("pause", "pause")
    peer.sendall(b"data")
    peer.shutdown(socket.SHUT_WR)
    time.sleep(0.1)
    assert (owner.heard, owner.data) == ([], b"")
    owner.do("resume", "resume")
    owner.hears("ended")
    assert owner.data == b"data"


@pytest.mark.parametrize("first", [b"", b"said before it was heard"])
def test_paused_from_the_first(lines: Lines, first: bytes) -> None:
    owner, peer = lines.line(lambda owner: owner.stream.pause(), first)
    peer.shutdown(socket.SHUT_WR)
    time.sleep(0.1)
    assert (owner.heard, owner.data) == ([], b"")
    owner.do("resume", "pause")
    time.sleep(0.05)
    assert (owner.heard, owner.data) == ([], b"")
    owner.do("resume")
    owner.hears("ended")
    assert owner.data == first
    owner.do("close")
    owner.hears("ended", "lost")


def test_written_and_ended_from_the_first(lines: Lines) -> None:
    def at_once(owner: Owner) -> None:
        owner.stream.write(b"220 ")
        owner.stream.write(b"hello")
        owner.stream.half_close()

    owner, peer = lines.line(at_once)
    assert read_all(peer) == b"220 hello"
    peer.sendall(b"and goodbye")
    owner.has(b"and goodbye")
    owner.do("close")
    owner.hears("lost")


@pytest.mark.parametrize(("what", "told"), [("close", "lost"), ("abort", "broken")])
def test_left_from_the_first(lines: Lines, what: str, told: str) -> None:
    owner, peer = lines.line(lambda owner: getattr(owner.stream, what)())
    assert ending(peer) == ("reset" if what == "abort" and not lines.is_unix else "end")
    owner.hears(told)


def test_a_close_sends_all_that_is_buffered(lines: Lines) -> None:
    owner, peer = lines.line()
    owner.thread.run(lambda: (owner.stream.write(BULK), owner.stream.close()))
    time.sleep(0.05)
    assert owner.heard == []
    assert read_all(peer) == BULK
    owner.hears("lost")


def test_a_close_is_an_end_even_when_something_is_unread(lines: Lines) -> None:
    owner, peer = lines.line(lambda owner: owner.stream.pause())
    peer.sendall(b"nobody reads this")
    owner.write(b"bye")
    owner.do("close")
    owner.hears("lost")
    assert peer.recv(10) == b"bye"
    if not lines.is_unix:
        assert ending(peer) == "end"


def test_a_reset_drops_what_is_buffered(lines: Lines) -> None:
    owner, peer = lines.line()
    owner.thread.run(lambda: (owner.stream.write(BULK), owner.stream.abort(), owner.stream.abort()))
    owner.hears("broken")
    received = bytearray()
    try:
        while data := peer.recv(65536):
            received += data
    except ConnectionResetError:
        assert not lines.is_unix
    else:
        assert lines.is_unix
    assert len(received) < len(BULK)


def test_a_close_that_takes_too_long_becomes_a_reset(lines: Lines) -> None:
    owner, _ = lines.line()
    owner.thread.run(lambda: (owner.stream.write(BULK), owner.stream.close()))
    time.sleep(0.05)
    assert owner.heard == []
    owner.do("abort")
    owner.hears("broken")


def test_a_reset_after_what_is_buffered(lines: Lines) -> None:
    owner, peer = lines.line()
    small = BULK[:50_000]
    owner.thread.run(lambda: (owner.stream.write(small), owner.stream.close_with_reset()))
    assert read_exactly(peer, len(small)) == small
    assert ending(peer) == ("end" if lines.is_unix else "reset")
    owner.hears("lost")


@tcp_only
def test_the_peer_resets(lines: Lines) -> None:
    owner, peer = lines.line()
    peer.sendall(b"x")
    owner.has(b"x")
    reset(peer)
    owner.hears("broken")
    owner.do("abort", "close", "half_close", "pause", "resume", "close_with_reset")
    owner.hears("broken")


def test_the_peer_resets_after_data_that_waits(lines: Lines) -> None:
    owner, peer = lines.line()
    owner.do("pause")
    owner.write(b"never read")
    assert peer.recv(1, socket.MSG_PEEK) == b"n"
    peer.sendall(b"read later")
    if lines.is_unix:
        peer.close()  # with bytes unread, which causes a reset
    else:
        reset(peer)
    time.sleep(0.05)
    assert owner.data == b""
    owner.do("resume")
    owner.hears("broken")
    assert owner.data == b"read later"


def test_writing_to_a_peer_that_has_disconnected(lines: Lines) -> None:
    owner, peer = lines.line()
    owner.do("pause")
    peer.close()

    def write() -> None:
        if owner.stream.is_open:
            owner.stream.write(b"x" * 1000)

    for _ in range(100):
        lines.thread.run(write)
        if owner.heard:
            break
        time.sleep(0.01)
    owner.hears("broken")


@tcp_only
@pytest.mark.parametrize("thread", ["uvloop"], indirect=True)  # Twisted's transports close the socket first
@pytest.mark.parametrize("size", [12, 60_000], ids=["little", "much"])
def test_what_came_before_a_failed_write_is_heard(lines: Lines, size: int) -> None:
    """A server refuses an upload: it sends its response and closes with bytes unread, and then the switch writes
    again."""
    owner, peer = lines.line(lambda owner: owner.stream.pause())
    owner.write(b"a part of the upload")
    assert peer.recv(1, socket.MSG_PEEK) == b"a"
    peer.sendall(BULK[:size])
    peer.close()
    wait_for(lambda: owner.thread.run(owner.stream.is_gone))
    owner.write(b"another part")
    owner.hears("broken")
    assert owner.data == BULK[:size]


@tcp_only
def test_ending_towards_a_peer_that_has_disconnected(lines: Lines) -> None:
    owner, peer = lines.line()
    reset(peer)
    owner.do("half_close", "close")
    wait_for(lambda: owner.heard)
    assert len(owner.heard) == 1


def test_a_writer_is_held_back(lines: Lines) -> None:
    owner, peer = lines.line()
    producer = Producer()
    lines.thread.run(owner.stream.set_backpressure, producer)
    owner.write(b"small")
    assert producer.told == []
    assert read_exactly(peer, 5) == b"small"
    owner.write(BULK)
    assert producer.told == ["pause"]
    assert read_exactly(peer, len(BULK)) == BULK
    wait_for(lambda: producer.told == ["pause", "resume"])
    peer.close()
    owner.hears("ended")
    owner.do("abort")
    owner.hears("ended", "broken")
    assert producer.told == ["pause", "resume"]


def test_a_writer_that_comes_late_or_goes_early(lines: Lines) -> None:
    owner, peer = lines.line()
    producer = Producer()
    owner.write(BULK)

    def register() -> None:
        owner.stream.set_backpressure(producer)
        assert producer.told == ["pause"]
        owner.stream.write(b"!")

    lines.thread.run(register)
    assert producer.told == ["pause"]
    lines.thread.run(owner.stream.clear_backpressure)
    assert read_exactly(peer, len(BULK) + 1) == BULK + b"!"
    owner.do("close")
    owner.hears("lost")
    assert producer.told == ["pause"]


def test_a_relay_of_two_streams_with_a_slow_reader(lines: Lines) -> None:
    """Each stream pauses the other one by its transport's back-pressure, as a relay does."""
    source, sender = lines.line()
    target, reader = lines.line()
    size = 20_000_000

    def join() -> None:
        target.stream.set_backpressure(HoldsBack(source.stream))
        source.stream.dataReceived = target.stream.write
        source.stream.ended = target.stream.half_close

    lines.thread.run(join)
    sent, received = hashlib.sha256(), hashlib.sha256()

    def send() -> None:
        chance = random.Random(2)
        for _ in range(size // 200_000):
            block = chance.randbytes(200_000)
            sent.update(block)
            sender.sendall(block)
        sender.shutdown(socket.SHUT_WR)

    sender.settimeout(None)
    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    time.sleep(0.2)
    chance = random.Random(3)
    while data := reader.recv(chance.choice((1000, 100_000, 1_000_000))):
        received.update(data)
        if chance.random() < 0.02:
            time.sleep(0.01)
    sending.join(10)
    assert received.digest() == sent.digest()


class Trouble(Exception):
    """An exception that a stream's owner raises."""


@pytest.mark.parametrize("kind", [Trouble, OSError])
def test_an_exception_costs_only_its_connection(
    thread: ReactorThread, lines: Lines, kind: Callable[[], Exception]
) -> None:
    owner, peer = lines.line()
    other, others_peer = lines.line()
    error = kind()

    def fail(_: bytes) -> None:
        raise error

    owner.received = fail
    peer.sendall(b"x")
    owner.hears("broken")
    assert ending(peer) == ("reset" if (lines.is_bare or lines.is_on_uvloop) and not lines.is_unix else "end")
    others_peer.sendall(b"y")
    other.has(b"y")
    wait_for(lambda: thread.failures)
    assert thread.failures == [error]
    thread.failures.clear()


def test_an_exception_at_the_peers_end(thread: ReactorThread, lines: Lines) -> None:
    owner, peer = lines.line()
    error = Trouble()

    def fail() -> None:
        raise error

    owner.stream.ended = fail
    peer.shutdown(socket.SHUT_WR)
    owner.hears("broken")
    wait_for(lambda: thread.failures)
    assert thread.failures == [error]
    thread.failures.clear()


def test_an_exception_after_a_first_pause(thread: ReactorThread, lines: Lines) -> None:
    """Data that came while the stream was paused is not lost, nor is an error that it causes."""
    owner, _ = lines.line(lambda owner: owner.stream.pause(), b"first")
    error = Trouble()

    def fail(_: bytes) -> None:
        raise error

    owner.received = fail
    time.sleep(0.05)
    owner.do("resume")
    owner.hears("broken")
    wait_for(lambda: thread.failures)
    assert thread.failures == [error]
    thread.failures.clear()


def test_one_descriptor_for_each_side(lines: Lines) -> None:
    lines.line()
    before = settled(lines.thread)
    made = [lines.line() for _ in range(20)]
    assert descriptors() == before + 2 * len(made)  # the peers are in this process too
    for number, (owner, peer) in enumerate(made):
        if number % 2:
            owner.do("close")
        else:
            owner.do("abort")
        peer.close()
    wait_for(lambda: descriptors() == before, "all descriptors to be closed")


def living() -> int:
    """Return the number of streams and transports in memory."""
    names = (
        "Stream",
        "BareTransport",
        "UVTransport",
        "UVClientTransport",
        "TCPTransport",
        "UnixTransport",
        "Server",
        "Client",
    )
    return sum(type(thing).__name__ in names for thing in gc.get_objects())


def test_nothing_holds_on_to_a_connection_that_is_over(lines: Lines) -> None:
    lines.line()
    settled(lines.thread)
    gc.disable()
    try:
        before = living()
        for last in ("close", "abort"):
            owner, peer = lines.line()
            assert living() > before
            peer.sendall(b"x")
            owner.has(b"x")
            owner.do("half_close", last)
            wait_for(lambda owner=owner: owner.heard)
            owner.stream = None
            lines.owners.remove(owner)
            del owner
            if lines.thread.name == "epoll" and lines.how == "called":
                gc.collect()  # Twisted's connectors form reference cycles
            wait_for(lambda: living() == before, "all to be freed")
    finally:
        gc.enable()
