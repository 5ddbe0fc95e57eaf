"""Reads the tests of a service."""

from __future__ import annotations

from collections.abc import Callable

from ktcpvs.model.address import parse_address
from ktcpvs.model.assumed_request import LOCAL_CLIENT
from ktcpvs.model.expectation import OUTCOMES, REDIRECT, RESPOND, Expectation
from ktcpvs.model.language.lexer import Token
from ktcpvs.model.language.token_reader import TokenReader, errors_at
from ktcpvs.model.service import VirtualService


def read_test(reader: TokenReader) -> tuple[Token, Callable[[VirtualService], Expectation]]:
    """Read: "METHOD TARGET" ["NAME: VALUE" ...] [from ADDRESS] [port N] -> SERVER [SERVER ...] | redirect [URL] |
    respond STATUS | nobody"""
    request = reader.next("METHOD TARGET")
    headers = []
    while (token := reader.peek()) is not None and token.quoted:
        headers.append(reader.next("a header line").text)
    client = LOCAL_CLIENT
    if (token := reader.peek()) is not None and token.is_word("from"):
        reader.next("from")
        client = reader.next("an IP address").text
    port = None
    if (token := reader.peek()) is not None and token.is_word("port"):
        reader.next("port")
        port = reader.number("port", reader.next("the number of a port"))
    reader.sign("->")
    first = reader.next("a server, redirect, respond or nobody")
    outcome = first.text.lower() if first.is_word(*OUTCOMES) else ""
    status = reader.number("status", reader.next("a status")) if outcome == RESPOND else None
    location = ""
    if outcome == REDIRECT and (token := reader.peek()) is not None and (token.quoted or _is_address(reader, token)):
        location = reader.next("a URL").text
    written = [] if outcome else [first]
    while written and (token := reader.peek()) is not None and _is_address(reader, token):
        written.append(reader.next("a server"))
    addresses = []
    for token in written:
        with errors_at(token):
            addresses.append(parse_address(token.text, reader.port_named))

    def make(service: VirtualService) -> Expectation:
        servers = tuple(service.complete(address) for address in addresses)
        return Expectation(request.text, tuple(headers), client, servers, outcome, port, location, status)

    return request, make


def _is_address(reader: TokenReader, token: Token) -> bool:
    return not (token.is_word("}") or token.quoted or reader.is_keyword())
