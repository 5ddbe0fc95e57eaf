"""peak-ewma: of two servers drawn at random, the one that can be expected to respond sooner.

As Finagle's and Linkerd's balancers of this name: the cost of a server is the time in which its responses have begun
lately (`Destination.latency`: it jumps up to a slow response at once, and decays to faster ones within some 10 s),
times the requests that it has now and the new one, for its weight. Only the time to the first byte counts: a long
stream is not slow. So a server that slows down gets less at once, without being told of by a check.

A failed request counts as one that took `failure_cost` seconds: the cost rises by the share of recent requests that
have failed (`Destination.error_rate`) times that. A timeout counts with the time that it took, too. A server that has
not responded yet counts as the median of the others, so that a newcomer is neither flooded nor avoided.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping
from statistics import median
from types import MappingProxyType
from typing import TYPE_CHECKING

from zope.interface import implementer

from ktcpvs.interfaces import (
    CONNECTION,
    USES_WEIGHT,
    Choice,
    Considered,
    Destination,
    IExplains,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
    NumberOption,
    Request,
    SchedulerOption,
    ServiceView,
)
from ktcpvs.schedulers.choices import choices_of
from ktcpvs.schedulers.drawing import draw_two, new_state
from ktcpvs.schedulers.options import option_of
from ktcpvs.schedulers.reasons import reason_among

UNKNOWN = 1.0
"""The seconds that each server counts with while none has responded: any number, so that loads alone decide."""

LEAST_LATENCY = 1e-6
"""The least seconds of a server that has responded: the latency of an idle one decays to 0, and its load must count
nevertheless."""


def expected_cost(destination: Destination, now: float, failure_cost: float, usual: Callable[[], float]) -> float:
    """Return the expected cost of one more request at a server. now: by its clock. failure_cost: in seconds. usual:
    returns the latency that stands for an unknown one. `schedulers/_balance.c` does the same."""
    latency = destination.latency
    seconds, last = latency.at(now), latency.last
    active = destination.active
    if seconds <= last / 2:
        seconds = _uncertain_latency(seconds, last, active, usual)
    errors = destination.measured_errors
    failures = destination.error_rate if errors is None else errors.at(now)
    if failures:
        seconds += failures * failure_cost
    return seconds * (active + 1) / destination.weight


def _uncertain_latency(seconds: float, last: float, active: float, usual: Callable[[], float]) -> float:
    """Return the latency of a server that has not responded yet, or not for some 7 s. seconds: as decayed.

    One that may have become faster is tried again with one request; while that lasts, it counts as the median, or all
    other requests would follow.
    """
    if not last:
        return usual()
    return max(seconds, min(last, usual()) if active else 0.0, LEAST_LATENCY)


@implementer(IScheduler, IExplains)
class BoundPeakEWMA:
    """peak-ewma over the servers of one service. failure_cost: in seconds."""

    __slots__ = ("_choices", "_destinations", "_failure_cost", "_median", "_state", "_uses_left")

    def __init__(self, service: ServiceView, draw: random.Random, failure_cost: float) -> None:
        self._destinations = service.destinations
        reason = reason_among(service, "the sooner expected response of two drawn from")
        self._choices = choices_of(service, reason)
        self._state = new_state(draw)
        self._failure_cost = failure_cost
        self._median = UNKNOWN
        self._uses_left = 0  # of the median, until it is computed again

    def choose(self, request: Request) -> Choice | None:
        drawn = draw_two(self._choices, request.tried, self._state)
        if len(drawn) < 2:
            return drawn[0] if drawn else None
        one, other = drawn
        first, failure_cost, usual = one.destination, self._failure_cost, self.usual_latency
        now = first.clock()
        cost = expected_cost(first, now, failure_cost, usual)
        return one if cost <= expected_cost(other.destination, now, failure_cost, usual) else other

    def usual_latency(self) -> float:
        """Return the median latency of the servers that have responded. It is computed again after an eighth as many
        uses as there are servers, so that the cost of a choice does not grow with their number."""
        if not self._uses_left:
            self._uses_left = len(self._choices) // 8 + 1
            latencies = [destination.latency for destination in self._destinations]
            known = [max(latency.ewma, LEAST_LATENCY) for latency in latencies if latency.last]
            self._median = median(known) if known else UNKNOWN
        self._uses_left -= 1
        return self._median

    def explain(self, request: Request) -> Considered:
        """Say what is known of each server."""
        return Considered((), tuple([_known_of(destination) for destination in self._destinations]), self._destinations)


CHOOSE_IN_PYTHON = BoundPeakEWMA.choose
"""`BoundPeakEWMA.choose` as it is written here, whichever is used."""

if not TYPE_CHECKING:
    with contextlib.suppress(ImportError):  # there was no C compiler when ktcpvs was installed
        from ktcpvs.schedulers._balance import configure_peak_ewma

        BoundPeakEWMA.choose = configure_peak_ewma(BoundPeakEWMA, LEAST_LATENCY)


def _known_of(destination: Destination) -> str:
    """Return what is known of a server, in words. Reads nothing that would begin a measurement."""
    latency, errors = destination.measured_latency, destination.measured_errors
    if latency is None:
        return f"{destination.address} has not been measured in this process"
    begun = f"begins its responses in {latency.ewma * 1000:.1f} ms" if latency.last else "has not responded yet"
    failed = f", {errors.value:.0%} failed" if errors is not None and errors.value else ""
    return f"{destination.address} {begun}{failed}, {destination.active} active"


@implementer(ISchedulerFactory, IUsesOptions)
class PeakEWMA:
    """Per connection: of two servers drawn at random, the one that can be expected to respond sooner."""

    name = "peak-ewma"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT,))
    options: Mapping[str, SchedulerOption] = MappingProxyType(
        {
            "failure_cost": NumberOption(
                default=30, minimum=0, maximum=3600, help="seconds that a failed request counts as"
            )
        }
    )

    def __init__(self, draw: random.Random | None = None) -> None:
        """draw: the source of randomness; None: a generator of its own."""
        self._draw = draw or random.Random()

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundPeakEWMA:
        return BoundPeakEWMA(service, self._draw, option_of(service, self.options, "failure_cost"))
