"""The control connection's TCP ports: plain TCP on loopback, and TLS with certificates over a network."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure

from ktcpvs.control.endpoints import ControlAddress, require_tls
from ktcpvs.control.server import ControlFactory
from ktcpvs.errors import CannotListen, NoTLS
from ktcpvs.model.address import Inet
from ktcpvs.model.settings import Settings
from ktcpvs.system.listening_process import process_of
from ktcpvs.system.log import ANNOUNCE, EventLog
from ktcpvs.system.periodic import PeriodicJob
from ktcpvs.system.sockets import is_in_use, name_holder, open_listener

BACKLOG = 128

RETRY_INTERVAL = 0.1
"""Seconds between two attempts to listen on a port on which the daemon that was taken over still listens."""

ATTEMPTS_BEFORE_WARNING = 10
"""Attempts after which the log warns that another program listens on the port."""

HeldSocket = Callable[[Inet], socket.socket | None]
"""Returns the listening socket that a service manager holds for an address; None: it holds none."""


class TCPControlListener:
    """Listens on a TCP port on loopback."""

    def __init__(
        self, reactor: Any, factory: Any, address: ControlAddress, held_socket: HeldSocket, log: EventLog
    ) -> None:
        self.address = address
        self._log = log
        self._inet = Inet(address.host, address.port)
        self._reactor = reactor
        self._factory = factory
        self._held_socket = held_socket
        self._port: Any = None
        self._attempts = 0
        self._retries = PeriodicJob(reactor, self._open_if_free, self._retry_failed, RETRY_INTERVAL)

    def is_at(self, name: Any) -> bool:
        """True where getsockname returns `name` for the socket of this listener."""
        return isinstance(name, tuple) and name[:2] == (self._inet.host, self._inet.port)

    def open(self) -> None:
        """Listen. Raises CannotListen."""
        try:
            self._listen()
        except CannotListen as error:
            raise self._named(error) from None

    def _named(self, refusal: CannotListen) -> CannotListen:
        other = process_of(self._inet) if is_in_use(refusal) else None
        return CannotListen(f"control {self.address}: {name_holder(refusal, self._inet, other)}")

    def _listen(self) -> None:
        held = self._held_socket(self._inet)
        sock = held.dup() if held is not None else open_listener(self._inet, BACKLOG)
        with sock:  # the reactor duplicates the descriptor
            self._port = self._reactor.adoptStreamPort(sock.fileno(), sock.family, self._factory)

    def open_when_free(self) -> None:
        """Listen as soon as the daemon that was taken over has closed the port."""
        self._attempts = 0
        self._retries.start()

    def _open_if_free(self) -> float | None:
        self._attempts += 1
        try:
            self._listen()
        except CannotListen as error:
            if self._attempts == ATTEMPTS_BEFORE_WARNING:
                self._log.warn("{why}; the daemon keeps trying", why=self._named(error))
            return RETRY_INTERVAL
        return None

    def _retry_failed(self, why: Failure) -> None:
        self._log.failure("control {where} cannot be opened", why, where=self.address)

    def release(self) -> None:
        """Accept no more connections."""
        self._retries.stop()
        if self._port is not None:
            self._port.stopListening()
            self._port = None

    def close(self) -> None:
        """Accept no more connections, at the end of the daemon."""
        self.release()

    def reload_certificates(self) -> None:
        """Do nothing: this listener has none."""

    def warn_unreadable_files(self, user: str) -> None:
        """Do nothing: this listener has no files."""


class TLSControlListener(TCPControlListener):
    """Listens on a TCP port with TLS, for clients with a certificate of the configured CA."""

    def __init__(
        self,
        reactor: Any,
        factory: ControlFactory,
        address: ControlAddress,
        held_socket: HeldSocket,
        settings: Callable[[], Settings],
        log: EventLog,
    ) -> None:
        """settings: returns the current settings. Raises NoTLS."""
        require_tls()
        from ktcpvs.control.unauthenticated import TLSControlFactory  # importing OpenSSL takes long

        self._log = log
        self.address = address
        self._tls_factory = TLSControlFactory(factory, self._load(may_wait=True), settings, log, reactor)
        super().__init__(reactor, self._tls_factory.over_tls(), address, held_socket, log)

    def _load(self, may_wait: bool) -> Any:
        """Load the certificate files. may_wait: as for `load_context`. Raises NoTLS."""
        from ktcpvs.control.certificates import load_context

        assert self.address.tls is not None
        try:
            context = load_context(self.address.tls, may_wait)
        except NoTLS as error:
            raise NoTLS(f"control {self.address}: {error}") from None
        if defect := context.server_defect():
            why = f"{defect}, so clients will not trust it"
            self._log.warn("control {where}: {why}", where=self.address, why=why)
        return context

    def reload_certificates(self) -> None:
        """Use the files as they are now for new connections; where they cannot be used, keep what was loaded before."""
        try:
            context = self._tls_factory.context = self._load(may_wait=False)
        except NoTLS as error:
            self._log.warn("SIGHUP: {why}; the certificates that were loaded before stay in use", why=error)
            return
        self._log.event(
            ANNOUNCE, "SIGHUP: control {where} uses the certificate of {context}", where=self.address, context=context
        )

    def warn_unreadable_files(self, user: str) -> None:
        for file in self.address.tls or ():
            if not os.access(file, os.R_OK):
                self._log.warn(
                    "control {where}: user {user} cannot read {file}, so SIGHUP cannot reload the certificates",
                    where=self.address, user=user, file=file,
                )  # fmt: skip

    def close(self) -> None:
        super().close()
        self._tls_factory.close_all()
