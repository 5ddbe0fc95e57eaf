"""The addresses on which a service listens, and their form in texts: `ADDRESS [tls] [on NODE[, NODE...]]`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from attrs import Attribute, evolve, frozen

from ktcpvs.errors import BadAddress, BadValue, ListenerExists, shorten, unknown
from ktcpvs.model.address import Address, Inet, PortNamed, SRVName, Unix, parse_address
from ktcpvs.model.language import foreign_words
from ktcpvs.model.language.lexer import Fail, Token, fail_without_place, quoted, tokens, word
from ktcpvs.model.nodes import EXAMPLE, Nodes, parse_nodes

TLS, ON = LISTEN_WORDS = ("tls", "on")
"""The words that may follow the address."""


def check_complete(address: Address | None) -> None:
    """Raise BadAddress if the port of `address` was left out, or if it is a name of SRV records."""
    if isinstance(address, SRVName):
        raise BadAddress(f"{address}: only servers of a service may come from SRV records; expected HOST:PORT")
    if isinstance(address, Inet) and address.port is None:
        raise BadAddress(f"{address}: missing port (example: {address}:80)")


@frozen
class ListenAddress:
    """An address where clients connect. is_tls: they speak TLS, which ends here. on: the nodes of a cluster that listen
    there; None: all."""

    address: Address
    is_tls: bool = False
    on: Nodes | None = None

    def __str__(self) -> str:
        if not self.is_tls and self.on is None:
            return str(self.address)
        text = str(self.address)
        text = quoted(text) if isinstance(self.address, Unix) else word(text)
        return f"{text}{write_listen_words(self.is_tls, self.on)}"

    def with_port(self, port: int | None) -> ListenAddress:
        """Return the same with `port`, if its own was left out."""
        return evolve(self, address=self.address.with_port(port)) if isinstance(self.address, Inet) else self


Listen = tuple[ListenAddress, ...]
"""The addresses that a service listens on, at least one. Views show the first one first."""


def as_listen(value: Any) -> Listen:
    """Return an address, or several, as the value of the option `listen`."""
    several = (value,) if isinstance(value, Inet | Unix | ListenAddress) else tuple(value)
    return tuple([one if isinstance(one, ListenAddress) else ListenAddress(one) for one in several])


def well_formed(instance: object, attribute: Attribute[Any], value: Listen) -> None:
    """A validator: complete addresses, at least one, each once."""
    if not value:
        raise BadAddress("a service needs an address to listen on (example: 0.0.0.0:80)")
    for one in value:
        check_complete(one.address)
    if (twice := first_repeated(one.address for one in value)) is not None:
        raise ListenerExists(f"listen = {twice} appears a second time")


def first_repeated(addresses: Iterable[Address]) -> Address | None:
    """Return the first address that was there before; None: all differ."""
    seen: set[Address] = set()
    for address in addresses:
        if address in seen:
            return address
        seen.add(address)
    return None


def read_listen(name: str, text: str, port_named: PortNamed) -> ListenAddress:
    """Read `ADDRESS [tls] [on NODE[, NODE...]]`, perhaps without the port. Raises BadAddress or BadValue.

    The path of a unix socket may contain white space: quote it where words follow.
    """
    if text.startswith("unix:"):
        return ListenAddress(parse_address(text, port_named))
    found = tokens(text.replace("\n", " "), name)
    if not found:
        return ListenAddress(parse_address(text, port_named))
    words = read_listen_words(found[1:], fail_without_place)
    return ListenAddress(parse_address(found[0].text, port_named), **words)


def port_of(listen: Iterable[ListenAddress]) -> int | None:
    """Return the port of the first TCP address among listeners; None: there is none."""
    return next((one.address.port for one in listen if isinstance(one.address, Inet)), None)


def read_listen_words(found: Sequence[Token], error: Fail) -> dict[str, Any]:
    """Return the fields of a ListenAddress that the words behind its address give. error: makes the refusal of a
    token. Raises what it makes."""
    fields: dict[str, Any] = {}
    position = 0
    while position < len(found):
        token = found[position]
        text = token.text.lower()
        if token.quoted and text in LISTEN_WORDS:
            raise error(token, f"after the address: unknown word '{text}'; write it without quotes")
        if hint := foreign_words.hint(foreign_words.LISTENER_WORDS, text):
            raise error(token, f"after the address: unknown word '{text}'{hint}")
        if token.quoted or text not in LISTEN_WORDS:
            raise error(token, f"after the address: unknown word {unknown(text, LISTEN_WORDS)}")
        field = "is_tls" if text == TLS else ON
        if field in fields:
            raise error(token, f"'{text}' appears a second time")
        position += 1
        if text == TLS:
            fields[field] = True
            continue
        end = _end_of_list(found, position)
        if end == position:
            raise error(token, f"after the address: missing nodes behind 'on' (example: on {EXAMPLE})")
        if (wrong := next((one for one in found[position:end] if one.quoted), None)) is not None:
            raise error(wrong, f"on '{shorten(wrong.text)}': write nodes without quotes")
        try:
            fields[field] = parse_nodes(" ".join(one.text for one in found[position:end]))
        except BadValue as refusal:
            raise error(found[position], str(refusal)) from None
        position = end
    return fields


def _end_of_list(found: Sequence[Token], position: int) -> int:
    """Return the position behind a list with commas that begins there."""
    while position < len(found):
        position += 1
        is_ended = not found[position - 1].text.endswith(",")
        if is_ended and not (position < len(found) and found[position].text.startswith(",")):
            break
    return position


def write_listen_words(is_tls: bool, on: Nodes | str | None) -> str:
    """Return the words behind an address, each behind a space; "": there are none."""
    return f" {TLS}" * is_tls + (f" {ON} {on}" if on is not None else "")
