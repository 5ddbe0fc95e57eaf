"""The place where a configuration names a scheduler, for errors about one that is not installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ktcpvs.errors import BadValue, NoSuchScheduler
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


PlaceOf = Callable[[str, str], Place | str | None]
"""Returns where the block of a service, by its ident, names a scheduler, by its name; None: there is no text."""


@contextmanager
def located(ident: str, place_of: PlaceOf) -> Iterator[None]:
    """Within it, a refusal of a scheduler of service `ident` gets the place where the text names that scheduler."""
    try:
        yield
    except (NoSuchScheduler, BadValue) as refusal:
        name = refusal.scheduler
        place = place_of(ident, name) if name else None
        if place is None:
            raise
        service = f"service {ident}: "
        raise type(refusal)(f"{place}: {service}{str(refusal).removeprefix(service)}", name) from None
