"""A time budget for the calls of schedulers that are plugins: overruns are counted, and after several the fallback
chooses for a while.

A call that runs cannot be interrupted. Of an asynchronous scheduler, the part before its first wait is measured;
`choose_timeout` limits the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from zope.interface import implementer

from ktcpvs.dispatch.selection import fallen_back, is_choice
from ktcpvs.interfaces import Choosing, IScheduler, OwnResponse, Request
from ktcpvs.model.settings import Settings
from ktcpvs.runtime.context import Context

BUILT_IN = "ktcpvs.schedulers."
"""The package of the built-in schedulers, which have no budget."""


def is_plugin(factory: Any) -> bool:
    """Whether a scheduler is none of the built-in ones. factory: None: there is none."""
    return factory is not None and not type(factory).__module__.startswith(BUILT_IN)


class ChooseBudget:
    """The budget of one service. overruns: the calls that took longer, in all."""

    def __init__(self, context: Context, ident: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._context = context
        self._ident = ident
        self._clock = clock
        self._in_a_row = 0
        self._rests_until = 0.0
        self.overruns = 0

    def reset(self) -> None:
        """Another scheduler is bound: it begins without overruns."""
        self._in_a_row, self._rests_until = 0, 0.0

    def around(
        self, scheduler: Any, make_fallback: Callable[[], Any] | None, fallback: str, settings: Settings
    ) -> IScheduler:
        """Return a scheduler that asks `scheduler` within the budget of `settings`.

        make_fallback: binds the fallback scheduler; None: there is none, and overruns are only counted. fallback: its
        text in the configuration.
        """
        made: list[Any] = []

        def choose_instead(request: Request) -> Choosing:
            if not made and make_fallback is not None:
                made.append(make_fallback())
            answer: Choosing = made[0].choose(request)
            if isinstance(answer, OwnResponse) or is_choice(answer):
                return fallen_back(answer, made[0], fallback, "the scheduler was too slow")
            return answer

        return _Budgeted(self, scheduler, settings, None if make_fallback is None else choose_instead)

    def choose(
        self,
        request: Request,
        scheduler: Any,
        settings: Settings,
        choose_instead: Callable[[Request], Choosing] | None,
    ) -> Choosing:
        """Let `scheduler` choose, or the fallback while it rests."""
        began = self._clock()
        if choose_instead is not None and began < self._rests_until:
            return choose_instead(request)
        answer: Choosing = scheduler.choose(request)
        spent = 1000 * (self._clock() - began)
        if spent <= settings.choose_budget:
            self._in_a_row = 0
            return answer
        self.overruns += 1
        self._in_a_row += 1
        log, budget = self._context.log, settings.choose_budget
        form = "scheduler of service {ident} took {spent:.1f} ms to choose; its choose_budget is {budget} ms"
        log.fault(form, ident=self._ident, spent=spent, budget=budget)
        if choose_instead is not None and self._in_a_row >= settings.choose_overruns:
            self._rests_until = self._clock() + settings.choose_rest
            form = "scheduler of service {ident} was too slow {times} times in a row: the fallback chooses for {rest} s"
            log.warn(form, ident=self._ident, times=self._in_a_row, rest=settings.choose_rest)
            self._in_a_row = settings.choose_overruns - 1  # one more, when it is asked again, and it rests again
        return answer


@implementer(IScheduler)
class _Budgeted:
    """A bound scheduler with a budget."""

    def __init__(
        self,
        budget: ChooseBudget,
        scheduler: Any,
        settings: Settings,
        choose_instead: Callable[[Request], Choosing] | None,
    ) -> None:
        self._budget = budget
        self._arguments = scheduler, settings, choose_instead

    def choose(self, request: Request) -> Choosing:
        return self._budget.choose(request, *self._arguments)
