"""The listening socket of the status, where one is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure

from ktcpvs.errors import CannotListen
from ktcpvs.status.endpoint import StatusAddress
from ktcpvs.system.log import ANNOUNCE, EventLog
from ktcpvs.system.periodic import PeriodicJob

BACKLOG = 128

AGAIN = 0.5
"""Seconds between two attempts to listen where the daemon before still does."""


class StatusListener:
    """where: None: nowhere, and nothing is done."""

    def __init__(
        self, where: StatusAddress | None, hosts: Sequence[str], switch: Any, log: EventLog, reactor: Any
    ) -> None:
        """hosts: names that it is served under, besides IP addresses and localhost. switch: what is looked at, see
        ktcpvs.status.server."""
        self._where = where
        self._hosts = hosts
        self._switch = switch
        self._log = log
        self._reactor = reactor
        self._port: Any = None
        self._factory: Any = None
        self._again = PeriodicJob(reactor, self._open_if_free, self._failed, AGAIN)

    def open(self) -> None:
        """Listen. Raises CannotListen."""
        where = self._where
        if where is None:
            return
        from ktcpvs.status.server import StatusFactory  # who does not want it does not pay for it

        self._factory = StatusFactory(self._switch, self._hosts, self._log, self._reactor)
        try:
            self._port = self._reactor.listenTCP(where.port, self._factory, BACKLOG, where.host)
        except CannotListenError as error:
            why = error.socketError.strerror  # the rest of it names the place in another way
            raise CannotListen(f"cannot listen for the status at {where}: {why}") from None
        self._log.event(ANNOUNCE, "status at {where}", where=where)

    def open_when_free(self) -> None:
        """Listen as soon as the daemon that was taken over listens no more."""
        self._again.start()

    def _open_if_free(self) -> float | None:
        try:
            self.open()
        except CannotListen:
            return AGAIN
        return None

    def _failed(self, why: Failure) -> None:
        self._log.failure("the status cannot be opened at {where}", why, where=self._where)

    def close(self) -> None:
        """Listen no more, and end all connections."""
        self._again.stop()
        if self._port is not None:
            self._port.stopListening()
            self._factory.close_all()
            self._port = None
