"""Real reactors in threads, and streams over real sockets, for tests that observe both ends of a connection."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import pytest
from servers import dial, wait_for
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.task import deferLater
from twisted.internet.threads import blockingCallFromThread
from twisted.logger import globalLogPublisher

from ktcpvs.model.address import Address, Inet, Unix
from ktcpvs.reactor import PersistentLoop, UVReactor
from ktcpvs.streams import bare_connect, compiled
from ktcpvs.streams.accept import adopt_socket
from ktcpvs.streams.connect import connect
from ktcpvs.streams.contract import NotDetachable
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.streams.stream import Stream


class ReactorThread:
    """A reactor that runs in a thread. name: `uvloop` for ours, `epoll` for Twisted's.

    failures: the exceptions that were logged, with repetitions.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._loop = PersistentLoop() if name == "uvloop" else None
        self.reactor: Any = EPollReactor() if self._loop is None else UVReactor(self._loop)
        self.failures: list[BaseException] = []
        globalLogPublisher.addObserver(self._logged)
        self._thread = threading.Thread(target=self.reactor.run, args=(False,), daemon=True)
        self._thread.start()

    def _logged(self, event: Any) -> None:
        failure = event.get("log_failure") or event.get("failure")  # the second is what Twisted's older parts write
        if failure is not None:
            self.failures.append(failure.value)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call `function` in the thread. Return its result, or the result of its Deferred."""
        return blockingCallFromThread(self.reactor, function, *arguments)

    def stop(self) -> None:
        self.reactor.callFromThread(self.reactor.stop)
        self._thread.join(10)
        assert not self._thread.is_alive()
        globalLogPublisher.removeObserver(self._logged)
        if self._loop is not None:
            self._loop.close()
        else:
            self.reactor._poller.close()  # which Twisted leaves to the garbage collector


class Owner:
    """The owner of a stream. heard: the events of the stream, in order, without the data; data: all bytes received.

    at_once: called with the owner within `made`. received: called with the data after it was recorded.
    """

    def __init__(self, thread: ReactorThread, at_once: Callable[[Owner], object] = lambda _: None) -> None:
        self.thread = thread
        self.heard: list[str] = []
        self.data = bytearray()
        self.received: Callable[[bytes], object] = lambda _: None
        self._at_once = at_once
        self.stream: Any = Stream(self.made)

    def made(self) -> None:
        stream = self.stream
        stream.dataReceived = self._data_received
        stream.ended = lambda: self.heard.append("ended")
        stream.lost = lambda clean: self.heard.append("lost" if clean else "broken")
        self._at_once(self)

    def _data_received(self, data: bytes) -> None:
        self.data += data
        self.received(data)

    def do(self, *names: str) -> None:
        """Call these methods of the stream in one turn of the reactor."""

        def all_of_them() -> None:
            for name in names:
                getattr(self.stream, name)()

        self.thread.run(all_of_them)

    def write(self, data: bytes) -> None:
        self.thread.run(lambda: self.stream.write(data))

    def has(self, data: bytes) -> None:
        """Wait until exactly this data has been received."""
        wait_for(lambda: self.data == data, f"{data[:50]!r}, not {bytes(self.data[:50])!r}")

    def hears(self, *heard: str) -> None:
        """Wait until exactly these events have occurred."""
        wait_for(lambda: self.heard == [*heard], f"{heard}, not {self.heard}")


class Lines:
    """Makes connections, each with a stream at one end and a socket at the other.

    how: `accepted` or `called`: whether the stream's side accepted or made the connection; with `bare` in front, the
    stream is on a bare socket; with `plain bare`, its methods are those that are written in Python. family: of all
    sockets. poller: polls bare sockets; None if there are none.
    """

    def __init__(self, thread: ReactorThread, how: str, family: int, folder: Path) -> None:
        self.thread = thread
        self.is_plain = how.startswith("plain ")
        how = how.removeprefix("plain ")
        if self.is_plain and compiled.forms is not None:
            compiled.forms.use_plain()
        self.is_bare = how.startswith("bare ")
        self.how = how.removeprefix("bare ")
        self.poller: SocketPoller | None = thread.run(SocketPoller, thread.reactor) if self.is_bare else None
        self.is_unix = family == socket.AF_UNIX
        self._stack = contextlib.ExitStack()
        self.listener = self._stack.enter_context(socket.socket(family))
        self.listener.bind(str(folder / "socket") if self.is_unix else ("127.0.0.1", 0))
        self.listener.listen(100)
        self.where = self.listener.getsockname()
        self.owners: list[Owner] = []

    @property
    def is_on_uvloop(self) -> bool:
        """True for streams on uvloop's own transports."""
        return self.thread.name == "uvloop" and not self.is_bare

    @property
    def address(self) -> Address:
        return Unix(self.where) if self.is_unix else Inet(*self.where)

    def line(
        self, at_once: Callable[[Owner], object] = lambda _: None, first: bytes = b""
    ) -> tuple[Owner, socket.socket]:
        """Return a stream's owner and its peer, which has already sent `first`. at_once: called when the stream is
        made."""
        owner = Owner(self.thread, at_once)
        self.owners.append(owner)
        if self.how == "accepted":
            peer = self._stack.enter_context(dial(self.where))
            peer.sendall(first)
            ours, whose = self.listener.accept()
            self.thread.run(adopt_socket, self.thread.reactor, ours, whose, owner.stream, self.poller)
        else:
            speaker = threading.Thread(target=self._answer, args=(first, answered := []))
            speaker.start()

            def calling() -> Any:
                made = owner.made
                owner.stream.made = lambda: None
                connecting = self._connect(owner.stream)
                return connecting.addCallback(lambda _: made())

            self.thread.run(calling)
            speaker.join(10)
            peer = self._stack.enter_context(answered[0])
        return owner, peer

    def _connect(self, stream: Stream) -> Deferred[Any]:
        if self.poller is None:
            return connect(self.thread.reactor, self.address, 10, stream)
        connected: Deferred[Any] = Deferred()
        bare_connect.connect(self.poller, self.address, 10, stream, connected.callback, connected.errback)
        return connected

    def _answer(self, first: bytes, answered: list[socket.socket]) -> None:
        peer, _ = self.listener.accept()
        peer.settimeout(10)
        if first:
            peer.sendall(first)
        answered.append(peer)

    def close(self) -> None:
        """Drop all connections."""

        def drop() -> None:
            for owner in self.owners:
                owner.stream.abort()

        self.thread.run(drop)
        wait_for(lambda: not any(owner.stream.is_open for owner in self.owners))
        if self.poller is not None:
            self.thread.run(self.poller.close)
        self._stack.close()
        if self.is_plain and compiled.forms is not None:
            compiled.forms.use_compiled()


def flushed(stream: Stream) -> bool:
    """Return whether the system has accepted everything that was written to an open stream."""
    return stream.detach_obstacle() is not NotDetachable.BUFFERED


def descriptors() -> int:
    """Return the number of open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def settled(thread: ReactorThread) -> int:
    """Return the number of open descriptors after pending closes, which take the reactor a turn or two, and after a
    garbage collection. Otherwise, objects of earlier tests could be freed while a test counts.
    """
    counts = [descriptors(), -1]
    while counts[-1] != counts[-2]:
        for _ in range(3):
            thread.run(deferLater, thread.reactor, 0.01)
        gc.collect()
        counts.append(descriptors())
    return counts[-1]


@contextlib.contextmanager
def descriptors_taken(room: int = 0) -> Iterator[None]:
    """Leave this process only `room` free descriptors. Nothing within may wait, so that no other thread needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 10, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(room):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


class HoldsBack:
    """Reads a stream only while another one takes what is written."""

    def __init__(self, source: Stream) -> None:
        self.pause_writing, self.resume_writing = source.pause, source.resume


class Producer:
    """told: each call of a producer's methods, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")

    pause_writing, resume_writing = pauseProducing, resumeProducing


# Fixtures. The conftest.py of a folder imports those that its tests share.


@pytest.fixture(scope="module", params=["uvloop", "epoll"])
def thread(request: pytest.FixtureRequest) -> Iterator[ReactorThread]:
    """A running reactor of each kind. Tests that make something fail in it clear `failures`."""
    thread = ReactorThread(request.param)
    yield thread
    thread.stop()
    assert thread.failures == []


HOWS = ("accepted", "called", "bare accepted", "bare called", "plain bare accepted", "plain bare called")


@pytest.fixture(params=HOWS)
def how(request: pytest.FixtureRequest) -> str:
    """The way in which the streams of `lines` are connected: accepted, or as a client."""
    return str(request.param)


@pytest.fixture(params=["TCP", "unix"])
def family(request: pytest.FixtureRequest) -> int:
    """The address family of all sockets."""
    return socket.AF_INET if request.param == "TCP" else socket.AF_UNIX


tcp_only = pytest.mark.parametrize("family", [socket.AF_INET], ids=["TCP"])
"""Marks tests of what unix sockets do not have."""


@pytest.fixture
def lines(thread: ReactorThread, how: str, family: int, tmp_path: Path) -> Iterator[Lines]:
    """Connections of each kind. At the end they are dropped, and nothing may have failed in the reactor."""
    thread.failures.clear()
    lines = Lines(thread, how, family, tmp_path)
    yield lines
    lines.close()
    assert thread.failures == []
