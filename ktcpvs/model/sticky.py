"""The option `sticky`: the part of a request by whose hash a rule chooses a server.

sticky = off
sticky = header NAME
sticky = query NAME
"""

from __future__ import annotations

import re
from typing import Any

from attrs import Attribute, frozen

from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.address import PortNamed
from ktcpvs.model.language.lexer import tokens, word
from ktcpvs.model.options import OFF

HEADER, QUERY = KINDS = ("header", "query")

_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_ARGUMENT_NAME = re.compile(r"[!-~]{1,64}")


@frozen
class Sticky:
    """The part of a request that the option `sticky` names. kind: HEADER or QUERY. name: of the field, or of the
    argument."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def parse_sticky(text: str) -> Sticky | None:
    """Parse the option's text; None: off. Raises BadValue."""
    if text == OFF:  # as most services have it
        return None
    found = tokens(text, "sticky")
    if len(found) == 1 and found[0].is_word(OFF):
        return None
    if len(found) != 2 or not found[0].is_word(*KINDS):
        raise BadValue(f"sticky = {shorten(text, 60)}: expected off, header NAME or query NAME")
    kind, name = found[0].text.lower(), found[1].text
    if not (_FIELD_NAME if kind == HEADER else _ARGUMENT_NAME).fullmatch(name):
        what = "a header field" if kind == HEADER else "an argument in the query"
        raise BadValue(f"sticky = {kind} {shorten(name, 60)}: expected the name of {what}")
    return Sticky(kind, name)


def read_sticky(name: str, text: str, port_named: PortNamed) -> str:
    """Return the option's text in its usual form. Raises BadValue."""
    sticky = parse_sticky(text)
    return OFF if sticky is None else f"{sticky.kind} {word(sticky.name)}"


def well_formed(instance: object, attribute: Attribute[Any], value: str) -> None:
    """A validator: a text that `parse_sticky` accepts."""
    parse_sticky(value)
