"""The fuzz target for health checks: a check passes or fails for any bytes from the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from ktcpvs.health.active_checks import ActiveChecks
from ktcpvs.model.address import Inet
from ktcpvs.model.check import parse_check
from ktcpvs.model.destination import Destination
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.streams.connector import Connector
from ktcpvs.system.log import EventLog
from tests.fuzz.guarded_amp import Failures
from tests.fuzz.messages import pieces

HTTP = parse_check("http / expect 200 204 301")
TALK = parse_check('send "PING" expect "PONG"')


class Line(StringTransport):
    """The check's end of a connection. protocol: of the check."""

    gone = False

    def begin(self, protocol: Any) -> None:
        self.protocol = protocol
        protocol.makeConnection(self)

    def says(self, data: bytes) -> None:
        if not self.gone:
            self.protocol.dataReceived(data)

    def ends(self) -> None:
        if not self.gone:
            self.gone = True
            self.protocol.connectionLost(Failure(ConnectionDone()))

    loseConnection = abortConnection = ends

    def unregisterProducer(self) -> None:
        """Do nothing when no producer is registered, as a real transport."""


def checks(data: bytes) -> None:
    """The first line is the kind of check, `http` or another one; the server sends the rest."""
    kind, _, said = data.partition(b"\n")
    check = HTTP if kind == b"http" else TALK
    with Failures():
        outcomes = {_outcome(check, said, size) for size in (1, 3, max(len(said), 1))}
    assert len(outcomes) == 1, outcomes
    if check is TALK:
        assert outcomes == {b"PONG" in said}


def _outcome(check: Any, said: bytes, size: int) -> bool:
    """True when the check passes."""
    reactor = MemoryReactorClock()
    checks = ActiveChecks(Context(reactor, EventLog(), Descriptors(100)))
    found: list[Any] = []
    address = Inet("10.0.0.1", 80)
    probe = checks.probe(check, Destination(address), Connector(reactor, address, 5), timeout=2)
    probe.addBoth(found.append)
    reactor.advance(0)
    ((_, _, factory, _, _),) = reactor.tcpClients
    line = Line()
    line.begin(factory.buildProtocol(None))
    for piece in pieces(said, size):
        line.says(piece)
        reactor.advance(0)
    line.ends()
    assert found, "the connection is over, and the check is not"
    checks.stop()
    return not isinstance(found[0], Failure)


TARGETS: dict[str, Callable[[bytes], None]] = {"checks": checks}
