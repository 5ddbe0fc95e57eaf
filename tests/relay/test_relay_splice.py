"""The splicing relay over real sockets: bytes, ends and resets are relayed unchanged, and nothing is left.

Each test runs with pipes, and without them, in which case every byte is copied, as when pipes run out.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from reactors import Lines, Owner, ReactorThread, descriptors, descriptors_taken, flushed, settled, tcp_only
from servers import ending, read_all, read_exactly, reset, wait_for

from ktcpvs.relay.copy import CopyRelay
from ktcpvs.relay.pipes import MAX_PIPES, MAX_SPARE_PIPES, PIPE_SIZE, Pipes
from ktcpvs.relay.splice import Direction, SpliceRelay, available
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.streams.stream import Stream
from ktcpvs.system.sockets import read_urgent_in_place
from ktcpvs.system.timer_wheel import TimerWheel

BULK = random.Random(1).randbytes(12_000_000)
"""More than the kernel's buffers hold."""

MOST_BUFFERED = 24 << 20
"""The most bytes that the kernel's buffers may hold for one connection."""


@pytest.fixture(params=["spliced", "copied"])
def most(request: pytest.FixtureRequest) -> int:
    return MAX_PIPES if request.param == "spliced" else 0


spliced_only = pytest.mark.parametrize("most", [MAX_PIPES], ids=["spliced"])


class CountingPoller(SocketPoller):
    """turns: the number of turns of the reactor with an event."""

    turns = 0

    def doRead(self) -> None:
        self.turns += 1
        super().doRead()


class Joined:
    """A client and a server, and two streams between them that a relay joins. It ends as a connection of the switch
    does.

    client, server: the peers' sockets. heard: the events of the owner, in order.
    """

    def __init__(
        self,
        relays: Relays,
        at_once: Callable[[Owner], object] = lambda _: None,
        finished: Callable[[], object] | None = None,
    ) -> None:
        """finished: what the relay calls instead of this object's own method."""
        self.relays = relays
        self.inner, self.client = relays.clients.line(at_once)
        self.outer, self.server = relays.servers.line(at_once)
        self.heard: list[str] = []
        self.inner.stream.lost = lambda clean: self._lost("client", clean)
        self.outer.stream.lost = lambda clean: self._lost("server", clean)
        self.relay = relays.make(self.inner.stream, self.outer.stream, finished or self._finished)
        self.is_over = False

    def start(self, waiting: bytes = b"", answer: bytes = b"") -> Joined:
        self.relays.thread.run(self.relay.start, waiting, answer)
        return self

    def _finished(self) -> None:
        self.heard.append("finished")
        self.is_over = True
        self.inner.stream.close()
        self.outer.stream.close()

    def _lost(self, who: str, clean: bool) -> None:
        self.heard.append(f"{who} {'lost' if clean else 'broken'}")
        if not self.is_over:
            self.is_over = True
            other = self.outer if who == "client" else self.inner
            if clean:
                other.stream.close()
            elif who == "client":
                other.stream.abort()
            else:
                other.stream.close_with_reset()

    def do(self, function: Callable[[], object]) -> None:
        self.relays.thread.run(function)

    def hears(self, *heard: str) -> None:
        """Wait until exactly these events have occurred."""
        wait_for(lambda: sorted(self.heard) == sorted(heard), f"{heard}, not {self.heard}")

    def ends_well(self) -> None:
        self.hears("finished", "client lost", "server lost")
        assert self.heard[0] == "finished"


class Relays:
    """Makes joined connections on one reactor."""

    def __init__(self, thread: ReactorThread, family: int, most: int, folder: Path) -> None:
        self.thread = thread
        self.is_unix = family == socket.AF_UNIX
        for name in ("clients", "servers"):
            (folder / name).mkdir()
        self.clients = Lines(thread, "accepted", family, folder / "clients")
        self.servers = Lines(thread, "called", family, folder / "servers")
        self.wheel = TimerWheel(thread.reactor, lambda: None)  # tests set its ticks
        self.poller: CountingPoller = thread.run(CountingPoller, thread.reactor)
        self.pipes = Pipes(most)

    def make(self, client: Stream, server: Stream, finished: Callable[[], object]) -> Any:
        return SpliceRelay(client, server, self.wheel, finished, self.poller, self.pipes)

    def join(self, waiting: bytes = b"", answer: bytes = b"") -> Joined:
        return Joined(self).start(waiting, answer)

    def rests(self) -> bool:
        """Return whether the reactor runs turns without any event."""
        before = self.poller.turns
        for _ in range(5):
            self.thread.run(lambda: None)
        return self.poller.turns == before

    def close(self) -> None:
        self.clients.close()
        self.servers.close()
        wait_for(lambda: self.thread.run(len, self.poller) == 0)
        assert self.pipes.in_use == 0
        self.pipes.close()
        assert self.pipes.made == 0
        self.thread.run(self.poller.close)


@pytest.fixture
def relays(thread: ReactorThread, family: int, most: int, tmp_path: Path) -> Iterator[Relays]:
    thread.failures.clear()
    relays = Relays(thread, family, most, tmp_path)
    yield relays
    relays.close()
    assert thread.failures == []


class Sending:
    """Sends `data` in a thread, and perhaps ends. sent: set when everything is sent."""

    def __init__(self, sock: socket.socket, data: bytes, end: bool = False) -> None:
        self._thread = threading.Thread(target=self._send, args=(sock, data, end), daemon=True)
        self._thread.start()

    def _send(self, sock: socket.socket, data: bytes, end: bool) -> None:
        with contextlib.suppress(OSError):
            sock.sendall(data)
            if end:
                sock.shutdown(socket.SHUT_WR)

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


def filled(relays: Relays, sock: socket.socket, way: Direction) -> int:
    """Send until nothing moves any more and the relay holds something. Return the number of bytes."""
    sent = 0
    sock.setblocking(False)
    while not (relays.rests() and (getattr(way, "in_pipe", 0) or way.pending)):
        before = sent
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += sock.send(BULK[sent % 1000 : 1 << 16])
        assert sent < MOST_BUFFERED
        if sent == before:
            time.sleep(0.005)  # looking again at once would take a core from whatever still moves
    sock.settimeout(10)
    return sent


def test_it_is_available_here() -> None:
    assert available() is None


def test_requests_and_answers(relays: Relays) -> None:
    joined = relays.join()
    moved_in = moved_out = 0
    for size in (1, 10, 1000, 50_000, 1):
        joined.client.sendall(BULK[:size])
        assert read_exactly(joined.server, size) == BULK[:size]
        joined.server.sendall(BULK[: 2 * size])
        assert read_exactly(joined.client, 2 * size) == BULK[: 2 * size]
        moved_in += size
        moved_out += 2 * size
        assert (joined.relay.inward.bytes, joined.relay.outward.bytes) == (moved_in, moved_out)
    assert (joined.inner.data, joined.outer.data) == (b"", b"")
    assert (joined.relay.inward.ended, joined.relay.outward.ended) == (False, False)
    wait_for(relays.rests)
    assert relays.pipes.in_use == 0
    joined.client.close()
    assert ending(joined.server) == "end"
    joined.server.close()
    joined.ends_well()


def test_a_server_that_speaks_first(relays: Relays) -> None:
    joined = Joined(relays)
    joined.server.sendall(b"220 hello\r\n")
    joined.outer.has(b"220 hello\r\n")
    joined.start(answer=bytes(joined.outer.data))
    assert read_exactly(joined.client, 11) == b"220 hello\r\n"
    joined.client.sendall(b"and back")
    assert read_exactly(joined.server, 8) == b"and back"
    assert (joined.relay.inward.bytes, joined.relay.outward.bytes) == (8, 11)


@pytest.mark.parametrize("size", [1, len(BULK)])
def test_what_waits_goes_first(relays: Relays, size: int) -> None:
    joined = Joined(relays, lambda owner: owner.stream.pause())
    if relays.thread.name == "uvloop":  # it reads from a connection that it made, even if paused
        joined.outer.do("resume")
    joined.client.sendall(b", and this after it")
    joined.client.shutdown(socket.SHUT_WR)
    joined.start(BULK[:size], b"answered already")
    assert read_all(joined.server) == BULK[:size] + b", and this after it"
    assert read_exactly(joined.client, 16) == b"answered already"
    joined.server.close()
    joined.ends_well()
    assert (joined.relay.inward.bytes, joined.relay.outward.bytes) == (size + 19, 16)


@pytest.mark.parametrize("size", [0, 1, len(BULK)])
def test_the_client_ends_and_still_gets_its_answer(relays: Relays, size: int) -> None:
    joined = relays.join()
    sending = Sending(joined.client, BULK[:size], end=True)
    assert read_all(joined.server) == BULK[:size]
    sending.join()
    wait_for(relays.rests)
    wait_for(lambda: joined.relay.inward.ended)
    assert joined.heard == []
    sending = Sending(joined.server, BULK[:size], end=True)
    assert read_all(joined.client) == BULK[:size]
    sending.join()
    joined.ends_well()
    assert (joined.relay.inward.bytes, joined.relay.outward.bytes) == (size, size)


def test_the_server_ends_and_still_hears_its_client(relays: Relays) -> None:
    joined = relays.join()
    joined.server.sendall(b"my last words")
    joined.server.shutdown(socket.SHUT_WR)
    assert read_all(joined.client) == b"my last words"
    wait_for(relays.rests)
    sending = Sending(joined.client, BULK, end=True)
    assert read_all(joined.server) == BULK
    sending.join()
    joined.ends_well()


def test_both_end_at_once_with_bytes_in_flight(relays: Relays) -> None:
    joined = relays.join()
    sendings = [Sending(joined.client, BULK, end=True), Sending(joined.server, BULK[::-1], end=True)]
    received: list[bytes] = []
    reading = threading.Thread(target=lambda: received.append(read_all(joined.client)), daemon=True)
    reading.start()
    assert read_all(joined.server) == BULK
    reading.join(10)
    assert received == [BULK[::-1]]
    for sending in sendings:
        sending.join()
    joined.ends_well()
    assert (joined.relay.inward.bytes, joined.relay.outward.bytes) == (len(BULK), len(BULK))


def joined_in_place(relays: Relays) -> Joined:
    """Join as the switch does: urgent data is read in its place."""
    joined = Joined(relays)
    for line in joined.inner, joined.outer:
        read_urgent_in_place(line.stream.transport.getHandle())
    return joined.start()


@tcp_only
@pytest.mark.parametrize("before", [0, 1, 100_000, 3_000_000])
def test_an_urgent_byte_is_carried_in_its_place(relays: Relays, before: int) -> None:
    """Alone, among other bytes, and last before the end, whether the bytes before it were copied or spliced."""
    joined = joined_in_place(relays)
    sent = bytearray()
    for round_ in range(3):
        data = BULK[:before] + bytes([round_])
        sending = Sending(joined.client, data)
        assert read_exactly(joined.server, len(data)) == data
        sending.join()
        joined.client.send(b"!", socket.MSG_OOB)
        assert read_exactly(joined.server, 1) == b"!"
        wait_for(relays.rests)
        sent += data + b"!"
    more = Sending(joined.client, BULK[:before])
    assert read_exactly(joined.server, before) == BULK[:before]
    more.join()
    joined.client.send(b"?", socket.MSG_OOB)
    joined.client.shutdown(socket.SHUT_WR)
    assert read_all(joined.server) == b"?"
    joined.server.close()
    joined.ends_well()
    assert joined.relay.inward.bytes == len(sent) + before + 1


@tcp_only
def test_urgent_bytes_in_full_flow(relays: Relays) -> None:
    joined = joined_in_place(relays)
    chance = random.Random(13)
    pieces = [BULK[: chance.choice((1, 100, 30_000, 700_000))] for _ in range(40)]

    def send() -> None:
        for number, piece in enumerate(pieces):
            joined.client.sendall(piece)
            joined.client.send(bytes([number]), socket.MSG_OOB)
        joined.client.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    assert read_all(joined.server) == b"".join(piece + bytes([number]) for number, piece in enumerate(pieces))
    sender.join()
    joined.server.close()
    joined.ends_well()


def test_the_peers_close_without_a_word(relays: Relays) -> None:
    joined = relays.join()
    joined.client.close()
    joined.server.close()
    joined.ends_well()


def test_a_slow_reader_holds_the_sender_back(relays: Relays) -> None:
    """Waiting bytes are in the kernel's buffers and at most one pipe, and cause no events until they are read."""
    joined = relays.join()
    sent = filled(relays, joined.client, joined.relay.inward)
    assert relays.pipes.in_use <= 1
    assert joined.relay.inward.in_pipe + len(joined.relay.inward.pending) <= PIPE_SIZE
    joined.server.sendall(b"the other direction goes on")
    assert read_exactly(joined.client, 27) == b"the other direction goes on"
    joined.client.shutdown(socket.SHUT_WR)
    received = 0
    chance = random.Random(2)
    while data := joined.server.recv(int(2 ** chance.uniform(10, 20))):
        received += len(data)
    assert received == joined.relay.inward.bytes == sent
    assert relays.pipes.in_use == 0


def test_the_time_of_the_last_bytes(relays: Relays) -> None:
    joined = relays.join()
    assert joined.relay.idle_since() == 0
    relays.wheel.now = 5
    joined.client.sendall(b"x")
    assert read_exactly(joined.server, 1) == b"x"
    assert (joined.relay.idle_since(), joined.relay.inward.last_data, joined.relay.outward.last_data) == (5, 5, 0)
    relays.wheel.now = 7
    joined.server.sendall(b"x")
    assert read_exactly(joined.client, 1) == b"x"
    relays.wheel.now = 9
    assert joined.relay.idle_since() == 7


# Resets.


@tcp_only
def test_a_reset_of_the_client_reaches_the_server(relays: Relays) -> None:
    joined = relays.join()
    joined.client.sendall(b"x")
    assert read_exactly(joined.server, 1) == b"x"
    reset(joined.client)
    assert ending(joined.server) == "reset"
    joined.hears("client broken", "server broken")
    assert joined.heard[0] == "client broken"


@tcp_only
@pytest.mark.parametrize("size", [0, 50_000])
def test_a_reset_of_the_server_reaches_the_client_after_what_it_said(relays: Relays, size: int) -> None:
    joined = relays.join()
    joined.server.sendall(BULK[:size])
    assert read_exactly(joined.client, size) == BULK[:size]
    reset(joined.server)
    assert ending(joined.client) == "reset"
    joined.hears("server broken", "client lost")


@tcp_only
def test_a_reset_after_an_end_is_still_a_reset(relays: Relays) -> None:
    joined = relays.join()
    joined.client.sendall(b"hello")
    joined.client.shutdown(socket.SHUT_WR)
    assert read_all(joined.server) == b"hello"
    reset(joined.server)
    assert ending(joined.client) == "reset"
    joined.hears("server broken", "client lost")


@tcp_only
def test_what_a_server_said_before_its_reset_is_read_though_the_client_still_sends(relays: Relays) -> None:
    """A server refuses an upload and disconnects: the client gets its response, and a reset."""
    joined = relays.join()
    filled(relays, joined.client, joined.relay.inward)

    def answer_and_go() -> None:
        """Called in the reactor's thread, so that the reactor finds the response and the reset together."""
        joined.server.sendall(b"413 too much")
        reset(joined.server)

    joined.do(answer_and_go)
    assert read_exactly(joined.client, 12) == b"413 too much"
    assert ending(joined.client) == "reset"
    joined.hears("server broken", "client lost")


def test_a_peer_that_closes_with_bytes_unread(relays: Relays) -> None:
    """This causes a reset, for a unix socket too; the relay detects it when it reads or writes."""
    joined = relays.join()
    sending = Sending(joined.client, BULK)
    wait_for(lambda: joined.relay.inward.bytes > 0)
    joined.server.close()
    wait_for(lambda: len(joined.heard) == 2)
    assert "finished" not in joined.heard
    sending.join()


def test_the_owner_resets_both(relays: Relays) -> None:
    """As after a timeout, while data is flowing."""
    joined = relays.join()
    sendings = [Sending(joined.client, BULK), Sending(joined.server, BULK)]
    wait_for(lambda: joined.relay.inward.bytes > 0 and joined.relay.outward.bytes > 0)
    joined.do(lambda: (setattr(joined, "is_over", True), joined.inner.stream.abort(), joined.outer.stream.abort()))
    joined.hears("client broken", "server broken")
    for sending in sendings:
        sending.join()


def test_a_close_lets_out_what_is_held(relays: Relays) -> None:
    """The owner closes the client while the pipe to it is full: all bytes read from the server arrive."""
    joined = relays.join()
    sent = filled(relays, joined.server, joined.relay.outward)
    joined.do(lambda: (setattr(joined, "is_over", True), joined.inner.stream.close()))
    assert joined.heard == []
    taken = joined.relay.outward.bytes
    assert 0 < taken <= sent
    assert len(read_all(joined.client)) == taken
    joined.hears("client lost")
    joined.do(joined.outer.stream.abort)
    joined.hears("client lost", "server broken")


def test_what_is_closed_is_not_finished(relays: Relays) -> None:
    """The owner closes both when the client has ended: held bytes are sent, and `finished` is not called."""
    joined = relays.join()
    joined.client.shutdown(socket.SHUT_WR)
    assert read_all(joined.server) == b""
    filled(relays, joined.server, joined.relay.outward)
    assert joined.relay.inward.ended
    joined.do(lambda: (setattr(joined, "is_over", True), joined.inner.stream.close(), joined.outer.stream.close()))
    joined.hears("server lost")
    assert len(read_all(joined.client)) == joined.relay.outward.bytes
    joined.hears("server lost", "client lost")


class Trouble(Exception):
    """An exception that an owner raises."""


def test_an_exception_costs_only_its_connection(relays: Relays) -> None:
    error = Trouble()

    def fail() -> None:
        raise error

    joined, other = Joined(relays, finished=fail).start(), relays.join()
    joined.client.close()
    joined.server.close()
    joined.hears("client broken", "server broken")
    wait_for(lambda: relays.thread.failures)
    assert relays.thread.failures == [error]
    relays.thread.failures.clear()
    other.client.sendall(b"x")
    assert read_exactly(other.server, 1) == b"x"


# The hand-over.


def test_from_a_relay_in_full_flow(relays: Relays) -> None:
    """A copying relay hands its connection over at some moment, without losing a byte or counting one twice."""
    joined = Joined(relays)
    inner, outer = joined.inner.stream, joined.outer.stream
    copying = CopyRelay(inner, outer, relays.wheel, lambda: joined.heard.append("ended too early"))
    left: list[int] = []

    def hand_over() -> None:
        both = (inner, outer)
        if copying.inward.bytes > 200_000 and copying.outward.bytes > 200_000 and all(map(flushed, both)):
            assert [stream.detach_obstacle() for stream in both] == [None, None]
            left.append(copying.inward.bytes)
            joined.relay.continue_from(copying)
            joined.relay.start()
        else:
            relays.poller.call_soon(hand_over)

    def begin() -> None:
        copying.start()
        hand_over()

    sizes = 4 * len(BULK), len(BULK) // 2
    joined.do(begin)
    first = 2 * BULK  # what comes before the hand-over; the rest comes behind it
    sendings = [Sending(joined.client, first), Sending(joined.server, BULK[: sizes[1]])]
    received = [bytearray(), bytearray()]
    peers = [joined.server, joined.client]
    while not left or len(received[0]) + len(received[1]) < sum(sizes):
        if left and len(sendings) == 2 and len(received[0]) == len(first):
            sendings.append(Sending(joined.client, 2 * BULK))
        ready, _, _ = select.select(peers, [], [], 10)
        assert ready
        for peer in ready:
            received[peers.index(peer)] += peer.recv(1 << 20)
        if not left and [len(data) for data in received] == [len(first), sizes[1]]:
            wait_for(lambda: left)
    assert received == [4 * BULK, BULK[: sizes[1]]]
    assert copying.inward.bytes == left[0] < sizes[0]
    assert (joined.relay.inward.bytes, joined.relay.outward.bytes) == sizes
    for sending in sendings:
        sending.join()
    joined.client.close()
    joined.server.close()
    joined.ends_well()


def test_without_descriptors_nothing_happens(relays: Relays) -> None:
    joined = Joined(relays)
    before = settled(relays.thread)

    def fail(room: int) -> None:
        with descriptors_taken(room), pytest.raises(OSError, match="Too many open files"):
            joined.relay.start(b"never", b"sent")

    for room in (0, 1):
        relays.thread.run(fail, room)
    assert descriptors() == before
    assert len(relays.poller) == 0
    joined.client.sendall(b"hello")
    joined.inner.has(b"hello")
    joined.start(bytes(joined.inner.data))
    assert read_exactly(joined.server, 5) == b"hello"
    assert (joined.relay.inward.bytes, joined.relay.outward.bytes) == (5, 0)
    wait_for(relays.rests)


# Many connections.


def test_hundreds_of_connections_arrive_byte_by_byte(relays: Relays) -> None:
    """Sizes, chunks, pauses and the order of the ends are random; both directions are used at once."""
    chance = random.Random(3)

    async def speak(writer: asyncio.StreamWriter, seed: int, first: asyncio.Event, mine: asyncio.Event) -> bytes:
        """Send random data and end, before or after the other side. Return the SHA-256 of the data."""
        chance = random.Random(seed)
        data = chance.randbytes(int(2 ** chance.uniform(0, 18)))
        start = 0
        while start < len(data):
            size = int(2 ** chance.uniform(0, 17))
            writer.write(data[start : start + size])
            await writer.drain()
            if chance.random() < 0.1:
                await asyncio.sleep(chance.random() / 100)
            start += size
        if chance.random() < 0.3:
            await first.wait()
        else:
            mine.set()
        writer.write_eof()
        return hashlib.sha256(data).digest()

    async def hear(reader: asyncio.StreamReader, seed: int, ended: asyncio.Event) -> bytes:
        chance = random.Random(seed)
        digest = hashlib.sha256()
        while block := await reader.read(int(2 ** chance.uniform(3, 17))):
            digest.update(block)
            if chance.random() < 0.02:
                await asyncio.sleep(chance.random() / 100)
        ended.set()
        return digest.digest()

    async def converse(joined: Joined) -> None:
        seeds = [chance.randrange(1 << 32) for _ in range(4)]
        opening = asyncio.open_unix_connection if relays.is_unix else asyncio.open_connection
        client_reader, client_writer = await opening(sock=joined.client)
        server_reader, server_writer = await opening(sock=joined.server)
        by_client, by_server = asyncio.Event(), asyncio.Event()
        by_client.set()  # if both waited for the other, neither would end
        said, answered, heard, got = await asyncio.gather(
            speak(client_writer, seeds[0], by_server, by_client),
            speak(server_writer, seeds[1], by_client, by_server),
            hear(server_reader, seeds[2], by_client),
            hear(client_reader, seeds[3], by_server),
        )
        assert (heard, got) == (said, answered)
        client_writer.close()
        server_writer.close()

    async def all_at_once(many: list[Joined]) -> None:
        await asyncio.wait_for(asyncio.gather(*map(converse, many)), 60)

    many = [relays.join() for _ in range(150)]
    asyncio.run(all_at_once(many))
    for joined in many:
        joined.ends_well()
        assert joined.relay.inward.bytes > 0
    assert relays.pipes.in_use == 0
    assert relays.pipes.made <= MAX_SPARE_PIPES


@spliced_only
def test_pipes_are_few(relays: Relays) -> None:
    """Each slow reader has one pipe while there are any left; the bytes for the others are copied."""
    relays.pipes = Pipes(5)
    many = [relays.join() for _ in range(10)]
    for joined in many:
        joined.client.setblocking(False)
    full = 0
    while full < 10:  # until nothing is accepted any more
        full = 0
        for joined in many:
            try:
                joined.client.send(BULK[:100_000])
            except BlockingIOError:
                full += 1
        relays.thread.run(lambda: None)
        time.sleep(0.001)
    assert 0 < relays.pipes.in_use <= relays.pipes.made <= 5
    for joined in many:
        joined.client.settimeout(10)
        joined.client.shutdown(socket.SHUT_WR)
        assert len(read_all(joined.server)) == joined.relay.inward.bytes
        joined.server.close()
        joined.ends_well()
    assert relays.pipes.in_use == 0


def test_no_more_spare_pipes_than_there_should_be() -> None:
    before = descriptors()
    pipes = Pipes()
    lent = [pipes.take() for _ in range(MAX_SPARE_PIPES + 10)]
    for pipe in lent:
        assert pipe is not None
        pipes.give(pipe)
    assert pipes.made == MAX_SPARE_PIPES
    assert descriptors() == before + 2 * MAX_SPARE_PIPES
    last = pipes.take()
    pipes.close()
    pipes.close()
    assert pipes.made == 1
    assert last is not None
    pipes.give(last)
    assert (pipes.made, descriptors()) == (0, before)


def test_a_pipe_that_takes_next_to_nothing_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel makes such pipes when this user's pipes use too much memory."""
    monkeypatch.setattr("ktcpvs.relay.pipes.PIPE_SIZE", 4096)
    before = descriptors()
    pipes = Pipes()
    assert pipes.take() is None
    assert (pipes.made, descriptors()) == (0, before)


def test_no_descriptor_is_left(relays: Relays) -> None:
    relays.join().client.close()
    before = settled(relays.thread)
    many = [relays.join() for _ in range(20)]
    chance = random.Random(4)
    for joined in many:
        assert joined.client.send(BULK) > 0
        assert joined.server.send(BULK[: chance.choice((1, 10_000))]) > 0
    for number, joined in enumerate(many):
        one, other = (joined.client, joined.server) if number % 2 else (joined.server, joined.client)
        if number % 3:
            reset(one)
        one.close()
        if number % 5 == 0:
            joined.do(lambda joined=joined: (joined.inner.stream.abort(), joined.outer.stream.abort()))
        wait_for(lambda joined=joined: not joined.inner.stream.is_open or joined.relay.outward.ended is not None)
        other.close()
    wait_for(lambda: not any(joined.inner.stream.is_open or joined.outer.stream.is_open for joined in many))
    relays.pipes.close()
    wait_for(lambda: descriptors() <= before, "all descriptors to be closed")


def living() -> int:
    """Return the number of relay objects in memory."""
    streams = ("Stream", "UVTransport", "Server", "Client")
    names = (*streams, "DetachedTransport", "SpliceRelay", "Direction", "Side")
    return sum(type(thing).__name__ in names for thing in gc.get_objects())


def come_and_go(relays: Relays, ends: bool) -> None:
    """Run one relay from start to end."""
    before = living()
    joined = relays.join()
    inner, outer = joined.inner, joined.outer
    joined.client.sendall(b"x")
    assert read_exactly(joined.server, 1) == b"x"
    assert living() > before
    if ends:
        joined.client.close()
        joined.server.close()
    else:
        joined.do(lambda: (inner.stream.abort(), outer.stream.abort()))
    wait_for(lambda: not (inner.stream.is_open or outer.stream.is_open))
    relays.clients.owners.remove(inner)
    relays.servers.owners.remove(outer)
    inner.stream = outer.stream = joined.relay = None


@pytest.mark.parametrize("ends", [True, False])
def test_nothing_holds_on_to_what_is_over(relays: Relays, ends: bool) -> None:
    relays.join()
    settled(relays.thread)
    gc.disable()
    try:
        before = living()
        come_and_go(relays, ends)
        if relays.thread.name == "epoll":
            gc.collect()  # Twisted's connectors form reference cycles
        wait_for(lambda: living() == before, "all to be freed")
    finally:
        gc.enable()


def test_it_tells_no_stream_what_is_not_for_it(relays: Relays) -> None:
    """The previous callbacks of the streams are no longer called, since the engine moves their bytes."""
    joined = Joined(relays)
    joined.start()
    stream: Stream = joined.inner.stream
    joined.client.sendall(b"x")
    assert read_exactly(joined.server, 1) == b"x"
    joined.client.shutdown(socket.SHUT_WR)
    assert read_all(joined.server) == b""
    assert (joined.inner.data, joined.inner.heard) == (b"", [])
    assert stream.is_open
    joined.do(lambda: (stream.pause(), stream.resume()))
    joined.server.sendall(b"y")
    assert read_exactly(joined.client, 1) == b"y"
