"""Where administrators of this machine come in: a unix socket, opened here, handed in or taken over."""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet import tcp, unix
from twisted.python.failure import Failure

from ktcpvs.control.endpoints import ControlAddress, default_control
from ktcpvs.control.server import ControlFactory
from ktcpvs.system.files import private_folder
from ktcpvs.system.privileges import Identity
from ktcpvs.system.sockets import close_listener, open_private_unix_listener, release_listener

BACKLOG = 128


class _Port(unix.Port):
    """An adopted unix socket, whose file is the business of who opened it: Twisted's own would make it everybody's, and
    take it away. Another process may have the socket too and go on listening, so it is not shut down."""

    _shouldShutdown = False

    def __init__(self, path: bytes, factory: Any, reactor: Any) -> None:
        super().__init__(path, factory, BACKLOG, os.stat(path).st_mode & 0o777, reactor)

    def connectionLost(self, reason: Failure) -> None:
        tcp.Port.connectionLost(self, reason)


class ControlListener:
    """The unix socket. socket: None before it is there."""

    def __init__(
        self, reactor: Any, factory: ControlFactory, where: ControlAddress | None, group: int | None = None
    ) -> None:
        """where: None: the default place. group: whose members may use the socket too; None: nobody but its owner."""
        self._group = group
        self.where = where or default_control()
        self.path: str = self.where.path or ""
        self.socket: socket.socket | None = None
        self._is_default = where is None
        self._reactor = reactor
        self._factory = factory
        self._port: Any = None

    def open(self) -> None:
        """Listen, where nothing was adopted on a socket of our own. Raises CannotListen."""
        if self.socket is None:
            if self._is_default:
                private_folder(os.path.dirname(self.path))
            self.adopt(open_private_unix_listener(self.path, BACKLOG))
            if self._group is not None:
                os.chown(self.path, -1, self._group)
                os.chmod(self.path, 0o660)
        self.listen()

    def hand_to(self, who: Identity) -> None:
        """The folder of the default place is that user's, who is not to be able to make it. Raises CannotListen."""
        if self._is_default:
            folder = os.path.dirname(self.path)
            private_folder(folder, who.uid)
            group = who.gid if self._group is None else self._group
            os.chown(folder, who.uid, group)
            os.chmod(folder, 0o700 if self._group is None else 0o750)

    def adopt(self, sock: socket.socket) -> None:
        """That is the listening unix socket; nobody is let in yet."""
        sock.setblocking(False)
        self.socket = sock

    def listen(self) -> None:
        """Let administrators in."""
        assert self.socket is not None
        self._port = _Port._fromListeningDescriptor(  # type: ignore[no-untyped-call]
            self._reactor, self.socket.fileno(), self._factory
        )
        self._port.startListening()

    def release(self) -> None:
        """Let nobody in any more: another process has the socket too, and does."""
        if self._port is not None:
            self._port.stopListening()
            self._port = None
        if self.socket is not None:
            release_listener(self.socket)
            self.socket = None

    def close(self) -> None:
        """Close it."""
        if self._port is not None:
            self._port.stopListening()
            self._port = None
        if self.socket is not None:
            close_listener(self.socket)
            self.socket = None
