"""A scheduler as a configuration names it: its name, and options of its own as NAME VALUE pairs.

scheduler = mine depth 3 table /etc/table
rule = path /api/ use server 10.0.0.1:80 balance mine depth 4
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from attrs import Attribute, frozen

from ktcpvs.errors import BadValue, Refusal, shorten
from ktcpvs.model.address import PortNamed
from ktcpvs.model.conditions import MODIFIERS, RESERVED, USE
from ktcpvs.model.language.lexer import Token, quoted, tokens, word

SCHEDULER = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""The name of a scheduler."""

OPTION_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""The name of an option of a scheduler."""

TEST, SERVER = "test", "server"

RESERVED_NAMES = frozenset((*MODIFIERS, USE, SERVER, TEST))
"""Words that no option of a scheduler may have as its name: in a rule, or in front of a quoted word, they begin
something else."""

MAX_OPTIONS = 64
"""The most options of one scheduler."""


@frozen
class NamedScheduler:
    """A scheduler as a configuration names it. name: of the scheduler. options: (name, text of the value) of those that
    are given, in their order."""

    name: str
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.written(self.name)

    @property
    def in_rule(self) -> str:
        """Its text in a rule, where a name that is a word of the language stands in quotes."""
        return self.written(_word(self.name))

    def written(self, name: str) -> str:
        """Return its text, with the name as it stands there."""
        return " ".join([name, *(f"{option} {_word(text)}" for option, text in self.options)])


def _word(text: str) -> str:
    return quoted(text) if text.lower() in RESERVED or text.lower() in RESERVED_NAMES else word(text)


def name_of(text: str) -> str:
    """Return the name of the scheduler that `text`, in its usual form, names."""
    return text.partition(" ")[0]


@lru_cache(4096)
def parse_scheduler(text: str) -> NamedScheduler:
    """Return the scheduler that `text` names. Raises BadValue."""
    if SCHEDULER.fullmatch(text):  # as nearly all have it
        return NamedScheduler(text)
    if "\n" in text:
        raise BadValue(f"'{shorten(text)}' is not a valid scheduler name")
    try:
        found = tokens(text, "scheduler")
    except Refusal as refusal:
        raise BadValue(f"'{shorten(text)}': {refusal}") from None
    return _named([token.text for token in found], text)


def _named(words: Sequence[str], text: str) -> NamedScheduler:
    name = words[0] if words else text
    if not SCHEDULER.fullmatch(name):
        raise BadValue(f"'{shorten(name)}' is not a valid scheduler name")
    options = tuple(zip(words[1::2], words[2::2], strict=False))
    seen: set[str] = set()
    for option in words[1::2]:
        if not OPTION_NAME.fullmatch(option):
            raise BadValue(
                f"scheduler {name}: '{shorten(option, 40)}' is not the name of an option: expected NAME VALUE pairs "
                f"(example: {name} depth 3)"
            )
        if option in RESERVED_NAMES:
            raise BadValue(f"scheduler {name}: no option can have the name '{option}', which is a word of the language")
        if option in seen:
            raise BadValue(f"scheduler {name}: {option} is given twice")
        seen.add(option)
    for option, value in options:
        if not value.isprintable():
            raise BadValue(f"scheduler {name}: {option} '{shorten(value, 40)}' has a control character")
    if len(words) % 2 == 0:
        raise BadValue(f"scheduler {name}: {words[-1]}: missing value (expected: {words[-1]} VALUE)")
    if len(options) > MAX_OPTIONS:
        raise BadValue(f"scheduler {name}: {len(options)} options are more than {MAX_OPTIONS}")
    return NamedScheduler(name, options)


def read_scheduler(name: str, text: str, port_named: PortNamed) -> str:
    """Read a scheduler of a configuration, and return its text in the usual form. Raises BadValue."""
    return str(parse_scheduler(text))


def well_formed(instance: object, attribute: Attribute[Any], value: str | None) -> None:
    """A validator: None, or the text of a scheduler."""
    if value is not None:
        parse_scheduler(value)


def read_balance(
    found: Sequence[Token], position: int, located: Callable[[Token, Refusal], Refusal]
) -> tuple[str, int]:
    """Read a scheduler with its options in a rule, from the token at `position`, which is its name.

    Returns its text in the usual form, and the position behind it. Raises a Refusal. located: returns it with its
    place.
    """
    end = position + 1
    while end < len(found) and not _ends(found, end):
        end += 1
    try:
        return str(_named([token.text for token in found[position:end]], "")), end
    except Refusal as refusal:
        raise located(found[position], refusal) from None


def _ends(found: Sequence[Token], position: int) -> bool:
    """Whether the token at `position` is none of the options of a scheduler any more."""
    token = found[position]
    after = found[position + 1] if position + 1 < len(found) else None
    if token.is_word(*RESERVED_NAMES, "{", "}", "="):
        return token.word != TEST or (after is not None and after.quoted)
    return after is not None and after.is_word("=")
