"""The scheduler plugins of one service: those that its options and its rules name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from ktcpvs.model.scheduling import ISchedulerFactory

NO_BALANCES: Mapping[str, ISchedulerFactory] = MappingProxyType({})


class ServicePlugins(NamedTuple):
    """The scheduler plugins of one service. fallback: None: it has none. of_rules: those that rules name for
    themselves, by their text there."""

    scheduler: ISchedulerFactory
    balance: ISchedulerFactory
    fallback: ISchedulerFactory | None = None
    of_rules: Mapping[str, ISchedulerFactory] = NO_BALANCES

    def balance_of(self, text: str | None) -> ISchedulerFactory:
        """Return the plugin that chooses among the servers of a rule. text: that it names for itself; None: it names
        none."""
        return self.balance if text is None else self.of_rules.get(text, self.balance)

    @property
    def balances(self) -> tuple[ISchedulerFactory, ...]:
        """Those that choose among the servers of rules."""
        return self.balance, *self.of_rules.values()
