"""A rule list as one automaton: which rule is the first that matches, in one call whatever their number.

The RE2 set of all rules says which of them match; the first in order is the answer. A last entry that matches
everything tells "no rule" from "the automaton ran out of memory", in which case the rules are asked one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import re2

from ktcpvs.errors import BadPattern
from ktcpvs.model.pattern import encode_pattern, re2_options
from ktcpvs.model.scheduling import BoundRule

SET_MEMORY = 64 << 20
"""What the automaton of one service's rules may take, in bytes (RE2's max_mem); it is built as requests come."""


class RuleSet:
    """The rules of one service, in the order in which they are tried."""

    def __init__(self, rules: Sequence[BoundRule], previous: RuleSet | None = None) -> None:
        """previous: what it replaces; its automaton is taken over when the patterns are the same, in the same order.

        Raises BadPattern when the rules together need more memory than SET_MEMORY.
        """
        self._rules = tuple(rules)
        self._default = next((place for place, rule in enumerate(rules) if rule.is_default), None)
        self._patterns = [encode_pattern(rule.pattern) for rule in rules if not rule.is_default]
        self._set: re2.Set | None = None
        if previous is not None and previous._patterns == self._patterns:
            self._set = previous._set
        elif self._patterns:
            self._set = _compiled([*self._patterns, b""])

    def first(self, path: bytes) -> int | None:
        """The place of the first rule that matches `path`, in the sequence given; None when none does."""
        if self._set is not None:
            matched = self._set.Match(path)
            place = min(matched) if matched else self._one_by_one(path)
            if place < len(self._patterns):
                return int(place)
        return self._default

    def tried(self, place: int | None) -> tuple[tuple[int, str, str], ...]:
        """What is tried until the rule at `place` is taken, None: until none is: (number, pattern, why it was taken or
        not) of each rule, in that order."""
        if place is None:
            return tuple((rule.number, rule.pattern, "does not match") for rule in self._rules)
        taken = self._rules[place]
        why = "default rule, tried last" if taken.is_default else "matches"
        passed_over = tuple((rule.number, rule.pattern, "does not match") for rule in self._rules[:place])
        return (*passed_over, (taken.number, taken.pattern, why))

    def _one_by_one(self, path: bytes) -> int:
        options = re2_options()
        for place, pattern in enumerate(self._patterns):
            if re2.search(pattern, path, options=options):
                return place
        return len(self._patterns)


def _compiled(patterns: Sequence[bytes]) -> re2.Set:
    found = re2.Set.SearchSet(re2_options(SET_MEMORY))
    try:
        for pattern in patterns:
            found.Add(pattern)
        found.Compile()
        usable = bool(found.Match(b"/"))
    except re2.error:
        usable = False
    if not usable:
        raise BadPattern(
            f"the service's {len(patterns) - 1} patterns together need an automaton of more than "
            f"{SET_MEMORY >> 20} MiB: make the largest of them simpler"
        )
    return found
