"""Counts of the requests that each rule of a service has taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ktcpvs.errors import shorten
from ktcpvs.model.rule import MAX_LABEL
from ktcpvs.model.scheduling import BoundRule

MAX_COUNTED_RULES = 200
"""The most rules of a service that are counted singly, in the order in which they are tried; the rest is OTHERS."""

OTHERS = "others"
"""Stands for the label where the rules after the first MAX_COUNTED_RULES are counted."""


class RuleCount:
    """The requests that one rule has taken. Schedulers that replace each other share it."""

    __slots__ = ("requests",)

    def __init__(self) -> None:
        self.requests = 0


class RuleCounts:
    """The counts of the rules of one service. by_place: those of `rules`, in the same order.
    by_key: of the rules that are counted singly. others: of the rest."""

    def __init__(self, rules: Sequence[BoundRule], before: RuleCounts | None = None) -> None:
        """rules: in the order in which they are tried. before: of the scheduler that is replaced; counts of rules that
        remain go on."""
        known: Mapping[str, RuleCount] = {} if before is None else before.by_key
        self._counted = counted = rules[:MAX_COUNTED_RULES]
        self.by_key: dict[str, RuleCount] = {rule.key: known.get(rule.key) or RuleCount() for rule in counted}
        self.by_place = [self.by_key[rule.key] for rule in counted]
        self.others: RuleCount = RuleCount() if before is None else before.others
        self._has_others = len(rules) > len(counted)
        if self._has_others:
            self.by_place += [self.others] * (len(rules) - len(counted))

    def described(self) -> dict[str, int]:
        """Return label -> requests. Rules with the same label add up."""
        found: dict[str, int] = {}
        for rule in self._counted:
            label = shorten(rule.label, MAX_LABEL)
            found[label] = found.get(label, 0) + self.by_key[rule.key].requests
        if self._has_others:
            found[OTHERS] = found.get(OTHERS, 0) + self.others.requests
        return found
