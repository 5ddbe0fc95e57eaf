"""wlc and lc, least connections: the server with the fewest connections, for its weight or as they are.

wlc compares connections/weight of the servers with a weight above 0; lc is wlc where every weight but 0 counts as 1. In
KTCPVS the first server wins a tie; here ties rotate, so that equal servers share evenly.
"""

from __future__ import annotations

from zope.interface import implementer

from ktcpvs.interfaces import CONNECTION, USES_WEIGHT, IScheduler, ISchedulerFactory, IUsesOptions, ServiceView
from ktcpvs.schedulers.least import Least, bind_least
from ktcpvs.schedulers.loads import connections, weighted_connections


@implementer(ISchedulerFactory, IUsesOptions)
class WLC:
    """Per connection: the server with the fewest connections for its weight."""

    name = "wlc"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT,))

    def bind(self, service: ServiceView, previous: IScheduler | None) -> Least:
        return bind_least(service, previous, weighted_connections, "fewest connections for its weight")


@implementer(ISchedulerFactory, IUsesOptions)
class LC:
    """Per connection: the server with the fewest connections, whatever its weight."""

    name = "lc"
    unit = CONNECTION
    uses = frozenset[str]()

    def bind(self, service: ServiceView, previous: IScheduler | None) -> Least:
        return bind_least(service, previous, connections, "fewest connections")
