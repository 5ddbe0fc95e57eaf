"""The listeners of one service: those that accept, and those that retire since another one has followed."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping

from twisted.internet.defer import Deferred

from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.model.address import Address
from ktcpvs.services.listener import Accepted, Listener
from ktcpvs.system import log as levels
from ktcpvs.system.sockets import keep_alive


class ServiceListeners:
    """The listeners of one service.

    at: by address, in the order in which they are configured. retired: each fires when a listener is closed that
    another one has followed on the same port, at the last `replace`.
    """

    def __init__(
        self,
        service: ServiceContext,
        room: Callable[[Listener, Address], int],
        accept_at: Callable[[Address], Accepted],
    ) -> None:
        """room: returns for how many clients there is room at a listener now. accept_at: returns the function that gets
        the descriptors accepted at an address."""
        self.at: dict[Address, Listener] = {}
        self.retired: list[Deferred[None]] = []
        self._service = service
        self._context = service.context
        self._room = room
        self._accept_at = accept_at
        self._retiring: list[Listener] = []  # until their handshakes are complete

    def replace(self, socks: Mapping[Address, socket.socket]) -> Mapping[Address, Listener]:
        """Make listeners of `socks`, by address, which `start` lets accept, and end those at the same addresses and at
        addresses that are not configured any more. Listeners at the other addresses are left alone."""
        addresses = self._service.config.addresses
        leaving = [listener for at, listener in self.at.items() if at in socks or at not in addresses]
        new = {at: self._make(at, sock) for at, sock in socks.items()}
        known = {**self.at, **new}
        self.at = {at: known[at] for at in addresses if at in known}
        self.retired, self._retiring = [], [listener for listener in self._retiring if not listener.closed]
        ports = {listener.port for listener in new.values()} - {None}
        for listener in leaving:
            self._step("listener before", self._end, listener, ports)
        return new

    def _make(self, address: Address, sock: socket.socket) -> Listener:
        def admit() -> int:
            return self._room(listener, address)

        listener = Listener(self._context, self._service.ident, sock, admit, self._accept_at(address))
        keep_alive(sock, self._service.config.tcp_keepalive)
        return listener

    def _end(self, before: Listener, ports: Collection[int | None]) -> None:
        """Accept no longer from `before`, at once or, where a new listener has the same port, without a gap."""
        if before.port in ports:
            self._retiring.append(before)
            self.retired.append(before.retire())
        else:
            before.close()

    def start(self, new: Mapping[Address, Listener]) -> None:
        """Let new listeners accept."""
        for at, listener in new.items():
            listener.start()
            self._context.log.event(levels.DAEMON, "service {ident} listens on {at}", ident=self._service.ident, at=at)

    def resume(self) -> None:
        """Accept again: there may be room for clients."""
        for listener in self.at.values():
            listener.resume()

    def change_accepted(self, addresses: Collection[Address]) -> None:
        """Ask anew what gets the descriptors that are accepted at these addresses."""
        for at, listener in self.at.items():
            if at in addresses:
                listener.accepted = self._accept_at(at)

    def set_keep_alive(self) -> None:
        """Apply the service's `tcp_keepalive`."""
        for listener in self.at.values():
            keep_alive(listener.socket, self._service.config.tcp_keepalive)

    def set_backlog(self, backlog: int) -> None:
        """Let so many clients wait in the kernel."""
        for listener in self.at.values():
            self._step("backlog", listener.socket.listen, backlog)

    def release(self, address: Address) -> None:
        """Leave the socket at an address to another process."""
        self._step("listener", self.at[address].release)
        del self.at[address]

    def close_one(self, address: Address, listener: Listener) -> None:
        """Close one listener, if it was not closed yet."""
        self._step("listener", listener.close)
        self.at.pop(address, None)

    def close(self) -> None:
        """Close those that accept."""
        for listener in self.at.values():
            self._step("listener", listener.close)
        self.at = {}

    def close_retiring(self) -> None:
        """Close those that retire now."""
        for listener in self._retiring:
            listener.close()

    def _step(self, name: str, call: Callable[..., object], *arguments: object) -> bool:
        return self._context.steps.run(f"service {self._service.ident}: {name}", call, *arguments)
