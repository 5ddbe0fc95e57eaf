"""Checks: each ends within its timeout, whatever its server and its probe do, and the next one follows."""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from memory import Line, Peer, World, log_into
from tls_peers import MemorySocket, TLSPeer, authority
from tls_servers import server_context
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.python.failure import Failure

from ktcpvs.health.active_checks import ALERT_WAIT, MAX_RESPONSE, MAX_RUNNING, RESET, ActiveChecks
from ktcpvs.model.check import Check
from ktcpvs.model.destination import Destination
from ktcpvs.model.health import DOWN, UP
from ktcpvs.runtime.context import Context
from ktcpvs.streams.connector import Connector

A, B = "127.0.0.1:80", "127.0.0.2:80"  # the reactor in memory finds every name there
QUICK = "check_interval = 5", "check_timeout = 2", "check_fall = 1", "check_rise = 1"
NOTHING_CAME = "check: nothing within 2 s"
STALLS = {
    "connect": None,
    "nothing": b"",
    "head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal",
}


class Checked(World):
    """A switch whose server A is checked. lines: its log."""

    def __init__(self, *lines: str, server_words: str = "") -> None:
        self.lines: list[str] = []
        super().__init__("scheduler = wlc", f"server = {A} {server_words}", *QUICK, *lines)
        self.context.log = log_into(self.lines)
        self.hung_up: list[Line] = []

    @property
    def server(self) -> Destination:
        return next(iter(self.live.destinations.values()))

    def waits_for_check(self, address: str = A) -> None:
        """Advance the clock until a check connects to the server."""
        for _ in range(7):
            if self._called < len(self.reactor.tcpClients):
                break
            self.passes(1)
        assert self.called() == [address]

    def server_says(self, data: bytes | None) -> None:
        """Accept the check's connection and send `data`; None: do not even accept."""
        if data is None:
            return
        line = Line()
        self.hung_up.append(line)
        protocol = self.reactor.tcpClients[-1][2].buildProtocol(None)
        protocol.makeConnection(line)
        self.passes(0)
        if data:
            protocol.dataReceived(data)


@pytest.mark.parametrize("said", STALLS.values(), ids=STALLS)
@pytest.mark.parametrize("check", ["check = http /health", 'check = send "PING" expect "PONG"'], ids=["http", "send"])
def test_a_server_that_stalls_is_down_and_is_checked_again(check: str, said: bytes | None) -> None:
    world = Checked(check)
    for _ in range(3):
        world.waits_for_check()
        world.server_says(said)
        world.passes(3)
        assert (world.server.health.state, world.server.health.reason) == (DOWN, NOTHING_CAME)
        assert all(line.aborted or line.reset_on_close for line in world.hung_up)
        assert isinstance(world.director.checks, ActiveChecks)
        assert world.director.checks.running == 0
    assert world.lines == [f"service s: server {A} is down: {NOTHING_CAME}"]
    world.close()


@pytest.mark.parametrize("said", STALLS.values(), ids=STALLS)
def test_an_edit_ends_a_check_that_stalls(said: bytes | None) -> None:
    world = Checked("check = http /health")
    world.waits_for_check()
    world.server_says(said)
    world.load("scheduler = wlc", f"server = {B}", *QUICK)
    assert all(line.aborted for line in world.hung_up)
    assert [str(one) for one in world.live.destinations] == [B]
    assert world.lines == [
        "loaded: service s: check: http /health -> off",
        f"loaded: service s: - server {A}, which drains",
        f"loaded: service s: + server {B}, weight 1",
    ]
    world.passes(20)
    assert world.called() == []
    world.close()


@pytest.mark.parametrize("check", ["check = tcp", "check = http /health", 'check = send "PING" expect "PONG"'])
@pytest.mark.parametrize(("number", "state"), [(errno.EMFILE, UP), (errno.ECONNREFUSED, DOWN)])
def test_a_lack_of_descriptors_says_nothing_of_a_server(check: str, number: int, state: str) -> None:
    world = Checked(check)
    for _ in range(3):
        world.waits_for_check()
        error = ConnectError(number, os.strerror(number))
        world.reactor.tcpClients[-1][2].clientConnectionFailed(None, Failure(error))
        world.passes(1)
        assert world.server.health.state == state
    world.close()


FULL = 'check = http OPTIONS /up host app.example header "X-Probe: yes" port 8008 expect 204 200 body "role: master"'


def ok(*lines: str, status: str = "200 OK", body: str = "") -> bytes:
    head = "\r\n".join((f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines))
    return f"{head}\r\n\r\n{body}".encode()


def test_a_check_with_its_own_port_host_method_fields_and_body() -> None:
    world = Checked(FULL)
    world.waits_for_check("127.0.0.1:8008")
    world.server_says(ok(body="status: up\nrole: master\n"))
    (line,) = world.hung_up
    sent = line.value().decode().split("\r\n")
    assert sent[0] == "OPTIONS /up HTTP/1.1"
    assert {"Host: app.example", "X-Probe: yes"} <= set(sent)
    assert (world.server.health.state, world.server.health.response) == (UP, "HTTP/1.1 200 OK")
    world.close()


@pytest.mark.parametrize(
    ("response", "reason", "shown"),
    [
        (
            ok(body="role: replica"),
            "check: the response's body does not have 'role: master'",
            "HTTP/1.1 200 OK",
        ),
        (ok(status="503 Not now"), "check: status 503", "HTTP/1.1 503 Not now"),
        (ok(body=" " * (1 << 16) + "role: master"), "check: the response's body does not have 'role: master'",
         "HTTP/1.1 200 OK"),
    ],
)  # fmt: skip
def test_a_response_that_is_not_the_expected_one(response: bytes, reason: str, shown: str) -> None:
    world = Checked(FULL)
    world.waits_for_check("127.0.0.1:8008")
    world.server_says(response)
    health = world.server.health
    assert (health.state, health.reason, health.response) == (DOWN, reason, shown)
    world.close()


def test_a_server_with_an_address_for_its_checks() -> None:
    world = Checked("check = tcp port 99")
    world.load("scheduler = wlc", f"server = {A} 1 check {B}", *QUICK, "check = tcp port 99")
    world.passes(14)
    assert B in world.called()
    world.passes(14)
    assert set(world.called()) == {B}
    world.close()


def test_the_first_line_of_a_text_check_is_shown() -> None:
    world = Checked('check = send "INFO" expect "role:master"')
    world.waits_for_check()
    world.server_says(b"+OK\r\nrole:slave\r\n" + bytes(MAX_RESPONSE))
    health = world.server.health
    assert (health.state, health.response) == (DOWN, "+OK")
    world.close()


def weighed(*lines: str) -> Checked:
    world = Checked("check = http / weight X-Weight")
    world.load("scheduler = wlc", f"server = {A} 8", *QUICK, "check = http / weight X-Weight", *lines)
    return world


def responds(world: Checked, *lines: str) -> None:
    """Let the next check get a response with these fields."""
    world.waits_for_check()
    world.server_says(ok("Connection: close", *lines))
    world.hung_up[-1].disconnecting = True


def test_weights_come_from_checks() -> None:
    world = weighed()
    for value, weight in (("50%", 4), ("3", 3), ("x", 3), ("100%", 8), ("0", 8)):
        responds(world, f"X-Weight: {value}")
        assert world.server.weight == weight
        assert world.live.selector.excluded == ({world.server} if value == "0" else set())
    responds(world)  # without the field the weight stays
    assert world.live.selector.excluded == {world.server}
    assert sum("weights that are none" in line for line in world.lines) == 1
    world.load("scheduler = wlc", f"server = {A} 8", *QUICK, "check = http /")
    assert world.server.weight == 8
    assert world.live.selector.excluded == set()
    world.close()


def test_an_edit_keeps_the_weight_of_a_check() -> None:
    world = weighed()
    responds(world, "X-Weight: 25%")
    world.load("scheduler = wlc", f"server = {A} 40", *QUICK, "check = http / weight X-Weight")
    assert world.server.weight == 10
    world.close()


# With TLS 1.3, where a server refuses the switch's certificate after the handshake.


class CheckedByTLS(Checked):
    """A switch whose server A speaks TLS and is checked by `tcp`."""

    def __init__(self) -> None:
        super().__init__("check = tcp", server_words=f"tls ca {authority().pem} name localhost")

    @property
    def running(self) -> int:
        """The number of checks in progress."""
        assert isinstance(self.director.checks, ActiveChecks)
        return self.director.checks.running

    def handshake(self, **wanted: Any) -> tuple[Peer, TLSPeer]:
        """Accept the connection of the check, and do the server's handshake. wanted: as for `server_context`."""
        peer = self.connects()
        context = server_context(num_tickets=0, **wanted)
        return peer, TLSPeer(MemorySocket(self, peer), context, server_side=True)

    def end(self) -> None:
        self.settle()
        self.close()


def test_a_tcp_check_waits_a_moment_for_a_refusal() -> None:
    world = CheckedByTLS()
    world.waits_for_check()
    peer, _ = world.handshake()
    world.reactor.advance(ALERT_WAIT - 0.1)
    assert (peer.is_open, world.running) == (True, 1)
    world.reactor.advance(0.1)
    assert (peer.is_open, world.running, world.server.health.state) == (False, 0, UP)
    world.end()


def test_a_tcp_check_does_not_wait_where_the_server_has_sent_something() -> None:
    world = CheckedByTLS()
    world.waits_for_check()
    peer, server = world.handshake()
    server.sendall(b"220 hello\r\n")
    assert (peer.is_open, world.running, world.server.health.state) == (False, 0, UP)
    world.end()


@pytest.mark.parametrize("notifies", [True, False])
def test_a_tcp_check_does_not_wait_where_the_server_ends_its_side(notifies: bool) -> None:
    """The check has sent close_notify, to which servers respond so, some of them with a FIN alone."""
    world = CheckedByTLS()
    world.waits_for_check()
    peer, server = world.handshake()
    assert server.recv(1) == b""
    assert not server.is_truncated
    if notifies:
        server.notify()
    else:
        peer.ends()
        world.settle()
    assert (peer.is_open, world.running, world.server.health.state) == (False, 0, UP)
    world.end()


def test_a_tcp_check_does_not_wait_with_tls_1_2() -> None:
    world = CheckedByTLS()
    world.waits_for_check()
    peer, _ = world.handshake(maximum_version=ssl.TLSVersion.TLSv1_2)
    assert (peer.is_open, world.running, world.server.health.state) == (False, 0, UP)
    world.end()


def test_a_tcp_check_passes_before_its_timeout() -> None:
    """A server that is slow to accept is not down for the time that the check waits for its refusal."""
    world = CheckedByTLS()
    world.waits_for_check()
    world.reactor.advance(1.7)
    peer, _ = world.handshake()
    assert world.running == 1
    world.reactor.advance(0.15)
    assert (peer.is_open, world.running, world.server.health.state) == (False, 0, UP)
    world.end()


def test_a_tcp_check_notices_a_refusal() -> None:
    world = CheckedByTLS()
    world.waits_for_check()
    with pytest.raises(ssl.SSLError, match=r"(?i)peer.did.not.return.a.certificate"):
        world.handshake(verify_mode=ssl.CERT_REQUIRED)
    world.settle()
    health = world.server.health
    assert (health.state, health.reason) == (DOWN, "check: TLS: the peer sent an alert: certificate required")
    world.end()


def test_a_tcp_check_notices_a_reset_after_the_handshake() -> None:
    world = CheckedByTLS()
    world.waits_for_check()
    peer, _ = world.handshake()
    peer.resets()
    health = world.server.health
    assert (health.state, health.reason) == (DOWN, f"check: TLS: {RESET}")
    world.end()


def test_an_edit_ends_a_tcp_check_that_waits() -> None:
    world = CheckedByTLS()
    world.waits_for_check()
    peer, _ = world.handshake()
    world.load("scheduler = wlc", f"server = {B}", *QUICK)
    assert peer.line.aborted
    assert world.running == 0
    world.end()


class Probes(ActiveChecks):
    """Checks that are made by `make`, as those of a later kind might be. made: how many were begun."""

    def __init__(self, context: Context, make: Callable[[], Any]) -> None:
        super().__init__(context)
        self._make = make
        self.made = 0

    def probe(self, check: Check, destination: Destination, connector: Connector, timeout: float) -> Deferred[Any]:
        self.made += 1
        return self._make()  # type: ignore[no-any-return]


def _canceller_raises() -> Deferred[Any]:
    def cancel(_: Deferred[Any]) -> None:
        raise RuntimeError("cannot be cancelled")

    return Deferred(cancel)


@pytest.mark.parametrize("probe", [_canceller_raises, lambda: [][0], lambda: Deferred(lambda own: own.callback(None))])
def test_no_probe_ends_the_checks_of_its_server(probe: Callable[[], Any]) -> None:
    world = Checked("check = tcp")
    assert isinstance(world.director.checks, ActiveChecks)
    world.director.checks.stop()
    checks = world.director.checks = Probes(world.context, probe)
    checks.follow([world.live])
    world.passes(40)
    assert 5 <= checks.made <= 9
    assert checks.running <= 1
    assert world.server.health.state == DOWN
    checks.stop()
    assert checks.running == 0
    world.close()


def test_a_check_that_was_ended_reports_nothing() -> None:
    """Its connection to the server may not even be open."""
    world = Checked("check = tcp")
    world.waits_for_check()
    server = world.server
    world.load("scheduler = wlc", f"server = {A}", *QUICK)
    world.refuse(world.reactor.tcpClients[-1][2])
    assert server.health.state == UP
    world.passes(20)
    assert world.called() == []
    world.close()


def test_checks_wait_for_each_other_when_there_are_too_many() -> None:
    world = Checked("check = tcp")
    assert isinstance(world.director.checks, ActiveChecks)
    world.director.checks.running = MAX_RUNNING
    world.passes(10)
    assert world.called() == []
    world.director.checks.running = 0
    world.waits_for_check()
    world.close()
