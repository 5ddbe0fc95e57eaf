"""random: any usable real server, by weight. A scheduler in twenty lines."""

import random

from zope.interface import implementer

from ktcpvs.interfaces import CONNECTION, USES_WEIGHT, Choice, IScheduler, ISchedulerFactory, IUsesOptions


@implementer(ISchedulerFactory, IUsesOptions)
class Random:
    """Per connection: any server, the heavier the more often."""

    name = "random"
    unit = CONNECTION
    uses = frozenset((USES_WEIGHT,))  # and neither rules nor a balance scheduler

    def bind(self, service, previous):
        return BoundRandom(service.destinations)


@implementer(IScheduler)
class BoundRandom:
    def __init__(self, destinations):
        self._destinations = destinations

    def choose(self, request):
        usable = [d for d in self._destinations if d.weight and d not in request.tried]
        weights = [d.weight for d in usable]
        return Choice(*random.choices(usable, weights), f"drawn by weight from {len(usable)}") if usable else None
