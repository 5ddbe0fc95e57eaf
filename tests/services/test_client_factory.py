"""A service's clients may come through any Twisted endpoint."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from memory import Peer, World
from reactors import ReactorThread
from servers import LOOPBACK, dial, free_port, wait_for
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from zope.interface import implementer
from zope.interface.verify import verifyObject

from ktcpvs.director.director import Director
from ktcpvs.model.edits import StartService
from ktcpvs.model.language.parser import parse
from ktcpvs.runtime.context import Context
from ktcpvs.system.log import EventLog

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
A = "10.0.0.1:80"


@implementer(IStreamServerEndpoint)
class MemoryEndpoint:
    """An endpoint whose clients are connected in memory."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._factory: Any = None

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:  # type: ignore[override]
        self._factory = protocolFactory
        protocolFactory.doStart()
        return succeed(None)  # type: ignore[arg-type]

    def client(self, address: Any) -> Peer | None:
        stream = self._factory.buildProtocol(address)
        return None if stream is None else self._world.peer(stream)


@pytest.fixture
def world() -> Iterator[World]:
    world = World("scheduler = phttp", "deny = 192.0.2.9", f"server = {A}", f'rule = pattern ".*" use server {A}')
    yield world
    world.reset_all()
    world.close()


def test_it_is_a_protocol_factory(world: World) -> None:
    assert verifyObject(IProtocolFactory, world.live.client_factory)


def test_an_endpoint_in_memory_serves_a_service(world: World) -> None:
    endpoint = MemoryEndpoint(world)
    endpoint.listen(world.live.client_factory)
    client = endpoint.client(IPv4Address("TCP", "192.0.2.1", 4711))
    assert client is not None
    client.says(GET)
    server = world.accepts(A)
    assert server.heard() == GET
    server.says(OK)
    assert client.heard() == OK
    (connection,) = world.live.connections
    assert connection.client_name == "192.0.2.1:4711"


def test_it_admits_as_the_service_does(world: World) -> None:
    endpoint = MemoryEndpoint(world)
    endpoint.listen(world.live.client_factory)
    assert endpoint.client(IPv4Address("TCP", "192.0.2.9", 4711)) is None
    assert endpoint.client(UNIXAddress(None)) is not None
    assert (world.live.traffic.admission.denied, len(world.live.connections)) == (1, 1)


@pytest.mark.parametrize("name", ["epoll", "uvloop"])
@pytest.mark.parametrize("scheduler", ["wlc", "phttp"])
def test_a_twisted_endpoint_serves_a_service(name: str, scheduler: str) -> None:
    with contextlib.ExitStack() as stack:
        thread = ReactorThread(name)
        stack.callback(thread.stop)
        listener = stack.enter_context(socket.create_server((LOOPBACK, 0)))
        listener.settimeout(10)
        server = f"{LOOPBACK}:{listener.getsockname()[1]}"
        text = f"Virtual s {{ listen = {LOOPBACK}:{free_port()} scheduler = {scheduler} server = {server}\n"
        director = thread.run(lambda: Director(Context(thread.reactor, EventLog())))
        for edit in parse(f'{text}rule = pattern ".*" use server {server} }}'), StartService("s"):
            thread.run(director.submit, edit)
        stack.callback(thread.run, director.stop)
        stack.callback(thread.run, director.end)
        live, port = director.services["s"], free_port()
        endpoint = serverFromString(thread.reactor, f"tcp:{port}:interface={LOOPBACK}")
        listening = thread.run(endpoint.listen, live.client_factory)
        stack.callback(thread.run, listening.stopListening)
        with dial((LOOPBACK, port)) as client:
            client.sendall(GET)
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(1000) == GET
                accepted.sendall(OK)
                assert client.recv(1000) == OK
                assert len(live.connections) == 1
        wait_for(lambda: not live.connections)
        thread.run(live.server_connections.close)
        wait_for(lambda: not live.server_connections.open)
