"""The room for clients of one service: how many more it may accept now."""

from __future__ import annotations

from collections.abc import Callable

from twisted.python.failure import Failure

from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.model.address import Address
from ktcpvs.runtime.counters import ClientCounter
from ktcpvs.services.listener import Listener
from ktcpvs.services.preambles import Preambles
from ktcpvs.system.periodic import PeriodicJob

ROOM_POLL_INTERVAL = 0.05
"""Seconds between two checks whether another process has made room."""


class ClientRoom:
    """Counts the room of one service, and looks for room that other processes make."""

    def __init__(
        self, service: ServiceContext, clients: ClientCounter, preambles: Preambles, resume: Callable[[], object]
    ) -> None:
        """clients: the number of its clients in all processes. preambles: of its clients. resume: lets its listeners
        accept again."""
        self._service = service
        self._clients = clients
        self._preambles = preambles
        self._resume = resume
        context = service.context
        self._job = PeriodicJob(context.reactor, self._check, self._check_failed, ROOM_POLL_INTERVAL)

    def left(self, listener: Listener, preamble_at: Address | None) -> int:
        """Return for how many clients there is room now. listener: accepts again when descriptors are free.
        preamble_at: the address whose clients have a preamble; None: they have none."""
        most, clients, descriptors = self._service.config.maxclients, self._clients, self._service.context.descriptors
        begun = self._preambles.room(preamble_at) if preamble_at is not None else None
        if begun == 0:
            return 0
        left = most - clients.in_all if most else 0
        if most and left <= 0:
            if clients.is_shared:
                self._schedule_check()
            return 0
        room = descriptors.room
        if room <= 0:
            descriptors.close_idle()  # idle server connections are closed first
            descriptors.waiting.add(listener)
            return 0
        if begun is not None:
            room = min(room, begun)
        if not most:
            return room
        return min(room, 1 if clients.is_shared else left)  # other processes may accept clients at the same time

    def needed(self) -> None:
        """Look for room that other processes make: a client waits for it."""
        if any(destination.is_shared for destination in self._service.selector.limited):
            self._schedule_check()

    def _schedule_check(self) -> None:
        """Check again soon: other processes serve this service too, and give no notice when their clients leave."""
        if not self._job.is_scheduled:
            self._job.start(ROOM_POLL_INTERVAL)

    def _check(self) -> float | None:
        queue = self._service.queue
        self._resume()
        for destination in self._service.selector.limited if queue else ():
            if not destination.is_full:
                queue.freed(destination)
        if queue:
            self._schedule_check()
        return None

    def _check_failed(self, why: Failure) -> None:
        ident = self._service.ident
        self._service.context.log.failure("service {ident}: cannot serve waiting clients", why, ident=ident)
