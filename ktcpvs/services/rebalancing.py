"""The rebalancing of one service: after a scale-out, the oldest connections leave servers with more than their share.

A connection moves by an end: its client connects again, and the scheduler chooses anew. So only a connection whose
server was chosen by load or in turn moves. With a cookie or by a hash, its client would come back to the same server.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol

from attrs import define
from twisted.python.failure import Failure

from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.interfaces import USES_BALANCE, USES_WEIGHT, IUsesOptions
from ktcpvs.model.destination import Destination
from ktcpvs.model.rebalancing import most_moved, surpluses
from ktcpvs.model.scheduling import ServiceView
from ktcpvs.model.why import HASH, NEW_SESSION, RULE, SESSION
from ktcpvs.services.drain_spread import DrainSpread
from ktcpvs.system.periodic import PeriodicJob

UNLEVELLED = ("fo", "ovf", "first")
"""Schedulers that use one server before the next, so that none of them has a share."""

REBALANCED = "rebalanced: the client shall connect again"
"""The reason of the end of a connection, in the log."""

HELD = frozenset((SESSION, NEW_SESSION, HASH))
"""The reason why a client that connects again would come to the same server."""

PLAN_DELAY = 0.5
"""Seconds from the command to the first move where several processes serve: each of them chooses by the loads of all,
which must not have changed by the moves of another one."""

CHECK_INTERVAL = 1.0
"""Seconds between two checks which connections have left."""


class Chooser(Protocol):
    """Return the scheduler that chooses the servers of the service."""

    @property
    def factory(self) -> Any:
        """The scheduler's plugin."""

    @property
    def view(self) -> ServiceView | None:
        """The service as the scheduler sees it."""


@define
class ServerMoves:
    """The moves of one server's connections.

    active: its connections, of all processes. over: those of them that are above its share. moving: those of this
    process that move, those of an earlier command that have not left yet included. held: those of this process that
    would come back, by a cookie or a hash. uncloseable: those that only a reset can move. limit: the most that may
    move, of this process.
    """

    active: int
    over: int = 0
    moving: int = 0
    held: int = 0
    uncloseable: int = 0
    limit: int = 0


class Rebalancing:
    """Moves connections of one service, those that began first before the others."""

    def __init__(
        self,
        service: ServiceContext,
        connections: Collection[ClientConnection],
        chooser: Chooser,
        spread: DrainSpread,
    ) -> None:
        """connections: those that are open; the service changes this collection. spread: makes the calls that close
        them, within `drain_spread`."""
        self._service = service
        self._connections = connections
        self._chooser = chooser
        self._spread = spread
        self._moving: dict[ClientConnection, Destination] = {}
        self._planned: list[Callable[[], None]] = []  # the moves of a command, until PLAN_DELAY is over
        context = service.context
        self._job = PeriodicJob(context.reactor, self._check, self._check_failed, CHECK_INTERVAL)

    @property
    def left(self) -> int:
        """The number of connections that shall move, and have not left their server yet."""
        return sum(not connection.is_over for connection in self._moving)

    def begin(self, percent: int, resets: bool) -> dict[Destination, ServerMoves]:
        """Let connections move. Returns the servers that may get clients, with what moves.

        percent: the most of a server's connections that move. resets: reset connections whose protocol has no way to
        tell the client that it shall connect again; False: leave them.
        """
        self._forget_left()
        servers = self._usable(self._service.selector.usable)
        moves = {one: ServerMoves(one.active) for one in servers}
        over = self._find_surpluses(moves, percent)
        chosen: list[ClientConnection] = []
        for connection in sorted(self._connections, key=lambda one: one.began):
            server = connection.dispatcher.destination
            if server is not None and self._chooses(connection, server, moves, over, resets):
                chosen.append(connection)
                self._moving[connection] = server
        self._planned += [self._mover(one, resets) for one in chosen]
        is_shared = any(server.is_shared for server in servers)
        if not is_shared:
            self._make_planned()
        if chosen:
            self._job.start(PLAN_DELAY if is_shared else CHECK_INTERVAL)
        return moves

    def stop(self) -> None:
        """The service drains, which ends its connections in other ways: move none."""
        self._planned = []
        self._moving = {}

    def _make_planned(self) -> None:
        planned, self._planned = self._planned, []
        if planned:
            self._spread.make("rebalance", planned)

    def _usable(self, servers: Collection[Destination]) -> list[Destination]:
        """Return those of the servers that may get new clients."""
        excluded = self._service.selector.excluded
        return [one for one in servers if one.share and one not in excluded]

    def _groups(self) -> Iterator[tuple[int, Collection[Destination], Any]]:
        """Yield (number of a rule, its servers, what chooses among them); the number 0: the service has no rules."""
        view, factory = self._chooser.view, self._chooser.factory
        if view is None:
            return
        if not view.rules:
            yield 0, view.destinations, view.balance if _uses(factory, USES_BALANCE) else factory
        elif not _uses(factory, USES_BALANCE):
            yield 0, view.destinations, factory
        else:
            for rule in view.rules:
                yield rule.number, rule.weighed_destinations, view.balance_of(rule)

    def _find_surpluses(
        self, moves: dict[Destination, ServerMoves], percent: int
    ) -> dict[tuple[int, Destination], int]:
        """Note what is above the share of each server. Return how many connections of this process may leave, by the
        number of their rule and their server."""
        over: dict[tuple[int, Destination], int] = {}
        for number, servers, chooser in self._groups():
            if chooser is None or chooser.name in UNLEVELLED:
                continue
            for server, surplus in surpluses(self._usable(servers), _uses(chooser, USES_WEIGHT)).items():
                row = moves[server]
                row.over = max(row.over, surplus.over)
                most = min(surplus.room, most_moved(row.active, percent))
                over[number, server] = server.part_of(most)
        for server, row in moves.items():
            row.limit = server.part_of(most_moved(row.active, percent)) if row.over else 0
        for connection, server in self._moving.items():  # these still count at their servers
            if server in moves:
                moves[server].moving += 1
            place = _rule_of(connection), server
            over[place] = over.get(place, 0) - 1
        return over

    def _chooses(
        self,
        connection: ClientConnection,
        server: Destination,
        moves: dict[Destination, ServerMoves],
        over: dict[tuple[int, Destination], int],
        resets: bool,
    ) -> bool:
        """Return whether the connection moves, and note why it does not."""
        choice, row = connection.dispatcher.choice, moves.get(server)
        if choice is None or row is None or not row.over or connection in self._moving:
            return False
        if not connection.can_close and not connection.can_reset:
            return False  # a request that ends by itself
        if not HELD.isdisjoint(choice.why.split(", ")):
            row.held += 1
            return False
        if not connection.can_close and not resets:
            row.uncloseable += 1
            return False
        place = _rule_of(connection), server
        if over.get(place, 0) <= 0 or row.moving >= row.limit:
            return False
        row.moving += 1
        over[place] -= 1
        return True

    def _mover(self, connection: ClientConnection, resets: bool) -> Callable[[], None]:
        def move() -> None:
            server = self._moving.get(connection)
            if server is None or connection.dispatcher.destination is not server:
                self._moving.pop(connection, None)  # it serves another request by now
            elif connection.can_close:
                connection.end_relayed()
            elif resets and connection.can_reset:
                connection.ending = REBALANCED
                connection.expire()
            else:
                del self._moving[connection]

        return move

    def _forget_left(self) -> None:
        self._moving = {one: server for one, server in self._moving.items() if not one.is_over}

    def _check(self) -> float | None:
        """Begin the moves of a command, and forget the connections that have left, so that their memory is freed."""
        self._make_planned()
        self._forget_left()
        return CHECK_INTERVAL if self._moving else None

    def _check_failed(self, why: Failure) -> None:
        self._service.context.log.failure("service {ident}: rebalancing", why, ident=self._service.ident)


def _uses(plugin: Any, option: str) -> bool:
    return IUsesOptions.providedBy(plugin) and option in plugin.uses


def _rule_of(connection: ClientConnection) -> int:
    """Return the number of the rule that has chosen its server; 0: none has."""
    choice = connection.dispatcher.choice
    name, _, number = choice.why.partition(", ")[0].partition("=") if choice is not None else ("", "", "")
    return int(number) if name == RULE and number.isdecimal() else 0
