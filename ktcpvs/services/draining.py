"""The drain of one service's connections: of all of them when it stops, and of those to a server that leaves."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from ktcpvs.dispatch.client_connection import JOINED_STATES, ClientConnection
from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.model.destination import Destination
from ktcpvs.model.settings import Settings
from ktcpvs.services.drain_spread import DrainSpread
from ktcpvs.services.http2_clients import HTTP2Clients
from ktcpvs.services.preambles import Preambles
from ktcpvs.system import log as levels
from ktcpvs.system.timer_wheel import Timer


class Draining:
    """Lets connections of one service finish, and ends those that have not within `drain_timeout`.

    spread: makes the calls that close connections, within `drain_spread`.
    """

    def __init__(
        self,
        service: ServiceContext,
        connections: Collection[ClientConnection],
        preambles: Preambles,
        http2_clients: HTTP2Clients,
    ) -> None:
        """connections: those that are open; the service changes this collection."""
        self._service = service
        self._context = service.context
        self._connections = connections
        self._preambles = preambles
        self._http2_clients = http2_clients
        self._timer: Timer | None = None  # of `drain_timeout`, while all connections drain
        self._leaving: dict[Destination, Timer] = {}  # deleted servers -> that of `drain_timeout`
        self.spread = DrainSpread(service.context, service.ident, lambda: self._settings.drain_spread)

    @property
    def _settings(self) -> Settings:
        """Read anew, since an edit may stop a service before its settings are applied to it."""
        return self._service.config.settings_from(self._context.settings)

    # Of all connections.

    def begin(self, part: Callable[[ClientConnection], object]) -> None:
        """Let no connection begin more than the request that may be on its way, and call `part` with each."""
        self.spread.stop()  # the calls below are for all connections
        connections = list(self._connections)
        for connection in connections:
            self._step("drain", connection.retire_gently)
        self.spread.make("drain", [*self._http2_clients.retiring(), *(partial(part, one) for one in connections)])
        if (self._connections or self._preambles or self._http2_clients) and self._timer is None:
            self._timer = self._context.wheel.after(self._settings.drain_timeout, self._timed_out)

    def cancel(self) -> None:
        """The service listens again: the connections that it has may stay."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.spread.stop()

    def finish(self) -> None:
        """No connection is left."""
        self.cancel()
        self.spread.stop()

    def _timed_out(self) -> None:
        self._timer = None
        if self._connections:
            self._context.log.event(
                levels.ANNOUNCE,
                "service {ident}: {n} connections did not drain and are closed",
                ident=self._service.ident,
                n=len(self._connections),
            )
        self.end_all()

    def end_all(self) -> None:
        """End every connection now."""
        self._preambles.close()
        for connection in list(self._connections):
            self._step("end a connection", connection.expire)
        self._http2_clients.close()

    # Of the connections to servers that leave.

    def end_relayed(self, drained: Collection[Destination], is_drained: Callable[[Destination], bool]) -> None:
        """End what is relayed to these servers, which have just been taken out of use, where its protocol has a way for
        that. is_drained: whether a server is still out of use when the turn of a connection has come."""
        if drained:
            found = [one for one in self._connections if one.dispatcher.destination in drained]
            self.spread.make("drained servers", [partial(_end_relayed, one, is_drained) for one in found])

    def end_leaving_later(self, servers: Collection[Destination]) -> None:
        """End the connections of servers that have just been deleted, after `drain_timeout`."""
        timer = self._context.wheel.after(self._settings.drain_timeout, lambda: self._end_leaving(timer))
        self._leaving.update(dict.fromkeys(servers, timer))

    def keep(self, server: Destination) -> None:
        """A server is in use again: its connections stay, also if it is deleted a second time meanwhile."""
        self._leaving.pop(server, None)

    def _end_leaving(self, timer: Timer) -> None:
        leaving = {server for server, its_timer in self._leaving.items() if its_timer is timer}
        for connection in list(self._connections):
            if connection.dispatcher.destination in leaving:
                self._step("end a connection", connection.expire)
        for server in leaving:
            self._leaving.pop(server, None)

    def close_connections_of(self, down: Destination) -> None:
        """End the relayed connections of a server that is down, if the service wants that."""
        if self._service.config.close_on_down != "on":
            return
        for connection in list(self._connections):
            if connection.dispatcher.destination is down and connection.state in JOINED_STATES:
                connection.ending = f"the server is down: {down.health.reason}"
                self._step("end a connection", connection.expire)

    def _step(self, name: str, call: Callable[[], object]) -> None:
        self._context.steps.run(f"service {self._service.ident}: {name}", call)


def _end_relayed(connection: ClientConnection, is_drained: Callable[[Destination], bool]) -> None:
    destination = connection.dispatcher.destination
    if destination is not None and is_drained(destination):
        connection.end_relayed()
