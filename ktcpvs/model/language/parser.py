"""Parses a configuration text into an edit that replaces the table.

The whole text is read and checked before it has any effect. Every error begins with file:line:column.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

from attrs import Factory, define, evolve, fields_dict

from ktcpvs.errors import BadConfiguration, Refusal, did_you_mean, shorten
from ktcpvs.model.actions import ACTIONS, Action, read_action
from ktcpvs.model.address import Address, PortNamed, no_port_names, parse_address
from ktcpvs.model.conditions import KINDS, NAME, NOT, PATTERN, USE, is_pattern, read_conditions, text_of
from ktcpvs.model.edits import Load
from ktcpvs.model.expectation import CLIENT, OUTCOMES, REDIRECT, RESPOND, Expectation
from ktcpvs.model.language import foreign_words
from ktcpvs.model.language.includes import unmatched_includes
from ktcpvs.model.language.lexer import INCLUDE, Place, Token, end_place, quoted, tokens
from ktcpvs.model.language.scheduler_places import place_of_scheduler
from ktcpvs.model.lines import split_lines
from ktcpvs.model.listen import ListenAddress, check_complete, port_of, read_listen_words
from ktcpvs.model.modifiers import BALANCE, NONE, WORDS, Modifiers, read_modifier
from ktcpvs.model.network import Network, Networks, parse_network, parse_networks, read_networks
from ktcpvs.model.nodes import NodeIdentity
from ktcpvs.model.options import Option, check_weight
from ktcpvs.model.placement import KnownNodes, first_conflict, first_program_conflict
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule, check_rule_name
from ktcpvs.model.rule_servers import is_weight
from ktcpvs.model.scheduler_words import read_scheduler
from ktcpvs.model.server_words import SERVER_WORDS, read_words
from ktcpvs.model.service import DEFAULT_LISTEN, OPTIONS, VirtualService, check_ident, with_port
from ktcpvs.model.settings import DEFAULT_SETTINGS, Settings, whole_number
from ktcpvs.model.table import Table
from ktcpvs.model.tls import CONTRADICTING, contradiction

TEST = "test"
_FOREIGN = foreign_words.AT_TOP["defaults"] + "; " + foreign_words.AT_TOP["frontend"]
TOP_KEYWORDS = ("Virtual", "global")
KEYWORDS = (*OPTIONS, "server", "rule", TEST)
_FIELDS = fields_dict(VirtualService)
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
    reader = _Reader(found, partial(end_place, text, source))
    services: dict[str, VirtualService] = {}
    names: dict[str, Token] = {}
    listeners: _Places = {}
    settings: Settings | None = None
    while (token := reader.next_or_none()) is not None:
        if token.is_word("virtual"):
            name = reader.next("the service's name")
            if name.text in services:
                raise name.error(f"service {shorten(name.text)} appears a second time")
            services[name.text] = _service(reader, name, port_named, listeners)
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
            raise _cannot_include(token)
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
        _check_addresses(services, listeners)
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


def _check_addresses(services: dict[str, VirtualService], listeners: _Places) -> None:
    """Raise BadConfiguration if two services listen on the same address. listeners: see _Places."""
    conflict = first_conflict(Table(), Table(services, frozenset(services)), KnownNodes(NodeIdentity()))
    if conflict is not None:
        place, before = (listeners[ident, conflict.address].place for ident in (conflict.service, conflict.other))
        raise place.error(
            f"service {conflict.service} listens on {conflict.address}, and so does service {conflict.other} "
            f"({before.source}:{before.line}): give one of them another address"
        )


class _Reader:
    """Reads one token after another."""

    def __init__(self, found: list[Token], end: Callable[[], Place]) -> None:
        """end: returns the place of the end."""
        self._tokens = found
        self._count = len(found)
        self._position = 0
        self._end = end
        self._keywords = _keywords(found)

    def peek(self, further: int = 0) -> Token | None:
        position = self._position + further
        return self._tokens[position] if position < self._count else None

    def next_or_none(self) -> Token | None:
        position = self._position
        self._position = position + 1
        return self._tokens[position] if position < self._count else None

    def next(self, expected: str) -> Token:
        position = self._position
        if position >= self._count:
            raise self._end().error(f"unexpected end of the text; expected {expected}")
        self._position = position + 1
        return self._tokens[position]

    def previous(self) -> Token:
        """Return the token before the one that was read last."""
        return self._tokens[self._position - 2]

    @property
    def line_before(self) -> Place:
        """The line of the token that was read last."""
        return self._tokens[self._position - 1].line

    def is_keyword(self) -> bool:
        """Whether a keyword with its `=` comes next, or a test."""
        return self._position in self._keywords

    def following(self, *words: str) -> Token | None:
        """Return the next token if it belongs to what was read before; None: a keyword comes next, or the end of the
        block or of the text. words: then it must be one of these, too."""
        position = self._position
        if position >= self._count or position in self._keywords:
            return None
        token = self._tokens[position]
        return token if token.word != "}" and (not words or token.word in words) else None

    def conditions(self) -> str:
        """Read conditions and return their text; "" where none begins here."""
        found, self._position = read_conditions(
            self._tokens, self._position, lambda token, refusal: token.error(f"{refusal}{_explain_action(token)}")
        )
        return text_of(found) if found else ""

    def action(self) -> Action | None:
        """Read an action; None where none begins here."""
        token = self.peek()
        if token is None or not token.is_word(*ACTIONS):
            return None
        action, self._position = read_action(
            self._tokens, self._position, lambda token, refusal: token.error(str(refusal))
        )
        return action

    def modifiers(self, before: Modifiers, words: Sequence[str] = WORDS) -> Modifiers:
        """Read modifiers that begin with one of `words`; return them behind `before`."""
        modifiers = before
        while (token := self.peek()) is not None and token.is_word(*words):
            modifiers, self._position = read_modifier(
                self._tokens, self._position, modifiers, lambda token, refusal: token.error(str(refusal))
            )
        return modifiers

    def phrase(self, first: Token, in_line: bool = False) -> str:
        """Return `first` and the tokens after it as text, up to the next keyword or the end of the block. in_line: or
        of the line."""
        found = [first]
        while (token := self.following()) is not None:
            if in_line and token.line != first.line:
                break
            found.append(self.next("a word"))
        return " ".join(quoted(token.text) if token.quoted else token.text for token in found)

    def sign(self, sign: str) -> None:
        token = self.next(f"'{sign}'")
        if token.quoted or token.text != sign:
            raise token.error(f"expected '{sign}', not '{shorten(token.text)}'")

    def block(self, bare: str = "") -> Iterator[Token]:
        """Yield the keywords of a `{ ... }` block, after their `=`. bare: a keyword that is followed by a quoted word
        instead of `=`."""
        self.sign("{")
        while True:
            is_keyword = self.is_keyword()
            keyword = self.next("'}'")
            if keyword.word == "}":
                return
            if bare and keyword.word == bare and (after := self.peek()) is not None and after.quoted:
                yield keyword
                continue
            if not is_keyword or keyword.quoted:
                if "=" in keyword.text and keyword.text != "=":
                    raise keyword.error(f"'{shorten(keyword.text)}': put white space around '='")
                raise keyword.error(_describe_bare(keyword))
            self.sign("=")
            if keyword.is_word(INCLUDE):
                raise _cannot_include(keyword)
            yield keyword


def _keywords(found: Sequence[Token]) -> frozenset[int]:
    """Return the positions of tokens in front of a `=`, and of tests."""
    return frozenset(
        [
            position
            for position, token in enumerate(found, -1)
            if token.word == "=" or (token.quoted and position >= 0 and found[position].word == TEST)
        ]
    )


def _describe_bare(keyword: Token) -> str:
    """Return what is wrong with a word in the place of a keyword, behind which there is no '='."""
    shown, name = repr(shorten(keyword.text)), keyword.text.lower().removesuffix(":")
    if keyword.quoted:
        hint = ""
    elif name in KEYWORDS or name in Settings.names():
        hint = f" (example: {foreign_words.EXAMPLES.get(name, f'{name} = VALUE')})"
    else:
        hint = foreign_words.hint(foreign_words.IN_BLOCK, name) or did_you_mean(keyword.text, KEYWORDS, 0.75)
    return f"{shown}: expected a keyword followed by '=', or '}}'{hint}"


def _cannot_include(keyword: Token) -> BadConfiguration:
    return keyword.error("include: only files that ktcpvs and tcpvsadm read may include others")


class _at:
    """Add the place of this token to refusals from within, unless they have one. A table of 10,000 rules enters 50,000
    of these."""

    __slots__ = ("_token",)

    def __init__(self, token: Token) -> None:
        self._token = token

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Refusal) and not isinstance(error, BadConfiguration):
            raise self._token.error(str(error)) from None


def _settings(reader: _Reader) -> Settings:
    settings = DEFAULT_SETTINGS
    seen: set[str] = set()
    for keyword in reader.block():
        name = keyword.text.lower()
        _once(seen, name, keyword)
        value = reader.next(f"the value of {name}")
        with _at(keyword if name not in Settings.names() else value):
            settings = settings.changed({name: value.text})
    return settings


def _once(seen: set[str], name: str, keyword: Token) -> None:
    if name in seen:
        raise keyword.error(f"{name} appears a second time")
    seen.add(name)


def _number(name: str, token: Token) -> int:
    with _at(token):
        return whole_number(name, token.text)


_Places = dict[tuple[str, Address], Token]
"""The listeners of all services: (service, address) -> the address in the text, or the name of one without any."""

_User = tuple[Token, Address, Token, int | None]
"""A server of a rule with its token; its weight with that one; None: the server's own."""


@define
class _WrittenRule:
    """A rule as it stands in the text. text: of its conditions. users: the servers with their places and their weights
    in this rule. action: None: it has servers."""

    token: Token
    name: str | None
    text: str
    match: int | None
    users: list[_User]
    action: Action | None = None
    modifiers: Modifiers = NONE


@define
class _Block:
    """The contents of one Virtual block with their tokens; `complete` makes a service of them.

    options: those that stand for themselves, with values that are checked. held: those that may contradict each other.
    """

    ident: str
    options: dict[str, Any] = Factory(dict)
    listeners: list[tuple[Token, ListenAddress]] = Factory(list)
    held: dict[str, tuple[Token, Any]] = Factory(dict)
    servers: list[tuple[Token, Address, Token, int, Token, int, dict[str, Any]]] = Factory(list)
    rules: list[_WrittenRule] = Factory(list)
    tests: list[tuple[Token, Callable[[VirtualService], Expectation]]] = Factory(list)
    networks: dict[str, dict[Network, Token]] = Factory(dict)

    def complete(self) -> VirtualService:
        options = self._complete_options()
        port = port_of(options.get("listen", DEFAULT_LISTEN))
        allow, deny = (self.networks.get(name, {}) for name in ("allow", "deny"))
        for network in deny.keys() & allow.keys():
            raise deny[network].error(f"service {self.ident} both allows and denies {network}")
        servers: dict[Address, RealServer] = {}
        for token, written, weight_token, weight, most_token, maxconn, words in self.servers:
            with _at(token):
                address = with_port(written, port, self.ident)
            if address in servers:
                raise token.error(f"server {address} appears a second time")
            with _at(weight_token):
                server = RealServer(address, weight, **words)
            with _at(most_token):
                servers[address] = evolve(server, maxconn=maxconn) if maxconn != server.maxconn else server
        rules: list[Rule] = []
        for rule in self._merged_rules():
            with _at(rule.token):
                users = tuple(self._users(rule, servers, port))
                weights = tuple([weight for *_, weight in rule.users])
                rules.append(Rule(rule.text, users, rule.match, rule.name, rule.action, rule.modifiers, weights))
        networks: dict[str, Any] = {name: Networks(tuple(found)) for name, found in self.networks.items()}
        values = {"ident": self.ident, "servers": tuple(servers.values()), "rules": tuple(rules), **options, **networks}
        service = VirtualService.of_checked(values)
        return evolve(service, tests=tuple(self._tests(service))) if self.tests else service

    def _complete_options(self) -> dict[str, Any]:
        """Return all options, with those that were held back until all of them are known."""
        held = self.held
        if self.listeners:
            first_tls = next((token for token, one in self.listeners if one.is_tls), self.listeners[0][0])
            held["listen"] = first_tls, _listen(self.listeners)
        values = {name: held[name][1] if name in held else OPTIONS[name].default for name in CONTRADICTING}
        if (found := contradiction(values)) is not None:
            raise held[found[0]][0].error(found[1])
        return {**self.options, **{name: value for name, (_, value) in held.items()}}

    def _tests(self, service: VirtualService) -> Iterator[Expectation]:
        for token, make in self.tests:
            with _at(token):
                yield make(service)

    def _merged_rules(self) -> Iterable[_WrittenRule]:
        """Merge rules with one name, or with the same conditions and no name, into the first of them."""
        merged: dict[tuple[str | None, str], _WrittenRule] = {}
        for rule in self.rules:
            first = merged.setdefault((rule.name, "" if rule.name is not None else rule.text), rule)
            if first is rule:
                continue
            if rule.text != first.text:
                raise rule.token.error(f"the first rule with the name {rule.name} has other conditions")
            if rule.action is not None or first.action is not None:
                raise rule.token.error(
                    "a rule with this name or these conditions exists already; an action stands alone"
                )
            if rule.modifiers != first.modifiers:
                raise rule.token.error("the first rule with this name or these conditions has other modifiers")
            if rule.match != first.match:
                which = "pattern" if rule.name is None else "name"
                raise rule.token.error(f"this {which}'s first rule has match {first.match}, not {rule.match}")
            first.users.extend(rule.users)
        return merged.values()

    def _users(self, rule: _WrittenRule, servers: dict[Address, RealServer], port: int | None) -> Iterator[Address]:
        seen = set()
        for token, written, weight_token, weight in rule.users:
            with _at(weight_token):
                check_weight(weight)
            with _at(token):
                address = with_port(written, port, self.ident)
            if address not in servers:
                raise token.error(
                    f"service {self.ident} has no server {address}; add the line 'server = {address}' to it"
                )
            if address in seen:
                raise token.error(f"rule '{shorten(rule.name or rule.text)}' already uses server {address}")
            seen.add(address)
            yield address


def _service(reader: _Reader, name: Token, port_named: PortNamed, listeners: _Places) -> VirtualService:
    """Read a service. listeners: its listeners are added to them."""

    known: dict[str, Address] = {}  # rules name the same servers again

    def address() -> tuple[Token, Address]:
        token = reader.next("an address")
        found = known.get(token.text)
        if found is None:
            with _at(token):
                found = known[token.text] = parse_address(token.text, port_named)
        return token, found

    with _at(name):
        check_ident(name.text)
    block = _Block(name.text)
    seen: set[str] = set()
    for keyword in reader.block(TEST):
        called = keyword.text.lower()
        if called == TEST:
            block.tests.append(_test(reader, port_named))
            continue
        if called == "server":
            token, server = address()
            weight, maxconn = _weight(reader, token), _maxconn(reader, token)
            block.servers.append((token, server, *weight, *maxconn, _server_words(reader)))
            continue
        if called == "rule":
            block.rules.append(_rule(reader, address))
            continue
        if called == "listen":
            block.listeners.append(_listener(reader, address))
            continue
        option = OPTIONS.get(called)
        if option is not None and option.read is read_networks:
            block.networks.setdefault(called, {}).update(_networks(reader))
            continue
        if option is None or not option.repeats:
            _once(seen, called, keyword)
        if option is None:
            raise keyword.error(f"unknown keyword {foreign_words.unknown_option(keyword.text, KEYWORDS)}")
        token = reader.next(f"the value of {option.name}")
        is_phrase = option.is_phrase or (option.opens_phrase and token.is_word(option.opens_phrase))
        # Any word can be the name of a scheduler's option: only by its line is a keyword without its `=` told from it.
        text = reader.phrase(token, in_line=option.read is read_scheduler) if is_phrase else token.text
        with _at(token):
            value = option.read(option.name, text, port_named)
            if option.name in CONTRADICTING:
                before = block.held[called][1] if called in block.held else ()
                block.held[called] = token, _checked_value(option, before, value)
            else:
                before = block.options.get(called, ())
                block.options[called] = _checked_value(option, before, value)
    service = block.complete()
    listeners.update({(name.text, address): name for address in service.addresses})
    listeners.update({(name.text, listener.address): token for token, listener in block.listeners})
    return service


def _checked_value(option: Option, before: Any, value: Any) -> Any:
    """Return the value of an option, after a check of it alone. before: of an option that repeats, until now."""
    if option.repeats:
        value = (*before, value)
    attribute = _FIELDS[option.name]
    if attribute.validator is not None:
        attribute.validator(None, attribute, value)
    return value


def _server_words(reader: _Reader) -> dict[str, Any]:
    """Read the words behind a server's numbers."""
    found: list[Token] = []
    while (token := reader.following()) is not None:
        if not found and not token.is_word(*SERVER_WORDS):
            if token.line != reader.line_before and foreign_words.hint(foreign_words.IN_BLOCK, token.text):
                break  # a line of its own, of another program
            is_name = not token.quoted and token.text[:1].isalpha()
            if is_name and (hint := foreign_words.hint_at_server_word(token.text)):
                raise token.error(f"unknown word '{shorten(token.text)}'{hint}")
            if is_name and (hint := did_you_mean(token.text, SERVER_WORDS, 0.65)):
                raise token.error(f"unknown word '{shorten(token.text)}'{hint}")
            if _looks_like_address(token):
                raise token.error(f"'{shorten(token.text)}': the address comes first, in place of a name")
            break
        found.append(reader.next("a word"))
    return read_words(found, lambda token, why: token.error(why))


def _looks_like_address(token: Token) -> bool:
    """Whether this is an IPv4 address with a port, as behind the name of a server in HAProxy."""
    return not token.quoted and re.match(r"\d{1,3}(\.\d{1,3}){3}:\d", token.text) is not None


def _listener(reader: _Reader, address: Callable[[], tuple[Token, Address]]) -> tuple[Token, ListenAddress]:
    """Read: ADDRESS [tls] [on NODE[, NODE...]]"""
    token, written = address()
    with _at(token):
        check_complete(written)
    found: list[Token] = []
    while reader.following() is not None:
        found.append(reader.next("a word"))
    return token, ListenAddress(written, **read_listen_words(found, lambda token, why: token.error(why)))


def _listen(listeners: list[tuple[Token, ListenAddress]]) -> tuple[ListenAddress, ...]:
    seen: set[Address] = set()
    for token, listener in listeners:
        if listener.address in seen:
            raise token.error(f"listen = {listener.address} appears a second time")
        seen.add(listener.address)
    return tuple(listener for _, listener in listeners)


def _networks(reader: _Reader) -> Iterator[tuple[Network, Token]]:
    """Read one or more networks, up to the next keyword or the end of the block."""
    token = reader.next("a network")
    while True:
        with _at(token):
            for network in parse_networks(token.text).entries if token.quoted else (parse_network(token.text),):
                yield network, token
        if reader.following() is None:
            return
        token = reader.next("a network")


def _weight(reader: _Reader, address: Token) -> tuple[Token, int]:
    """Read the number after a server's address; without one, return 1 and the token of the address."""
    token, weight = _weight_or_none(reader, address)
    return token, 1 if weight is None else weight


def _weight_or_none(reader: _Reader, address: Token) -> tuple[Token, int | None]:
    """Read the number after a server's address; without one, return None and the token of the address."""
    token = reader.following()
    if token is None or not is_weight(token):
        return address, None
    reader.next("a weight")
    return token, _number("weight", token)


def _maxconn(reader: _Reader, address: Token) -> tuple[Token, int]:
    """Read the number after `maxconn`; without one, return 0 and the token of the address."""
    if reader.following("maxconn") is None:
        return address, 0
    reader.next("maxconn")
    token = reader.next("a number of connections")
    return token, _number("maxconn", token)


def _user(reader: _Reader, address: Callable[[], tuple[Token, Address]]) -> _User:
    """Read a server of a rule: ADDRESS [WEIGHT]"""
    token, written = address()
    return token, written, *_weight_or_none(reader, token)


def _rule(reader: _Reader, address: Callable[[], tuple[Token, Address]]) -> _WrittenRule:
    """Read: [name N] CONDITION... [MODIFIER...] [match N] use (server A [WEIGHT] [server ...] [balance S] | ACTION)"""
    name = None
    begin = reader.peek()
    if begin is not None and begin.is_word(NAME):
        reader.next(NAME)
        called = reader.next("the name of the rule")
        with _at(called):
            check_rule_name(called.text)
        name = called.text
    first, pattern = reader.peek(), reader.peek(1)
    text = reader.conditions()
    if not text or first is None:
        found = reader.next("a condition")
        if found.is_word(USE):
            raise found.error("expected a condition before 'use' (a rule for all requests: pattern \".*\")")
        described = foreign_words.unknown_condition(found.text, (*KINDS, NOT, NAME))
        raise found.error(f"expected a condition: unknown word {described}")
    modifiers = reader.modifiers(NONE)
    match = None
    if (token := reader.peek()) is not None and token.is_word("match"):
        reader.next("match")
        match = _number("match", reader.next("the number of a group"))
        modifiers = reader.modifiers(modifiers)
    _word(reader, USE)
    shown = pattern if first.is_word(PATTERN) and is_pattern(text) and pattern is not None else first
    if (action := reader.action()) is not None:
        return _WrittenRule(shown, name, text, match, [], action, modifiers)
    token = reader.next("'server', 'redirect' or 'respond'")
    if not token.is_word("server"):
        hint = foreign_words.hint(foreign_words.ACTIONS, token.text)
        raise token.error(f"expected 'server', 'redirect' or 'respond', not '{shorten(token.text)}'{hint}")
    users = [_user(reader, address)]
    while reader.following("server") is not None:
        reader.next("server")
        users.append(_user(reader, address))
    if reader.following(BALANCE) is not None:
        modifiers = reader.modifiers(modifiers, (BALANCE,))
    behind = reader.following()
    is_behind = behind is not None and behind.line == reader.line_before and not behind.quoted
    if behind is not None and is_behind and (hint := foreign_words.hint_at_server_word(behind.text)):
        raise behind.error(f"unknown word '{shorten(behind.text)}' in a rule{hint}")
    return _WrittenRule(shown, name, text, match, users, None, modifiers)


def _test(reader: _Reader, port_named: PortNamed) -> tuple[Token, Callable[[VirtualService], Expectation]]:
    """Read: "METHOD TARGET" ["NAME: VALUE" ...] [from ADDRESS] [port N] -> SERVER [SERVER ...] | redirect [URL] |
    respond STATUS | nobody"""
    request = reader.next("METHOD TARGET")
    headers = []
    while (token := reader.peek()) is not None and token.quoted:
        headers.append(reader.next("a header line").text)
    client = CLIENT
    if (token := reader.peek()) is not None and token.is_word("from"):
        reader.next("from")
        client = reader.next("an IP address").text
    port = None
    if (token := reader.peek()) is not None and token.is_word("port"):
        reader.next("port")
        port = _number("port", reader.next("the number of a port"))
    _word(reader, "->")
    first = reader.next("a server, redirect, respond or nobody")
    outcome = first.text.lower() if first.is_word(*OUTCOMES) else ""
    status = _number("status", reader.next("a status")) if outcome == RESPOND else None
    location = ""
    if outcome == REDIRECT and (token := reader.peek()) is not None and (token.quoted or _is_address(reader, token)):
        location = reader.next("a URL").text
    written = [] if outcome else [first]
    while written and (token := reader.peek()) is not None and _is_address(reader, token):
        written.append(reader.next("a server"))
    addresses = []
    for token in written:
        with _at(token):
            addresses.append(parse_address(token.text, port_named))

    def make(service: VirtualService) -> Expectation:
        servers = tuple(service.complete(address) for address in addresses)
        return Expectation(request.text, tuple(headers), client, servers, outcome, port, location, status)

    return request, make


def _is_address(reader: _Reader, token: Token) -> bool:
    return not (token.is_word("}") or token.quoted or reader.is_keyword())


def _word(reader: _Reader, word: str) -> None:
    token = reader.next(f"'{word}'")
    if not token.is_word(word):
        unused = reader.previous() if token.is_word("}") else token  # the brace ends the rule before its action
        hint = _explain_action(unused) if word == USE else ""
        raise token.error(f"expected '{word}', not '{shorten(token.text)}'{hint}")


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
