"""The contract of `ByteStream`: every transport passes these tests.

A `Case` makes pairs: a stream with its owner, and the peer at the other end. The peer of a socket is a socket; the peer
of a stream in memory is another stream, which `MemoryPeer` wraps like a socket.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from reactors import HOWS, HoldsBack, Lines, Owner, ReactorThread
from servers import read_all, read_exactly, reset, wait_for
from tls_peers import TLSPeer, tls_contexts
from twisted.internet.task import Clock

from ktcpvs.streams.contract import ByteStream, NotDetachable
from ktcpvs.streams.detached import DetachedTransport
from ktcpvs.streams.memory import join_in_memory
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.tls_buffers import TLSBuffers, buffers_of
from ktcpvs.streams.tls_handshake import Handshake

BULK = random.Random(3).randbytes(6_000_000)
"""More than all buffers hold."""

RESET = "reset"
"""The end of a connection for a peer that was reset."""


class Case(ABC):
    """One kind of transport."""

    is_unix = False
    has_sockets = True
    has_tls = False

    @property
    def shows_fin(self) -> bool:
        """True where `has_ended` sees an end that was not read."""
        return not self.is_unix or self.has_tls

    @abstractmethod
    def owner(self, made: Callable[[Any], object]) -> Any:
        """The owner of a stream that is not connected."""

    @abstractmethod
    def tls_buffers(self) -> TLSBuffers:
        """For TLS over these streams."""

    @abstractmethod
    def close(self) -> None:
        """Drop all connections."""

    @abstractmethod
    def pair(self, made: Callable[[Any], object] = lambda _: None) -> tuple[Any, Any]:
        """Return (owner, peer). made: called with the owner when its stream is connected."""

    @abstractmethod
    def run(self, function: Callable[[], Any]) -> Any:
        """Call `function` in the reactor's thread."""

    @abstractmethod
    def call_soon(self, call: Callable[[], object]) -> None:
        """Call `call` in the reactor's next turn."""

    @abstractmethod
    def a_moment(self) -> None:
        """Wait long enough for an event that must not occur."""

    @abstractmethod
    def until(self, condition: Callable[[], Any], what: str = "") -> None:
        """Wait until `condition` is true."""

    @abstractmethod
    def reset(self, peer: Any) -> None:
        """Reset the connection from the peer's side."""

    @abstractmethod
    def send_and_end(self, peer: Any, data: bytes) -> None:
        """Let the peer send, concurrently with the test, and then half-close."""

    def ending(self, peer: Any) -> str:
        """Return how the connection ends for the peer, after it has read `rest`: "" for a FIN."""
        try:
            assert read_all(peer) == b""
        except ConnectionResetError:
            return RESET
        return ""


class SocketCase(Case):
    def __init__(self, thread: ReactorThread, how: str, family: int, folder: Path) -> None:
        self.is_unix = family == socket.AF_UNIX
        self._thread = thread
        self._lines = Lines(thread, how, family, folder)

    def pair(self, made: Callable[[Any], object] = lambda _: None) -> tuple[Any, Any]:
        return self._lines.line(made)

    def owner(self, made: Callable[[Any], object]) -> Any:
        return Owner(self._thread, made)

    def tls_buffers(self) -> TLSBuffers:
        return buffers_of(self._thread.reactor)

    def run(self, function: Callable[[], Any]) -> Any:
        return self._thread.run(function)

    def call_soon(self, call: Callable[[], object]) -> None:
        self._thread.reactor.callLater(0, call)

    def a_moment(self) -> None:
        for _ in range(5):
            self._thread.run(lambda: None)

    def until(self, condition: Callable[[], Any], what: str = "") -> None:
        wait_for(condition, what)

    def reset(self, peer: Any) -> None:
        reset(peer)

    def send_and_end(self, peer: Any, data: bytes) -> None:
        def send() -> None:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)

        threading.Thread(target=send, daemon=True).start()

    def close(self) -> None:
        self._lines.close()


class MemoryPeer:
    """A stream in memory that is used like a blocking socket. It reads only in calls of recv."""

    def __init__(self, case: MemoryCase) -> None:
        self._case = case
        self._received = bytearray()
        self._ending: str | None = None
        self.stream = Stream(self._made)

    def _made(self) -> None:
        self.stream.pause()
        self.stream.dataReceived = self._received.extend
        self.stream.ended = self._ended
        self.stream.lost = self._lost

    def _ended(self) -> None:
        self._ending = ""

    def _lost(self, clean: bool) -> None:
        if self._ending is None or not clean:
            self._ending = "" if clean else RESET

    def sendall(self, data: bytes) -> None:
        self.stream.write(data)
        self._case.settle()

    def recv(self, size: int) -> bytes:
        self.stream.resume()
        while not self._received and self._ending is None:
            self._case.turn()
        self.stream.pause()
        data = bytes(self._received[:size])
        del self._received[:size]
        if not data and self._ending == RESET:
            raise ConnectionResetError
        return data

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_WR
        self.stream.half_close()
        self._case.settle()

    def close(self) -> None:
        self.stream.close()
        self._case.settle()

    def abort(self) -> None:
        self.stream.abort()
        self._case.settle()


class MemoryOwner:
    """As `Owner` of a stream over a socket."""

    def __init__(self, case: MemoryCase, made: Callable[[Any], object]) -> None:
        self._case = case
        self.heard: list[str] = []
        self.data = bytearray()
        self.received: Callable[[bytes], object] = lambda _: None
        self.stream = Stream(lambda: self._made(made))

    def _made(self, made: Callable[[Any], object]) -> None:
        self.stream.dataReceived = self._data_received
        self.stream.ended = lambda: self.heard.append("ended")
        self.stream.lost = lambda clean: self.heard.append("lost" if clean else "broken")
        made(self)

    def _data_received(self, data: bytes) -> None:
        self.data += data
        self.received(data)

    def do(self, *names: str) -> None:
        for name in names:
            getattr(self.stream, name)()
        self._case.settle()

    def write(self, data: bytes) -> None:
        self.stream.write(data)
        self._case.settle()

    def has(self, data: bytes) -> None:
        self._case.until(lambda: self.data == data)

    def hears(self, *heard: str) -> None:
        self._case.until(lambda: self.heard == [*heard], f"{heard}, not {self.heard}")


class MemoryCase(Case):
    has_sockets = False

    def __init__(self) -> None:
        self._clock = Clock()
        self._buffers = TLSBuffers(self.call_soon)

    def turn(self) -> bool:
        """Run one turn. Return False if nothing is left to do."""
        if not self._clock.getDelayedCalls():
            return False
        self._clock.advance(0)
        return True

    def settle(self) -> None:
        while self.turn():
            pass

    def pair(self, made: Callable[[Any], object] = lambda _: None) -> tuple[Any, Any]:
        owner, peer = MemoryOwner(self, made), MemoryPeer(self)
        join_in_memory(owner.stream, peer.stream, self.call_soon)
        self.settle()
        return owner, peer

    def owner(self, made: Callable[[Any], object]) -> Any:
        return MemoryOwner(self, made)

    def tls_buffers(self) -> TLSBuffers:
        return self._buffers

    def run(self, function: Callable[[], Any]) -> Any:
        try:
            return function()
        finally:
            self.settle()

    def call_soon(self, call: Callable[[], object]) -> None:
        self._clock.callLater(0, call)

    def a_moment(self) -> None:
        self.settle()

    def until(self, condition: Callable[[], Any], what: str = "") -> None:
        self.settle()
        assert condition(), what

    def reset(self, peer: Any) -> None:
        peer.abort()

    def send_and_end(self, peer: Any, data: bytes) -> None:
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.settle()


class TLSCase(Case):
    """TLS over the streams of another case."""

    has_tls = True

    def __init__(self, below: Case, version: ssl.TLSVersion, is_server: bool) -> None:
        self._below = below
        self.is_unix = below.is_unix
        self.has_sockets = below.has_sockets
        self._is_server = is_server
        self._ours, self._theirs = tls_contexts(version, is_server)

    def owner(self, made: Callable[[Any], object]) -> Any:
        return self._below.owner(made)

    def tls_buffers(self) -> TLSBuffers:
        return self._below.tls_buffers()

    def pair(self, made: Callable[[Any], object] | None = None) -> tuple[Any, Any]:
        owner = self.owner(made or (lambda _: None))
        handshake: Any = None

        def feed(data: bytes) -> None:
            rest = handshake.feed(data)
            if rest is not None:
                handshake.open(owner.stream, rest)

        def begin(below: Any) -> None:
            nonlocal handshake
            name = None if self._is_server else "localhost"
            handshake = Handshake(
                below.stream, self.tls_buffers(), self._ours, server_side=self._is_server, server_name=name
            )
            below.stream.dataReceived = feed
            if not self._is_server:
                feed(b"")

        _, raw = self._below.pair(begin)
        peer = TLSPeer(raw, self._theirs, server_side=not self._is_server)
        self.until(lambda: owner.stream.is_open, "the handshake")
        if made is None:
            self.until(lambda: self.run(owner.stream.unsent) == 0, "the end of the handshake to be read")
        return owner, peer

    def run(self, function: Callable[[], Any]) -> Any:
        return self._below.run(function)

    def call_soon(self, call: Callable[[], object]) -> None:
        self._below.call_soon(call)

    def a_moment(self) -> None:
        self._below.a_moment()

    def until(self, condition: Callable[[], Any], what: str = "") -> None:
        self._below.until(condition, what)

    def reset(self, peer: Any) -> None:
        self._below.reset(peer.raw)

    def send_and_end(self, peer: Any, data: bytes) -> None:
        self._below.send_and_end(peer, data)

    def close(self) -> None:
        self._below.close()


@pytest.fixture(scope="module")
def threads() -> Iterator[dict[str, ReactorThread]]:
    threads = {name: ReactorThread(name) for name in ("uvloop", "epoll")}
    yield threads
    for thread in threads.values():
        thread.stop()


SOCKETS = [f"{reactor} {family} {how}" for reactor in ("uvloop", "epoll") for family in ("TCP", "unix") for how in HOWS]


TLS = [
    f"{below} TLS{version} {role}"
    for below in ("memory", "uvloop TCP", "epoll TCP", "uvloop unix", "epoll unix", "uvloop TCP bare")
    for version in ("1.2", "1.3")
    for role in ("server", "client")
    if version == "1.3" or "unix" not in below
]


def make_case(name: str, threads: dict[str, ReactorThread], folder: Path) -> Case:
    if "TLS" in name:
        below, version, role = name.rsplit(" ", 2)
        how = "" if below == "memory" else " accepted" if role == "server" else " called"
        tls_version = ssl.TLSVersion.TLSv1_2 if version == "TLS1.2" else ssl.TLSVersion.TLSv1_3
        return TLSCase(make_case(below + how, threads, folder), tls_version, role == "server")
    if name == "memory":
        return MemoryCase()
    reactor, family, how = name.split(maxsplit=2)
    return SocketCase(threads[reactor], how, socket.AF_UNIX if family == "unix" else socket.AF_INET, folder)


@pytest.fixture(params=[*SOCKETS, "memory", *TLS])
def case(request: pytest.FixtureRequest, threads: dict[str, ReactorThread], tmp_path: Path) -> Iterator[Case]:
    for thread in threads.values():
        thread.failures.clear()
    case = make_case(request.param, threads, tmp_path)
    yield case
    case.close()
    for thread in threads.values():
        assert thread.failures == []


def send_and(case: Case, owner: Any, data: bytes, *names: str) -> None:
    """Write, and call these methods of the stream in the same turn."""

    def do() -> None:
        owner.stream.write(data)
        for name in names:
            getattr(owner.stream, name)()

    case.run(do)


def test_it_is_a_byte_stream(case: Case) -> None:
    owner, _ = case.pair()
    stream: ByteStream = owner.stream  # checked by mypy
    assert stream.is_open
    assert (stream.tls is not None) == case.has_tls
    case.run(lambda: owner.stream.close())
    owner.hears("lost")
    assert not stream.is_open


# Bytes.


def test_bytes_keep_their_order(case: Case) -> None:
    owner, peer = case.pair()

    def write() -> None:
        owner.stream.write(b"one ")
        owner.stream.writev([b"two ", b"", b"three "])
        owner.stream.writev((b"four ",))
        owner.stream.write(b"five")

    case.run(write)
    assert read_exactly(peer, 23) == b"one two three four five"
    peer.sendall(b"six ")
    peer.sendall(b"seven")
    owner.has(b"six seven")
    case.run(write)
    assert read_exactly(peer, 23) == b"one two three four five"


def test_bulk_keeps_its_order(case: Case) -> None:
    owner, peer = case.pair()

    def write() -> None:
        for start in range(0, len(BULK), 100_000):
            owner.stream.writev([BULK[start : start + 50_000], BULK[start + 50_000 : start + 100_000]])

    case.run(write)
    assert read_exactly(peer, len(BULK)) == BULK
    peer.sendall(BULK)
    case.until(lambda: len(owner.data) == len(BULK))
    assert owner.data == BULK


def test_within_made(case: Case) -> None:
    def made(owner: Any) -> None:
        owner.stream.write(b"220 ")
        owner.stream.writev([b"he", b"llo"])

    owner, peer = case.pair(made)
    assert read_exactly(peer, 9) == b"220 hello"
    peer.sendall(b"hello")
    owner.has(b"hello")


# The ends.


def test_half_close_and_reading_on(case: Case) -> None:
    owner, peer = case.pair()
    send_and(case, owner, b"request", "half_close", "half_close")
    assert read_all(peer) == b"request"
    peer.sendall(b"response")
    owner.has(b"response")
    peer.shutdown(socket.SHUT_WR)
    owner.hears("ended")
    owner.do("close")
    owner.hears("ended", "lost")


def test_the_peer_half_closes_and_is_sent_more(case: Case) -> None:
    owner, peer = case.pair()
    peer.sendall(b"request")
    peer.shutdown(socket.SHUT_WR)
    owner.hears("ended")
    assert owner.data == b"request"
    owner.do("pause", "resume")
    owner.write(b"response")
    assert read_exactly(peer, 8) == b"response"
    owner.do("close")
    assert case.ending(peer) == ""
    owner.hears("ended", "lost")


def test_what_is_written_after_half_close_is_dropped(case: Case) -> None:
    owner, peer = case.pair()
    write = owner.stream.write

    def do() -> None:
        owner.stream.write(b"first")
        owner.stream.half_close()
        owner.stream.write(b"too late")
        owner.stream.writev([b"too", b"late"])

    case.run(do)
    case.a_moment()
    case.run(lambda: owner.stream.write(b"too late"))
    assert read_all(peer) == b"first"
    assert owner.stream.write is not write
    owner.do("close")
    owner.hears("lost")


def test_close_sends_what_is_buffered(case: Case) -> None:
    owner, peer = case.pair()
    send_and(case, owner, BULK, "close", "close")
    case.a_moment()
    assert owner.heard == []
    assert read_all(peer) == BULK
    owner.hears("lost")


def test_close_says_whether_the_peer_can_delay_it(case: Case) -> None:
    owner, _ = case.pair()

    def do() -> bool:
        owner.stream.write(BULK)
        closes_now: bool = owner.stream.close()
        return closes_now

    assert case.run(do) is False
    owner.do("abort")
    owner.hears("broken")
    assert owner.stream.close() is True


def test_close_with_reset(case: Case) -> None:
    owner, peer = case.pair()
    send_and(case, owner, b"a part", "close_with_reset")
    assert read_exactly(peer, 6) == b"a part"
    assert case.ending(peer) == ("" if case.is_unix else RESET)
    owner.hears("lost")


def test_abort_resets_the_peer(case: Case) -> None:
    owner, peer = case.pair()
    peer.sendall(b"x")
    owner.has(b"x")
    owner.do("abort", "abort")
    owner.hears("broken")
    assert case.ending(peer) == ("" if case.is_unix else RESET)


def test_abort_drops_what_is_buffered(case: Case) -> None:
    owner, peer = case.pair()
    send_and(case, owner, BULK, "abort")
    owner.hears("broken")
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while data := peer.recv(65536):
            received += data
    assert len(received) < len(BULK)


def test_a_close_that_takes_too_long_becomes_an_abort(case: Case) -> None:
    owner, _ = case.pair()
    send_and(case, owner, BULK, "close")
    case.a_moment()
    owner.do("abort")
    owner.hears("broken")


def test_the_peer_resets(case: Case) -> None:
    if case.is_unix:
        pytest.skip("a unix socket has no reset")
    owner, peer = case.pair()
    peer.sendall(b"x")
    owner.has(b"x")
    case.reset(peer)
    owner.hears("broken")


# Callbacks.


@pytest.mark.parametrize(("how", "heard"), [("close", "lost"), ("abort", "broken"), ("close_with_reset", "lost")])
def test_nothing_is_called_after_the_end(case: Case, how: str, heard: str) -> None:
    owner, peer = case.pair()
    owner.do(how)
    owner.hears(heard)
    with contextlib.suppress(OSError):
        peer.sendall(b"too late")
    owner.do("abort", "close", "half_close", "pause", "resume", "close_with_reset", "clear_backpressure")
    case.run(lambda: (owner.stream.write(b"too late"), owner.stream.writev([b"too late"])))
    case.a_moment()
    assert (owner.heard, owner.data) == ([heard], b"")


@pytest.mark.parametrize(("how", "heard"), [("close", "lost"), ("abort", "broken"), ("close_with_reset", "lost")])
def test_the_end_is_not_reported_within_the_call(case: Case, how: str, heard: str) -> None:
    owner, peer = case.pair()
    owner.do("half_close")  # after this, Twisted's own loseConnection reports within the call
    assert read_all(peer) == b""

    def do() -> list[str]:
        getattr(owner.stream, how)()
        return [*owner.heard]

    assert case.run(do) == []
    owner.hears(heard)


@pytest.mark.parametrize(("how", "heard"), [("close", "lost"), ("abort", "broken")])
def test_closed_within_a_callback(case: Case, how: str, heard: str) -> None:
    owner, peer = case.pair()
    owner.received = lambda _: getattr(owner.stream, how)()
    peer.sendall(b"x")
    owner.hears(heard)
    with contextlib.suppress(OSError):
        peer.sendall(b"y")
    case.a_moment()
    assert (owner.heard, owner.data) == ([heard], b"x")


def test_answered_and_closed_within_a_callback(case: Case) -> None:
    owner, peer = case.pair()

    def answer(_: bytes) -> None:
        owner.stream.write(b"answer")
        owner.stream.close()
        owner.stream.write(b"dropped")

    owner.received = answer
    peer.sendall(b"x")
    assert read_all(peer) == b"answer"
    owner.hears("lost")


def test_other_callbacks_within_a_callback(case: Case) -> None:
    owner, peer = case.pair()
    others: list[bytes] = []

    def replace(_: bytes) -> None:
        owner.stream.dataReceived = others.append

    owner.received = replace
    peer.sendall(b"first")
    owner.has(b"first")
    peer.sendall(b"second")
    case.until(lambda: b"".join(others) == b"second")
    assert owner.data == b"first"


def test_paused_within_a_callback(case: Case) -> None:
    owner, peer = case.pair()
    owner.received = lambda _: owner.stream.pause()
    peer.sendall(b"first")
    owner.has(b"first")
    peer.sendall(b"second")
    case.a_moment()
    assert owner.data == b"first"
    owner.do("resume")
    owner.has(b"firstsecond")


# Reading and back-pressure.


def test_pause_holds_bytes_and_the_end_back(case: Case) -> None:
    owner, peer = case.pair()
    owner.do("pause", "pause")
    peer.sendall(b"data")
    peer.shutdown(socket.SHUT_WR)
    case.a_moment()
    assert (owner.heard, owner.data) == ([], b"")
    owner.do("resume", "resume")
    owner.hears("ended")
    assert owner.data == b"data"


def test_paused_from_the_first(case: Case) -> None:
    owner, peer = case.pair(lambda owner: owner.stream.pause())
    peer.sendall(b"data")
    case.a_moment()
    assert owner.data == b""
    owner.do("resume")
    owner.has(b"data")


class Pressure:
    """told: which of the two methods were called, in order."""

    def __init__(self, case: Case, owner: Any) -> None:
        self.told: list[str] = []
        case.run(lambda: self.set(owner.stream))

    def set(self, stream: Stream) -> None:
        stream.set_backpressure(self)

    def pause_writing(self) -> None:
        self.told.append("paused")

    def resume_writing(self) -> None:
        self.told.append("resumed")


def test_backpressure(case: Case) -> None:
    owner, peer = case.pair()
    pressure = Pressure(case, owner)
    owner.write(b"small")
    assert read_exactly(peer, 5) == b"small"
    assert pressure.told == []
    owner.write(BULK)
    owner.write(b"more")
    assert pressure.told == ["paused"]
    assert read_exactly(peer, len(BULK) + 4) == BULK + b"more"
    case.until(lambda: pressure.told == ["paused", "resumed"])
    for _ in range(20):  # the system's buffers have grown while the peer was reading
        if len(pressure.told) == 2:
            owner.write(BULK)
    # The system may still take more for the peer: then the writer is resumed again.
    told = list(pressure.told)
    assert told[:3] == ["paused", "resumed", "paused"]
    assert told == (["paused", "resumed"] * len(told))[: len(told)]
    owner.do("abort")
    owner.hears("broken")
    assert pressure.told[: len(told)] == told
    assert len(pressure.told) <= len(told) + 1


def test_backpressure_that_is_set_late_replaced_and_cleared(case: Case) -> None:
    owner, peer = case.pair()
    owner.write(BULK)
    first = Pressure(case, owner)
    assert first.told == ["paused"]
    second = Pressure(case, owner)
    assert second.told == ["paused"]
    case.run(lambda: owner.stream.clear_backpressure())
    assert read_exactly(peer, len(BULK)) == BULK
    case.a_moment()
    assert (first.told, second.told) == (["paused"], ["paused"])


def test_one_stream_holds_another_back(case: Case) -> None:
    source, sender = case.pair()
    target, reader = case.pair()

    def join() -> None:
        target.stream.set_backpressure(HoldsBack(source.stream))
        source.stream.dataReceived = lambda data: target.stream.write(data)
        source.stream.ended = target.stream.half_close

    case.run(join)
    case.send_and_end(sender, BULK)
    assert read_all(reader) == BULK


# State.


def test_unsent(case: Case) -> None:
    owner, peer = case.pair()
    assert case.run(lambda: owner.stream.unsent()) == 0
    owner.write(BULK)
    assert case.run(lambda: owner.stream.unsent()) > len(BULK) // 2
    assert read_exactly(peer, len(BULK)) == BULK
    case.until(lambda: case.run(lambda: owner.stream.unsent()) == 0)
    owner.do("close")
    owner.hears("lost")
    assert owner.stream.unsent() == 0


def asked(case: Case, owner: Any) -> tuple[bool, bool, bool]:
    """has_input, has_ended, is_gone"""
    stream = owner.stream
    answers: tuple[bool, bool, bool] = case.run(lambda: (stream.has_input(), stream.has_ended(), stream.is_gone()))
    return answers


def test_bytes_are_seen_without_reading(case: Case) -> None:
    owner, peer = case.pair()
    owner.do("pause")
    assert asked(case, owner) == (False, False, False)
    peer.sendall(b"x")
    case.until(lambda: asked(case, owner) == (True, False, False))
    owner.do("resume")
    owner.has(b"x")
    assert asked(case, owner) == (False, False, False)


def test_a_fin_is_seen_without_reading(case: Case) -> None:
    owner, peer = case.pair()
    owner.do("pause")
    peer.shutdown(socket.SHUT_WR)
    case.until(lambda: asked(case, owner)[0])
    assert asked(case, owner) == (True, case.shows_fin, False)
    assert owner.heard == []


def test_a_reset_is_seen_without_reading(case: Case) -> None:
    if case.is_unix:
        pytest.skip("a unix socket has no reset")
    owner, peer = case.pair()
    owner.do("pause")
    case.reset(peer)
    case.until(lambda: asked(case, owner) == (True, False, True))
    owner.do("resume")
    owner.hears("broken")
    assert asked(case, owner) == (True, False, True)


def test_addresses(case: Case) -> None:
    owner, peer = case.pair()
    local, remote = case.run(lambda: (owner.stream.local_address, owner.stream.peer_address))
    if case.has_sockets:
        assert (local, remote) == (peer.getpeername(), peer.getsockname())
    else:
        assert (local, remote) == (("127.0.0.1", 4711), ("127.0.0.1", 80))
    owner.do("close")
    owner.hears("lost")
    assert (owner.stream.local_address, owner.stream.peer_address) == (None, None)


def test_it_reads_well_in_a_log(case: Case) -> None:
    owner, _ = case.pair()
    address = r"unix(:\S+)?" if case.is_unix else r"127\.0\.0\.1:\d+"
    owner.do("pause")
    if case.has_sockets:
        assert re.fullmatch(rf"<Stream {address} -> {address} open, paused>", case.run(lambda: repr(owner.stream)))
    else:
        assert repr(owner.stream) == "<Stream 127.0.0.1:4711 -> 127.0.0.1:80 open, paused>"
    assert re.fullmatch(rf"<\w+ {address} -> {address} open, paused>", case.run(lambda: repr(owner.stream.transport)))
    owner.do("half_close")
    assert "half-closed" in case.run(lambda: repr(owner.stream))
    owner.do("close")
    owner.hears("lost")
    assert repr(owner.stream) == "<Stream closed>"
    assert repr(Stream()) == "<Stream not connected>"


# Detaching.


class Idle:
    """An engine that moves nothing."""

    def has_unsent(self, transport: DetachedTransport) -> bool:
        return False

    def stop_reading(self, transport: DetachedTransport) -> None:
        pass

    def forget(self, transport: DetachedTransport) -> None:
        pass


def detach(case: Case, owner: Any) -> Any:
    """Detach the stream. Return its socket, or the obstacle."""

    def do() -> Any:
        return owner.stream.detach(DetachedTransport(Idle(), case.call_soon))

    return case.run(do)


def test_without_a_socket_it_cannot_be_detached(case: Case) -> None:
    if case.has_sockets or case.has_tls:
        pytest.skip("it has a socket, or TLS")
    owner, peer = case.pair()
    assert owner.stream.detach_obstacle() is NotDetachable.NO_SOCKET
    assert detach(case, owner) is NotDetachable.NO_SOCKET
    peer.sendall(b"x")
    owner.has(b"x")


def test_with_tls_it_cannot_be_detached(case: Case) -> None:
    if not case.has_tls:
        pytest.skip("it has no TLS")
    owner, peer = case.pair()
    assert owner.stream.detach_obstacle() is NotDetachable.TLS
    assert detach(case, owner) is NotDetachable.TLS
    peer.sendall(b"x")
    owner.has(b"x")


def test_detach_keeps_unread_bytes(case: Case) -> None:
    if not case.has_sockets or case.has_tls:
        pytest.skip("it has no socket, or TLS")
    owner, peer = case.pair()
    owner.do("pause")
    peer.sendall(b"unread")
    sock = detach(case, owner)
    assert isinstance(sock, socket.socket)
    peer.sendall(b" and more")
    received = bytearray()

    def receive() -> bool:
        with contextlib.suppress(BlockingIOError):
            received.extend(sock.recv(100))
        return received == b"unread and more"

    case.until(receive)
    sock.send(b"by the engine")
    assert read_exactly(peer, 13) == b"by the engine"
    assert (owner.data, owner.heard, owner.stream.is_open) == (b"", [], True)
    with pytest.raises(RuntimeError, match="detached"):
        owner.stream.write(b"by the owner")
    owner.do("close")
    owner.hears("lost")
    assert case.ending(peer) == ""


def test_detach_says_why_not(case: Case) -> None:
    if not case.has_sockets or case.has_tls:
        pytest.skip("it has no socket, or TLS")
    owner, peer = case.pair()
    owner.write(BULK)
    assert detach(case, owner) is NotDetachable.BUFFERED
    assert NotDetachable.BUFFERED.is_temporary
    assert read_exactly(peer, len(BULK)) == BULK
    case.until(lambda: case.run(lambda: owner.stream.detach_obstacle()) is None)
    owner.do("half_close")
    assert detach(case, owner) is NotDetachable.HALF_CLOSED
    assert not NotDetachable.HALF_CLOSED.is_temporary
    owner.do("close")
    owner.hears("lost")
    assert owner.stream.detach_obstacle() is NotDetachable.NOT_OPEN
