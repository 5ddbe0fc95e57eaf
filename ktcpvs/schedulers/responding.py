"""Rules with an action or with modifiers: what they add to the choice of a server, or give in place of it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import re2
from attrs import evolve
from zope.interface import implementer

from ktcpvs.errors import shorten
from ktcpvs.interfaces import Choice, Choosing, IScheduler, OwnResponse, Request
from ktcpvs.model.actions import Action, Redirect
from ktcpvs.model.pattern import encode_pattern, re2_options
from ktcpvs.model.scheduling import BoundRule, ModifiedChoice
from ktcpvs.model.why import REDIRECT, RESPOND, of_rule


class RuleGroups:
    """The groups of a rule's pattern, for templates."""

    def __init__(self, rule: BoundRule, needed: int) -> None:
        """needed: how many groups templates use; 0: none are searched."""
        pattern = rule.rule.hashed_pattern if rule.rule is not None and needed else None
        self._pattern: Any = None if pattern is None else re2.compile(encode_pattern(pattern), options=re2_options())

    def of(self, request: Request) -> tuple[bytes, ...]:
        """Return the texts of the groups; a group that took no part is the empty text."""
        found = self._pattern.search(request.path or b"") if self._pattern is not None else None
        return tuple(group or b"" for group in found.groups()) if found is not None else ()


@implementer(IScheduler)
class RespondingRule:
    """The scheduler within a rule that has an action."""

    def __init__(self, rule: BoundRule, action: Action) -> None:
        reason = f"rule {rule.number} '{shorten(rule.label, 60)}', {action.summary}"
        needed = max(action.groups, rule.modifiers.groups)
        why = of_rule(rule.number, REDIRECT if isinstance(action, Redirect) else RESPOND)
        self._response = OwnResponse(action, rule.label, reason, (), rule.modifiers, why)
        self._groups = RuleGroups(rule, needed) if needed else None

    def choose(self, request: Request) -> OwnResponse:
        if self._groups is None:
            return self._response
        return evolve(self._response, groups=self._groups.of(request))


class RuleModifiers:
    """The modifiers of one rule, which go with each of its choices."""

    def __init__(self, rule: BoundRule) -> None:
        self._modifiers, self._rule = rule.modifiers, rule.label
        self._groups = RuleGroups(rule, rule.modifiers.groups) if rule.modifiers.groups else None
        self._last: tuple[Choice, ModifiedChoice] | None = None  # schedulers often return the same choice again

    def added_to(self, answer: Choosing, request: Request) -> Choosing:
        """Return the answer of the scheduler within the rule, with the modifiers."""
        if answer is None or isinstance(answer, OwnResponse):
            return answer
        return self._with(answer, request) if isinstance(answer, Choice) else self._later(answer, request)

    def _with(self, choice: Choice, request: Request) -> ModifiedChoice:
        if self._groups is not None:
            return self._modified(choice, self._groups.of(request))
        last = self._last
        if last is None or last[0] is not choice:
            last = self._last = choice, self._modified(choice, ())
        return last[1]

    def _modified(self, choice: Choice, groups: tuple[bytes, ...]) -> ModifiedChoice:
        return ModifiedChoice(
            choice.destination,
            choice.reason,
            choice.waits,
            choice.lines,
            choice.answer_lines,
            choice.why,
            self._modifiers,
            self._rule,
            groups,
            completed=choice.completed,
        )

    async def _later(self, awaited: Awaitable[Choice | OwnResponse | None], request: Request) -> Any:
        choice = await awaited
        return self._with(choice, request) if isinstance(choice, Choice) else choice
