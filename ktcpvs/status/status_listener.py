"""The listening socket of the status server."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure

from ktcpvs.errors import CannotListen
from ktcpvs.model.address import Inet
from ktcpvs.status.address import StatusAddress
from ktcpvs.status.readiness import Readiness
from ktcpvs.system.listening_process import process_of
from ktcpvs.system.log import ANNOUNCE, EventLog
from ktcpvs.system.periodic import PeriodicJob
from ktcpvs.system.sockets import describe_holder, explain_failure

BACKLOG = 128

RETRY_INTERVAL = 0.1
"""Seconds between two attempts to listen on a port on which the daemon that was taken over still listens."""


class StatusListener:
    """Opens and closes the status server. address: None: there is none, and all methods do nothing."""

    def __init__(
        self,
        address: StatusAddress | None,
        hosts: Sequence[str],
        switch: Any,
        log: EventLog,
        reactor: Any,
        readiness: Readiness,
    ) -> None:
        """hosts: names under which the status is served, besides IP addresses and localhost. switch: see
        ktcpvs.status.server."""
        self._address = address
        self._hosts = hosts
        self._switch = switch
        self._log = log
        self._reactor = reactor
        self._readiness = readiness
        self._port: Any = None
        self._factory: Any = None
        self._retries = PeriodicJob(reactor, self._open_if_free, self._retry_failed, RETRY_INTERVAL)

    def open(self) -> None:
        """Listen. Raises CannotListen."""
        address = self._address
        if address is None:
            return
        try:
            self._listen(address)
        except CannotListenError as error:
            # Its own text names the address in another form.
            why = _why_not(error.socketError, Inet(address.host, address.port))
            raise CannotListen(f"cannot listen for the status at {address}: {why}") from None

    def _listen(self, address: StatusAddress) -> None:
        """Raises CannotListenError."""
        from ktcpvs.status.server import StatusFactory  # imported only where the status is served

        self._factory = StatusFactory(self._switch, self._hosts, self._log, self._reactor, self._readiness)
        self._port = self._reactor.listenTCP(address.port, self._factory, BACKLOG, address.host)
        self._log.event(ANNOUNCE, "status at {where}", where=address)

    def open_when_free(self) -> None:
        """Listen as soon as the daemon that was taken over has closed the port."""
        self._retries.start()

    def _open_if_free(self) -> float | None:
        if self._address is not None:
            try:
                self._listen(self._address)  # without a search for the process that has the port
            except CannotListenError:
                return RETRY_INTERVAL
        return None

    def _retry_failed(self, why: Failure) -> None:
        self._log.failure("the status cannot be opened at {where}", why, where=self._address)

    def close(self) -> None:
        """Stop listening, and close all connections."""
        self._retries.stop()
        if self._port is not None:
            self._port.stopListening()
            self._factory.close_all()
            self._port = None


def _why_not(error: OSError, address: Inet) -> str:
    holder = process_of(address) if error.errno == errno.EADDRINUSE else None
    return explain_failure(error) if holder is None else describe_holder(holder)
