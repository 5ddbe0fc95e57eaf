"""Who waits for a server of one service, because all that may serve have as many connections as their maxconn allows.

First come, first served, but for those whom the server that came free may not serve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktcpvs.model.destination import Destination

if TYPE_CHECKING:
    from ktcpvs.dispatch.client_connection import ClientConnection


class Queue:
    """One service's queue."""

    def __init__(self) -> None:
        self._waiting: dict[ClientConnection, set[Destination]] = {}  # who waits -> which destinations are not for them
        self._freed: list[Destination] = []
        self._serving = False

    def __len__(self) -> int:
        return len(self._waiting)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def enter(self, client: ClientConnection) -> None:
        """`client` waits from now on; whoever waits already keeps its place."""
        self._waiting.setdefault(client, set())

    def leave(self, client: ClientConnection) -> None:
        """It waits no longer. Safe to call for one that does not."""
        self._waiting.pop(client, None)

    def freed(self, destination: Destination) -> None:
        """`destination` has room: whoever waited longest and may have it is asked to try again."""
        if not self._waiting:
            return
        self._freed.append(destination)
        if self._serving:
            return  # a loop, not a recursion: who tries may free something itself
        self._serving = True
        try:
            while self._freed:
                self._serve(self._freed.pop())
        finally:
            self._serving = False

    def try_all(self) -> None:
        """The service has changed: everybody tries again, in their order."""
        for client in list(self._waiting):
            if client in self._waiting:
                self._waiting[client] = set()
                client.try_again()

    def _serve(self, destination: Destination) -> None:
        asked: set[ClientConnection] = set()
        while not destination.is_full:
            waiting = self._waiting.items()
            client = next((one for one, not_for in waiting if destination not in not_for and one not in asked), None)
            if client is None:
                return
            client.try_again()
            not_for = self._waiting.get(client)
            if not_for is None:
                continue
            if destination.is_shared:  # another process may have taken the place just before: it is asked again later
                asked.add(client)
            else:  # there was room, and it was not for this one
                not_for.add(destination)
