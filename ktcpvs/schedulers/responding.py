"""A rule with an action: in place of choosing a server it says how the switch responds."""

from __future__ import annotations

from typing import Any

import re2
from attrs import evolve
from zope.interface import implementer

from ktcpvs.errors import shorten
from ktcpvs.interfaces import IScheduler, Request
from ktcpvs.model.actions import Action
from ktcpvs.model.pattern import encode_pattern, re2_options
from ktcpvs.model.scheduling import BoundRule, OwnResponse


@implementer(IScheduler)
class RespondingRule:
    """The scheduler within a rule that has an action."""

    def __init__(self, rule: BoundRule, action: Action) -> None:
        reason = f"rule {rule.number} '{shorten(rule.label, 60)}', {action.summary}"
        self._response = OwnResponse(action, rule.label, reason)
        pattern = rule.rule.hashed_pattern if rule.rule is not None and action.groups else None
        self._pattern: Any = None  # its groups are needed
        if pattern is not None:
            self._pattern = re2.compile(encode_pattern(pattern), options=re2_options())

    def choose(self, request: Request) -> OwnResponse:
        if self._pattern is None:
            return self._response
        found = self._pattern.search(request.path or b"")
        groups = tuple(group or b"" for group in found.groups()) if found is not None else ()
        return evolve(self._response, groups=groups)
