"""Reads the rules of a service, and merges those with one name or with the same conditions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from attrs import define

from ktcpvs.errors import BadConfiguration, Refusal, shorten
from ktcpvs.model.actions import ACTIONS, Action, read_action
from ktcpvs.model.address import Address
from ktcpvs.model.conditions import KINDS, NAME, NOT, PATTERN, USE, is_pattern, read_conditions, text_of
from ktcpvs.model.language import foreign_words
from ktcpvs.model.language.lexer import Token
from ktcpvs.model.language.token_reader import TokenReader, errors_at
from ktcpvs.model.modifiers import BALANCE, NONE, WORDS, Modifiers, read_modifier
from ktcpvs.model.options import check_weight
from ktcpvs.model.rule import Rule, check_rule_name
from ktcpvs.model.rule_servers import is_weight
from ktcpvs.model.service import with_port

_User = tuple[Token, Address, Token, int | None]
"""A server of a rule with its token; its weight with that one; None: the server's own."""


@define
class WrittenRule:
    """A rule as it stands in the text. text: of its conditions. users: the servers with their places and their weights
    in this rule. action: None: it has servers."""

    token: Token
    name: str | None
    text: str
    match: int | None
    users: list[_User]
    action: Action | None = None
    modifiers: Modifiers = NONE


def read_rule(reader: TokenReader) -> WrittenRule:
    """Read: [name N] CONDITION... [MODIFIER...] [match N] use (server A [WEIGHT] [server ...] [balance S] | ACTION)"""
    name = None
    begin = reader.peek()
    if begin is not None and begin.is_word(NAME):
        reader.next(NAME)
        called = reader.next("the name of the rule")
        with errors_at(called):
            check_rule_name(called.text)
        name = called.text
    first, pattern = reader.peek(), reader.peek(1)
    conditions = reader.read(partial(read_conditions, located=_condition_error))
    text = text_of(conditions) if conditions else ""
    if not text or first is None:
        found = reader.next("a condition")
        if found.is_word(USE):
            raise found.error("expected a condition before 'use' (a rule for all requests: pattern \".*\")")
        described = foreign_words.unknown_condition(found.text, (*KINDS, NOT, NAME))
        raise found.error(f"expected a condition: unknown word {described}")
    modifiers = _read_modifiers(reader, NONE)
    match = None
    if (token := reader.peek()) is not None and token.is_word("match"):
        reader.next("match")
        match = reader.number("match", reader.next("the number of a group"))
        modifiers = _read_modifiers(reader, modifiers)
    _read_use(reader)
    shown = pattern if first.is_word(PATTERN) and is_pattern(text) and pattern is not None else first
    if (token := reader.peek()) is not None and token.is_word(*ACTIONS):
        action = reader.read(partial(read_action, located=Token.located))
        return WrittenRule(shown, name, text, match, [], action, modifiers)
    token = reader.next("'server', 'redirect' or 'respond'")
    if not token.is_word("server"):
        hint = foreign_words.hint(foreign_words.ACTIONS, token.text)
        raise token.error(f"expected 'server', 'redirect' or 'respond', not '{shorten(token.text)}'{hint}")
    users = [_read_user(reader)]
    while reader.following("server") is not None:
        reader.next("server")
        users.append(_read_user(reader))
    if reader.following(BALANCE) is not None:
        modifiers = _read_modifiers(reader, modifiers, (BALANCE,))
    behind = reader.following()
    is_behind = behind is not None and behind.line == reader.line_before and not behind.quoted
    if behind is not None and is_behind and (hint := foreign_words.hint_at_server_word(behind.text)):
        raise behind.error(f"unknown word '{shorten(behind.text)}' in a rule{hint}")
    return WrittenRule(shown, name, text, match, users, None, modifiers)


def _read_modifiers(reader: TokenReader, before: Modifiers, words: Sequence[str] = WORDS) -> Modifiers:
    """Read modifiers that begin with one of `words`; return them behind `before`."""
    modifiers = before
    while (token := reader.peek()) is not None and token.is_word(*words):
        modifiers = reader.read(partial(read_modifier, before=modifiers, located=Token.located))
    return modifiers


def _read_user(reader: TokenReader) -> _User:
    """Read a server of a rule: ADDRESS [WEIGHT]"""
    token, written = reader.address()
    return token, written, *read_weight(reader, token)


def read_weight(reader: TokenReader, address: Token) -> tuple[Token, int | None]:
    """Read the number after a server's address; without one, return the token of the address and None."""
    token = reader.following()
    if token is None or not is_weight(token):
        return address, None
    reader.next("a weight")
    return token, reader.number("weight", token)


def _condition_error(token: Token, refusal: Refusal) -> BadConfiguration:
    return token.error(f"{refusal}{_explain_action(token)}")


def _read_use(reader: TokenReader) -> None:
    token = reader.next(f"'{USE}'")
    if not token.is_word(USE):
        unused = reader.previous() if token.is_word("}") else token  # the brace ends the rule before its action
        raise token.error(f"expected '{USE}', not '{shorten(token.text)}'{_explain_action(unused)}")


def _explain_action(token: Token) -> str:
    """Return "; " and what to write, if a word in the place of a condition, or of 'use', is an action; else ""."""
    if token.is_word(*ACTIONS):
        return f"; write 'use {token.text}', behind the conditions"
    if token.quoted:
        return ""
    if found := foreign_words.hint(foreign_words.JOINERS, token.text):
        return found
    if "," in token.text:
        return "; several values stand side by side, without commas"
    found = foreign_words.hint(foreign_words.ACTIONS, token.text)
    return f"; an action stands behind 'use'{found}" if found else ""


def complete_rules(
    written: Iterable[WrittenRule], servers: Mapping[Address, object], port: int | None, ident: str
) -> Iterator[Rule]:
    """Yield the rules of a service. servers: those that it has. port: of those without one. ident: of the service.

    Raises BadConfiguration.
    """
    for rule in _merged(written):
        with errors_at(rule.token):
            users = tuple(_complete_users(rule, servers, port, ident))
            weights = tuple([weight for *_, weight in rule.users])
            complete = Rule(rule.text, users, rule.match, rule.name, rule.action, rule.modifiers, weights)
        yield complete


def _merged(rules: Iterable[WrittenRule]) -> Iterable[WrittenRule]:
    """Merge rules with one name, or with the same conditions and no name, into the first of them."""
    merged: dict[tuple[str | None, str], WrittenRule] = {}
    for rule in rules:
        first = merged.setdefault((rule.name, "" if rule.name is not None else rule.text), rule)
        if first is rule:
            continue
        if rule.text != first.text:
            raise rule.token.error(f"the first rule with the name {rule.name} has other conditions")
        if rule.action is not None or first.action is not None:
            raise rule.token.error("a rule with this name or these conditions exists already; an action stands alone")
        if rule.modifiers != first.modifiers:
            raise rule.token.error("the first rule with this name or these conditions has other modifiers")
        if rule.match != first.match:
            which = "pattern" if rule.name is None else "name"
            raise rule.token.error(f"this {which}'s first rule has match {first.match}, not {rule.match}")
        first.users.extend(rule.users)
    return merged.values()


def _complete_users(
    rule: WrittenRule, servers: Mapping[Address, object], port: int | None, ident: str
) -> Iterator[Address]:
    """Yield the servers of a rule with their ports."""
    seen = set()
    for token, written, weight_token, weight in rule.users:
        with errors_at(weight_token):
            check_weight(weight)
        with errors_at(token):
            address = with_port(written, port, ident)
        if address not in servers:
            raise token.error(f"service {ident} has no server {address}; add the line 'server = {address}' to it")
        if address in seen:
            raise token.error(f"rule '{shorten(rule.name or rule.text)}' already uses server {address}")
        seen.add(address)
        yield address
