"""Parses a configuration text into an edit that replaces the table.

The whole text is read and checked before it has any effect. Every error begins with file:line:column.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest

from ktcpvs.errors import BadConfiguration, shorten
from ktcpvs.model.address import PortNamed, no_port_names
from ktcpvs.model.edits import Load
from ktcpvs.model.language import foreign_words
from ktcpvs.model.language.includes import unmatched_includes
from ktcpvs.model.language.keywords import TOP_KEYWORDS
from ktcpvs.model.language.lexer import INCLUDE, Token, end_place, tokens
from ktcpvs.model.language.scheduler_places import place_of_scheduler
from ktcpvs.model.language.service_reader import Places, read_service
from ktcpvs.model.language.token_reader import TokenReader, cannot_include, errors_at, once
from ktcpvs.model.lines import split_lines
from ktcpvs.model.nodes import NodeIdentity
from ktcpvs.model.placement import KnownNodes, first_conflict, first_program_conflict
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import DEFAULT_SETTINGS, Settings
from ktcpvs.model.table import Table

_FOREIGN = foreign_words.AT_TOP["defaults"] + "; " + foreign_words.AT_TOP["frontend"]
_HEADING = re.compile(r"\s*TCP Virtual Server version \d\S*[^\S\n]*(?:\n|\Z)")


def parse(
    text: str,
    source: str = "<text>",
    port_named: PortNamed = no_port_names,
    *,
    allow_empty: bool = True,
    starts_all: bool = False,
) -> Load:
    """Parse a configuration. Raises BadConfiguration.

    The text may begin with a byte order mark and with the heading of `tcpvsadm --list`. A line ends with LF, CR LF or
    CR. source: the name of the text in errors. allow_empty: False refuses a text without services. starts_all: True
    refuses services that cannot run side by side, since two of them listen on the same address.
    """
    text = "\n".join(split_lines(text.removeprefix("\ufeff")))
    if heading := _HEADING.match(text):
        text = "\n" * heading[0].count("\n") + text[heading.end() :]
    found = tokens(text, source)
    try:
        return _parse(found, text, source, port_named, allow_empty, starts_all)
    except BadConfiguration as error:
        raise _with_semicolon_hint(error, found) from None


def _with_semicolon_hint(error: BadConfiguration, found: Sequence[Token]) -> BadConfiguration:
    """Return the error, with a hint if its line, or the word that it is about, ends with a semicolon, as in nginx."""
    for token, after in zip_longest(found, found[1:]):
        is_last = after is None or after.place[:2] != token.place[:2]
        line = f"{token.place.source}:{token.place.line}:"
        begin = line if is_last else f"{line}{token.place.column}: "
        if not token.quoted and token.text.endswith(";") and str(error).startswith(begin):
            return BadConfiguration(f"{error}; lines end without ';'")
    return error


def _parse(
    found: list[Token], text: str, source: str, port_named: PortNamed, allow_empty: bool, starts_all: bool
) -> Load:
    reader = TokenReader(found, partial(end_place, text, source), port_named)
    services: dict[str, VirtualService] = {}
    names: dict[str, Token] = {}
    places: Places = {}
    settings: Settings | None = None
    while (token := reader.next_or_none()) is not None:
        if token.is_word("virtual"):
            name = reader.next("the service's name")
            if name.text in services:
                raise name.error(f"service {shorten(name.text)} appears a second time")
            services[name.text] = read_service(reader, name, places)
            names[name.text] = name
        elif token.is_word("global"):
            if settings is not None:
                raise token.error("a second global block")
            if (after := reader.peek()) is not None and after.is_word(*foreign_words.IN_GLOBAL):
                raise after.error(f"expected '{{', not '{after.text}': is this a file of HAProxy? Here, {_FOREIGN}")
            settings = _settings(reader)
        elif token.is_word(INCLUDE):
            if reader.following("=") is None:
                raise token.error("include: expected '=' behind it (example: include = conf.d/*.conf)")
            raise cannot_include(token)
        else:
            hint = foreign_words.hint_at_top(token.text, TOP_KEYWORDS)
            raise token.error(f"'{shorten(token.text)}': expected 'Virtual' or 'global'{hint}")
    if not (services or allow_empty):
        what = "has no service" if found else "is empty"
        raise BadConfiguration(
            f"{source}: the configuration {what}, and would delete all services{_explain_empty(text)}; "
            "to do that, use 'tcpvsadm -f FILE --allow-empty'"
        )
    _check_programs(services, names)
    if starts_all:
        _check_addresses(services, places)
    place_of = partial(place_of_scheduler, text, source)
    return Load(services, settings or DEFAULT_SETTINGS, place_of=place_of)


def _check_programs(services: dict[str, VirtualService], names: dict[str, Token]) -> None:
    """Raise BadConfiguration if two services start different programs for the same server. names: of the services, as
    the text has them."""
    if not any(server.start is not None for service in services.values() for server in service.servers):
        return
    conflict = first_program_conflict(Table(), Table(services), KnownNodes(NodeIdentity()))
    if conflict is not None:
        raise names[conflict.service].error(str(conflict))


def _explain_empty(text: str) -> str:
    """Return which include of an expanded text has matched no file, as the end of a sentence; "": none."""
    found = unmatched_includes(text)
    more = f" and {len(found) - 1} more match" if found[1:] else " matches"
    return f": include = {found[0][0]}{more} no file" if found else ""


def _check_addresses(services: dict[str, VirtualService], places: Places) -> None:
    """Raise BadConfiguration if two services listen on the same address."""
    conflict = first_conflict(Table(), Table(services, frozenset(services)), KnownNodes(NodeIdentity()))
    if conflict is not None:
        place, before = (places[ident, conflict.address].place for ident in (conflict.service, conflict.other))
        raise place.error(
            f"service {conflict.service} listens on {conflict.address}, and so does service {conflict.other} "
            f"({before.source}:{before.line}): give one of them another address"
        )


def _settings(reader: TokenReader) -> Settings:
    settings = DEFAULT_SETTINGS
    seen: set[str] = set()
    for keyword in reader.block():
        name = keyword.text.lower()
        once(seen, name, keyword)
        value = reader.next(f"the value of {name}")
        with errors_at(keyword if name not in Settings.names() else value):
            settings = settings.changed({name: value.text})
    return settings
