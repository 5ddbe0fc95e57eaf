"""The behaviour of simulated servers: constant, lognormal, slow, failing, refusing, flapping, warming up, and others by
composition."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from attrs import define

REFUSED = 0
"""In place of a status: the server refuses the connection."""

OK, FAILED = 200, 500


@define(eq=False)
class Outcome:
    """The work of a server on one request. seconds: of work until it responds, or until it refuses. status: of the
    response, or REFUSED."""

    seconds: float
    status: int = OK


Behaviour = Callable[[float, Random], Outcome]
"""Returns what a server does with a request: (virtual seconds since the beginning, source of chance) -> Outcome."""


def constant(seconds: float) -> Behaviour:
    """Each request takes the same time."""
    outcome = Outcome(seconds)
    return lambda now, chance: outcome


def lognormal(median: float, sigma: float = 0.5) -> Behaviour:
    """Times as those of most real servers: half of the requests take up to `median` seconds, few take much longer.

    sigma: the standard deviation of the logarithm. With 0.5, one of a hundred takes over 3.2 times the median; with 1,
    over 10 times.
    """
    location = math.log(median)
    return lambda now, chance: Outcome(chance.lognormvariate(location, sigma))


def slow(behaviour: Behaviour, factor: float) -> Behaviour:
    """The same, but each request takes `factor` times as long."""

    def slowed(now: float, chance: Random) -> Outcome:
        outcome = behaviour(now, chance)
        return Outcome(outcome.seconds * factor, outcome.status)

    return slowed


def failing(
    share: float = 1.0, seconds: float = 0.001, status: int = FAILED, otherwise: Behaviour | None = None
) -> Behaviour:
    """A server that fails fast: it responds with an error after `seconds`, before any work.

    share: the part of the requests that fail, 0 to 1. otherwise: what it does with the others; None: all fail.
    """
    failure = Outcome(seconds, status)
    return lambda now, chance: failure if otherwise is None or chance.random() < share else otherwise(now, chance)


def refusing(seconds: float = 0.0005) -> Behaviour:
    """A server that refuses each connection, after `seconds`."""
    refusal = Outcome(seconds, REFUSED)
    return lambda now, chance: refusal


def flapping(up: Behaviour, seconds_up: float, seconds_down: float, down: Behaviour | None = None) -> Behaviour:
    """A server that comes and goes: `up` for `seconds_up`, then `down` for `seconds_down`, again and again.

    down: None: it refuses connections.
    """
    is_down = refusing() if down is None else down
    period = seconds_up + seconds_down
    return lambda now, chance: up(now, chance) if now % period < seconds_up else is_down(now, chance)
