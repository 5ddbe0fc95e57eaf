"""A stand-in for a scheduler that a process cannot load or bind: it fails, so that the service's fallback chooses."""

from __future__ import annotations

from typing import Any, NoReturn

from zope.interface import implementer

from ktcpvs.interfaces import IScheduler, ISchedulerFactory
from ktcpvs.model.scheduler_options import TextOption
from ktcpvs.model.scheduler_words import name_of, parse_scheduler


class SchedulerIsMissing(Exception):
    """This process has no such scheduler, or could not bind it."""


@implementer(ISchedulerFactory, IScheduler)
class MissingScheduler:
    """The factory, and its own bound form. It takes whatever options the service gives."""

    def __init__(self, text: str, unit: str, why: str) -> None:
        """text: of the scheduler in the configuration. unit: that of the scheduler. why: it is missing."""
        self.name = name_of(text)
        self.unit = unit
        self.why = why
        self.options = {name: TextOption(default="") for name, _ in parse_scheduler(text).options}

    def bind(self, service: Any, previous: Any) -> IScheduler:
        return self

    def choose(self, request: Any) -> NoReturn:
        raise SchedulerIsMissing(self.why)
