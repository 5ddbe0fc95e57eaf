"""What a service needs for its next configuration, made and tried before anything is changed."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from attrs import Factory, define, field

from ktcpvs.model.address import Address
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import ServiceView
from ktcpvs.model.service import VirtualService


@define
class Prepared:
    """config: as it shall run. destinations: one for each of its servers. factory, balance, fallback: scheduler
    plugins; fallback None: there is none. key: the secret of its cookies. trial: it will be asked and thrown away.
    scheduler: bound. seen: what it saw. socks: new listening sockets; none: it listens where it did."""

    config: VirtualService
    destinations: dict[Address, Destination]
    factory: Any
    balance: Any
    fallback: Any
    key: bytes = field(repr=False)
    trial: bool = False
    scheduler: Any = None
    seen: ServiceView | None = None
    socks: list[socket.socket] = Factory(list)

    def view(self, before: ServiceView | None = None) -> ServiceView:
        """The service as a scheduler sees it. before: as it saw it until now."""
        return ServiceView.of(self.config, self.destinations, self.balance, self.key, before, self.trial)

    def bind_fallback(self) -> Callable[[], Any] | None:
        """Binds the fallback scheduler when it is called: most services never need theirs."""
        if self.fallback is None:
            return None
        return lambda: self.fallback.bind(self.view(), None)
