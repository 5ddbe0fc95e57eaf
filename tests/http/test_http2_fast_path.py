"""Streams of HTTP/2 on client connections that others have used before, in Python and compiled.

Everybody gets the bytes, and the log the lines, that they get when each stream has a client connection of its own.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from memory import A, B, C, Peer, World, answer, worlds
from twisted.internet.defer import AlreadyCalledError

from ktcpvs.dispatch.access_log import AccessLogWriter
from ktcpvs.http import http2_compiled
from ktcpvs.http.http2_client_connection import CHECK_INTERVAL, MAX_PARKED, HTTP2ClientConnection
from ktcpvs.http.http2_stream_connection import HTTP2StreamConnection
from ktcpvs.http.http2_transport import HTTP2Transport
from ktcpvs.model.latency import described
from ktcpvs.system import log as levels
from ktcpvs.system.log import EventLog

Make = Callable[..., World]

SERVERS = (f"server = {A}", f"server = {B}")
RULES = (f'rule = pattern "^/a" use server {A}', f'rule = pattern "^/b" use server {B}')
EDITS = (
    SERVERS,
    (f"server = {A} 1 maxconn 1", f"server = {B} 1 maxconn 1"),
    (f"server = {A} 3", f"server = {B}", f"server = {C}"),
)
CLIENTS = 2

KINDS = ("compiled", "python", "general")
"""compiled, python: the form of the methods. general: each stream has a connection of its own, and none is plain."""


class Lines:
    """An access log in memory."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.written.append(line)


class SilentLog(EventLog):
    """A log that nobody reads, whatever its level is."""

    def event(self, level: int, form: str, **values: Any) -> None:
        """Write nothing."""


def use(kind: str) -> None:
    """Use this form of the methods. No connection may be in use."""
    if http2_compiled.forms is not None:
        if kind == "compiled":
            http2_compiled.forms.use_compiled()
        else:
            http2_compiled.forms.use_plain()


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    use("compiled")


class Client:
    """A client by h2. events: what it has got of each stream."""

    def __init__(self, world: World, window: int) -> None:
        self.h2: Any = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="latin-1"))
        self.h2.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self.h2.initiate_connection()
        self.world = world
        self.peer = world.client()
        self.next_id = 1
        self.events: list[tuple[Any, ...]] = []

    @property
    def is_open(self) -> bool:
        return self.peer.is_open and not self.peer.line.ended

    def talks(self) -> None:
        """Send what h2 has to say, and take what the switch has sent, until neither has more."""
        for _ in range(50):
            said = self.h2.data_to_send() if self.is_open and self.peer.is_read() else b""
            if said:
                self.peer.says(said)
            self.world.turns(2)
            heard = self.peer.heard()
            for event in self.h2.receive_data(heard) if heard else ():
                self._note(event)
            if not said and not heard:
                return

    def _note(self, event: Any) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.InformationalResponseReceived):
            self.events.append((event.stream_id, tuple(event.headers)))
        elif isinstance(event, h2.events.DataReceived):
            self.events.append((event.stream_id, event.data))
        elif isinstance(event, h2.events.StreamEnded):
            self.events.append((event.stream_id, "end"))
        elif isinstance(event, h2.events.StreamReset):
            self.events.append((event.stream_id, "reset", event.error_code))

    def heard(self) -> list[tuple[Any, ...]]:
        """What each stream has got, with the pieces of its body together: how it is cut follows from the writes."""
        streams: dict[int, list[Any]] = {}
        for stream_id, *what in self.events:
            got = streams.setdefault(stream_id, [])
            if got and isinstance(got[-1], bytes) and isinstance(what[0], bytes):
                got[-1] += what[0]
            else:
                got += what
        self.events = []
        return sorted((stream_id, *got) for stream_id, got in streams.items())


class Side:
    """One world. heard: what everybody has got, in order."""

    def __init__(self, options: tuple[str, ...], form: str, kind: str, window: int = 65535) -> None:
        use(kind)
        self.tail = (*RULES, *options, "http2 = on")
        self.world = World("scheduler = phttp", *SERVERS, *self.tail, log=SilentLog())
        self.world.context.wall = lambda: 1_700_000_000.0
        self.lines = Lines()
        log: Any = self.lines
        traffic = self.world.live.traffic
        if form:
            context = self.world.context
            traffic.access_log.writer = AccessLogWriter(context, log, form, "s", "phttp")
            traffic.http2_access_log.writer = AccessLogWriter(context, log, form, "s", "phttp", is_http2=True)
        if kind == "general":
            self.world.context.log.level = levels.STATE
        self.world.live.apply_settings()
        self.heard: list[tuple[str, Any]] = []
        self.window = window
        self.clients = [Client(self.world, window) for _ in range(CLIENTS)]
        self.connections: set[HTTP2StreamConnection] = set()
        self.servers: list[tuple[str, Peer]] = []

    def asks(self, path: str, fields: list[tuple[str, str]], method: str, body: bytes, count: int, number: int) -> None:
        """A client sends this request so many times at once."""
        client = self.clients[number]
        if not client.is_open or not client.peer.is_read():
            return
        for _ in range(count):
            pairs = [(":method", method), (":scheme", "http"), (":authority", "h"), (":path", path), *fields]
            client.h2.send_headers(client.next_id, pairs, end_stream=not body)
            if body:
                client.h2.send_data(client.next_id, body, end_stream=True)
            client.next_id += 2
        client.talks()
        self.connections |= set(streams(self.world))
        self._accept()

    def _accept(self) -> None:
        """The servers that are called answer."""
        called = self.world.called()
        made = self.world.reactor.tcpClients[len(self.world.reactor.tcpClients) - len(called) :]
        for address, (_, _, factory, *_) in zip(called, made, strict=True):
            with contextlib.suppress(AlreadyCalledError):  # the attempt was cancelled, since its client has left
                self.servers.append((address, self.world.peer(factory.buildProtocol(None))))

    def answers(self, pieces: tuple[bytes, ...]) -> None:
        """Each server that has got a request responds."""
        for address, server in list(self.servers):
            request = server.heard()
            if not request:
                continue
            self.heard.append((address, request))
            for piece in pieces:
                if server.stream.is_open and server.is_read():
                    server.says(piece)
        self._goes_on()

    def _goes_on(self) -> None:
        for _ in range(3):
            for client in self.clients:
                client.talks()
            self.world.settle()
            self._accept()
        self.servers = [one for one in self.servers if one[1].stream.is_open]
        for number, client in enumerate(self.clients):
            self.heard.append((f"client {number}", client.heard()))

    def happens(self, event: str, *values: Any) -> None:
        """One step of a test."""
        if event == "asks":
            *request, pieces, number = values
            self.asks(*request, number)
            self.answers(pieces)
        elif event == "edits":
            self.world.load("scheduler = phttp", *values[0], *self.tail)
        elif event == "resets":
            self._resets(*values)
        elif event == "opens windows":
            self._opens(*values)
        elif event == "leaves":
            self._leaves(*values)
        elif event == "time passes":
            self.world.passes(values[0])
        else:
            servers, self.servers = self.servers, []
            for _, server in servers:
                if server.is_open:
                    (server.ends if event == "servers close" else server.resets)()
        self._goes_on()

    def _resets(self, number: int) -> None:
        client = self.clients[number]
        for stream_id in range(1, client.next_id, 2):
            if client.h2.streams.get(stream_id) and not client.h2.streams[stream_id].closed:
                client.h2.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
                return

    def _opens(self, number: int) -> None:
        client = self.clients[number]
        if client.is_open:
            client.h2.increment_flow_control_window(100_000)
            for stream_id in range(1, client.next_id, 2):
                if stream_id in client.h2.streams and not client.h2.streams[stream_id].closed:
                    client.h2.increment_flow_control_window(100_000, stream_id)

    def _leaves(self, number: int) -> None:
        if self.clients[number].peer.stream.is_open:
            self.clients[number].peer.resets()
        self.clients[number] = Client(self.world, self.window)

    def close(self) -> None:
        for client in self.clients:
            if client.peer.stream.is_open:
                client.peer.resets()
        for peer in self.world.peers:
            if peer.stream.is_open and not peer.line.disconnecting and not peer.line.aborted:
                peer.resets()
        self.world.turns(3)
        counters = self.world.live.traffic.counters
        self.totals = counters.total, counters.ended_in, counters.ended_out, self.world.live.living
        descriptors = self.world.context.descriptors
        self.descriptors = descriptors.clients, descriptors.reserved, descriptors.servers
        self.world.close()

    def counted(self) -> list[tuple[int, ...]]:
        """Return the counters of each server, and its responses by status."""
        return [
            (
                one.total,
                one.reused,
                one.failures,
                one.retries,
                one.active,
                one.bytes_in,
                one.bytes_out,
                *described(one.latencies)["answers"].values(),
            )
            for one in self.world.live.destinations.values()
        ]


PATHS = st.sampled_from(("/a", "/b", "/a?x=1", "/c", "/b/" + "y" * 40))
FIELDS = st.lists(
    st.sampled_from(
        (
            ("cookie", "a=1; b=2"), ("referer", "http://h/x?y"), ("referer", '"quoted\\'), ("user-agent", "me/1.0"),
            ("via", "1.1 other"), ("forwarded", "for=x"), ("x-forwarded-for", "10.9.9.9"), ("te", "trailers"),
            ("accept", "*/*"), ("grpc-timeout", "10S"),
        )
    ),
    max_size=4,
    unique=True,
)  # fmt: skip
RESPONSES = st.sampled_from(
    (
        (answer(),),
        (answer(b"other", "Date: now"),),
        (answer(b"", "X: y"),),
        (answer(b"no", status="404 Not Found"),),
        (b"HTTP/1.1 204 No Content\r\n\r\n",),
        (answer(b"bad", status="500 Broken"),),
        (answer(b"x" * 5000),),
        (answer(b"x" * 50_000),),
        (answer(b"x" * 50_000)[:100], answer(b"x" * 50_000)[100:]),
        (answer()[:30], answer()[30:]),
        (answer()[:-2], answer()[-2:]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-t: 1\r\n\r\n",),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(),),
        (answer(b"bye", "Connection: close"),),
        (answer() + b"more",),
        (b"nonsense\r\n\r\n",),
        (),
    )
)
NUMBERS = st.integers(0, CLIENTS - 1)
COUNTS = st.integers(1, 3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("asks"), PATHS, FIELDS, st.just("GET"), st.just(b""), COUNTS, RESPONSES, NUMBERS),
        st.tuples(
            st.just("asks"), PATHS, FIELDS, st.sampled_from(("HEAD", "POST", "DELETE")), st.sampled_from((b"", b"abc")),
            st.just(1), RESPONSES, NUMBERS,
        ),
        st.tuples(
            st.just("asks"), st.just("/a"), st.just([]), st.just("GET"), st.just(b""), COUNTS, st.just((answer(),)),
            NUMBERS,
        ),
        st.tuples(st.sampled_from(("leaves", "resets", "opens windows")), NUMBERS),
        st.tuples(st.just("time passes"), st.sampled_from((2, 12))),
        st.tuples(st.just("edits"), st.sampled_from(EDITS)),
        st.tuples(st.sampled_from(("servers die", "servers close"))),
    ),
    max_size=12,
)  # fmt: skip
OPTIONS = st.sampled_from(
    (
        (),
        ("x_forwarded_for = append",),
        ("forwarded = replace", "via = append", "x_forwarded_host = append"),
        ("trusted_proxies = 192.0.2.1",),
        ("client_rate = 3/h",),
        ("abort_on_close = on",),
    )
)


@examples(150)
@given(OPTIONS, st.sampled_from(("", "combined", "json")), st.sampled_from((65535, 3000)), STEPS)
def test_what_streams_share_changes_nothing(options: tuple[str, ...], form: str, window: int, steps: list[Any]) -> None:
    sides = {}
    for kind in KINDS:
        side = sides[kind] = Side(options, form, kind, window)
        for event, *rest in steps:
            side.happens(event, *rest)
        side.close()
    slow = sides["general"]
    for kind in ("compiled", "python"):
        side = sides[kind]
        assert side.heard == slow.heard
        assert side.lines.written == slow.lines.written
        assert side.counted() == slow.counted()
        assert side.totals == slow.totals
        assert side.descriptors == slow.descriptors
    assert slow.descriptors[:2] == (0, 0)
    assert slow.totals[-1] == 0


def streams(world: World) -> list[HTTP2StreamConnection]:
    """The client connections of the streams that are open."""
    return [one for one in world.live.connections if isinstance(one, HTTP2StreamConnection)]


@pytest.fixture
def reopened(monkeypatch: pytest.MonkeyPatch) -> list[HTTP2StreamConnection]:
    """The connections that the method in Python has let serve another stream."""
    found: list[HTTP2StreamConnection] = []
    reopen = HTTP2StreamConnection.reopen

    def note(connection: HTTP2StreamConnection) -> None:
        found.append(connection)
        reopen(connection)

    monkeypatch.setattr(HTTP2StreamConnection, "reopen", note)
    return found


@pytest.mark.parametrize("kind", ["compiled", "python"])
def test_usual_requests_share_client_connections(kind: str, reopened: list[HTTP2StreamConnection]) -> None:
    side = Side((), "json", kind)
    for number in range(6):
        side.happens("asks", f"/a?{number}", [], "GET", b"", 3, (answer(b"%d" % number),), 0)
    side.close()
    assert len(side.connections) == 3
    assert side.totals[0] == CLIENTS
    assert len(side.lines.written) == 18
    is_compiled = kind == "compiled" and http2_compiled.forms is not None
    assert len(reopened) == (0 if is_compiled else 15)


def asks(world: World, client: Client, server: Peer | None = None, *fields: tuple[str, str]) -> Peer:
    """Ask for /a, and let the server respond."""
    pairs = [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/a"), *fields]
    client.h2.send_headers(client.next_id, pairs, end_stream=True)
    client.next_id += 2
    client.talks()
    server = server or world.accepts(A)
    server.says(answer())
    client.talks()
    assert client.heard()[-1][-1] == "end"
    return server


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds("scheduler = phttp", *SERVERS, *RULES, "http2 = on") as made:
        yield made


def test_parked_connections_end_with_the_last_stream(make: Make, reopened: list[HTTP2StreamConnection]) -> None:
    world = make()
    client = Client(world, 65535)
    server = asks(world, client)
    world.passes(2 * CHECK_INTERVAL + 1)
    assert client.is_open
    asks(world, client, server)
    assert reopened == []
    assert world.live.traffic.counters.total == 1


def test_a_timer_that_goes_off_meanwhile_is_started_again(make: Make, reopened: list[HTTP2StreamConnection]) -> None:
    """Streams that take turns keep the parked ones, whose timers are over."""
    world = make()
    client = Client(world, 65535)
    server = asks(world, client)
    for _ in range(4):
        world.passes(CHECK_INTERVAL - 1)
        asks(world, client, server)
    assert len(reopened) >= 1  # compiled code leaves those without a timer to this method
    client.h2.send_headers(
        client.next_id, [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/a")], end_stream=True
    )
    client.talks()
    (stream,) = streams(world)
    world.passes(world.context.settings.response_timeout + CHECK_INTERVAL + 1)
    client.talks()
    assert dict(client.heard()[0][1])[":status"] == "504"
    assert stream not in world.live.connections


def test_changed_timeouts_hold_for_parked_connections(make: Make) -> None:
    world = make()
    client = Client(world, 65535)
    server = asks(world, client)
    world.load("scheduler = phttp", *SERVERS, *RULES, "http2 = on", "response_timeout = 2")
    client.h2.send_headers(
        client.next_id, [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/a")], end_stream=True
    )
    client.talks()
    assert server.heard().count(b"GET /a") == 2
    world.passes(4)
    client.talks()
    assert dict(client.heard()[0][1])[":status"] == "504"


def test_no_more_than_the_limit_are_parked(make: Make) -> None:
    world = make()
    client = Client(world, 65535)
    count = MAX_PARKED + 8
    pairs = [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/a")]
    used: set[HTTP2StreamConnection] = set()
    for _ in range(2):
        for _ in range(count):
            client.h2.send_headers(client.next_id, pairs, end_stream=True)
            client.next_id += 2
        client.talks()
        used |= set(streams(world))
        for server in world.accepts_all() or world.peers[1:]:
            server.says(answer())
        client.talks()
    assert len(used) == 2 * count - MAX_PARKED
    assert world.live.living == 1


def test_a_stream_that_is_reset_or_closed_by_the_switch_shares_nothing(make: Make) -> None:
    world = make()
    client = Client(world, 65535)
    pairs = [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/a")]
    client.h2.send_headers(1, pairs, end_stream=True)
    client.talks()
    (first,) = streams(world)
    client.h2.reset_stream(1)
    client.talks()
    client.next_id = 3
    world.called()
    client.h2.send_headers(3, pairs, end_stream=True)
    client.talks()
    (second,) = streams(world)
    assert second is not first
    world.live.stop()
    world.connects().says(answer())
    world.turns(5)
    assert b"hello" in client.peer.heard()  # h2 reads nothing behind a GOAWAY
    assert not world.live.connections
    assert second.is_over


@pytest.mark.parametrize("kind", ["compiled", "python"])
def test_the_garbage_collector_finds_nothing(kind: str) -> None:
    """It runs rarely, so the objects of a connection must not refer to each other once it is over."""
    side = Side((), "", kind)

    def alive() -> int:
        kinds = HTTP2ClientConnection, HTTP2StreamConnection, HTTP2Transport
        return sum(isinstance(one, kinds) for one in gc.get_objects())

    leaving = side.clients.pop()
    side.happens("time passes", 1)  # the other client begins with HTTP/2
    side.clients.insert(0, leaving)
    gc.collect()
    gc.disable()
    try:
        before = alive()
        side.happens("asks", "/a", [], "GET", b"", 3, (answer(),), 0)
        side.happens("asks", "/a", [], "POST", b"abc", 1, (answer(b"", "Connection: close"),), 0)
        side.connections.clear()
        assert alive() > before
        side.world.peers.remove(side.clients[0].peer)
        side.clients[0].peer.resets()
        del side.clients[0], leaving
        side.world.turns(3)
        side.world.passes(12)
        assert alive() == before
    finally:
        gc.enable()
        side.close()
