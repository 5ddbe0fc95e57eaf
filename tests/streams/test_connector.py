"""Connectors: streams for the switch, and Twisted protocols, over the same kind of connections."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reactors import Producer, ReactorThread, descriptors, settled
from servers import LOOPBACK, free_port, read_all, read_exactly, wait_for
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import (
    ConnectError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    NoProtocol,
    TimeoutError,
)
from twisted.internet.interfaces import IHalfCloseableProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from ktcpvs.model.address import Address, Inet, Unix
from ktcpvs.streams.connector import Connector
from ktcpvs.streams.stream import Stream


@pytest.fixture(autouse=True)
def nothing_is_left(thread: ReactorThread) -> Iterator[None]:
    thread.failures.clear()
    with contextlib.suppress(ConnectionRefusedError):  # so that Twisted creates what it creates only once
        thread.run(connector(thread, Inet("localhost", free_port())).connect_stream, Stream())
    before = settled(thread)
    yield
    wait_for(lambda: descriptors() == before, "all descriptors to be closed")
    assert thread.failures == []


def connector(thread: ReactorThread, address: Address, timeout: Any = 10) -> Connector:
    return Connector(thread.reactor, address, timeout)


@pytest.fixture(params=["TCP", "unix", "name"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, Address]]:
    """A listening socket, and its address."""
    if request.param == "unix":
        path = str(tmp_path / "socket")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            yield listener, Unix(path)
        return
    with socket.create_server((LOOPBACK, 0)) as listener:
        host = "localhost" if request.param == "name" else LOOPBACK
        yield listener, Inet(host, listener.getsockname()[1])


class Recorder(Protocol):
    """heard: the events, in order, without the data; data: all bytes received."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.data = bytearray()

    def connectionMade(self) -> None:
        self.heard.append("made")

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.heard.append(reason.type)


@implementer(IHalfCloseableProtocol)
class HalfCloseable(Recorder):
    def readConnectionLost(self) -> None:
        self.heard.append("read lost")

    def writeConnectionLost(self) -> None:
        pass


class Counting(Factory):
    """A factory. active: the number of calls of doStart without doStop; addresses: those that were connected."""

    def __init__(self, protocol: type[Recorder] | None = Recorder) -> None:
        self.active = 0
        self.addresses: list[Any] = []
        self._made = protocol

    def doStart(self) -> None:
        self.active += 1

    def doStop(self) -> None:
        self.active -= 1

    def buildProtocol(self, addr: Any) -> Any:
        self.addresses.append(addr)
        return self._made() if self._made is not None else None


Server = tuple[socket.socket, Address]


def connected(thread: ReactorThread, server: Server, factory: Counting) -> tuple[Any, socket.socket]:
    """Return the protocol and its peer."""
    listener, address = server
    protocol = thread.run(connector(thread, address).connect, factory)
    peer, _ = listener.accept()
    peer.settimeout(10)
    return protocol, peer


def test_a_stream(thread: ReactorThread, server: Server) -> None:
    listener, address = server
    stream = Stream()
    assert thread.run(connector(thread, address).connect_stream, stream) is stream
    peer, _ = listener.accept()
    with peer:
        thread.run(lambda: (stream.write(b"hello"), stream.close()))
        assert read_all(peer) == b"hello"
    wait_for(lambda: not stream.is_open)


def test_its_contract(thread: ReactorThread) -> None:
    made = connector(thread, Inet(LOOPBACK, 80))
    assert verifyObject(IStreamClientEndpoint, made)
    assert repr(made) == f"<Connector to {LOOPBACK}:80>"
    assert made.key == Inet(LOOPBACK, 80)


def test_its_key(thread: ReactorThread) -> None:
    one, same, other = (
        connector(thread, Inet(LOOPBACK, port), timeout) for port, timeout in ((80, 1), (80, 2), (81, 1))
    )
    assert one.key == same.key != other.key
    assert len({one.key, same.key, other.key}) == 2


def test_its_timeout(thread: ReactorThread) -> None:
    timeout = 0.2
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((LOOPBACK, 0), backlog=0))
        for _ in range(3):  # fill its backlog
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        made = connector(thread, Inet(*listener.getsockname()), lambda: timeout)
        assert made.timeout == 0.2
        with pytest.raises(TimeoutError):
            thread.run(made.connect_stream, Stream())
        timeout = 0.1
        assert made.timeout == 0.1
        with pytest.raises(TimeoutError):
            thread.run(made.connect, Counting())


def test_a_protocol(thread: ReactorThread, server: Server) -> None:
    factory = Counting()
    protocol, peer = connected(thread, server, factory)
    with peer:
        assert factory.active == 1
        (address,) = factory.addresses
        assert isinstance(address, UNIXAddress if isinstance(server[1], Unix) else IPv4Address)
        assert protocol.heard == ["made"]
        peer.sendall(b"220 hello")
        wait_for(lambda: protocol.data == b"220 hello")
        transport = protocol.transport
        assert thread.run(transport.getPeer) == address
        thread.run(lambda: (transport.write(b"one "), transport.writeSequence([b"two ", b"three"])))
        assert read_exactly(peer, 13) == b"one two three"
        thread.run(transport.loseConnection)
        assert read_all(peer) == b""
    wait_for(lambda: protocol.heard == ["made", ConnectionDone])
    wait_for(lambda: factory.active == 0)  # told after the protocol


def test_the_peer_closes(thread: ReactorThread, server: Server) -> None:
    factory = Counting()
    protocol, peer = connected(thread, server, factory)
    peer.sendall(b"bye")
    peer.close()
    wait_for(lambda: protocol.heard == ["made", ConnectionDone])
    assert protocol.data == b"bye"
    wait_for(lambda: factory.active == 0)


def test_a_protocol_that_can_be_half_closed(thread: ReactorThread, server: Server) -> None:
    protocol, peer = connected(thread, server, Counting(HalfCloseable))
    with peer:
        peer.shutdown(socket.SHUT_WR)
        wait_for(lambda: protocol.heard == ["made", "read lost"])
        thread.run(lambda: (protocol.transport.write(b"response"), protocol.transport.loseWriteConnection()))
        assert read_all(peer) == b"response"
        thread.run(protocol.transport.loseConnection)
        wait_for(lambda: protocol.heard == ["made", "read lost", ConnectionDone])


def test_an_abort(thread: ReactorThread, server: Server) -> None:
    protocol, peer = connected(thread, server, Counting())
    with peer:
        thread.run(protocol.transport.abortConnection)
        wait_for(lambda: protocol.heard == ["made", ConnectionAborted])


def test_a_reset(thread: ReactorThread) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        protocol, peer = connected(thread, (listener, Inet(*listener.getsockname())), Counting())
        peer.sendall(b"x")
        wait_for(lambda: protocol.data == b"x")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        peer.close()
        wait_for(lambda: protocol.heard == ["made", ConnectionLost])


def test_a_producer(thread: ReactorThread, server: Server) -> None:
    protocol, peer = connected(thread, server, Counting())
    bulk = bytes(6_000_000)
    producer = Producer()
    with peer:
        thread.run(protocol.transport.registerProducer, producer, True)
        with pytest.raises(RuntimeError):
            thread.run(protocol.transport.registerProducer, producer, True)
        thread.run(protocol.transport.write, bulk)
        assert producer.told == ["pause"]
        thread.run(protocol.transport.loseConnection)  # waits for the producer
        assert read_exactly(peer, len(bulk)) == bulk
        wait_for(lambda: producer.told == ["pause", "resume"])
        assert protocol.heard == ["made"]
        thread.run(protocol.transport.unregisterProducer)
        assert read_all(peer) == b""
        wait_for(lambda: protocol.heard == ["made", ConnectionDone])


def test_reading_can_be_paused(thread: ReactorThread, server: Server) -> None:
    protocol, peer = connected(thread, server, Counting())
    with peer:
        thread.run(protocol.transport.pauseProducing)
        peer.sendall(b"x")
        for _ in range(5):
            thread.run(lambda: None)
        assert protocol.data == b""
        thread.run(protocol.transport.resumeProducing)
        wait_for(lambda: protocol.data == b"x")
        thread.run(protocol.transport.stopProducing)
        assert read_all(peer) == b""


def test_connect_protocol(thread: ReactorThread, server: Server) -> None:
    """Twisted's own helper for endpoints works with a connector."""
    listener, address = server
    protocol = Recorder()
    assert thread.run(connectProtocol, connector(thread, address), protocol) is protocol
    peer, _ = listener.accept()
    peer.close()
    wait_for(lambda: protocol.heard == ["made", ConnectionDone])


def test_a_factory_that_builds_nothing(thread: ReactorThread, server: Server) -> None:
    factory = Counting(None)
    with pytest.raises(NoProtocol):
        thread.run(connector(thread, server[1]).connect, factory)
    server[0].accept()[0].close()
    wait_for(lambda: factory.active == 0)


def test_a_server_that_is_not_there(thread: ReactorThread) -> None:
    factory = Counting()
    with pytest.raises(ConnectionRefusedError):
        thread.run(connector(thread, Inet(LOOPBACK, free_port())).connect, factory)
    assert (factory.active, factory.addresses) == (0, [])


def test_a_connect_that_is_cancelled(thread: ReactorThread) -> None:
    factory = Counting()
    with socket.create_server((LOOPBACK, 0)) as listener:

        def connect_and_cancel() -> Deferred[Any]:
            connecting = connector(thread, Inet(*listener.getsockname())).connect(factory)
            connecting.cancel()
            return connecting

        with pytest.raises((CancelledError, ConnectError)):
            thread.run(connect_and_cancel)
    assert factory.active == 0
