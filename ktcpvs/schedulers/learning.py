"""A balance scheduler that learns: its choices name the function that gets their outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from attrs import evolve
from zope.interface import implementer

from ktcpvs.interfaces import Choice, Choosing, Destination, IScheduler, IWatches, Outcome, OwnResponse, Request


@implementer(IScheduler, IWatches)
class LearningBalance:
    """The scheduler within one rule, where it provides L{ILearns}. inner: that scheduler."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self._completed: Callable[[Outcome], object] = inner.completed
        self._last: tuple[Choice, Choice] | None = None  # schedulers often return the same choice again

    def choose(self, request: Request) -> Choosing:
        answer: Choosing = self.inner.choose(request)
        if isinstance(answer, Choice):
            return self._with(answer)
        return answer if answer is None or isinstance(answer, OwnResponse) else self._later(answer)

    async def _later(self, awaited: Any) -> Choice | OwnResponse | None:
        answer = await awaited
        return self._with(answer) if isinstance(answer, Choice) else answer

    def _with(self, choice: Choice) -> Choice:
        last = self._last
        if last is None or last[0] is not choice:
            last = self._last = choice, evolve(choice, completed=choice.completed or self._completed)
        return last[1]

    def watched(self) -> Iterable[tuple[Destination, Callable[[Destination], object]]]:
        return self.inner.watched() if IWatches.providedBy(self.inner) else ()
