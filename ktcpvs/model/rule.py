"""A rule as configured: its conditions, and the servers or the action for requests that meet them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import zip_longest

from attrs import Attribute, evolve, field, frozen

from ktcpvs.errors import BadValue, NoSuchServer, RuleExists, shorten
from ktcpvs.model.actions import Action, as_action
from ktcpvs.model.address import Address
from ktcpvs.model.conditions import NAME, PATTERN, RESERVED, Condition, conditions_of, normalized_text
from ktcpvs.model.modifiers import NONE, Modifiers, as_modifiers
from ktcpvs.model.options import check_weight
from ktcpvs.model.pattern import DEFAULT_PATTERNS, check_pattern

MAX_MATCH = 10
"""The highest number of a group that `match` may name."""

MAX_LABEL = 120
"""The most characters of a rule's label in counts, as `shorten` cuts them."""

RuleServer = tuple[Address, int | None]
"""A server of a rule, and its weight in that rule; None: it is the server's own."""

_RULE_NAME = re.compile(r"(?![0-9]+\Z)[A-Za-z0-9_.-]{1,64}")


def check_rule_name(name: str) -> None:
    """Raise BadValue for a name that a rule cannot have."""
    if not _RULE_NAME.fullmatch(name) or name.lower() in RESERVED:
        raise BadValue(
            f"'{shorten(name, 60)}' is not a valid name of a rule: expected 1 to 64 letters, digits and _ . -, not "
            "digits alone, and no word of the language"
        )


def _rule_name(instance: object, attribute: Attribute[str | None], value: str | None) -> None:
    if value is not None:
        check_rule_name(value)


def _weights(weights: Iterable[int | None]) -> tuple[int | None, ...]:
    """Return weights in their one form, which is empty where no server has one."""
    found = tuple(weights)
    return () if all(weight is None for weight in found) else found


@frozen
class Rule:
    """Requests that meet all conditions go to one of `servers`, or get the response of `action`.

    weights: of its servers in this rule, in their order, 0..65535; None: the server's own; empty: no server has one.
    pattern: the pattern that is searched in the target, or the text of other conditions (model.conditions). match: the
    number (0..10) of the pattern's group whose text schedulers hash; None if no number was given. name: identifies the
    rule; None: its conditions do. action: None: there are servers; else there are none. modifiers: what changes in
    requests and responses.
    """

    pattern: str = field(converter=normalized_text)
    servers: tuple[Address, ...]
    match: int | None = None
    name: str | None = field(default=None, validator=_rule_name)
    action: Action | None = field(default=None, converter=as_action)
    modifiers: Modifiers = field(default=NONE, converter=as_modifiers)
    weights: tuple[int | None, ...] = field(default=(), converter=_weights)
    conditions: tuple[Condition, ...] = field(init=False, eq=False, repr=False)
    is_pattern: bool = field(init=False, eq=False, repr=False)
    """Whether its only condition is one pattern."""
    key: str = field(init=False, eq=False, repr=False)
    """The rule is known by it in its service: no two have the same."""

    @conditions.default
    def _read_conditions(self) -> tuple[Condition, ...]:
        return conditions_of(self.pattern)

    @is_pattern.default
    def _is_pattern(self) -> bool:
        return len(self.conditions) == 1 and self.hashed_pattern is not None

    @key.default
    def _key(self) -> str:
        return self.pattern if self.name is None else f"{NAME} {self.name}"

    def __attrs_post_init__(self) -> None:
        if self.match is not None:
            self._check_match(self.match)
        if self.action is not None:
            self._check_action(self.action)
        elif not self.servers:
            raise NoSuchServer(f"rule '{shorten(self.label)}' names no server")
        if self.modifiers.groups:
            self._check_groups(self.modifiers.groups, str(self.modifiers))
        if self.action is not None and (self.modifiers.strip_prefix or self.modifiers.rewrite):
            raise BadValue(f"rule '{shorten(self.label)}': {self.action.summary}: no server gets its requests")
        if self.action is not None and self.modifiers.balance is not None:
            raise BadValue(f"rule '{shorten(self.label)}': balance chooses among servers, and this rule has none")
        if len(set(self.servers)) != len(self.servers):
            raise RuleExists(f"rule '{shorten(self.label)}' names a server twice")
        if self.weights:
            self._check_weights()

    def _check_weights(self) -> None:
        if len(self.weights) != len(self.servers):
            raise BadValue(
                f"rule '{shorten(self.label)}' has {len(self.weights)} weights for {len(self.servers)} servers"
            )
        for weight in self.weights:
            check_weight(weight)

    def _check_action(self, action: Action) -> None:
        label = shorten(self.label)
        if self.servers:
            raise BadValue(f"rule '{label}': either servers, or {action.summary}")
        if self.match is not None:
            raise BadValue(f"match {self.match}: rule '{label}' chooses no server")
        self._check_groups(action.groups, str(action))

    def _check_groups(self, needed: int, text: str) -> None:
        """Raise BadValue if the pattern has fewer groups than templates in `text` need."""
        pattern = self.hashed_pattern
        groups = check_pattern(pattern) if pattern is not None else 0
        if needed > groups:
            has = "no pattern" if pattern is None else f"a pattern with {groups} groups"
            raise BadValue(f"{shorten(text)}: unknown variable '{needed}': rule '{shorten(self.label)}' has {has}")

    def _check_match(self, match: int) -> None:
        pattern = self.hashed_pattern
        if pattern is None:
            raise BadValue(f"match {match}: rule '{shorten(self.label)}' has no pattern")
        if not 0 <= match <= MAX_MATCH:
            raise BadValue(f"match {match} is out of range: 0..{MAX_MATCH}")
        groups = check_pattern(pattern)
        if match > groups:
            raise BadValue(f"match {match}: pattern '{shorten(pattern)}' has {groups} groups")

    @property
    def weighed_servers(self) -> tuple[RuleServer, ...]:
        """Its servers with their weights."""
        return tuple(zip_longest(self.servers, self.weights))

    def with_servers(self, servers: Iterable[RuleServer]) -> Rule:
        """Return the rule with these servers, in place of its own ones."""
        found = tuple(servers)
        return evolve(
            self, servers=tuple([address for address, _ in found]), weights=tuple([weight for _, weight in found])
        )

    @property
    def label(self) -> str:
        """Its name, or else its conditions, for people."""
        return self.pattern if self.name is None else self.name

    @property
    def hashed_pattern(self) -> str | None:
        """The pattern whose groups `match` counts: that of its only condition with one; None: there is no such."""
        found = [one for one in self.conditions if one.kind == PATTERN and not one.is_negated]
        return found[0].values[0] if len(found) == 1 and len(found[0].values) == 1 else None

    @property
    def is_default(self) -> bool:
        """Whether the rule is tried last, wherever it is in the list."""
        return self.pattern in DEFAULT_PATTERNS
