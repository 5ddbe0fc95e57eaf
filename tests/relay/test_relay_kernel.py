"""The kernel relay over real sockets: the tests of the splicing relay, and which bytes the kernel relays."""

from __future__ import annotations

import contextlib
import hashlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import test_relay_splice as like_splice
from reactors import ReactorThread, descriptors, settled
from servers import read_all, read_exactly, reset, wait_for
from test_relay_splice import BULK, Joined, Sending, filled

from ktcpvs.model import grants
from ktcpvs.relay import program_slots
from ktcpvs.relay.bytecode import DONE_WORDS
from ktcpvs.relay.kernel import READ_SIZE, KernelRelay
from ktcpvs.relay.program_slots import ProgramSlots
from ktcpvs.streams.stream import Stream
from ktcpvs.system import bpf

pytestmark = pytest.mark.skipif(bpf.available() is not None, reason=str(bpf.available()))


class Relays(like_splice.Relays):
    def __init__(self, thread: ReactorThread, folder: Path) -> None:
        super().__init__(thread, socket.AF_INET, 0, folder)
        self.slots: ProgramSlots = thread.run(ProgramSlots, self.poller)

    def make(self, client: Stream, server: Stream, finished: Callable[[], object]) -> Any:
        return KernelRelay(client, server, self.wheel, finished, self.poller, self.slots)

    def close(self) -> None:
        self.clients.close()
        self.servers.close()
        wait_for(lambda: self.thread.run(len, self.poller) == self.slots.made)
        wait_for(lambda: self.slots.in_use == 0)
        self.thread.run(self.slots.close)
        super().close()


@pytest.fixture(params=["TCP"])
def family() -> int:
    return socket.AF_INET


@pytest.fixture
def most() -> int:
    return 0


@pytest.fixture
def relays(thread: ReactorThread, family: int, most: int, tmp_path: Path) -> Iterator[Relays]:
    thread.failures.clear()
    relays = Relays(thread, tmp_path)
    yield relays
    relays.close()
    assert thread.failures == []


NOT_FOR_IT = {"test_a_slow_reader_holds_the_sender_back", "test_the_time_of_the_last_bytes", "test_pipes_are_few"}
"""Tests of pipes, and of times that are known only in user space."""

for name, test in vars(like_splice).items():
    if name.startswith("test_") and "relays" in getattr(test, "__annotations__", {}) and name not in NOT_FOR_IT:
        globals()[name] = test


def joined(relays: Relays) -> Joined:
    """Return a connection that the kernel relays."""
    joined = relays.join()
    wait_for(lambda: joined.relay.is_joined)
    return joined


def in_user_space(joined: Joined) -> int:
    return int(joined.relay.inward.read + joined.relay.outward.read)


def test_requests_and_answers_do_not_come_to_this_process(relays: Relays) -> None:
    one = joined(relays)
    for size in (1, 1000, 50_000):
        one.client.sendall(BULK[:size])
        assert read_exactly(one.server, size) == BULK[:size]
        one.server.sendall(BULK[: 2 * size])
        assert read_exactly(one.client, 2 * size) == BULK[: 2 * size]
    assert relays.rests()
    assert in_user_space(one) == 0
    assert (one.relay.inward.redirected, one.relay.outward.redirected) == (51_001, 102_002)
    one.client.close()
    one.server.close()
    one.ends_well()
    assert (one.relay.inward.bytes, one.relay.outward.bytes) == (51_001, 102_002)


def test_what_waits_unread_when_it_is_joined_goes_through_the_kernel(relays: Relays) -> None:
    one = Joined(relays)
    one.do(lambda: (one.inner.stream.pause(), one.outer.stream.pause()))
    one.client.sendall(BULK[:100_000])
    one.server.sendall(b"220 hello")
    one.start()
    assert read_exactly(one.client, 9) == b"220 hello"
    assert read_exactly(one.server, 100_000) == BULK[:100_000]
    wait_for(lambda: one.relay.is_joined)
    assert one.relay.inward.bytes == 100_000


@pytest.mark.parametrize("said", [b"", BULK[:100_000]])
@pytest.mark.parametrize("who", ["client", "server"])
def test_a_side_that_was_reset_before_the_start(relays: Relays, who: str, said: bytes) -> None:
    """The direction that is read first detects the reset, and then the other one is closed before it was read."""
    one = Joined(relays)
    one.do(lambda: (one.inner.stream.pause(), one.outer.stream.pause()))
    leaves, line, stays = one.client, one.inner, one.server
    if who == "server":
        leaves, line, stays = one.server, one.outer, one.client
    stays.sendall(said)
    reset(leaves)
    wait_for(lambda: relays.thread.run(line.stream.is_gone))
    one.start()
    with pytest.raises(ConnectionResetError):
        read_all(stays)


def test_a_slow_reader_gets_no_more_than_its_window_ahead(relays: Relays) -> None:
    relays.slots.window = 1 << 20
    one = joined(relays)
    way = one.relay.inward
    sending = Sending(one.client, BULK, end=True)
    wait_for(lambda: way.state in (grants.HOLDING, grants.BLOCKED))
    assert relays.thread.run(way.in_transit) <= 1 << 20
    assert len(way.pending) <= READ_SIZE
    one.server.sendall(b"the other direction goes on")
    assert read_exactly(one.client, 27) == b"the other direction goes on"
    assert hashlib.sha256(read_all(one.server)).digest() == hashlib.sha256(BULK).digest()
    sending.join()
    assert way.bytes == len(BULK)
    assert way.window < 1 << 20


def send_packets(sock: socket.socket, size: int, most: int) -> int:
    """Send up to `most` packets of `size` bytes, until the kernel has accepted none for a second. Return how many it
    accepted."""
    sock.settimeout(1)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < most:
            sock.send(bytes(size), socket.MSG_EOR)
            sent += 1
    sock.settimeout(10)
    return sent


def with_small_buffers(relays: Relays) -> Joined:
    """As `joined`, with small buffers, so that sent data soon waits in the kernel."""
    one = Joined(relays)
    for line in one.inner, one.outer:
        handle = line.stream.transport.getHandle()
        for which in socket.SO_SNDBUF, socket.SO_RCVBUF:
            handle.setsockopt(socket.SOL_SOCKET, which, 8192)
    for sock in one.client, one.server:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.start()
    wait_for(lambda: one.relay.is_joined)
    return one


@pytest.mark.parametrize("size", [1, 100, 1448])
def test_packets_use_up_a_grant_like_bytes_without_a_reader(relays: Relays, size: int) -> None:
    """Unsent redirected packets are limited by their charge; further ones are passed to this process."""
    window = relays.slots.window = 512 << 10
    one = with_small_buffers(relays)
    way = one.relay.inward
    most = window // (size + grants.PACKET_COST)
    sent = send_packets(one.client, size, 4 * most)
    # The estimate counts a few packets twice that come on another core while it reads what was acknowledged.
    twice = 4
    assert relays.thread.run(way.unacknowledged_charge) <= window + twice * (size + grants.PACKET_COST)
    settled, settled_charge = way._acknowledged
    under_way = way.program.charged(way.slot) - settled_charge - (way.redirected - settled)
    assert under_way // grants.PACKET_COST <= window // grants.PACKET_COST + twice
    assert way.program.passed(way.slot) > 0
    one.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    assert read_exactly(one.server, sent * size) == bytes(sent * size)
    assert way.bytes == sent * size


@pytest.mark.load
def test_a_side_that_sends_without_reading_is_paused(relays: Relays) -> None:
    """Both sides do so. Otherwise passed packets would wait, uncharged, behind packets redirected to the same
    socket."""
    relays.slots.window = 512 << 10
    one = with_small_buffers(relays)
    ways = one.relay.inward, one.relay.outward
    for sock, way in zip((one.client, one.server), ways, strict=True):
        filled(relays, sock, way)
    for sock in one.client, one.server:
        assert send_packets(sock, 100, 20_000) < 20_000
    for way in ways:
        assert way.in_transit() == 0
        assert way.unread() < 1 << 20


def test_what_may_not_wait_to_be_read_resets_both_sides(relays: Relays) -> None:
    one = joined(relays)
    way = one.relay.inward
    way.program.void(way.slot)
    way.program.limit(way.slot, 0)
    one.client.sendall(b"too much")
    for sock in (one.client, one.server):
        with pytest.raises(ConnectionResetError):
            read_all(sock)


def test_after_a_slow_time_the_kernel_takes_over_again(relays: Relays) -> None:
    relays.slots.window = 1 << 20
    one = joined(relays)
    way = one.relay.inward
    sending = Sending(one.client, BULK)
    wait_for(lambda: way.state in (grants.HOLDING, grants.BLOCKED))
    assert read_exactly(one.server, len(BULK)) == BULK
    sending.join()
    wait_for(lambda: way.state == grants.GRANTED)

    def is_carried_by_the_kernel() -> bool:
        before = way.read
        one.client.sendall(b"and on")
        assert read_exactly(one.server, 6) == b"and on"
        return way.read == before

    wait_for(is_carried_by_the_kernel)


def test_a_reader_that_keeps_up_is_granted_more_and_more(relays: Relays) -> None:
    relays.slots.window = 16 << 20
    one = joined(relays)
    way = one.relay.inward
    for _ in range(150):
        one.client.sendall(BULK[:200_000])
        assert read_exactly(one.server, 200_000) == BULK[:200_000]
        wait_for(relays.rests)  # all records have been read
    wait_for(lambda: way.window == 16 << 20)
    assert way.read == 0


def test_what_the_program_cannot_judge_resets_both_sides(relays: Relays) -> None:
    one, other = joined(relays), joined(relays)
    way = one.relay.inward
    word = DONE_WORDS * way.slot + 3
    way.program._done.words[word] = (way.program._done.words[word] - 1) & 0xFFFFFFFF
    one.client.sendall(b"after a gap")
    for sock in (one.client, one.server):
        with pytest.raises(ConnectionResetError):
            read_all(sock)
    other.client.sendall(b"goes on")
    assert read_exactly(other.server, 7) == b"goes on"


def test_the_time_of_the_last_bytes_is_the_kernels(relays: Relays) -> None:
    one = joined(relays)
    relays.wheel.now = 100  # as if the relay had begun 100 seconds ago
    one.client.sendall(b"x")
    assert read_exactly(one.server, 1) == b"x"
    assert relays.thread.run(one.relay.idle_since) in (99, 100)
    relays.wheel.now = 200
    assert relays.thread.run(one.relay.idle_since) in (199, 200)  # the last byte came a moment ago


def test_a_half_closed_connection_stays_in_this_process(relays: Relays) -> None:
    one = Joined(relays)
    one.do(lambda: (one.inner.stream.pause(), one.outer.stream.pause()))
    one.client.sendall(b"last words")
    one.client.shutdown(socket.SHUT_WR)
    one.start()
    assert read_all(one.server) == b"last words"
    sending = Sending(one.server, BULK, end=True)
    assert read_all(one.client) == BULK
    sending.join()
    one.client.close()
    one.server.close()
    one.ends_well()
    assert not one.relay.is_joined


def test_more_connections_than_one_program_has_room_for(relays: Relays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_slots, "CONNECTIONS_PER_PROGRAM", 2)
    for one in [joined(relays) for _ in range(5)]:
        one.client.sendall(b"x")
        assert read_exactly(one.server, 1) == b"x"
    assert relays.slots.made == 3
    assert in_user_space(one) == 0


def test_when_the_kernel_is_closed_it_carries_no_more(relays: Relays) -> None:
    one = joined(relays)
    one.client.sendall(b"x")
    assert read_exactly(one.server, 1) == b"x"
    before = settled(relays.thread)
    relays.thread.run(relays.slots.close)
    assert one.relay.inward.bytes == 1
    relays.thread.run(lambda: (one.inner.stream.abort(), one.outer.stream.abort()))
    wait_for(lambda: descriptors() <= before - 12)  # ten descriptors of the program, two sockets
