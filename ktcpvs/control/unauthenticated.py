"""Who comes over TLS is a stranger until a certificate says who it is; only then there is an administrator.

Strangers have little time and little room, and many of them make few lines in the log.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from ktcpvs.control.certificates import End, Found, peer, reason
from ktcpvs.control.server import ControlFactory
from ktcpvs.model.settings import Settings
from ktcpvs.system.log import EventLog
from ktcpvs.system.periodic import PeriodicJob

TOLD_EVERY = 1.0
"""Seconds between two lines about strangers that were refused."""

_ALIVE = {
    socket.TCP_KEEPIDLE: 60,
    socket.TCP_KEEPINTVL: 15,
    socket.TCP_KEEPCNT: 4,
    socket.TCP_USER_TIMEOUT: 120_000,
}
"""An administrator whose machine is gone is found out within two minutes (tcp(7))."""


def _keep_alive(sock: socket.socket | None) -> None:
    """sock: None where there is none, as in memory."""
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _ALIVE.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class Refused:
    """Tells of strangers that were refused, in one line every TOLD_EVERY seconds."""

    def __init__(self, log: EventLog, clock: Any) -> None:
        """clock: a reactor."""
        self._log = log
        self._untold = 0
        self._job = PeriodicJob(clock, self._tell_rest, lambda why: None, TOLD_EVERY)

    def tell(self, who: str, why: str) -> None:
        """One more was refused."""
        if self._job.is_scheduled:
            self._untold += 1
            return
        self._log.warn("control connection refused: {who}: {why}", who=who, why=why)
        self._job.start(TOLD_EVERY)

    def _tell_rest(self) -> float | None:
        """Tell how many were refused since the last line; None: nobody was."""
        untold, self._untold = self._untold, 0
        if not untold:
            return None
        self._log.warn("control connections refused: {n} more since the last such line", n=untold)
        return TOLD_EVERY

    def close(self) -> None:
        """Tell what is left."""
        self._job.stop()
        self._tell_rest()


@implementer(IHandshakeListener)
class UnauthenticatedClient(Protocol):
    """One connection until its handshake is done. found: what is wrong with its certificate."""

    transport: Any

    def __init__(self, strangers: TLSControlFactory) -> None:
        self.found = Found()
        self._strangers = strangers
        self._timer: Any = None
        self._told = False

    def connectionMade(self) -> None:
        self._timer = self._strangers.came(self)

    def handshakeCompleted(self) -> None:
        self._leave()
        name = peer(self.transport.getHandle())
        administrator = self._strangers.factory.buildProtocol(None)
        if administrator is None:  # there are many, which has been told
            self.transport.abortConnection()
            return
        _keep_alive(getattr(self.transport, "socket", None))
        administrator.who = f"{name} from {self._address()}"
        self.transport.wrappedProtocol = administrator
        administrator.makeConnection(self.transport)

    def connectionLost(self, why: Failure) -> None:  # type: ignore[override]
        self._leave()
        if not self._told:
            self._strangers.refused.tell(self._address(), self._in_words(why))

    def turn_away(self, why: str) -> None:
        """End it. why: in words, for the log."""
        self._leave()
        self._told = True
        self._strangers.refused.tell(self._address(), why)
        self.transport.abortConnection()

    def _leave(self) -> None:
        self._strangers.left(self)
        if self._timer is not None:
            if self._timer.active():
                self._timer.cancel()
            self._timer = None

    def _address(self) -> str:
        at = self.transport.getPeer()
        return f"[{at.host}]:{at.port}" if ":" in at.host else f"{at.host}:{at.port}"

    def _in_words(self, why: Failure) -> str:
        if self.found:
            return str(self.found)
        if not isinstance(why.value, SSL.Error):
            return "it went before it had shown a certificate"
        said = reason(why.value)
        if "peer did not return a certificate" in said:
            return "it has no certificate"
        return f"it does not accept ours ({said})" if "alert" in said else f"it does not speak as TLS does ({said})"


@implementer(IOpenSSLServerConnectionCreator)
class TLSControlFactory(ServerFactory):
    """Makes a Stranger of each connection, and an administrator of whom its certificate lets in. factory: makes those.
    end: what the daemon shows, and whom it trusts; for the next connections it may be another."""

    noisy = False

    def __init__(
        self, factory: ControlFactory, end: End, settings: Callable[[], Settings], log: EventLog, reactor: Any
    ) -> None:
        self.factory = factory
        self.end = end
        self.refused = Refused(log, reactor)
        self._settings = settings
        self._reactor = reactor
        self._here: dict[UnauthenticatedClient, None] = {}  # the oldest first

    def over_tls(self) -> TLSMemoryBIOFactory:
        """What listens."""
        return TLSMemoryBIOFactory(self, False, self, self._reactor)

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """As Twisted wants it."""
        return self.end.serverConnectionForTLS(protocol)

    def buildProtocol(self, addr: Any) -> UnauthenticatedClient:
        return UnauthenticatedClient(self)

    def came(self, stranger: UnauthenticatedClient) -> Any:
        """Let it in as a stranger, in the place of the oldest if need be; the timer that ends it."""
        settings = self._settings()
        self._here[stranger] = None
        for oldest in list(self._here)[: -settings.control_handshakes]:
            oldest.turn_away(f"the oldest of more than {settings.control_handshakes} that had shown no certificate")
        why = f"no certificate within {settings.control_handshake_timeout} s"
        return self._reactor.callLater(settings.control_handshake_timeout, stranger.turn_away, why)

    def left(self, stranger: UnauthenticatedClient) -> None:
        """It is a stranger no more."""
        self._here.pop(stranger, None)

    def close_all(self) -> None:
        """End them all."""
        for stranger in list(self._here):
            stranger.turn_away("the daemon ends")
        self.refused.close()
