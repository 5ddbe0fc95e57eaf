"""The place where a configuration names a scheduler, for errors about one that is not installed."""

from __future__ import annotations

from ktcpvs.model.language.lexer import Place, tokens

SERVICE = "virtual"
OPTIONS = ("scheduler", "balance", "fallback")
"""The keywords whose value is a scheduler. In a rule, `balance` stands without `=`."""


def place_of_scheduler(text: str, source: str, ident: str, name: str) -> Place | None:
    """Return the place of the first word in the block of service `ident` that names the scheduler `name`; None: there
    is none. source: the name of the text."""
    found = tokens(text, source)
    is_inside = False
    for number, token in enumerate(found):
        before = found[number - 1] if number else token
        if before.is_word(SERVICE):
            is_inside = token.text == ident
        elif is_inside and token.text == name:
            keyword = found[number - 2] if before.is_word("=") else before
            if keyword.is_word(*OPTIONS):
                return token.place
    return None
