"""The processes that serve clients: the director's own process, or workers that it supervises."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import inf
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed

from ktcpvs.model.address import Address
from ktcpvs.model.challenges import Challenge
from ktcpvs.model.edits import Edit
from ktcpvs.model.expansion import Resolution
from ktcpvs.model.nodes import NodeIdentity
from ktcpvs.model.settings import Settings
from ktcpvs.model.table import Table
from ktcpvs.model.withdrawal import Withdrawal
from ktcpvs.runtime.context import Context
from ktcpvs.services.running import RunningService
from ktcpvs.services.tls_file_store import Update


class ServingProcesses(Protocol):
    """The processes that serve clients, as their director needs them.

    The director itself changes the services of its own process. draining_unit: the plural of what `count_draining`
    counts. extra_drain_time: seconds that draining may take beyond the drain timeout.
    """

    draining_unit: str
    extra_drain_time: float

    def start(self) -> None:
        """The reactor runs: start other processes."""

    # An edit, in the order in which the director calls.

    def prepare(self, old: Table, new: Table) -> None:
        """Prepare for `new`; `old` stays in use until `new` is in force everywhere."""

    def open(self, address: Address, backlog: int, closing: Iterable[socket.socket]) -> list[socket.socket]:
        """Return new sockets that listen on `address`. closing: those that this change closes. Raises CannotListen."""

    def most_seconds_to_bind(self, settings: Settings) -> float:
        """Return how long one step of a scheduler's binding may take: in a process that serves nobody meanwhile, and is
        ended for that."""

    def commands_for(self, edit: Edit) -> Any:
        """Return the commands with which `send` has other processes carry `edit` out. May raise: nothing has changed
        yet."""

    def commands_for_names(self, found: Resolution) -> Any:
        """Return the commands with which `send` has other processes use these addresses of names."""

    def commands_to_share(self, live: Collection[NodeIdentity]) -> Any:
        """Return the commands with which `send` has other processes know the nodes that share limits, see
        SharedLimits.divide_among."""

    def commands_to_withdraw(self, withdrawal: Withdrawal) -> Any:
        """Return the commands with which `send` has other processes withdraw services."""

    def commands_for_cookie_secret(self, secret: bytes) -> Any:
        """Return the commands with which `send` has other processes sign cookies with this secret."""

    def pass_files(self, update: Update) -> None:
        """Have other processes use these files of TLS; `send` passes them, before the edit that needs them."""

    def listen(self, service: RunningService, socks: Mapping[Address, list[socket.socket]]) -> None:
        """Accept clients from `socks` too, which `open` has made for these addresses, and no longer from the sockets of
        addresses that the service does not have any more."""

    def stop(self, service: RunningService) -> None:
        """The service has stopped: close the listening sockets of other processes."""

    def watch_health(self, services: Iterable[RunningService]) -> None:
        """Send other processes the results of the checks of these services' servers from now on."""

    async def send(self, commands: Any) -> None:
        """Put the edit in force in all other processes. commands: from `commands_for`."""

    def replace_all(self) -> None:
        """Replace all other processes after `send` has failed, since their tables may differ from the director's."""

    # Between two edits.

    async def replace_files(self, update: Update) -> None:
        """Have other processes use these new versions of files of TLS."""

    async def replace_challenges(self, challenges: Sequence[Challenge]) -> None:
        """Have other processes answer these challenges of ACME, and no others. Returns when they do."""

    # State.

    def sockets_of(self, service: RunningService) -> Mapping[Address, list[socket.socket]]:
        """Return the sockets on which the service listens, by address."""

    def ready(self) -> Deferred[None]:
        """Fires when all processes have the table; fails with a Refusal if one cannot start."""

    def ping(self) -> Deferred[bool]:
        """Check that all processes respond. Fires with True if they do."""

    def describe(self) -> str:
        """Describe the processes that serve, for a status line."""

    def count_draining(self) -> int:
        """Return the number of other processes that have not ended yet."""

    # Signals, takeover, end.

    def reopen_logs(self) -> None:
        """Have other processes reopen the files of access logs."""

    def start_accepting(self) -> None:
        """Have other processes accept clients."""

    def hand_over(self, sockets_taken: Mapping[Address, int]) -> None:
        """Another daemon has taken over: have other processes stop accepting, and drain. sockets_taken: as for
        Director.hand_over."""

    def end(self) -> None:
        """Stop listening; other processes drain and end."""

    def end_all(self) -> None:
        """End other processes now."""


class SingleProcess:
    """Only the director's own process serves. Provides ServingProcesses."""

    draining_unit = "connections"
    extra_drain_time = 0.0

    def __init__(self, context: Context) -> None:
        self._context = context

    def start(self) -> None:
        pass

    def prepare(self, old: Table, new: Table) -> None:
        pass

    def open(self, address: Address, backlog: int, closing: Iterable[socket.socket]) -> list[socket.socket]:
        return [self._context.sockets.open(address, backlog, closing)]

    def most_seconds_to_bind(self, settings: Settings) -> float:
        return inf

    def commands_for(self, edit: Edit) -> Any:
        return None

    def commands_for_names(self, found: Resolution) -> Any:
        return None

    def commands_to_share(self, live: Collection[NodeIdentity]) -> Any:
        return None

    def commands_to_withdraw(self, withdrawal: Withdrawal) -> Any:
        return None

    def commands_for_cookie_secret(self, secret: bytes) -> Any:
        return None

    def pass_files(self, update: Update) -> None:
        pass

    async def replace_files(self, update: Update) -> None:
        pass

    async def replace_challenges(self, challenges: Sequence[Challenge]) -> None:
        pass

    def listen(self, service: RunningService, socks: Mapping[Address, list[socket.socket]]) -> None:
        service.listen({address: sock for address, (sock,) in socks.items()})

    def stop(self, service: RunningService) -> None:
        pass

    def watch_health(self, services: Iterable[RunningService]) -> None:
        pass

    async def send(self, commands: Any) -> None:
        pass

    def replace_all(self) -> None:
        pass

    def sockets_of(self, service: RunningService) -> Mapping[Address, list[socket.socket]]:
        return {address: [listener.socket] for address, listener in service.listeners.items()}

    def ready(self) -> Deferred[None]:
        return succeed(None)

    def ping(self) -> Deferred[bool]:
        return succeed(True)

    def describe(self) -> str:
        return "one process serves"

    def count_draining(self) -> int:
        return 0

    def reopen_logs(self) -> None:
        pass

    def start_accepting(self) -> None:
        pass

    def hand_over(self, sockets_taken: Mapping[Address, int]) -> None:
        pass

    def end(self) -> None:
        pass

    def end_all(self) -> None:
        pass
