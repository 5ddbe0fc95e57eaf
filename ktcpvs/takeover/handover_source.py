"""The daemon that is taken over: it hands over what it has, goes on if nothing comes of it, and else drains.

From TakeOver to Commit edits wait. When the connection of the new daemon ends before its Commit, or that takes too
long, they go on, and nothing has happened.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IUNIXTransport
from twisted.python.failure import Failure

from ktcpvs import __version__
from ktcpvs.control.commands import PAGE
from ktcpvs.control.server import Administrator
from ktcpvs.errors import BadValue, Busy, CannotTakeOver
from ktcpvs.model.health import DOWN
from ktcpvs.runtime.inherited_sockets import InheritedSockets
from ktcpvs.services.director import Director
from ktcpvs.services.running import HANDED_OVER_TIME
from ktcpvs.system.log import ANNOUNCE, EventLog
from ktcpvs.system.process import peer_process
from ktcpvs.system.sockets import distinct, file_of, share_among
from ktcpvs.takeover.commands import PROTOCOL, Commit, TakeOver, TakePage, TakeSocket
from ktcpvs.takeover.inventory import CONTROL, LASTING, SERVICE, Given, Inventory

LONGEST = 60.0
"""Seconds from TakeOver to Commit; then the new daemon is given up, and this one goes on."""


class HandoverSource:
    """What a daemon hands over, once. is_over: it has."""

    def __init__(
        self,
        director: Director,
        sockets: InheritedSockets,
        control: socket.socket,
        watchdog: int,
        given: Callable[[str, int], object],
    ) -> None:
        """control: the socket of the control connection. watchdog: as the inventory says it. given: called when the
        other has taken over, with the name of its pid file, and its process, 0 where that is not known."""
        self._director = director
        self._sockets = sockets
        self._control = control
        self._given = given
        self._log: EventLog = director.context.log
        self._taker: HandoverConnection | None = None
        self._limit: Any = None
        self._handed: list[socket.socket] = []
        self._idents: list[str] = []  # of the services whose sockets are handed over
        self._pages: list[bytes] = []
        self._not_before = 0.0
        self._watchdog = watchdog
        self.is_over = False

    def not_before_late(self) -> None:
        """A daemon before this one still listens on sockets that were not taken: until it does no more, their order is
        not known here."""
        self._not_before = self._director.context.reactor.seconds() + HANDED_OVER_TIME + 1

    async def begin(self, taker: HandoverConnection, version: str) -> dict[str, Any]:
        """Edits wait from now on; the inventory is made. Raises Busy."""
        reactor = self._director.context.reactor
        if self.is_over or self._taker is not None:
            raise Busy("another daemon takes over already")
        if reactor.seconds() < self._not_before:
            raise Busy(f"the takeover before is not over: try again in {HANDED_OVER_TIME + 1:.0f} seconds")
        self._taker = taker
        await self._director.hold()
        if self._taker is not taker:  # it has gone meanwhile
            self._director.go_on()
            raise CannotTakeOver("the new daemon went away")
        if self._director.trial.left is not None:
            self._taker = None
            self._director.go_on()
            raise Busy(f"the table is on trial for {self._director.trial.left} s more: confirm it, or wait")
        try:
            text = self._inventory().text()
            self._pages = [text[start : start + PAGE] for start in range(0, len(text), PAGE)]
        except BaseException:  # nothing is handed over, and edits go on
            self._taker = None
            self._forget()
            self._director.go_on()
            raise
        self._limit = reactor.callLater(LONGEST, self._too_long)
        self._log.event(ANNOUNCE, "ktcpvs {version} begins to take over", version=version)
        return {"version": __version__, "pages": len(self._pages), "sockets": len(self._handed)}

    def _inventory(self) -> Inventory:
        table = self._director.table
        found = [(self._control, Given(CONTROL, file=file_of(self._control)))]
        found += [(sock, Given(LASTING)) for sock in self._sockets.lasting]
        for service in table:
            if service.ident in table.running and self._sockets.lasts(service.listen) is None:
                for sock in self._director.sockets_of(service.ident):
                    found.append((sock, Given(SERVICE, service.ident, file_of(sock))))
        self._handed = [sock for sock, _ in found]
        self._idents = list(dict.fromkeys(given.ident for _, given in found if given.kind == SERVICE))
        lives = self._director.services.values()
        down = [(live, one) for live in lives for one in live.down if one.health.state == DOWN]
        return Inventory(
            table=table,
            key=self._director.context.key,
            sockets=[given for _, given in found],
            resolution=dict(self._director.resolution),
            down=[(live.ident, str(one.address), one.health.reason) for live, one in down],
            watchdog=self._watchdog,
        )

    def page(self, number: int) -> bytes:
        """A page of the inventory. Raises BadValue."""
        if not 0 <= number < len(self._pages):
            raise BadValue(f"there is no page {number}")
        return self._pages[number]

    def descriptor(self, number: int) -> int:
        """That of a socket of the inventory. Raises BadValue."""
        if not 0 <= number < len(self._handed):
            raise BadValue(f"there is no socket {number}")
        return self._handed[number].fileno()

    def commit(self, taker: HandoverConnection, processes: int, pid_file: str) -> None:
        """The other serves from now on. Raises BadValue, or OSError; then nothing has happened.

        Once the new daemon is told that it serves, this one must let go of everything, whatever fails.
        """
        if taker is not self._taker or not self._pages or processes < 1:
            raise BadValue("nothing was handed over")
        taken = {}
        for ident in self._idents:
            socks = distinct(self._director.sockets_of(ident))
            if len(socks) > processes:
                share_among(socks[0], processes)
                taken[ident] = processes
        pid = taker.process()
        self.is_over = True
        self._forget()
        run = self._director.context.steps.run
        run("hand over: clients", self._director.hand_over, taken)
        run("hand over: end", self._given, pid_file, pid)
        run("hand over: edits", self._director.go_on)

    def gone(self, taker: HandoverConnection) -> None:
        """The connection of a new daemon has ended: if it had not committed, all goes on as before."""
        if taker is not self._taker or self.is_over:
            return
        self._taker = None
        if self._pages:
            self._forget()
            self._log.warn("the daemon that was to take over went away; this one goes on")
            self._director.go_on()

    def _too_long(self) -> None:
        self._limit = None
        if self._taker is not None:
            self._taker.transport.abortConnection()

    def _forget(self) -> None:
        self._pages, self._handed = [], []
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None


class HandoverConnection(Administrator):
    """A control connection; the new daemon's is one of them. giver: None: nothing can be handed over here."""

    def __init__(self, switch: Any, log: EventLog) -> None:
        super().__init__(switch, log)
        self._giver: HandoverSource | None = getattr(switch, "giver", None)

    def process(self) -> int:
        """Whose connection it is (unix(7), SO_PEERCRED); 0: that is not known."""
        return peer_process(self.transport.socket)

    def _from(self) -> HandoverSource:
        if self._giver is None or not IUNIXTransport.providedBy(self.transport):
            raise CannotTakeOver("sockets are handed over on a unix socket only: --control must be unix:/PATH")
        return self._giver

    @TakeOver.responder
    def take_over(self, protocol: int, version: str) -> Deferred[dict[str, Any]]:
        return Deferred.fromCoroutine(self._answered(self._begin(protocol, version)))

    async def _begin(self, protocol: int, version: str) -> dict[str, Any]:
        if protocol != PROTOCOL:
            raise CannotTakeOver(
                f"ktcpvs {__version__}, which runs, hands over by protocol {PROTOCOL}, and ktcpvs {version} takes by "
                f"protocol {protocol}: stop the one and start the other"
            )
        return await self._from().begin(self, version)

    @TakePage.responder
    def take_page(self, number: int) -> dict[str, Any]:
        return {"page": self._from().page(number)}

    @TakeSocket.responder
    def take_socket(self, number: int) -> dict[str, Any]:
        return {"descriptor": self._from().descriptor(number)}

    @Commit.responder
    def commit(self, processes: int, pid_file: str) -> dict[str, Any]:
        self._from().commit(self, processes, pid_file)
        return {}

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        super().connectionLost(reason)
        if self._giver is not None:
            self._giver.gone(self)
