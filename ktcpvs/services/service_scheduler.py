"""The scheduler of one running service: bound in steps for its next configuration, and kept within its budget."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

from ktcpvs.dispatch.choose_budget import ChooseBudget, is_plugin
from ktcpvs.errors import BadValue
from ktcpvs.interfaces import IBindsInSteps, ILearns
from ktcpvs.model.destination import NO_LABELS
from ktcpvs.model.scheduling import ICountsRules, ServiceView, completed_of
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.runtime.context import Context
from ktcpvs.services.prepared import Prepared

MAX_RULES_WITHOUT_PAUSE = 1000
"""With more rules, binding pauses between its steps, since one step then takes a few milliseconds."""


class ServiceScheduler:
    """The scheduler in force for one service.

    factory: its plugin; None: none is bound yet. view: the service as that scheduler sees it; None: none is bound yet.
    make_fallback: binds the fallback; None: there is none. budget: of its calls.
    """

    def __init__(self, context: Context, ident: str) -> None:
        self._ident = ident
        self._bound: Any = None
        self._names: tuple[str, ...] = ()
        self._has_plugin = False  # whether it, or what chooses among the servers of a rule, is one
        self.factory: Any = None
        self.view: ServiceView | None = None
        self.make_fallback: Callable[[], Any] | None = None
        self.budget = ChooseBudget(context, ident)

    def binding(self, prepared: Prepared) -> Generator[None, None, None]:
        """Bind a scheduler for `prepared`, in steps; meanwhile servers have the weights and the labels of that
        configuration."""
        destinations, factory = prepared.destinations, prepared.factory
        many = len(prepared.config.rules) > MAX_RULES_WITHOUT_PAUSE
        if many:
            yield
        before = {one: (one.weight, one.share, one.labels) for one in destinations.values()}
        try:
            for server in prepared.config.servers:
                destination = destinations[server.address]
                destination.weight = destination.share = server.share
                destination.labels = dict(server.labels) if server.labels else NO_LABELS
            former = self.factory  # another object with this name is the same plugin, loaded again
            previous = self._bound if former is not None and former.name == factory.name else None
            prepared.seen = yield from prepared.viewing(self.view)
            if many:
                yield
            if IBindsInSteps.providedBy(factory):
                prepared.scheduler = yield from factory.binding(prepared.seen, previous)
            else:
                prepared.scheduler = factory.bind(prepared.seen, previous)
            if ILearns.providedBy(prepared.scheduler) and completed_of(prepared.scheduler) is None:
                raise BadValue(
                    f"service {self._ident}: scheduler {factory.name} provides ILearns, but its bound form lacks "
                    "completed(outcome)"
                )
        finally:
            for destination, (weight, share, labels) in before.items():
                destination.weight, destination.share, destination.labels = weight, share, labels

    @property
    def rule_requests(self) -> Mapping[str, int]:
        """Return label of a rule -> the requests that it has taken in this process."""
        return self._bound.rule_requests() if ICountsRules.providedBy(self._bound) else {}

    def replaces(self, prepared: Prepared) -> bool:
        """Return whether other schedulers choose by that configuration than now."""
        return prepared.scheduler_names != self._names

    def adopt(self, prepared: Prepared) -> None:
        """Put the scheduler that was bound for a configuration in force. This only assigns, so it cannot fail."""
        self._names = prepared.scheduler_names
        self.factory, self.view = prepared.factory, prepared.seen
        self._bound, self.make_fallback = prepared.scheduler, prepared.bind_fallback()
        self._has_plugin = any(map(is_plugin, (prepared.factory, prepared.balance, *prepared.rule_balances.values())))
        self.budget.reset()

    def within_budget(self, config: VirtualService, settings: Settings) -> Any:
        """Return what the service calls to choose: the bound scheduler, or the budget around it. settings: of the
        service."""
        if not settings.choose_budget or not self._has_plugin:
            return self._bound
        return self.budget.around(self._bound, self.make_fallback, config.fallback, settings)
