"""The process of endpoints: it serves, and listens nowhere."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping

from ktcpvs.director.serving_processes import SingleProcess
from ktcpvs.model.address import Address
from ktcpvs.services.running import RunningService


class NoListeners(SingleProcess):
    """A process whose services have no clients but endpoints."""

    def open(self, address: Address, backlog: int, closing: Iterable[socket.socket]) -> list[socket.socket]:
        return []

    def listen(self, service: RunningService, socks: Mapping[Address, list[socket.socket]]) -> None:
        service.listen({})
