"""lc, least connections: wlc where every weight but 0 counts as 1."""

from __future__ import annotations

from zope.interface import implementer

from ktcpvs.interfaces import CONNECTION, IScheduler, ISchedulerFactory, IUsesOptions, ServiceView
from ktcpvs.schedulers.least import Least
from ktcpvs.schedulers.wlc import BoundWLC, bound_wlc


@implementer(ISchedulerFactory, IUsesOptions)
class LC:
    """Per connection: the server with the fewest connections, whatever its weight."""

    name = "lc"
    unit = CONNECTION
    uses = frozenset[str]()

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundWLC | Least:
        return bound_wlc(service, previous, even=True)
