"""A switch in memory for tests: scripted clients and servers, a simulated clock, and no sockets.

world = World("scheduler = wlc", "server = 10.0.0.1:80")
client = world.client()
server = world.accepts("10.0.0.1:80")
client.says(b"hello")
assert server.heard() == b"hello"
"""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attrs import evolve
from servers import free_address
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.protocol import ClientFactory
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import Logger, formatEvent
from twisted.python.failure import Failure

from ktcpvs.director.director import Director
from ktcpvs.errors import Refusal
from ktcpvs.model.edits import Edit, Load, StartService
from ktcpvs.model.language.parser import parse
from ktcpvs.relay.engines import Relays
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.services.listener_stages import ListenerStages
from ktcpvs.services.running import RunningService
from ktcpvs.services.tls_file_store import TLSFileStore
from ktcpvs.services.tls_profiles import TLSProfiles
from ktcpvs.streams.preamble import Stage
from ktcpvs.streams.stream import Stream
from ktcpvs.system.log import EventLog
from ktcpvs.system.plugins import Schedulers, find_schedulers
from ktcpvs.system.sockets import RESET_ON_CLOSE

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
"""Addresses of real servers."""


def get(path: str = "/a", *lines: str, method: str = "GET", body: bytes = b"") -> bytes:
    """Return a request."""
    head = "\r\n".join((f"{method} {path} HTTP/1.1", "Host: h", *lines))
    return head.encode() + b"\r\n\r\n" + body


def answer(body: bytes = b"hello", *lines: str, status: str = "200 OK") -> bytes:
    """Return a response."""
    head = "\r\n".join((f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}"))
    return head.encode() + b"\r\n\r\n" + body


def log_into(lines: list[str]) -> EventLog:
    """A log that appends each line to `lines`."""
    return EventLog(logger=Logger(observer=lambda event: lines.append(formatEvent(event))))


_search_once = functools.cache(find_schedulers)

_parse_once = functools.lru_cache(1000)(parse)
"""The worlds of a property have few configurations, since a world listens where one before it did."""

_unused_addresses: list[str] = []
"""The addresses on which closed worlds have listened."""


def installed_schedulers() -> Schedulers:
    """The installed schedulers, searched once: a search takes longer than all else that a world needs.

    A caller may change its own copy of `known`.
    """
    found = _search_once()
    return evolve(found, known=dict(found.known))


class Line(StringTransport):
    """The switch's end of a connection in memory. unsent: bytes that the peer has not received yet."""

    unsent = 0

    def __init__(self) -> None:
        super().__init__()
        self.ended = False
        self.aborted = False
        self.options: list[object] = []
        self.reset_unread = False  # the peer has reset it, which was not read yet
        self.descriptor = -1  # of a real socket whose state stands for this one's; -1: there is none

    @property
    def reset_on_close(self) -> bool:
        return (socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE) in self.options

    # The part of a socket that streams use.
    family = socket.AF_INET

    def getHandle(self) -> Line:
        return self

    def buffered(self) -> int:
        return self.unsent

    def fileno(self) -> int:
        """Return the descriptor; -1 while there is none, so that nothing counts as unsent or unread."""
        return self.descriptor

    def getsockopt(self, *option: object) -> bytes:
        """Return the beginning of TCP_INFO: the state `established`."""
        return b"\x07" if self.reset_unread else b"\x01"

    def setsockopt(self, *option: object) -> None:
        self.options.append(option)

    def unregisterProducer(self) -> None:
        self.producer = None

    def loseWriteConnection(self) -> None:
        self.ended = True

    def abortConnection(self) -> None:
        self.aborted = True


class Peer:
    """A scripted client or server at the other end of a line."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.line = Line()
        stream.makeConnection(self.line)

    def says(self, data: bytes) -> None:
        assert self.line.producerState == "producing", "the switch does not read now"
        self.stream.dataReceived(data)

    def heard(self) -> bytes:
        """Return the bytes received since the last call."""
        value = self.line.value()
        self.line.clear()
        return value

    def ends(self) -> None:
        """Send a FIN."""
        self.stream.readConnectionLost()

    def resets(self) -> None:
        self.stream.connectionLost(Failure(ConnectionLost()))

    def closes(self) -> None:
        """Close the connection cleanly."""
        self.stream.connectionLost(Failure(ConnectionDone()))

    @property
    def is_open(self) -> bool:
        """True while the connection is open and the switch neither closes nor aborts it."""
        return self.stream.is_open and not self.line.disconnecting and not self.line.aborted

    def is_read(self) -> bool:
        return self.line.producerState == "producing"

    def fills_up(self) -> None:
        """Stop reading: the switch's buffer for this peer is full."""
        self.line.unsent = 100_000
        self.line.producer.pauseProducing()

    def takes_again(self) -> None:
        self.line.unsent = 0
        self.line.producer.resumeProducing()

    def settle(self) -> bool:
        """Complete the end of a closed or aborted line. Return whether it was one."""
        closing = self.line.disconnecting and not self.line.unsent
        if (closing or self.line.aborted) and self.stream.is_open:
            self.stream.connectionLost(Failure(ConnectionDone()))
            return True
        return False


class SocketlessRelays(Relays):
    """Relays of a process whose connections have no sockets that a poller could watch."""

    poller = None  # type: ignore[assignment]


class World:
    """A running service `s` with these configuration lines, in memory."""

    def __init__(
        self,
        *lines: str,
        settings: str = "",
        descriptors: int = 1000,
        stages: Sequence[Stage] = (),
        words: str = "",
        has_stages: bool = False,
        log: EventLog | None = None,
        schedulers: Sequence[Any] = (),
    ) -> None:
        """schedulers: plugins besides the installed ones.

        stages: of the preamble, from the next edit on. words: behind the address of its listener. has_stages: the
        preamble has the stages that the configuration asks for."""
        self.reactor = MemoryReactorClock()
        self.context = Context(
            self.reactor,
            log or EventLog(),
            Descriptors(descriptors),
            relays=SocketlessRelays(self.reactor, descriptors),
            monotonic=self.reactor.seconds,
        )
        self.stages = stages
        self._words = words
        given = lambda config, listener, unit: self.stages  # noqa: E731
        files = TLSFileStore(self.context)
        stages_of = ListenerStages(self.context, TLSProfiles(files)) if has_stages else given

        def search() -> Schedulers:
            found = installed_schedulers()
            found.known.update({plugin.name: plugin for plugin in schedulers})
            return found

        self.director = Director(self.context, stages_of=stages_of, files=files, search=search)
        self.director.start()
        self.peers: list[Peer] = []
        self._called = 0
        self._address = _unused_addresses.pop() if _unused_addresses else free_address()
        self.load(*lines, settings=settings)
        self.director.submit(StartService("s")).addErrback(self._unexpected)
        for _ in range(1000):  # a scheduler may take several turns to be bound
            if self.reactor.getReaders():
                break
            self.reactor.advance(0)
        assert self.reactor.getReaders(), "the service listens"

    def load(self, *lines: str, settings: str = "") -> None:
        listen = f"listen = {self._address} {self._words}"
        text = f"global {{ {settings} }}\nVirtual s {{\n{listen}\n" + "\n".join(lines) + "\n}\n"
        edit: Load = _parse_once(text)
        self.director.submit(edit).addErrback(self._unexpected)

    def refusal(self, edit: Edit) -> str:
        """Submit an edit that is refused, and return why."""
        refusals: list[Failure] = []
        self.director.submit(edit).addErrback(refusals.append)
        (refusal,) = refusals
        assert refusal.check(Refusal), refusal
        return str(refusal.value)

    def move(self) -> None:
        """Let the service listen on another address, from the next `load` on."""
        self._address = free_address()

    def _unexpected(self, failure: Failure) -> None:
        failure.raiseException()

    @property
    def live(self) -> RunningService:
        return self.director.services["s"]

    def client(self) -> Peer:
        """Connect a client."""
        peer = self.comes("192.0.2.1")
        assert peer is not None, "the client was rejected"
        return peer

    def comes(self, host: str) -> Peer | None:
        """Connect a client from that address. Return None if it was rejected."""
        connection = self.live.client_factory.build((host, 4711, 0, 0) if ":" in host else (host, 4711))
        if connection is None:
            return None
        self.connection = connection
        return self.peer(connection.client)

    def knocks(self, host: str = "192.0.2.1") -> Peer:
        """Connect a client whose connection begins with the stages."""
        stream = self.live.client_factory.buildProtocol(IPv4Address("TCP", host, 4711))
        assert stream is not None, "the client was rejected"
        return self.peer(stream)

    def peer(self, stream: Stream) -> Peer:
        peer = Peer(stream)
        self.peers.append(peer)
        return peer

    def called(self) -> list[str]:
        """Return the servers to which connections were attempted since the last call."""
        new = self.reactor.tcpClients[self._called :]
        self._called = len(self.reactor.tcpClients)
        return [f"{host}:{port}" for host, port, *_ in new]

    def accepts(self, address: str) -> Peer:
        """Accept the pending connection attempt, and return the server."""
        assert self.called() == [address]
        return self.connects()

    def connects(self) -> Peer:
        """Accept the last connection attempt, and return the server."""
        return self.peer(self.reactor.tcpClients[-1][2].buildProtocol(None))

    def accepts_all(self) -> list[Peer]:
        """Accept all connection attempts since the last call, and return the servers."""
        new = self.reactor.tcpClients[self._called :]
        self._called = len(self.reactor.tcpClients)
        return [self.peer(factory.buildProtocol(None)) for _, _, factory, *_ in new]

    def refuses(self, address: str) -> None:
        """Refuse the pending connection attempt."""
        assert self.called() == [address]
        self.refuse(self.reactor.tcpClients[-1][2])

    def refuses_all(self) -> None:
        """Refuse all connection attempts since the last call."""
        for *_, factory, _timeout, _bind in self.reactor.tcpClients[self._called :]:
            self.refuse(factory)

    def refuse(self, factory: ClientFactory) -> None:
        """Refuse the connection attempt with `factory`."""
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    def passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.reactor.advance(1)

    def turns(self, count: int) -> None:
        """Run that many turns of the reactor, without advancing the clock."""
        for _ in range(count):
            self.reactor.advance(0)

    def reset_all(self) -> None:
        """All clients and servers reset their connections."""
        for peer in self.peers:
            if peer.is_open:
                peer.resets()

    def settle(self) -> None:
        while [peer for peer in self.peers if peer.settle()]:
            pass

    def close(self) -> None:
        """End all lines, and check that nothing is counted any more."""
        self.settle()
        self.live.server_connections.close()
        self.live.stream_connections.close()
        self.live.preconnections.stop()
        self.settle()
        self.passes(2 * self.context.settings.linger_timeout + 4)  # for refused clients that do not disconnect
        self.settle()
        counted = [d for d in (*self.live.destinations.values(), *self.live.leaving.values()) if d.active]
        assert not counted, counted
        assert not self.live.connections
        assert not self.live.preambles
        assert not self.live.http2_clients
        assert self.context.descriptors.used == 0
        assert self.context.body_prefixes.used == 0
        assert self.live.server_connections.open == self.live.stream_connections.open == 0
        self.director.end()
        self.director.stop()
        assert not self.reactor.getDelayedCalls()
        _unused_addresses.append(self._address)


@contextlib.contextmanager
def worlds(
    *default: str, before_close: Callable[[World], object] = lambda _: None, **options: Any
) -> Iterator[Callable[..., World]]:
    """A function that makes worlds. At the end their connections are reset, and nothing may be left counted in any.

    default, options: the lines and the options of a world that is made without. before_close: called with each world.
    """
    made: list[World] = []

    def make(*lines: str, **others: Any) -> World:
        made.append(World(*(lines or default), **{**options, **others}))
        return made[-1]

    yield make
    for world in made:
        world.reset_all()
        before_close(world)
        world.close()
