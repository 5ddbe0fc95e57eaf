"""The server with the least load, for schedulers that differ in what they call the load of a server.

A few servers are compared one by one; many are kept in order as their connections come and go, so that the cost of a
choice hardly grows with their number. Ties rotate, so that equal servers share evenly.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from math import inf
from typing import TYPE_CHECKING

from zope.interface import implementer

from ktcpvs.interfaces import Choice, Destination, IScheduler, IWatches, Request, ServiceView
from ktcpvs.model.why import BALANCE
from ktcpvs.schedulers.choices import choices_of
from ktcpvs.schedulers.loads import Load, connections, delay_unless_idle, expected_delay, weighted_connections
from ktcpvs.schedulers.order import Order
from ktcpvs.schedulers.reasons import reason_among

MAX_SCANNED_SERVERS = 16
"""The most servers that are compared one by one: up to here that costs less than keeping them in order, or more where
the comparison is compiled."""


@implementer(IScheduler)
class LeastLoad:
    """Compares the loads of a few servers. place: where the next comparison begins."""

    __slots__ = ("_choices", "_load", "place")

    def __init__(self, service: ServiceView, load: Load, reason: str, place: int = 0) -> None:
        self._choices = choices_of(service, reason)
        self._load = load
        self.place = place

    def choose(self, request: Request) -> Choice | None:
        choices, tried, load_of = self._choices, request.tried, self._load
        best: Choice | None = None
        least, place = inf, 0
        count = len(choices)
        for step in range(count):
            position = (self.place + step) % count
            destination = choices[position].destination
            load = load_of(destination)
            if load < least and destination not in tried:
                best, least, place = choices[position], load, position
        if best is not None:
            self.place = place + 1
        return best


@implementer(IScheduler)
class OnlyOne:
    """The one server of a service, or of a rule."""

    __slots__ = ("_choice", "_destination")

    def __init__(self, service: ServiceView, reason: str) -> None:
        (self._destination,) = service.destinations
        self._choice = Choice(self._destination, reason, why=service.why_of(BALANCE))

    def choose(self, request: Request) -> Choice | None:
        destination = self._destination
        return self._choice if destination.weight > 0 and destination not in request.tried else None


@implementer(IScheduler, IWatches)
class OrderedLoad:
    """Many servers, which are kept in the order of their load."""

    def __init__(self, service: ServiceView, load: Load, reason: str) -> None:
        why = service.why_of(BALANCE)
        self._choices = {destination: Choice(destination, reason, why=why) for destination in service.destinations}
        self._order = Order(self._choices, load)

    def choose(self, request: Request) -> Choice | None:
        first = self._order.first(request.tried)
        return self._choices[first] if first is not None else None

    def watched(self) -> Iterable[tuple[Destination, Callable[[Destination], object]]]:
        return ((destination, self._order.changed) for destination in self._choices)


LEAST_IN_PYTHON, ONLY_IN_PYTHON = LeastLoad.choose, OnlyOne.choose
"""`choose` of both classes as it is written here, whichever is used."""

if not TYPE_CHECKING:
    with contextlib.suppress(ImportError):  # there was no C compiler when ktcpvs was installed
        from ktcpvs.schedulers._balance import configure_least

        MAX_SCANNED_SERVERS = 128
        LeastLoad.choose, OnlyOne.choose = configure_least(
            LeastLoad,
            OnlyOne,
            {load.__name__: load for load in (connections, delay_unless_idle, expected_delay, weighted_connections)},
        )

Least = OnlyOne | LeastLoad | OrderedLoad
"""The forms of a scheduler by load."""


def bind_least(service: ServiceView, previous: IScheduler | None, load: Load, reason: str) -> Least:
    """Bind a scheduler by `load` in the form that suits the number of servers. reason: of its choices, without the
    number of servers, as for `reason_among`."""
    count = len(service.destinations)
    reason = reason_among(service, f"{reason} among")
    if count > MAX_SCANNED_SERVERS:
        return OrderedLoad(service, load, reason)
    if count == 1:
        return OnlyOne(service, reason)
    return LeastLoad(service, load, reason, previous.place if isinstance(previous, LeastLoad) else 0)
