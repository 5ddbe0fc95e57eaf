"""Live traces: what an administrator asks for with --trace, and what comes back meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from attrs import Attribute, field, frozen

from ktcpvs.errors import BadValue
from ktcpvs.model.conditions import KINDS, Condition, read_conditions
from ktcpvs.model.language.foreign_words import unknown_condition
from ktcpvs.model.language.lexer import tokens

DEFAULT_COUNT, MAX_COUNT = 100, 100_000
"""The requests after which a trace ends."""

DEFAULT_SECONDS, MAX_SECONDS = 60, 3600
"""The seconds after which it ends."""

COUNT_REACHED, TIME_OVER, STOPPED = "count", "time", "stopped"
"""The reason why a trace has ended: it has seen as many requests as it should, or for so long, or its administrator is
gone."""


def _up_to(most: int, unit: str) -> Callable[[object, Attribute[int], int], None]:
    def check(instance: object, attribute: Attribute[int], value: int) -> None:
        if not 1 <= value <= most:
            raise BadValue(f"{attribute.name} = {value}: expected 1 to {most} {unit}")

    return check


@frozen
class TraceQuery:
    """A query. text: the conditions of requests, as those of a rule; "": all of them. ident: only this service;
    None: all. count, seconds: after which it ends."""

    text: str = ""
    ident: str | None = None
    count: int = field(default=DEFAULT_COUNT, validator=_up_to(MAX_COUNT, "requests"))
    seconds: int = field(default=DEFAULT_SECONDS, validator=_up_to(MAX_SECONDS, "seconds"))

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All that a request must meet. Raises a Refusal for a text that is none."""
        found = tokens(self.text, "trace")
        conditions, position = read_conditions(found, 0)
        if position < len(found):
            raise BadValue(f"unknown condition {unknown_condition(found[position].text, KINDS)}")
        return conditions


@frozen
class TraceBatch:
    """The requests since the last batch. entries: a line of JSON for each. matched, dropped: how many requests have met
    the conditions since the beginning, and how many of them have no entry, since they were read too slowly. ended: why
    the trace has ended, and this is the last batch; "": it has not."""

    entries: bytes = b""
    matched: int = 0
    dropped: int = 0
    ended: str = ""
