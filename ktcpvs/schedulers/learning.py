"""A balance scheduler that learns: its choices name the function that gets their outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from attrs import evolve
from zope.interface import implementer

from ktcpvs.interfaces import Choice, Choosing, Destination, IScheduler, IWatches, Outcome, OwnResponse, Request

MAX_KNOWN_CHOICES = 256
"""The most choices of one rule's scheduler that are known with their `completed`."""


@implementer(IScheduler, IWatches)
class LearningBalance:
    """The scheduler within one rule, where it provides L{ILearns}. inner: that scheduler."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self._completed: Callable[[Outcome], object] = inner.completed
        self._choose: Callable[[Request], Choosing] = inner.choose
        self._known: dict[int, tuple[Choice, Choice]] = {}  # by id: schedulers often return one of the same choices

    def choose(self, request: Request) -> Choosing:
        answer = self._choose(request)
        known = self._known.get(id(answer))
        if known is not None:
            return known[1]
        if isinstance(answer, Choice):
            return self._with(answer)
        return answer if answer is None or isinstance(answer, OwnResponse) else self._later(answer)

    async def _later(self, awaited: Any) -> Choice | OwnResponse | None:
        answer = await awaited
        return self._with(answer) if isinstance(answer, Choice) else answer

    def _with(self, choice: Choice) -> Choice:
        if len(self._known) >= MAX_KNOWN_CHOICES:
            self._known.clear()
        learned = evolve(choice, completed=choice.completed or self._completed)
        self._known[id(choice)] = choice, learned  # which keeps the id in use
        return learned

    def watched(self) -> Iterable[tuple[Destination, Callable[[Destination], object]]]:
        return self.inner.watched() if IWatches.providedBy(self.inner) else ()
