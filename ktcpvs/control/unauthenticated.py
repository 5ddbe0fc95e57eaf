"""TLS clients of the control connection, which are unauthenticated until their certificates have been verified.

Only then an Administrator takes the connection over. Unauthenticated clients are limited in time and number, and many
refused ones make few lines in the log.
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

from ktcpvs.control.certificates import TLSContext, VerifyErrors, openssl_reason, peer_name
from ktcpvs.control.server import ControlFactory
from ktcpvs.model.settings import Settings
from ktcpvs.system.log import EventLog
from ktcpvs.system.periodic import PeriodicJob

REFUSAL_LOG_INTERVAL = 1.0
"""Seconds between two lines about refused connections."""

_KEEPALIVE = {
    socket.TCP_KEEPIDLE: 60,
    socket.TCP_KEEPINTVL: 15,
    socket.TCP_KEEPCNT: 4,
    socket.TCP_USER_TIMEOUT: 120_000,
}
"""TCP options that detect within two minutes that an administrator's machine is gone (tcp(7))."""


def _keep_alive(sock: socket.socket | None) -> None:
    """Let TCP detect that an administrator's machine is gone. sock: None for a transport without a socket, as in
    memory."""
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class RefusalLog:
    """Logs refused connections, at most one line in REFUSAL_LOG_INTERVAL."""

    def __init__(self, log: EventLog, clock: Any) -> None:
        """clock: a reactor."""
        self._log = log
        self._unlogged = 0
        self._job = PeriodicJob(clock, self._log_count, lambda why: None, REFUSAL_LOG_INTERVAL)

    def add(self, peer: str, why: str) -> None:
        """Log one refusal, or count it for the next line."""
        if self._job.is_scheduled:
            self._unlogged += 1
            return
        self._log.warn("control connection refused: {peer}: {why}", peer=peer, why=why)
        self._job.start(REFUSAL_LOG_INTERVAL)

    def _log_count(self) -> float | None:
        """Log how many were refused since the last line, and return when to look again; None where there were none."""
        count, self._unlogged = self._unlogged, 0
        if not count:
            return None
        self._log.warn("control connections refused: {n} more since the last such line", n=count)
        return REFUSAL_LOG_INTERVAL

    def close(self) -> None:
        """Log the last count."""
        self._job.stop()
        self._log_count()


@implementer(IHandshakeListener)
class UnauthenticatedClient(Protocol):
    """A connection until its handshake is done. verify_errors: the defects of the client's certificate."""

    transport: Any

    def __init__(self, factory: TLSControlFactory) -> None:
        self.verify_errors = VerifyErrors()
        self._tls_factory = factory
        self._timer: Any = None
        self._is_refused = False

    def connectionMade(self) -> None:
        self._timer = self._tls_factory.add(self)

    def handshakeCompleted(self) -> None:
        self._deregister()
        name = peer_name(self.transport.getHandle())
        administrator = self._tls_factory.control_factory.buildProtocol(None)
        if administrator is None:  # too many connections, which the factory has logged
            self.transport.abortConnection()
            return
        _keep_alive(getattr(self.transport, "socket", None))
        administrator.peer_name = f"{name} from {self._address()}"
        self.transport.wrappedProtocol = administrator
        administrator.makeConnection(self.transport)

    def connectionLost(self, why: Failure) -> None:  # type: ignore[override]
        self._deregister()
        if not self._is_refused:
            self._tls_factory.refusals.add(self._address(), self._explain(why))

    def refuse(self, why: str) -> None:
        """Close the connection. why: for the log."""
        self._deregister()
        self._is_refused = True
        self._tls_factory.refusals.add(self._address(), why)
        self.transport.abortConnection()

    def _deregister(self) -> None:
        self._tls_factory.remove(self)
        if self._timer is not None:
            if self._timer.active():
                self._timer.cancel()
            self._timer = None

    def _address(self) -> str:
        peer = self.transport.getPeer()
        return f"[{peer.host}]:{peer.port}" if ":" in peer.host else f"{peer.host}:{peer.port}"

    def _explain(self, why: Failure) -> str:
        if self.verify_errors:
            return str(self.verify_errors)
        if not isinstance(why.value, SSL.Error):
            return "the client closed the connection before it had shown a certificate"
        reason = openssl_reason(why.value)
        if "peer did not return a certificate" in reason:
            return "the client has no certificate"
        if "alert" in reason:
            return f"the client does not accept the daemon's certificate ({reason})"
        return f"the client does not speak TLS correctly ({reason})"


@implementer(IOpenSSLServerConnectionCreator)
class TLSControlFactory(ServerFactory):
    """Makes an UnauthenticatedClient for each connection, which becomes an Administrator of `control_factory` when its
    certificate has been verified.

    context: the daemon's certificate and the CAs that it trusts; a new one holds for new connections.
    """

    noisy = False

    def __init__(
        self,
        control_factory: ControlFactory,
        context: TLSContext,
        settings: Callable[[], Settings],
        log: EventLog,
        reactor: Any,
    ) -> None:
        self.control_factory = control_factory
        self.context = context
        self.refusals = RefusalLog(log, reactor)
        self.clients: dict[UnauthenticatedClient, None] = {}  # the oldest first
        self._settings = settings
        self._reactor = reactor

    def over_tls(self) -> TLSMemoryBIOFactory:
        """Return the factory to listen with."""
        return TLSMemoryBIOFactory(self, False, self, self._reactor)

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """As IOpenSSLServerConnectionCreator describes."""
        return self.context.serverConnectionForTLS(protocol)

    def buildProtocol(self, addr: Any) -> UnauthenticatedClient:
        return UnauthenticatedClient(self)

    def add(self, client: UnauthenticatedClient) -> Any:
        """Register a client, refuse the oldest ones if there are too many, and return the timer of the handshake."""
        settings = self._settings()
        self.clients[client] = None
        for oldest in list(self.clients)[: -settings.control_handshakes]:
            oldest.refuse(f"it was the oldest of more than {settings.control_handshakes} clients without a certificate")
        why = f"no certificate within {settings.control_handshake_timeout} s"
        return self._reactor.callLater(settings.control_handshake_timeout, client.refuse, why)

    def remove(self, client: UnauthenticatedClient) -> None:
        """Forget a client: its handshake is done, or its connection is closed."""
        self.clients.pop(client, None)

    def close_all(self) -> None:
        """Close all connections of unauthenticated clients."""
        for client in list(self.clients):
            client.refuse("the daemon ends")
        self.refusals.close()
