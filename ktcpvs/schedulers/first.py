"""first: fills one server before it uses the next, in the order of the configuration.

As HAProxy's `balance first`: the first server that has fewer connections than its `maxconn` gets the connection, so
that as few servers as possible are in use, and the others can be switched off. A server without maxconn is never full,
and those after it get connections only while it cannot serve.
"""

from __future__ import annotations

from zope.interface import implementer

from ktcpvs.interfaces import (
    CONNECTION,
    USES_MAXCONN,
    Choice,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
    Request,
    ServiceView,
)
from ktcpvs.schedulers.choices import choices_of, usable
from ktcpvs.schedulers.reasons import reason_among


@implementer(IScheduler)
class BoundFirst:
    """first over the servers of one service."""

    def __init__(self, service: ServiceView) -> None:
        reason = reason_among(service, "the first with room of")
        self._choices = choices_of(service, reason)

    def choose(self, request: Request) -> Choice | None:
        full: Choice | None = None
        for choice in usable(self._choices, request.tried):
            if not choice.destination.is_full:
                return choice
            full = full or choice
        return full  # all are: the client waits


@implementer(ISchedulerFactory, IUsesOptions)
class First:
    """Per connection: the first server in the configuration that has fewer connections than its maxconn."""

    name = "first"
    unit = CONNECTION
    uses = frozenset((USES_MAXCONN,))

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundFirst:
        return BoundFirst(service)
