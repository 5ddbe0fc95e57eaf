"""All places where administrators come in: one unix socket at most, and any number of TCP ports beside it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from ktcpvs.control.control_listener import ControlListener
from ktcpvs.control.endpoints import ControlAddress
from ktcpvs.control.ports import Lasting, Port, TLSPort
from ktcpvs.control.server import ControlFactory
from ktcpvs.model.settings import Settings
from ktcpvs.system.log import EventLog
from ktcpvs.system.privileges import Identity


class ControlListeners:
    """local: the unix socket's; None: there is none. A daemon hands it over to the next one, and nothing else."""

    def __init__(
        self,
        reactor: Any,
        factory: ControlFactory,
        places: Sequence[ControlAddress],
        group: int | None,
        lasting: Lasting,
        settings: Callable[[], Settings],
        log: EventLog,
    ) -> None:
        """places: none: the default one. group: whose members may use the unix socket too. lasting, settings: as in
        `ports`. Raises NoTLS."""
        self._factory = factory
        self._ports: list[Port] = []
        self.local: ControlListener | None = None if places else ControlListener(reactor, factory, None, group)
        for where in places:
            if where.path is not None:
                self.local = ControlListener(reactor, factory, where, group)
            elif where.tls is not None:
                self._ports.append(TLSPort(reactor, factory, where, lasting, settings, log))
            else:
                self._ports.append(Port(reactor, factory, where, lasting, log))

    def __str__(self) -> str:
        return ", ".join(str(one.where) for one in self._all())

    def _all(self) -> list[ControlListener | Port]:
        return [*([] if self.local is None else [self.local]), *self._ports]

    @property
    def unix(self) -> ControlAddress | None:
        """Where the unix socket is; None: there is none."""
        return self.local.where if self.local is not None else None

    def has_tls(self) -> bool:
        return any(port.where.tls is not None for port in self._ports)

    def is_at(self, name: Any) -> bool:
        """True for what getsockname says of a socket that is one of these."""
        return (self.local is not None and name == self.local.path) or any(port.is_at(name) for port in self._ports)

    def hand_to(self, who: Identity) -> None:
        """See Entrance."""
        if self.local is not None:
            self.local.hand_to(who)

    def warn_of(self, user: str) -> None:
        """Certificates that this user, as who the daemon goes on, cannot read again."""
        for port in self._ports:
            port.warn_of(user)

    def read_again(self) -> None:
        """The certificates. The log tells how it went."""
        for port in self._ports:
            port.read_again()

    def adopt(self, sock: socket.socket) -> None:
        """That is the unix socket; nobody is let in yet."""
        assert self.local is not None
        self.local.adopt(sock)

    def open(self) -> None:
        """Let administrators in. Raises CannotListen."""
        for one in self._all():
            one.open()

    def follow(self) -> None:
        """Let them in after the daemon before, who still listens on the TCP ports."""
        assert self.local is not None
        self.local.listen()
        for port in self._ports:
            port.open_when_free()

    def release(self) -> None:
        """Let nobody in any more: another daemon does."""
        for one in self._all():
            one.release()

    def close(self) -> None:
        """The same, and end all control connections, when what was answered has gone out."""
        for port in self._ports:
            port.close()
        self._factory.close_all()
        if self.local is not None:
            self.local.close()
