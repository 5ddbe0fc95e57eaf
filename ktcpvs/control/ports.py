"""Where administrators come in over TCP: on loopback as they are, over a network with TLS and certificates."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure

from ktcpvs.control.endpoints import ControlAddress, need_tls
from ktcpvs.control.server import ControlFactory
from ktcpvs.errors import CannotListen, NoTLS
from ktcpvs.model.address import Inet
from ktcpvs.model.settings import Settings
from ktcpvs.system.log import ANNOUNCE, EventLog
from ktcpvs.system.periodic import PeriodicJob
from ktcpvs.system.sockets import open_listener

BACKLOG = 128

AGAIN = 0.1
"""Seconds between two attempts to listen where the daemon before still does."""

TOLD_AFTER = 10
"""Attempts until the log is told that something listens there that was not taken over."""

Lasting = Callable[[Inet], socket.socket | None]
"""The listening socket of an address that a service manager holds, if there is one."""


class Port:
    """A TCP port on loopback."""

    def __init__(self, reactor: Any, factory: Any, where: ControlAddress, lasting: Lasting, log: EventLog) -> None:
        self.where = where
        self._log = log
        self._address = Inet(where.host, where.port)
        self._reactor = reactor
        self._factory = factory
        self._lasting = lasting
        self._port: Any = None
        self._attempts = 0
        self._again = PeriodicJob(reactor, self._open_if_free, self._failed, AGAIN)

    def is_at(self, name: Any) -> bool:
        """True for what getsockname says of its socket."""
        return isinstance(name, tuple) and name[:2] == (self._address.host, self._address.port)

    def open(self) -> None:
        """Listen. Raises CannotListen."""
        try:
            held = self._lasting(self._address)
            sock = held.dup() if held is not None else open_listener(self._address, BACKLOG)
        except CannotListen as error:
            raise CannotListen(f"control {self.where}: {error}") from None
        with sock:  # the reactor makes a descriptor of its own
            self._port = self._reactor.adoptStreamPort(sock.fileno(), sock.family, self._factory)

    def open_when_free(self) -> None:
        """Listen as soon as the daemon that was taken over listens no more."""
        self._attempts = 0
        self._again.start()

    def _open_if_free(self) -> float | None:
        self._attempts += 1
        try:
            self.open()
        except CannotListen as error:
            if self._attempts == TOLD_AFTER:
                self._log.warn("{why}; it is tried again and again", why=error)
            return AGAIN
        return None

    def _failed(self, why: Failure) -> None:
        self._log.failure("control {where} cannot be opened", why, where=self.where)

    def release(self) -> None:
        """Let nobody in any more."""
        self._again.stop()
        if self._port is not None:
            self._port.stopListening()
            self._port = None

    def close(self) -> None:
        """The same, at the end."""
        self.release()

    def read_again(self) -> None:
        """Certificates, of which there are none."""

    def warn_of(self, user: str) -> None:
        """What that user cannot read."""


class TLSPort(Port):
    """A TCP port with TLS, which lets in who has a certificate of our CA."""

    def __init__(
        self,
        reactor: Any,
        factory: ControlFactory,
        where: ControlAddress,
        lasting: Lasting,
        settings: Callable[[], Settings],
        log: EventLog,
    ) -> None:
        """settings: as they are at the moment. Raises NoTLS."""
        need_tls()
        from ktcpvs.control.unauthenticated import TLSControlFactory  # who has no TLS does not pay for it

        self._log = log
        self.where = where
        self._strangers = TLSControlFactory(factory, self._end(may_wait=True), settings, log, reactor)
        super().__init__(reactor, self._strangers.over_tls(), where, lasting, log)

    def _end(self, may_wait: bool) -> Any:
        """Return what the files hold. may_wait: as for `read_end`. Raises NoTLS."""
        from ktcpvs.control.certificates import read_end

        assert self.where.tls is not None
        try:
            end = read_end(self.where.tls, may_wait)
        except NoTLS as error:
            raise NoTLS(f"control {self.where}: {error}") from None
        if trouble := end.trouble():
            why = f"{trouble}: administrators will not trust it"
            self._log.warn("control {where}: {why}", where=self.where, why=why)
        return end

    def read_again(self) -> None:
        """The files as they are now hold for those who come from now on; if they are bad, the old ones."""
        try:
            self._strangers.end = self._end(may_wait=False)
        except NoTLS as error:
            self._log.warn("SIGHUP: {why}; what was read before holds", why=error)
            return
        end = self._strangers.end
        self._log.event(ANNOUNCE, "SIGHUP: control {where} has the certificate of {end}", where=self.where, end=end)

    def warn_of(self, user: str) -> None:
        for file in self.where.tls or ():
            if not os.access(file, os.R_OK):
                self._log.warn(
                    "control {where}: {user} cannot read {file}: SIGHUP will not read it again until he can",
                    where=self.where, user=user, file=file,
                )  # fmt: skip

    def close(self) -> None:
        super().close()
        self._strangers.close_all()
