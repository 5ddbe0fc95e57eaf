"""The fuzz target for whole connections: clients and servers send any bytes in any order, through a switch in memory.

An input is a script. Its first byte selects the service (SERVICES). Events follow, separated by NUL: a letter for the
kind of event (EVENTS), and the bytes that are sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import h11

from ktcpvs.dispatch.access_log import AccessLogWriter
from ktcpvs.http.client_connection import MAX_PENDING_BYTES, HTTPClientConnection
from ktcpvs.model.destination import Destination
from ktcpvs.protocols import http1
from ktcpvs.protocols.http1 import BadFrame, BadRequest
from ktcpvs.system.access_log_files import AccessLog
from tests.fuzz.guarded_amp import Failures
from tests.fuzz.messages import feed_all
from tests.memory import Peer, World

A, B = "10.0.0.1:80", "10.0.0.2:80"
_SERVERS = (f"server = {A}", f"server = {B} 2", f"redirect = {A}")
_RULES = (f'rule = pattern "^/a" use server {A}', f'rule = pattern "^/" use server {A} server {B}')
TOLD = ("x_forwarded_for = replace", "via = append")

SERVICES = {
    b"p": ("scheduler = phttp", *_SERVERS[:2], *_RULES),
    b"t": ("scheduler = phttp", *_SERVERS[:2], *_RULES, *TOLD),
    b"c": ("scheduler = chttp", *_SERVERS, *_RULES, *TOLD),
    b"q": ("scheduler = phttp", f"server = {A} maxconn 1", 'rule = pattern "^/a" use server ' + A),
    b"j": ("scheduler = phttp", *_SERVERS, *_RULES, *TOLD),
    b"h": ("scheduler = http", *_SERVERS, *_RULES),
    b"w": ("scheduler = wlc", *_SERVERS),
}
SETTINGS = "head_size = 512 head_lines = 12 uri_size = 128 body_size = 100 pool_size = 2"
LOUD = (b"q", b"h")
"""The services where every step is logged; the others use the fast path."""

LOGGED = (b"j", b"w")
"""The services with an access log."""

LONG = 1000
"""The number of repetitions of the bytes of a large event."""

PIECE = 65536
"""The most bytes that are sent at once."""

HELD_MOST = MAX_PENDING_BYTES + PIECE + 4 * 512
"""The most bytes that a connection may hold of later requests and of a body that waits: its limit, a piece, heads."""

EVENTS = {
    b"n": "a new client comes, and the next events are its own (at most 4)",
    b"1": "the next events are those of the first client; 2, 3 and 4: of the others",
    b"c": "the client sends it",
    b"d": "the client sends it byte by byte",
    b"m": "the client sends it 1000 times",
    b"C": "the client sends a FIN",
    b"R": "the client sends a reset",
    b"f": "the client takes no more",
    b"g": "the client takes again",
    b"a": "the server that is called accepts",
    b"r": "the server that is called refuses",
    b"s": "the server sends it: the one whose response is awaited, or the last one",
    b"e": "the server sends it byte by byte",
    b"M": "the server sends it 1000 times",
    b"E": "the server sends a FIN",
    b"X": "the server sends a reset",
    b"F": "the server takes no more",
    b"G": "the server takes again",
    b"t": "seconds pass: as many as the next byte says",
    b"l": "a configuration is loaded in which the second server is gone, or there again",
}


class Play:
    """One switch, its clients and servers, and all that they have sent and received."""

    def __init__(self, service: bytes, lines: tuple[str, ...] | None = None) -> None:
        """lines: of the service's configuration; None: those of SERVICES."""
        self._lines = lines or SERVICES[service]
        self._one_server = False
        self._destinations: set[Destination] = set()
        self._settings = f"{SETTINGS} debug_level = 12" if service in LOUD else SETTINGS
        self.world = World(*self._lines, settings=self._settings)
        self.logged: list[dict[str, Any]] | None = [] if service in LOGGED else None
        self._keep_log()
        self.clients: list[Peer] = []
        self.servers: list[Peer] = []
        self.client: Peer | None = None
        self.said: dict[Peer, bytes] = {}
        self.heard: dict[Peer, bytes] = {}
        self._calls = 0  # the number of the reactor's calls that are done

    def _keep_log(self) -> None:
        """Give the service this log, in memory; loading a configuration removes it."""
        live = self.world.live
        if self.logged is not None:
            live.traffic.access_log.writer = AccessLogWriter(
                self.world.context, cast(AccessLog, self), "json", "s", live.config.scheduler
            )
            live.apply_settings()

    def write(self, line: bytes) -> None:
        """Record a line of the access log."""
        assert self.logged is not None
        self.logged.append(json.loads(line))

    def happens(self, event: bytes, said: bytes) -> None:
        if event == b"n":
            if len(self.clients) < 4:
                self.client = self.world.client()
                self.clients.append(self.client)
        elif event in (b"1", b"2", b"3", b"4"):
            number = int(event)
            self.client = self.clients[number - 1] if number <= len(self.clients) else self.client
        elif event == b"t":
            self.world.passes(min(said[0], 200) if said else 1)
        elif event == b"l":
            self._loads()
        elif event in (b"a", b"r"):
            self._called(event == b"a")
        elif event in (b"c", b"d", b"m", b"C", b"R", b"f", b"g"):
            self._peer(self.client, event, said)
        else:
            self._peer(self._server(), {b"M": b"m", b"e": b"d"}.get(event, event), said)
        self._settled()

    def _loads(self) -> None:
        self._one_server = not self._one_server
        lines = self._lines
        if self._one_server:
            lines = tuple(line.replace(f" server {B}", "") for line in lines if not line.startswith(f"server = {B}"))
        self.world.load(*lines, settings=self._settings)
        self._keep_log()

    def _server(self) -> Peer | None:
        """Return the server connection of an event: one that is being established, or the last one."""
        there = [peer for peer in self.servers if peer.stream.is_open]
        busy = [peer for peer in there if getattr(peer.stream, "exchange", None) is not None]
        return [None, *there, *busy][-1]

    def _called(self, accepts: bool) -> None:
        calls: Any = self.world.reactor.tcpClients
        open_calls = [call for call in calls[self._calls :] if not call[2].is_over]
        if not open_calls:
            return
        factory = open_calls[0][2]
        self._calls = calls.index(open_calls[0]) + 1
        if accepts:
            self.servers.append(self.world.peer(factory.buildProtocol(None)))
        else:
            self.world.refuse(factory)

    def _peer(self, peer: Peer | None, event: bytes, said: bytes) -> None:
        if peer is None or not peer.stream.is_open or peer.line.disconnecting or peer.line.aborted:
            return
        if event in (b"c", b"s"):
            self.says(peer, said)
        elif event == b"d":
            for place in range(len(said)):
                self.says(peer, said[place : place + 1])
        elif event == b"m":
            many = said * LONG
            for begin in range(0, min(len(many), 8 * PIECE), PIECE):
                self.says(peer, many[begin : begin + PIECE])
        elif event in (b"C", b"E"):
            if not getattr(peer, "has_ended", False) and peer.is_read():
                peer.has_ended = True  # type: ignore[attr-defined]
                peer.ends()
        elif event in (b"R", b"X"):
            peer.resets()
        elif event in (b"f", b"F"):
            if peer.line.producer is not None:
                peer.fills_up()
        elif peer.line.producer is not None:
            peer.takes_again()

    def says(self, peer: Peer, data: bytes) -> None:
        if data and peer.is_open and peer.is_read() and not getattr(peer, "has_ended", False):
            self.said[peer] = self.said.get(peer, b"") + data
            peer.says(data)
            self._holds_little()

    def _holds_little(self) -> None:
        for connection in self.world.live.connections:
            if isinstance(connection, HTTPClientConnection):
                assert connection.held_bytes <= HELD_MOST, connection

    def _settled(self) -> None:
        self.world.settle()
        live = self.world.live
        self._destinations.update(
            live.destinations.values(), live.leaving.values(), filter(None, (live.selector.redirect,))
        )
        for peer in self.world.peers:
            self.heard[peer] = self.heard.get(peer, b"") + peer.heard()

    def ends(self) -> Ended:
        """End all connections, and check that none is counted any more."""
        self.world.reset_all()
        self._settled()
        self.world.close()
        sent = sum(destination.total for destination in self._destinations)
        clients, servers = (
            [(self.said.get(peer, b""), self.heard.get(peer, b"")) for peer in peers]
            for peers in (self.clients, self.servers)
        )
        return Ended(sent, clients, servers, self.logged)


@dataclass
class Ended:
    """sent: how many requests, or connections, the switch sent to servers. clients, servers: the bytes that each has
    sent and received. logged: the lines of the access log; None: there is none."""

    sent: int
    clients: list[tuple[bytes, bytes]]
    servers: list[tuple[bytes, bytes]]
    logged: list[dict[str, Any]] | None


def connections(data: bytes) -> None:
    """Play a script: no exception, nothing left or held, and no request that the switch did not send."""
    service, events = data[:1], data[1:].split(b"\0")[:200]
    if service not in SERVICES:
        return
    with Failures():
        ended = _played(service, events)
    if ended.logged is not None:
        assert sum(line["bytes_out"] for line in ended.logged) <= sum(len(heard) for _, heard in ended.clients)
        assert sum(1 + line["retries"] for line in ended.logged) >= ended.sent, "a request that the log does not know"
    if service in (b"h", b"w"):
        for _, heard in ended.servers:
            assert any(said.startswith(heard) for said, _ in ended.clients), "a server hears what no client said"
        return
    seen = [one for said, heard in ended.servers for one in requests_of(said, heard, told=service in (b"t", b"c"))]
    assert len(seen) == ended.sent, f"servers see {len(seen)} requests, the switch sent {ended.sent}"
    asked = [asked_of(said) for said, _ in ended.clients]
    known = {request for requests in asked for request in requests}
    made = [
        (method, path, b"" if (method, path, b"") in known and SERVER.fullmatch(host) else host)
        for method, path, host in seen
    ]
    assert known.issuperset(made), "a server sees a request that no client made"
    for requests, (_, heard) in zip(asked, ended.clients, strict=True):
        _answers_of(heard, [method for method, _, _ in requests])


Asked = tuple[bytes, bytes, bytes]
"""The method, the path and the host of a request."""

SERVER = re.compile(rb"10\.0\.0\.[0-9]:80")
"""The Host that the switch sends for a client of HTTP/1.0 without one."""


def _played(service: bytes, events: list[bytes]) -> Ended:
    play = Play(service)
    play.happens(b"n", b"")
    for event in events:
        if event[:1] in EVENTS:
            play.happens(event[:1], event[1:])
    return play.ends()


def requests_of(said: bytes, heard: bytes, told: bool) -> list[Asked]:
    """The requests in all that a server has received; h11 sees as many, as far as it accepts them."""
    rest = heard
    seen: list[Asked] = []
    h11_follows = True
    while rest:
        found = http1.REQUEST.match(rest)
        assert found is not None, rest[:200]
        try:
            request = http1.Request(found)
        except BadRequest as bad:
            raise AssertionError(f"a server gets what the switch would not take: {bad}") from None
        seen.append((request.method, request.path, request.host))
        if told:
            own = [line for line in request.lines.split(b"\r\n") if line.lower().startswith(b"x-forwarded-for:")]
            assert own == [b"X-Forwarded-For: 192.0.2.1"], "a request that the switch has not written"
            assert request.lines.count(b" ktcpvs\r\n") >= 1
        if request.upgrades() and b" 101" in said:
            return seen  # the rest are the bytes of an upgraded connection
        frame = request.frame()
        try:
            taken, _ = feed_all(frame, rest[found.end() :])
        except BadFrame as bad:
            raise AssertionError(f"a server gets a body that the switch would not take: {bad}") from None
        whole = found.end() + taken
        if h11_follows:
            theirs = _h11_end(rest)
            h11_follows = theirs is not None
            assert theirs in (None, len(rest) if not frame.done else whole), "h11 sees the end elsewhere"
        if not frame.done:
            return seen
        rest = rest[whole:]
    return seen


def _h11_end(data: bytes) -> int | None:
    """Return the end of the first request for h11; the length of `data` when it has not ended; None: h11 refuses it."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(data)
    try:
        while True:
            event = server.next_event()
            if event is h11.NEED_DATA:
                return len(data)
            if isinstance(event, h11.EndOfMessage):
                return len(data) - len(server.trailing_data[0])
    except h11.RemoteProtocolError:
        return None


def _answers_of(heard: bytes, methods: list[bytes]) -> None:
    """Check that a client gets at most one response per request, and one for an invalid request."""
    for method in [*methods, b"GET"]:
        while True:
            if not heard:
                return
            read = http1.read_response(heard, method, 1 << 16)
            assert read is not None, heard[:200]
            answer, end = read
            heard = heard[end:]
            if answer.status >= 200:
                break
            if answer.status == 101:
                return
        heard = heard[feed_all(answer.frame, heard)[0] :]
        if not answer.keep_alive or not answer.frame.done:
            return
    assert not heard, f"more answers than requests: {heard[:200]!r}"


def asked_of(said: bytes) -> list[Asked]:
    """The requests that a client has sent, up to the first that cannot be read."""
    asked: list[Asked] = []
    try:
        while True:
            said = said.lstrip(b"\r\n")
            found = http1.REQUEST.match(said)
            if found is None:
                return asked
            request = http1.Request(found)
            asked.append((request.method, request.path, request.host))
            frame = request.frame()
            said = said[found.end() :]
            said = said[feed_all(frame, said)[0] :]
            if not frame.done:
                return asked
    except (BadRequest, BadFrame):
        return asked


TARGETS: dict[str, Callable[[bytes], None]] = {"connections": connections}
