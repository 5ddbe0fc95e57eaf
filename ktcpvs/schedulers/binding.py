"""Binding in steps: a scheduler with thousands of rules is bound while the switch serves other clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import TypeVar

from zope.interface import implementer

from ktcpvs.interfaces import IBindsInSteps, IScheduler, ServiceView

Result = TypeVar("Result")


def run_to_end(steps: Generator[None, None, Result]) -> Result:
    """Run a generator to its end without a pause, and return what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result


@implementer(IBindsInSteps)
class BindsInSteps(ABC):
    """Base of scheduler plugins that bind in steps: they define `binding`, and get `bind` from it."""

    @abstractmethod
    def binding(self, service: ServiceView, previous: IScheduler | None) -> Generator[None, None, IScheduler]:
        """Bind, and yield after a few milliseconds of work; return the scheduler."""

    def bind(self, service: ServiceView, previous: IScheduler | None) -> IScheduler:
        return run_to_end(self.binding(service, previous))
