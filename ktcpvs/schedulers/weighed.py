"""A rule whose servers have weights of their own: its scheduler sees these instead of those of the service."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from attrs import evolve
from zope.interface import implementer

from ktcpvs.interfaces import Choice, Choosing, Destination, IScheduler, IWatches, OwnResponse, Request
from ktcpvs.model.weighed_destination import WeighedDestination


@implementer(IScheduler, IWatches)
class WeighedRule:
    """The scheduler of one rule. destinations: its servers as the rule weighs them. inner: was bound to these."""

    def __init__(self, inner: IScheduler, destinations: tuple[Destination, ...]) -> None:
        self.inner = inner
        self.destinations = destinations

    def choose(self, request: Request) -> Choosing:
        answer = self.inner.choose(request)
        if isinstance(answer, Choice):
            return _of_real(answer)
        return answer if answer is None or isinstance(answer, OwnResponse) else self._later(answer)

    async def _later(self, awaited: Any) -> Choice | OwnResponse | None:
        answer = await awaited
        return _of_real(answer) if isinstance(answer, Choice) else answer

    def watched(self) -> Iterable[tuple[Destination, Callable[[Destination], object]]]:
        """Return what the inner scheduler watches: it is told of the servers that it knows."""
        if not IWatches.providedBy(self.inner):
            return
        for known, changed in self.inner.watched():
            yield _real(known), _Told(known, changed)


class _Told:
    """Calls a watcher with the destination that it knows."""

    __slots__ = ("_changed", "_known")

    def __init__(self, known: Destination, changed: Callable[[Destination], object]) -> None:
        self._known, self._changed = known, changed

    def __call__(self, destination: Destination) -> None:
        self._changed(self._known)


def _real(known: Destination) -> Destination:
    return known.real if isinstance(known, WeighedDestination) else known


def _of_real(choice: Choice) -> Choice:
    real = _real(choice.destination)
    if type(choice) is Choice:  # as always; faster than evolve
        waits, completed = choice.waits, choice.completed
        return Choice(real, choice.reason, waits, choice.lines, choice.answer_lines, choice.why, completed=completed)
    return evolve(choice, destination=real)
