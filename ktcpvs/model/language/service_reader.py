"""Reads the block of a service."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from attrs import Factory, define, evolve, fields_dict, frozen

from ktcpvs.errors import did_you_mean, shorten
from ktcpvs.model.address import Address
from ktcpvs.model.expectation import Expectation
from ktcpvs.model.language import foreign_words
from ktcpvs.model.language.expectation_reader import read_test
from ktcpvs.model.language.keywords import KEYWORDS, TEST
from ktcpvs.model.language.lexer import Token
from ktcpvs.model.language.rule_reader import WrittenRule, complete_rules, read_rule, read_weight
from ktcpvs.model.language.token_reader import TokenReader, errors_at, once
from ktcpvs.model.listen import ListenAddress, check_complete, port_of, read_listen_words
from ktcpvs.model.network import Network, Networks, parse_network, parse_networks, read_networks
from ktcpvs.model.options import Option
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.scheduler_words import read_scheduler
from ktcpvs.model.server_words import SERVER_WORDS, read_words
from ktcpvs.model.service import DEFAULT_LISTEN, OPTIONS, VirtualService, check_ident, with_port
from ktcpvs.model.tls import CONTRADICTING, contradiction

_FIELDS = fields_dict(VirtualService)

Places = dict[tuple[str, Address], Token]
"""The listeners of all services: (service, address) -> the address in the text, or the name of one without any."""


@frozen
class _WrittenServer:
    """A server as it stands in the text: its values with their tokens, and the fields that the words behind them give.
    A value that is not written has its default, and the token of the address."""

    token: Token
    address: Address
    weight_token: Token
    weight: int
    maxconn_token: Token
    maxconn: int
    words: dict[str, Any]


@define
class _Block:
    """The contents of one Virtual block with their tokens; `complete` makes a service of them.

    options: those that stand for themselves, with values that are checked. held: those that may contradict each other.
    """

    ident: str
    options: dict[str, Any] = Factory(dict)
    listeners: list[tuple[Token, ListenAddress]] = Factory(list)
    held: dict[str, tuple[Token, Any]] = Factory(dict)
    servers: list[_WrittenServer] = Factory(list)
    rules: list[WrittenRule] = Factory(list)
    tests: list[tuple[Token, Callable[[VirtualService], Expectation]]] = Factory(list)
    networks: dict[str, dict[Network, Token]] = Factory(dict)

    def complete(self) -> VirtualService:
        options = self._complete_options()
        port = port_of(options.get("listen", DEFAULT_LISTEN))
        allow, deny = (self.networks.get(name, {}) for name in ("allow", "deny"))
        for network in deny.keys() & allow.keys():
            raise deny[network].error(f"service {self.ident} both allows and denies {network}")
        servers: dict[Address, RealServer] = {}
        for written in self.servers:
            with errors_at(written.token):
                address = with_port(written.address, port, self.ident)
            if address in servers:
                raise written.token.error(f"server {address} appears a second time")
            with errors_at(written.weight_token):
                server = RealServer(address, written.weight, **written.words)
            with errors_at(written.maxconn_token):
                maxconn = written.maxconn
                servers[address] = evolve(server, maxconn=maxconn) if maxconn != server.maxconn else server
        rules = tuple(complete_rules(self.rules, servers, port, self.ident))
        networks: dict[str, Any] = {name: Networks(tuple(found)) for name, found in self.networks.items()}
        values = {"ident": self.ident, "servers": tuple(servers.values()), "rules": rules, **options, **networks}
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
            with errors_at(token):
                yield make(service)


def read_service(reader: TokenReader, name: Token, places: Places) -> VirtualService:
    """Read the block behind the name of a service. places: its listeners are added to them."""
    with errors_at(name):
        check_ident(name.text)
    block = _Block(name.text)
    seen: set[str] = set()
    for keyword in reader.block(TEST):
        called = keyword.text.lower()
        if called == TEST:
            block.tests.append(read_test(reader))
            continue
        if called == "server":
            block.servers.append(_read_server(reader))
            continue
        if called == "rule":
            block.rules.append(read_rule(reader))
            continue
        if called == "listen":
            block.listeners.append(_read_listener(reader))
            continue
        option = OPTIONS.get(called)
        if option is not None and option.read is read_networks:
            block.networks.setdefault(called, {}).update(_read_networks(reader))
            continue
        if option is None or not option.repeats:
            once(seen, called, keyword)
        if option is None:
            raise keyword.error(f"unknown keyword {foreign_words.unknown_option(keyword.text, KEYWORDS)}")
        token = reader.next(f"the value of {option.name}")
        is_phrase = option.is_phrase or (option.opens_phrase and token.is_word(option.opens_phrase))
        # Any word can be the name of a scheduler's option: only by its line is a keyword without its `=` told from it.
        text = reader.phrase(token, in_line=option.read is read_scheduler) if is_phrase else token.text
        with errors_at(token):
            value = option.read(option.name, text, reader.port_named)
            if option.name in CONTRADICTING:
                before = block.held[called][1] if called in block.held else ()
                block.held[called] = token, _checked_value(option, before, value)
            else:
                before = block.options.get(called, ())
                block.options[called] = _checked_value(option, before, value)
    service = block.complete()
    places.update({(name.text, address): name for address in service.addresses})
    places.update({(name.text, listener.address): token for token, listener in block.listeners})
    return service


def _checked_value(option: Option, before: Any, value: Any) -> Any:
    """Return the value of an option, after a check of it alone. before: of an option that repeats, until now."""
    if option.repeats:
        value = (*before, value)
    attribute = _FIELDS[option.name]
    if attribute.validator is not None:
        attribute.validator(None, attribute, value)
    return value


def _read_server(reader: TokenReader) -> _WrittenServer:
    """Read: ADDRESS [WEIGHT] [maxconn N] [WORD...]"""
    token, address = reader.address()
    weight_token, weight = read_weight(reader, token)
    maxconn_token, maxconn = _read_maxconn(reader, token)
    words = _read_server_words(reader)
    return _WrittenServer(token, address, weight_token, 1 if weight is None else weight, maxconn_token, maxconn, words)


def _read_maxconn(reader: TokenReader, address: Token) -> tuple[Token, int]:
    """Read the number after `maxconn`; without one, return 0 and the token of the address."""
    if reader.following("maxconn") is None:
        return address, 0
    reader.next("maxconn")
    token = reader.next("a number of connections")
    return token, reader.number("maxconn", token)


def _read_server_words(reader: TokenReader) -> dict[str, Any]:
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
    return read_words(found, Token.error)


def _looks_like_address(token: Token) -> bool:
    """Whether this is an IPv4 address with a port, as behind the name of a server in HAProxy."""
    return not token.quoted and re.match(r"\d{1,3}(\.\d{1,3}){3}:\d", token.text) is not None


def _read_listener(reader: TokenReader) -> tuple[Token, ListenAddress]:
    """Read: ADDRESS [tls] [on NODE[, NODE...]]"""
    token, written = reader.address()
    with errors_at(token):
        check_complete(written)
    found: list[Token] = []
    while reader.following() is not None:
        found.append(reader.next("a word"))
    return token, ListenAddress(written, **read_listen_words(found, Token.error))


def _listen(listeners: list[tuple[Token, ListenAddress]]) -> tuple[ListenAddress, ...]:
    seen: set[Address] = set()
    for token, listener in listeners:
        if listener.address in seen:
            raise token.error(f"listen = {listener.address} appears a second time")
        seen.add(listener.address)
    return tuple(listener for _, listener in listeners)


def _read_networks(reader: TokenReader) -> Iterator[tuple[Network, Token]]:
    """Read one or more networks, up to the next keyword or the end of the block."""
    token = reader.next("a network")
    while True:
        with errors_at(token):
            for network in parse_networks(token.text).entries if token.quoted else (parse_network(token.text),):
                yield network, token
        if reader.following() is None:
            return
        token = reader.next("a network")
