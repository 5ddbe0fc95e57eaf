"""The new daemon's side of a takeover: it fetches the inventory and the sockets, and commits when it is ready to serve.

It fetches before the reactor runs, so that a refusal ends the start like every other one. The link stays open until the
commit, because the old daemon cancels the takeover when it is closed.
"""

from __future__ import annotations

import json
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

from ktcpvs.control.client_protocol import QuietAMP
from ktcpvs.control.endpoints import ControlAddress
from ktcpvs.errors import CannotTakeOver, Refusal
from ktcpvs.model.address import parse_address
from ktcpvs.model.local_edits import localized
from ktcpvs.model.tls_files import TLSFile
from ktcpvs.runtime.inherited_sockets import InheritedSockets
from ktcpvs.system.network_errors import network_reason
from ktcpvs.system.peer import peer_process, peer_user
from ktcpvs.system.process import process_of
from ktcpvs.system.sockets import owns_file
from ktcpvs.system.tls_files import Contents, decode
from ktcpvs.takeover.commands import PROTOCOL, Commit, TakeFile, TakeOver, TakePage, TakeReader, TakeSocket
from ktcpvs.takeover.inventory import ACTIVATED, CONTROL, Inventory, SocketRecord, read_inventory
from ktcpvs.version import __version__

ANSWER_TIMEOUT = 30.0
"""The most seconds for an answer of the old daemon, which first completes edits in progress."""

READ_BYTES = 65536
MAX_DESCRIPTORS = 64
"""The most descriptors that one recvmsg(2) receives."""


@implementer(IUNIXTransport)
class _BlockingTransport:
    """A transport for AMP without a reactor: writing blocks until everything is sent."""

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
    """A takeover from the daemon at `where`. inventory: its own. version: its own. control: its control socket. reader:
    the link to the process that reads certificates for it; None: there is none."""

    def __init__(self, where: ControlAddress, sockets: InheritedSockets) -> None:
        """Fetch everything. sockets: gets all sockets but the control socket. Raises CannotTakeOver."""
        self.where = where
        self._sockets = sockets
        self._fetched: list[tuple[socket.socket, SocketRecord]] = []
        self._sock = socket.socket(socket.AF_UNIX)
        self._link: Any = QuietAMP()  # type: ignore[no-untyped-call]
        self.control: socket.socket
        self.reader: socket.socket | None = None
        try:
            self._sock.settimeout(ANSWER_TIMEOUT)
            self._sock.connect(where.path or "")
            self._check_user(peer_user(self._sock))
            self._old_pid, self._old_process = peer_process(self._sock), process_of(self._sock)
            self._link.makeConnection(_BlockingTransport(self._sock))
            self.inventory = self._fetch()
        except OSError as error:
            self._sock.close()
            if isinstance(error, PermissionError):
                hint = "run this one as the user of the daemon that runs"
                raise CannotTakeOver(f"permission denied at {where}: {hint}") from None
            if isinstance(error, ConnectionResetError | BrokenPipeError):
                raise self._closed() from None
            why = error.strerror or f"no answer within {ANSWER_TIMEOUT:.0f} seconds"
            raise CannotTakeOver(f"no daemon to take over at {where} ({why}): start without --takeover") from None
        except BaseException:
            self._sock.close()
            raise

    def _check_user(self, user: int) -> None:
        """Raise CannotTakeOver for the daemon of another user, which could hand over any table."""
        if user not in (0, os.geteuid()):
            raise CannotTakeOver(
                f"the daemon at {self.where} runs as user {user}: run this one as the same user to take over"
            )

    def _closed(self) -> CannotTakeOver:
        """The error for a daemon that hangs up, as one with too many control connections does."""
        return CannotTakeOver(f"the daemon at {self.where} closed the connection: its log says why")

    def _fetch(self) -> Inventory:
        answer = self._ask(TakeOver, protocol=PROTOCOL, version=__version__)
        self.version = answer["version"]
        source = f"ktcpvs {self.version} at {self.where}"
        text = b"".join(self._ask(TakePage, number=number)["page"] for number in range(answer["pages"]))
        inventory = read_inventory(text, source)
        if len(inventory.sockets) != answer["sockets"]:
            raise CannotTakeOver(
                f"{source} lists {len(inventory.sockets)} sockets and has {answer['sockets']}; it continues"
            )
        for number, record in enumerate(inventory.sockets):
            sock = socket.socket(fileno=self._ask(TakeSocket, number=number)["descriptor"])
            sock.set_inheritable(False)
            # The socket is non-blocking, but this object assumes that it blocks. So its duplicate would be made
            # blocking, and # with it the socket in both daemons.
            sock.setblocking(False)
            self._sort_in(sock, record, inventory)
        if inventory.has_reader:
            self.reader = socket.socket(fileno=self._ask(TakeReader)["descriptor"])
            self.reader.set_inheritable(False)
        if not hasattr(self, "control"):
            raise CannotTakeOver(f"{source} hands over no control connection; it continues")
        return inventory

    def _sort_in(self, sock: socket.socket, record: SocketRecord, inventory: Inventory) -> None:
        service = localized(inventory.table).services.get(record.ident)
        self._fetched.append((sock, record))
        if record.use == CONTROL:
            self.control = sock
        elif record.use == ACTIVATED:
            self._sockets.add_activated(sock)
        elif service is not None:
            self._sockets.add_taken_over(parse_address(record.address) if record.address else service.address, sock)
        else:
            raise CannotTakeOver(f"a socket came for {record.use} {record.ident}, which this version does not know")

    def _ask(self, command: Any, **arguments: Any) -> dict[str, Any]:
        """Wait for the old daemon's answer. Raises its Refusal, OSError, or CannotTakeOver."""
        answers: list[Any] = []
        self._link.callRemote(command, **arguments).addBoth(answers.append)
        while not answers:
            data, descriptors, _, _ = socket.recv_fds(self._sock, READ_BYTES, MAX_DESCRIPTORS)
            for descriptor in descriptors:
                self._link.fileDescriptorReceived(descriptor)
            if not data:
                raise self._closed()
            self._link.dataReceived(data)
        return self._answer(answers[0])

    def _answer(self, answer: Any) -> dict[str, Any]:
        if not isinstance(answer, Failure):
            values: dict[str, Any] = answer
            return values
        why: Any = answer.value
        if isinstance(why, amp.UnhandledCommand):
            raise CannotTakeOver(
                f"the daemon at {self.where} is of a version that cannot hand over: stop it and start this one"
            )
        if isinstance(why, Refusal):
            raise why
        raise CannotTakeOver(f"the daemon at {self.where} does not hand over: {network_reason(answer)}")

    def file(self, file: TLSFile) -> Contents | None:
        """Return a file of TLS as the old daemon has read it; None: it has not, or its version does not hand it over.
        To be called before the commit."""
        pages: list[bytes] = []
        count = 1
        try:
            while len(pages) < count:
                answer = self._ask(TakeFile, use=file.use, path=file.path, number=len(pages))
                count = answer["pages"]
                pages.append(answer["page"])
            return decode(json.loads(b"".join(pages))) if count else None
        except (Refusal, OSError, ValueError, KeyError, TypeError):
            return None

    async def commit(self, reactor: Any, processes: int, pid_file: str) -> None:
        """Tell the old daemon that this one is ready; from then on the old one accepts no clients.

        processes: how many processes of this daemon serve. pid_file: "" for none. Raises CannotTakeOver, and then the
        old daemon continues. If the old daemon has died meanwhile, this returns, since no other daemon serves.
        """
        link: Any = QuietAMP()  # type: ignore[no-untyped-call]
        self._sock.setblocking(False)
        reactor.adoptStreamConnection(self._sock.fileno(), socket.AF_UNIX, Factory.forProtocol(lambda: link))
        self._sock.close()
        answer: Deferred[Any] = link.callRemote(Commit, processes=processes, pid_file=pid_file)
        try:
            await answer.addTimeout(ANSWER_TIMEOUT, reactor)
        except Refusal:
            raise
        except Exception as error:
            if self._old_process is not None and self._old_process.has_ended():
                return
            why = str(error) or type(error).__name__
            raise CannotTakeOver(f"the daemon at {self.where} no longer hands over: {why}") from None
        finally:
            if link.transport is not None:
                link.transport.loseConnection()

    @property
    def draining(self) -> tuple[int, ...]:
        """The process ids of the old daemon and of those before it, after the commit. 0: it is not known."""
        return self._old_pid, *self.inventory.draining

    def own_socket_files(self) -> None:
        """This daemon serves: it removes the files of unix sockets when it closes them."""
        for sock, record in self._fetched:
            if sock.fileno() >= 0:
                owns_file(sock, record.file)

    def abandon(self) -> None:
        """Cancel the takeover: close all sockets that were fetched. The old daemon continues."""
        self._sock.close()
        for sock, _ in self._fetched:
            sock.close()
        if self.reader is not None:
            self.reader.close()
