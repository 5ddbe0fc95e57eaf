"""The new daemon's side of a takeover: it fetches what there is before it begins, and says when it is ready to serve.

The first part is done before the reactor runs, so that what is refused is refused as every other start is; the link
stays open meanwhile, since with its end the old daemon goes on.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IUNIXTransport
from twisted.internet.protocol import Factory
from twisted.protocols import amp
from twisted.python.failure import Failure
from zope.interface import implementer

from ktcpvs import __version__
from ktcpvs.control.client import QuietAMP
from ktcpvs.control.endpoints import ControlAddress
from ktcpvs.errors import CannotTakeOver, Refusal
from ktcpvs.runtime.inherited_sockets import InheritedSockets
from ktcpvs.system.process import peer_user, process_of
from ktcpvs.system.sockets import owns_file
from ktcpvs.takeover.commands import PROTOCOL, Commit, TakeOver, TakePage, TakeSocket
from ktcpvs.takeover.inventory import CONTROL, LASTING, Given, Inventory, read_inventory

ANSWER = 30.0
"""Seconds that the old daemon may take to answer; edits that are under way are carried out first."""

READ = 65536
DESCRIPTORS = 64
"""The most that one message brings."""


@implementer(IUNIXTransport)
class _Waiting:
    """A transport without a reactor, just enough for AMP: who writes waits until it is sent."""

    disconnecting = False

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def write(self, data: bytes) -> None:
        self._sock.sendall(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self._sock.close()

    abortConnection = loseConnection

    def getPeer(self) -> Any:
        return None

    getHost = getPeer

    def sendFileDescriptor(self, descriptor: int) -> None:
        socket.send_fds(self._sock, [b"\0"], [descriptor])


class HandoverTarget:
    """A takeover from the daemon at `where`. inventory: what it has. control: the socket of its control connection."""

    def __init__(self, where: ControlAddress, sockets: InheritedSockets) -> None:
        """sockets: gets those of services, and those that last. Raises CannotTakeOver."""
        self.where = where
        self._sockets = sockets
        self._owned: list[tuple[socket.socket, Given]] = []
        self._sock = socket.socket(socket.AF_UNIX)
        self._link: Any = QuietAMP()  # type: ignore[no-untyped-call]
        self.control: socket.socket
        try:
            self._sock.settimeout(ANSWER)
            self._sock.connect(where.path or "")
            self._trust(peer_user(self._sock))
            self._old = process_of(self._sock)
            self._link.makeConnection(_Waiting(self._sock))
            self.inventory = self._fetch()
        except OSError as error:
            self._sock.close()
            if isinstance(error, PermissionError):
                how = "run this one as the user of the daemon that runs"
                raise CannotTakeOver(f"permission denied at {where}: {how}") from None
            why = error.strerror or f"no answer within {ANSWER:.0f} seconds"
            raise CannotTakeOver(f"no daemon to take over at {where} ({why}): start without --takeover") from None
        except BaseException:
            self._sock.close()
            raise

    def _trust(self, user: int) -> None:
        """Raises CannotTakeOver for the socket of another user, who could hand over any table."""
        if user not in (0, os.geteuid()):
            raise CannotTakeOver(
                f"the daemon at {self.where} is user {user}'s: a takeover is from a daemon of the same user"
            )

    def _fetch(self) -> Inventory:
        told = self._ask(TakeOver, protocol=PROTOCOL, version=__version__)
        self.version = told["version"]
        source = f"ktcpvs {self.version} at {self.where}"
        text = b"".join(self._ask(TakePage, number=number)["page"] for number in range(told["pages"]))
        inventory = read_inventory(text, source)
        if len(inventory.sockets) != told["sockets"]:
            raise CannotTakeOver(
                f"{source} names {len(inventory.sockets)} sockets and has {told['sockets']}; it goes on"
            )
        for number, given in enumerate(inventory.sockets):
            sock = socket.socket(fileno=self._ask(TakeSocket, number=number)["descriptor"])
            sock.set_inheritable(False)
            sock.setblocking(False)  # as it is; but a duplicate of what Python takes to block would block both daemons
            self._place(sock, given, inventory)
        if not hasattr(self, "control"):
            raise CannotTakeOver(f"{source} hands over no control connection; it goes on")
        return inventory

    def _place(self, sock: socket.socket, given: Given, inventory: Inventory) -> None:
        service = inventory.table.services.get(given.ident)
        self._owned.append((sock, given))
        if given.kind == CONTROL:
            self.control = sock
        elif given.kind == LASTING:
            self._sockets.keep(sock)
        elif service is not None:
            self._sockets.taken.setdefault(service.listen, []).append(sock)
        else:
            raise CannotTakeOver(f"a socket came for {given.kind} {given.ident}, which this version does not know")

    def _ask(self, command: Any, **arguments: Any) -> dict[str, Any]:
        """The old daemon's answer, waited for. Raises its Refusal, OSError, or CannotTakeOver."""
        answers: list[Any] = []
        self._link.callRemote(command, **arguments).addBoth(answers.append)
        while not answers:
            data, descriptors, _, _ = socket.recv_fds(self._sock, READ, DESCRIPTORS)
            for descriptor in descriptors:
                self._link.fileDescriptorReceived(descriptor)
            if not data:
                raise CannotTakeOver(f"the daemon at {self.where} went away")
            self._link.dataReceived(data)
        return self._answer(answers[0])

    def _answer(self, answer: Any) -> dict[str, Any]:
        if not isinstance(answer, Failure):
            told: dict[str, Any] = answer
            return told
        why: Any = answer.value
        if isinstance(why, amp.UnhandledCommand):
            raise CannotTakeOver(
                f"the daemon at {self.where} is of a version that does not hand over: stop it and start this one"
            )
        if isinstance(why, Refusal):
            raise why
        raise CannotTakeOver(f"the daemon at {self.where} does not hand over: {answer.getErrorMessage()}")

    async def commit(self, reactor: Any, processes: int, pid_file: str) -> None:
        """This daemon is ready: the old one accepts nobody any more. Raises CannotTakeOver; then the old one goes on.

        Where the old one has died meanwhile, nobody else serves, and so this one does.

        processes: how many of this daemon serve. pid_file: "" for none.
        """
        link: Any = QuietAMP()  # type: ignore[no-untyped-call]
        self._sock.setblocking(False)
        reactor.adoptStreamConnection(self._sock.fileno(), socket.AF_UNIX, Factory.forProtocol(lambda: link))
        self._sock.close()
        answer: Deferred[Any] = link.callRemote(Commit, processes=processes, pid_file=pid_file)
        try:
            await answer.addTimeout(ANSWER, reactor)
        except Refusal:
            raise
        except Exception as error:
            if self._old is not None and self._old.has_ended():
                return
            why = str(error) or type(error).__name__
            raise CannotTakeOver(f"the daemon at {self.where} does not hand over any more: {why}") from None
        finally:
            if link.transport is not None:
                link.transport.loseConnection()

    def own(self) -> None:
        """This daemon serves: the files of unix sockets go when it ends."""
        for sock, given in self._owned:
            if sock.fileno() >= 0:
                owns_file(sock, given.file)

    def abandon(self) -> None:
        """Nothing comes of it: the old daemon goes on. What nobody uses is closed."""
        self._sock.close()
        for sock, _ in self._owned:
            sock.close()
