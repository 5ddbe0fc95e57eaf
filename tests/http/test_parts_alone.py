"""The parts of the request path, each by itself: an exchange without a client connection, and so on."""

from __future__ import annotations

from typing import Any

from memory import Line
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.dispatch.dispatcher import Dispatcher
from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.http.client_connection import HTTPClientConnection
from ktcpvs.http.exchange import Exchange
from ktcpvs.http.head_cache import HeadCache
from ktcpvs.http.server_connection import ServerConnection
from ktcpvs.http.server_connections import ServerConnections
from ktcpvs.http.service import HTTPService
from ktcpvs.interfaces import EACH_REQUEST
from ktcpvs.model import exchange as life
from ktcpvs.model.address import parse_address
from ktcpvs.model.destination import Destination
from ktcpvs.model.language.parser import parse
from ktcpvs.model.scheduling import Choice, OwnResponse, Request
from ktcpvs.model.table import Table
from ktcpvs.protocols import http1
from ktcpvs.runtime.context import Context, Descriptors
from ktcpvs.streams.origin import Origin
from ktcpvs.streams.stream import Stream
from ktcpvs.system.log import EventLog

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class First:
    """A scheduler that chooses the first server."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination

    def choose(self, request: Request) -> Choice | None:
        return None if self._destination in request.tried else Choice(self._destination, "the first")


class Parts:
    """The collaborators of one HTTP service with one server."""

    def __init__(self) -> None:
        config = parse("Virtual s { listen = 127.0.0.1:80 scheduler = phttp server = 10.0.0.1:80 }").apply(Table())
        self.reactor = MemoryReactorClock()
        self.context = Context(self.reactor, EventLog(), Descriptors(100))
        self.service = ServiceContext(self.context, config.services["s"], EACH_REQUEST)
        self.server = Destination(parse_address("10.0.0.1:80"))
        self.service.selector.configure(self.service.config, First(self.server), frozenset({self.server}), None)
        self.http = HTTPService(self.service, ServerConnections(self.context), HeadCache())
        self.http.cache.configure(self.service.config, self.context.settings, True, False)

    def connected(self) -> tuple[ServerConnection, Line]:
        """Accept the last connection attempt, and return the server."""
        stream: Any = self.reactor.tcpClients[-1][2].buildProtocol(None)
        line = Line()
        stream.makeConnection(line)
        return stream, line


class Owner:
    """The part of a client connection that an exchange uses."""

    client_name = "192.0.2.1:4711"
    body = limits = None
    closes_after = has_ended = is_denied = is_full = is_last = False
    held = last_activity = request_size = 0
    pending = b""
    ending = ""

    def __init__(self, parts: Parts) -> None:
        self.state = life.IDLE
        self.client = Stream()
        self.line = Line()
        self.client.makeConnection(self.line)
        self.dispatcher = Dispatcher(parts.service, self, "192.0.2.1")
        self.exchange = Exchange(parts.http, self, self.dispatcher)
        self.finished: list[str] = []

    def transition(self, event: str) -> None:
        self.state = life.TABLE[self.state][event]

    def set_timer(self, seconds: float, due: Any = None) -> None:
        pass

    def restore_timer(self) -> None:
        pass

    def hold(self, reason: int, held: bool) -> None:
        self.held = self.held | reason if held else self.held & ~reason

    def serve(self, choice: Choice) -> None:
        self.exchange.serve(choice)

    def fail(self, status: int, reason: str, retry_after: int = 0, *, why: str = "") -> None:
        self.exchange.fail(status, reason, retry_after)

    def respond(self, response: OwnResponse) -> None:
        self.exchange.respond(response)

    def is_client_gone(self) -> bool:
        return False

    def expire(self, event: str) -> None:
        raise AssertionError(event)

    def retry_after(self, status: int, seconds: int) -> int:
        return seconds

    def moved(self) -> tuple[int, int]:
        return self.exchange.bytes_in, self.exchange.bytes_out

    def origin(self) -> Origin:
        return Origin()

    def begin_entry(self) -> None:
        pass

    def exchange_finished(self) -> None:
        self.finished.append("finished")
        self.transition(life.ANSWERED)

    def refused(self) -> None:
        self.finished.append("refused")

    def send_last(self, response: http1.OwnMessage, reason: str, why: str) -> None:
        raise AssertionError(reason)

    def switch_protocols(self, response: http1.Response, protocols: bytes, rest: bytes) -> None:
        raise AssertionError(protocols)

    def break_off(self) -> None:
        self.finished.append("broken off")

    def end_if_over(self) -> None:
        pass

    def asks(self) -> None:
        found = http1.REQUEST.match(GET)
        assert found is not None
        self.exchange.start(http1.Request(found), b"", 0.0)


def test_an_exchange_without_a_client_connection() -> None:
    parts = Parts()
    owner = Owner(parts)
    owner.asks()
    assert owner.state == life.CONNECTING
    server, line = parts.connected()
    assert (line.value(), owner.state, parts.server.active) == (GET, life.WAITING, 1)
    server.dataReceived(OK)
    assert (owner.line.value(), owner.finished, owner.state) == (OK, ["finished"], life.IDLE)
    assert (parts.server.active, parts.http.connections.pool.idle(parts.server)) == (0, 1)
    assert "idle" in repr(server)


def test_an_exchange_whose_server_refuses() -> None:
    parts = Parts()
    owner = Owner(parts)
    owner.asks()
    parts.reactor.tcpClients[-1][2].clientConnectionFailed(None, _refused())
    assert owner.finished == ["refused"]
    assert owner.line.value().startswith(b"HTTP/1.1 503 ")
    assert (parts.server.active, parts.server.failures, parts.http.connections.open) == (0, 1, 0)


def test_a_client_connection_without_a_service_that_runs() -> None:
    parts = Parts()
    connection = HTTPClientConnection(parts.http, "192.0.2.1:4711", "192.0.2.1")
    ended: list[Any] = []
    connection.on_end = ended.append
    line = Line()
    connection.client.makeConnection(line)
    connection.client.dataReceived(GET + GET)
    server, server_line = parts.connected()
    assert server_line.value() == GET
    server.dataReceived(OK)
    assert server_line.value() == GET * 2
    server.dataReceived(OK)
    assert line.value() == OK * 2
    assert connection.state == life.IDLE
    connection.client.connectionLost(_refused())
    assert ended == [connection]


class User:
    """The part of an exchange that a server connection uses."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def server_data(self, data: bytes) -> None:
        self.told.append(data)

    def server_ended(self) -> None:
        self.told.append("ended")

    def server_lost(self, clean: bool) -> None:
        self.told.append("lost")

    def hold_client(self, held: bool) -> None:
        self.told.append(held)

    def resume_server(self) -> None:
        self.told.append("resume")


def test_a_server_connection_without_an_exchange() -> None:
    parts = Parts()
    connector = parts.service.connector(parts.server)
    connection, made = parts.http.connections.connect_alone(parts.server, connector, Origin)
    assert parts.http.connections.open == 1
    stream, line = parts.connected()
    assert stream is connection
    assert made.called
    user = User()
    connection.exchange = user
    connection.dataReceived(b"a")
    line.producer.pauseProducing()
    line.producer.resumeProducing()
    connection.read_later(b"b")
    assert line.producerState == "paused"
    parts.reactor.advance(0)
    assert user.told == [b"a", True, False, "resume", b"b"]
    parts.http.connections.put(connection)
    connection.dataReceived(b"nobody asked")
    assert line.disconnecting
    assert parts.http.connections.pool.idle(parts.server) == 0
    connection.connectionLost(_refused())
    assert parts.http.connections.open == 0


def _refused() -> Any:
    from twisted.internet.error import ConnectionRefusedError
    from twisted.python.failure import Failure

    return Failure(ConnectionRefusedError())
