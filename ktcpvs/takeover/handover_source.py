"""The old daemon's side of a takeover: it hands over its table and sockets, then drains; if the takeover fails, it
continues.

Edits wait between TakeOver and Commit. If the new daemon's connection ends before Commit, or Commit does not come in
time, edits resume and nothing has changed.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IUNIXTransport
from twisted.python.failure import Failure

from ktcpvs.control.pages import PAGE_SIZE, split_pages
from ktcpvs.control.server import Administrator
from ktcpvs.director.director import Director
from ktcpvs.errors import BadValue, Busy, CannotTakeOver, NoTLS
from ktcpvs.model.address import Address
from ktcpvs.model.tls_files import TLSFile
from ktcpvs.runtime.inherited_sockets import InheritedSockets
from ktcpvs.services.running import LATE_CLOSE_DELAY
from ktcpvs.services.ticket_secrets import SecretsRecord
from ktcpvs.system.certificate_reader import CertificateReader
from ktcpvs.system.log import ANNOUNCE, EventLog
from ktcpvs.system.peer import peer_process, peer_user
from ktcpvs.system.sockets import distinct, file_of, share_among
from ktcpvs.system.tls_files import Contents, encode
from ktcpvs.takeover.commands import PROTOCOL, Commit, TakeFile, TakeOver, TakePage, TakeReader, TakeSocket
from ktcpvs.takeover.inventory import ACTIVATED, CONTROL, SERVICE, Inventory, SocketRecord
from ktcpvs.takeover.predecessors import Predecessors
from ktcpvs.version import __version__

COMMIT_TIMEOUT = 60.0
"""Seconds from TakeOver to Commit; then this daemon closes the new one's connection, and continues."""


class HandoverSource:
    """Hands over table and sockets, to one new daemon at a time. is_committed: the new daemon has taken over."""

    def __init__(
        self,
        director: Director,
        sockets: InheritedSockets,
        control: socket.socket,
        watchdog: int,
        committed: Callable[[str, int], object],
        tickets: Callable[[], SecretsRecord],
        reader: CertificateReader | None,
        predecessors: Predecessors,
        instance: str = "",
    ) -> None:
        """control: the listening socket of the control connection. watchdog: as in the inventory. committed: called
        when the new daemon serves, with the name of its pid file, and its process id, 0 if that is not known. tickets:
        returns the secrets of session tickets. reader: reads certificates; None: this process does. predecessors:
        of this daemon. instance: as in the inventory."""
        self.is_committed = False
        self._director = director
        self._sockets = sockets
        self._control = control
        self._watchdog = watchdog
        self._committed = committed
        self._tickets = tickets
        self._reader = reader
        self._predecessors = predecessors
        self._instance = instance
        self._log: EventLog = director.context.log
        self._target: HandoverConnection | None = None
        self._timeout: Any = None
        self._not_before = 0.0  # on the reactor's clock
        self._forget()

    def _forget(self) -> None:
        """Drop the inventory."""
        self._pages: list[bytes] = []
        self._offered: list[socket.socket] = []
        self._addresses: list[tuple[str, Address]] = []  # idents and addresses of services whose sockets are offered
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    def delay_next(self) -> None:
        """Refuse takeovers for a few seconds: the old daemon still listens on sockets that this one does not use, and
        until it stops, the order of the sockets is not known."""
        self._not_before = self._director.context.reactor.seconds() + LATE_CLOSE_DELAY + 1

    async def begin(self, target: HandoverConnection, version: str) -> dict[str, Any]:
        """Pause edits, and make the inventory. target: the new daemon's connection. version: of the new daemon.

        Returns the answer to TakeOver. Raises Busy.
        """
        director = self._director
        reactor = director.context.reactor
        if self.is_committed or self._target is not None:
            raise Busy("another daemon takes over already")
        if reactor.seconds() < self._not_before:
            raise Busy(f"the previous takeover is not over: try again in {LATE_CLOSE_DELAY + 1:.0f} seconds")
        self._target = target
        await director.pause_edits()
        if self._target is not target:  # the connection has ended meanwhile
            director.resume_edits()
            raise CannotTakeOver("the new daemon closed its connection")
        seconds_left = director.confirmation.seconds_left
        if seconds_left is not None:
            self._target = None
            director.resume_edits()
            raise Busy(f"the table is on trial for {seconds_left} s more: confirm it, or wait")
        try:
            text = self._inventory().text()
            self._pages = [text[start : start + PAGE_SIZE] for start in range(0, len(text), PAGE_SIZE)]
        except BaseException:  # nothing is handed over, and edits resume
            self._target = None
            self._forget()
            director.resume_edits()
            raise
        self._timeout = reactor.callLater(COMMIT_TIMEOUT, self._timed_out)
        self._log.event(ANNOUNCE, "ktcpvs {version} begins to take over", version=version)
        return {"version": __version__, "pages": len(self._pages), "sockets": len(self._offered)}

    def _inventory(self) -> Inventory:
        director = self._director
        table, running = director.table, director.expanded.running
        found = [(self._control, SocketRecord(CONTROL, file=file_of(self._control)))]
        found += [(sock, SocketRecord(ACTIVATED)) for sock in self._sockets.activated]
        addresses = []
        for service in director.effective:
            for address, socks in director.sockets_of(service.ident).items() if service.ident in running else ():
                if self._sockets.find_activated(address) is None:
                    at = "" if address == service.address else str(address)
                    found += [(sock, SocketRecord(SERVICE, service.ident, file_of(sock), at)) for sock in socks]
                    addresses.append((service.ident, address))
        self._offered = [sock for sock, _ in found]
        self._addresses = addresses
        return Inventory(
            table=table,
            key=director.context.cookie_secret,
            sockets=[record for _, record in found],
            resolution=dict(director.names.resolution),
            down=director.checked_servers.down(),
            watchdog=self._watchdog,
            tickets=self._tickets(),
            has_reader=self._reader is not None,
            instance=self._instance,
            is_drained=director.withdrawals.current.is_whole,
            challenges=director.context.challenges.challenges,
            draining=self._predecessors.draining(),
            missing_schedulers=director.missing_schedulers(),
        )

    def page(self, number: int) -> bytes:
        """Return a page of the inventory. Raises BadValue."""
        if not 0 <= number < len(self._pages):
            raise BadValue(f"there is no page {number}")
        return self._pages[number]

    def descriptor(self, number: int) -> int:
        """Return the descriptor of a socket of the inventory. Raises BadValue."""
        if not 0 <= number < len(self._offered):
            raise BadValue(f"there is no socket {number}")
        return self._offered[number].fileno()

    def file_page(self, target: HandoverConnection, file: TLSFile, number: int) -> dict[str, Any]:
        """Return a page of the contents of a file of TLS, and the number of pages. They may hold a private key, so only
        a new daemon of the same user gets them. Raises BadValue."""
        if target is not self._target or not self._pages or target.user() not in (0, os.geteuid()):
            raise BadValue("no file is handed over")
        try:
            contents: Contents = self._director.files.contents(file)
        except NoTLS:
            contents = ()
        pages = split_pages(json.dumps(encode(contents))) if contents else []
        return {"page": pages[number] if 0 <= number < len(pages) else b"", "pages": len(pages)}

    def reader_descriptor(self) -> int:
        """Return the descriptor of the link to the process that reads certificates. Raises BadValue."""
        if not self._pages or self._reader is None:
            raise BadValue("there is no process that reads certificates")
        return self._reader.fileno()

    def commit(self, target: HandoverConnection, processes: int, pid_file: str) -> None:
        """Hand over: the new daemon serves from now on. Raises BadValue or OSError; then nothing has changed.

        The new daemon serves as soon as it has the answer, so this one must stop serving even if a step fails.
        """
        if target is not self._target or not self._pages or processes < 1:
            raise BadValue("nothing was handed over")
        taken = {}
        for ident, address in self._addresses:
            socks = distinct(self._director.sockets_of(ident)[address])
            if len(socks) > processes:
                share_among(socks[0], processes)
                taken[address] = processes
        pid = target.process()
        self.is_committed = True
        self._forget()
        run = self._director.context.steps.run
        run("hand over: clients", self._director.hand_over, taken)
        run("hand over: end", self._committed, pid_file, pid)
        run("hand over: edits", self._director.resume_edits)

    def connection_lost(self, target: HandoverConnection) -> None:
        """A control connection has ended. If it was that of a new daemon which has not committed, cancel the
        takeover."""
        if target is not self._target or self.is_committed:
            return
        self._target = None
        if self._pages:
            self._forget()
            self._log.warn("the new daemon closed its connection before it had taken over; this one continues")
            self._director.resume_edits()

    def _timed_out(self) -> None:
        self._timeout = None
        if self._target is not None:
            self._target.transport.abortConnection()


class HandoverConnection(Administrator):
    """A control connection, which carries the commands of a takeover too."""

    def __init__(self, switch: Any, log: EventLog) -> None:
        """switch: as for an Administrator; its attribute `handover_source` is None where nothing can be handed over."""
        super().__init__(switch, log)
        self._source: HandoverSource | None = switch.handover_source

    def process(self) -> int:
        """The process id of the peer (unix(7), SO_PEERCRED); 0: it is not known."""
        return peer_process(self.transport.socket)

    def user(self) -> int:
        """The number of the peer's user. Raises OSError."""
        return peer_user(self.transport.socket)

    def _handover_source(self) -> HandoverSource:
        if self._source is None or not IUNIXTransport.providedBy(self.transport):
            raise CannotTakeOver("sockets are handed over on a unix socket only: --control must be unix:/PATH")
        return self._source

    @TakeOver.responder
    def take_over(self, protocol: int, version: str) -> Deferred[dict[str, Any]]:
        return self.respond(self._begin(protocol, version))

    async def _begin(self, protocol: int, version: str) -> dict[str, Any]:
        if protocol != PROTOCOL:
            raise CannotTakeOver(
                f"ktcpvs {__version__}, which runs, hands over by protocol {PROTOCOL}, and ktcpvs {version} takes by "
                f"protocol {protocol}: stop the one and start the other"
            )
        return await self._handover_source().begin(self, version)

    @TakePage.responder
    def take_page(self, number: int) -> dict[str, Any]:
        return {"page": self._handover_source().page(number)}

    @TakeSocket.responder
    def take_socket(self, number: int) -> dict[str, Any]:
        return {"descriptor": self._handover_source().descriptor(number)}

    @TakeReader.responder
    def take_reader(self) -> dict[str, Any]:
        return {"descriptor": self._handover_source().reader_descriptor()}

    @TakeFile.responder
    def take_file(self, use: str, path: str, number: int) -> dict[str, Any]:
        return self._handover_source().file_page(self, TLSFile(use, path), number)

    @Commit.responder
    def commit(self, processes: int, pid_file: str) -> dict[str, Any]:
        self._handover_source().commit(self, processes, pid_file)
        return {}

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        super().connectionLost(reason)
        if self._source is not None:
            self._source.connection_lost(self)
