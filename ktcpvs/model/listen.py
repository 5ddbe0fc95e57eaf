"""The addresses on which a service listens, and their form in texts: `ADDRESS [tls]`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import Attribute, evolve, frozen

from ktcpvs.errors import BadAddress, BadValue, ListenerExists, unknown
from ktcpvs.model.address import Address, Inet, PortNamed, Unix, parse_address
from ktcpvs.model.language.lexer import quoted, tokens, word

TLS = "tls"
LISTEN_WORDS = (TLS,)
"""The words that may follow the address."""


def check_complete(address: Address | None) -> None:
    """Raise BadAddress if the port of `address` was left out."""
    if isinstance(address, Inet) and address.port is None:
        raise BadAddress(f"{address}: missing port (example: {address}:80)")


@frozen
class ListenAddress:
    """An address where clients connect. is_tls: they speak TLS, which ends here."""

    address: Address
    is_tls: bool = False

    def __str__(self) -> str:
        if not self.is_tls:
            return str(self.address)
        text = str(self.address)
        return f"{quoted(text) if isinstance(self.address, Unix) else word(text)} {TLS}"

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
    """Read `ADDRESS [tls]`, perhaps without the port. Raises BadAddress or BadValue.

    The path of a unix socket may contain white space: quote it where `tls` follows.
    """
    if text.startswith("unix:"):
        return ListenAddress(parse_address(text, port_named))
    found = tokens(text.replace("\n", " "), name)
    if not found:
        return ListenAddress(parse_address(text, port_named))
    address = parse_address(found[0].text, port_named)
    for token in found[1:]:
        check_word(token.text.lower() if not token.quoted else "")
    if len(found) > 2:
        raise BadValue(f"'{TLS}' appears a second time")
    return ListenAddress(address, len(found) == 2)


def check_word(text: str) -> None:
    """Raise BadValue if no such word may follow the address of a listener."""
    if text not in LISTEN_WORDS:
        raise BadValue(f"after the address: unknown word {unknown(text, LISTEN_WORDS)}")
