"""The control connection's unix socket: opened here, handed in by a service manager, or taken over from a daemon."""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet import tcp, unix
from twisted.python.failure import Failure

from ktcpvs.control.endpoints import ControlAddress, default_control
from ktcpvs.control.server import ControlFactory
from ktcpvs.errors import CannotListen
from ktcpvs.model.address import Unix
from ktcpvs.system.files import private_folder
from ktcpvs.system.listening_process import OWN_NAME, process_of
from ktcpvs.system.privileges import Identity
from ktcpvs.system.sockets import (
    close_listener,
    is_in_use,
    name_holder,
    open_private_unix_listener,
    release_listener,
)

BACKLOG = 128


class _AdoptedPort(unix.Port):
    """A Twisted port on a unix socket that it does not own.

    Twisted's own port would make the socket's file accessible to all users, and remove it at the end. The socket is not
    shut down either, since another process may have it too and go on listening.
    """

    _shouldShutdown = False

    def __init__(self, path: bytes, factory: Any, reactor: Any) -> None:
        super().__init__(path, factory, BACKLOG, os.stat(path).st_mode & 0o777, reactor)

    def connectionLost(self, reason: Failure) -> None:
        tcp.Port.connectionLost(self, reason)


class UnixControlListener:
    """Listens on the unix socket. socket: None until there is one."""

    def __init__(
        self, reactor: Any, factory: ControlFactory, address: ControlAddress | None, group: int | None = None
    ) -> None:
        """address: None: the default. group: its members may use the socket too; None: only its owner may."""
        self._group = group
        self.address = address or default_control()
        self.path: str = self.address.path or ""
        self.socket: socket.socket | None = None
        self._is_default = address is None
        self._reactor = reactor
        self._factory = factory
        self._port: Any = None

    def open(self) -> None:
        """Listen, on a new socket unless one was adopted. Raises CannotListen."""
        if self.socket is None:
            if self._is_default:
                private_folder(os.path.dirname(self.path))
            self.adopt(self._open())
            if self._group is not None:
                _give_away(self.path, -1, self._group, 0o660)
        self.listen()

    def _open(self) -> socket.socket:
        try:
            return open_private_unix_listener(self.path, BACKLOG)
        except CannotListen as refusal:
            other = process_of(Unix(self.path)) if is_in_use(refusal) else None
            named = name_holder(refusal, Unix(self.path), other)
            if other is None or other.name != OWN_NAME:
                raise named from None
            raise CannotListen(
                f"{named}; end that one with 'tcpvsadm --control unix:{self.path} --set unload=1', or give this one "
                "an address of its own with --control"
            ) from None

    def create_folder_for(self, identity: Identity) -> None:
        """Create the folder of the default address, and give it to that user. Raises CannotListen."""
        if self._is_default:
            folder = os.path.dirname(self.path)
            private_folder(folder, identity.uid)
            group = identity.gid if self._group is None else self._group
            _give_away(folder, identity.uid, group, 0o700 if self._group is None else 0o750)

    def adopt(self, sock: socket.socket) -> None:
        """Use this listening unix socket, but accept no connections before `listen`."""
        sock.setblocking(False)
        self.socket = sock

    def listen(self) -> None:
        """Accept connections."""
        assert self.socket is not None
        self._port = _AdoptedPort._fromListeningDescriptor(  # type: ignore[no-untyped-call]
            self._reactor, self.socket.fileno(), self._factory
        )
        self._port.startListening()

    def release(self) -> None:
        """Accept no more connections, but leave the socket's file: another process shares the socket and keeps
        listening."""
        self._stop_port()
        if self.socket is not None:
            release_listener(self.socket)
            self.socket = None

    def close(self) -> None:
        """Accept no more connections, and remove the socket's file."""
        self._stop_port()
        if self.socket is not None:
            close_listener(self.socket)
            self.socket = None

    def _stop_port(self) -> None:
        if self._port is not None:
            self._port.stopListening()
            self._port = None


def _give_away(path: str, uid: int, gid: int, mode: int) -> None:
    """Change owner, group and mode. uid: -1: the owner stays. Raises CannotListen."""
    try:
        os.chown(path, uid, gid)
        os.chmod(path, mode)
    except OSError as error:
        raise CannotListen(f"cannot change the owner of {path}: {error.strerror}") from None
