"""sh, source hash: a client's address has its server, and a server that leaves moves only its own clients."""

from __future__ import annotations

from zope.interface import implementer

from ktcpvs.interfaces import (
    CONNECTION,
    USES_EACH_SERVER,
    USES_WEIGHT,
    Choice,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
    Request,
    ServiceView,
)
from ktcpvs.schedulers.hashing import hash_client
from ktcpvs.schedulers.rendezvous import Rendezvous


@implementer(IScheduler)
class BoundSH:
    """sh over the servers of one service."""

    def __init__(self, service: ServiceView) -> None:
        self._servers = Rendezvous(service, "the client's address")

    def choose(self, request: Request) -> Choice | None:
        return self._servers.pick_by(hash_client(request.client), request)


@implementer(ISchedulerFactory, IUsesOptions)
class SH:
    """Per connection: by the hash of the client's address, weighted."""

    name = "sh"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT, USES_EACH_SERVER))

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundSH:
        return BoundSH(service)
