"""sed and nq, shortest expected delay and never queue: for servers whose weights say how fast they are.

As in IPVS (ipvsadm(8), Linux's ip_vs_sed and ip_vs_nq): sed chooses the least (connections + 1)/weight, which is the
delay that the new connection may expect. Unlike wlc, which compares connections/weight, it prefers the faster one of
two idle servers. nq sends a connection to an idle server while there is one, however slow, and else chooses as sed.

In IPVS the first server wins a tie, and the first idle server of the list is taken; here ties rotate, and of several
idle servers the one with the highest weight is taken.
"""

from __future__ import annotations

from zope.interface import implementer

from ktcpvs.interfaces import (
    CONNECTION,
    USES_WEIGHT,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
    ServiceView,
)
from ktcpvs.schedulers.least import Least, bind_least
from ktcpvs.schedulers.loads import delay_unless_idle, expected_delay


@implementer(ISchedulerFactory, IUsesOptions)
class SED:
    """Per connection: the server with the shortest expected delay, (connections + 1) / weight."""

    name = "sed"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT,))

    def bind(self, service: ServiceView, previous: IScheduler | None) -> Least:
        return bind_least(service, previous, expected_delay, "shortest expected delay")


@implementer(ISchedulerFactory, IUsesOptions)
class NQ:
    """Per connection: an idle server if there is one, else that with the shortest expected delay."""

    name = "nq"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT,))

    def bind(self, service: ServiceView, previous: IScheduler | None) -> Least:
        return bind_least(service, previous, delay_unless_idle, "idle, or shortest expected delay")
