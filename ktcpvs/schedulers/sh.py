"""sh, source hash: a client's address has its server, and a server that leaves moves only its own clients."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

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
from ktcpvs.schedulers.keys import number_of_client
from ktcpvs.schedulers.rendezvous import Rendezvous


@implementer(IScheduler)
class BoundSH:
    """sh over the servers of one service."""

    __slots__ = ("_servers",)

    def __init__(self, service: ServiceView) -> None:
        self._servers = Rendezvous(service, "the client's address")

    def choose(self, request: Request) -> Choice | None:
        return self._servers.pick_by(number_of_client(request), request)


CHOOSE_IN_PYTHON = BoundSH.choose
"""`BoundSH.choose` as it is written here, whichever is used."""

if not TYPE_CHECKING:
    with contextlib.suppress(ImportError):  # there was no C compiler when ktcpvs was installed
        from ktcpvs.schedulers._hashing import configure_sh

        BoundSH.choose = configure_sh({"sh": BoundSH, "rendezvous": Rendezvous})


@implementer(ISchedulerFactory, IUsesOptions)
class SH:
    """Per connection: by the hash of the client's address, weighted."""

    name = "sh"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT, USES_EACH_SERVER))

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundSH:
        return BoundSH(service)
