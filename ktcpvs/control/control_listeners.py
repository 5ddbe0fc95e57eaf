"""All listeners of the control connection: at most one unix socket, and any number of TCP ports beside it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from ktcpvs.control.endpoints import ControlAddress
from ktcpvs.control.server import ControlFactory
from ktcpvs.control.tcp_listeners import HeldSocket, TCPControlListener, TLSControlListener
from ktcpvs.control.unix_listener import UnixControlListener
from ktcpvs.model.settings import Settings
from ktcpvs.system.log import EventLog
from ktcpvs.system.privileges import Identity


class ControlListeners:
    """The listeners of all control addresses. unix_listener: None where there is no unix socket. A takeover hands over
    the unix socket only."""

    def __init__(
        self,
        reactor: Any,
        factory: ControlFactory,
        addresses: Sequence[ControlAddress],
        group: int | None,
        held_socket: HeldSocket,
        settings: Callable[[], Settings],
        log: EventLog,
    ) -> None:
        """addresses: none: the default. group: its members may use the unix socket too. held_socket, settings: as in
        `tcp_listeners`. Raises NoTLS."""
        self._factory = factory
        self._tcp_listeners: list[TCPControlListener] = []
        self.unix_listener: UnixControlListener | None = None
        if not addresses:
            self.unix_listener = UnixControlListener(reactor, factory, None, group)
        for address in addresses:
            if address.path is not None:
                self.unix_listener = UnixControlListener(reactor, factory, address, group)
            elif address.tls is not None:
                self._tcp_listeners.append(TLSControlListener(reactor, factory, address, held_socket, settings, log))
            else:
                self._tcp_listeners.append(TCPControlListener(reactor, factory, address, held_socket, log))

    def __str__(self) -> str:
        return ", ".join(str(listener.address) for listener in self._all())

    def _all(self) -> list[UnixControlListener | TCPControlListener]:
        return [*([] if self.unix_listener is None else [self.unix_listener]), *self._tcp_listeners]

    @property
    def unix_address(self) -> ControlAddress | None:
        """The address of the unix socket; None: there is none."""
        return self.unix_listener.address if self.unix_listener is not None else None

    def has_tls(self) -> bool:
        return any(listener.address.tls is not None for listener in self._tcp_listeners)

    def has_socket_at(self, name: Any) -> bool:
        """True where getsockname returns `name` for the socket of one of these listeners."""
        if self.unix_listener is not None and name == self.unix_listener.path:
            return True
        return any(listener.is_at(name) for listener in self._tcp_listeners)

    def create_folder_for(self, identity: Identity) -> None:
        """Create the folder of the unix socket's default address, and give it to that user. Raises CannotListen."""
        if self.unix_listener is not None:
            self.unix_listener.create_folder_for(identity)

    def warn_unreadable_files(self, user: str) -> None:
        """Warn of certificate files that this process, which runs as `user`, cannot read again."""
        for listener in self._tcp_listeners:
            listener.warn_unreadable_files(user)

    def reload_certificates(self) -> None:
        """Read the certificate files again. The log says what came of it."""
        for listener in self._tcp_listeners:
            listener.reload_certificates()

    def adopt(self, sock: socket.socket) -> None:
        """Use this unix socket, but accept no connections yet."""
        assert self.unix_listener is not None
        self.unix_listener.adopt(sock)

    def open(self) -> None:
        """Accept connections. Raises CannotListen."""
        for listener in self._all():
            listener.open()

    def open_after_takeover(self) -> None:
        """Accept connections on the adopted unix socket, and on the TCP ports as soon as the old daemon closes them."""
        assert self.unix_listener is not None
        self.unix_listener.listen()
        for listener in self._tcp_listeners:
            listener.open_when_free()

    def release(self) -> None:
        """Accept no more connections: another daemon has taken over."""
        for listener in self._all():
            listener.release()

    def close(self) -> None:
        """Accept no more connections, and close those that are open after their responses have been sent."""
        for listener in self._tcp_listeners:
            listener.close()
        self._factory.close_all()
        if self.unix_listener is not None:
            self.unix_listener.close()
