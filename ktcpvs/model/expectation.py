"""What a configuration says of itself: a request, and who must serve it.

test "GET /images/x" ["NAME: VALUE" ...] [from ADDRESS] -> SERVER [SERVER ...] | redirect | nobody
"""

from __future__ import annotations

import ipaddress
from typing import Any

from attrs import Attribute, field, frozen

from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.address import Address

REDIRECT, NOBODY = OUTCOMES = ("redirect", "nobody")
CLIENT = "127.0.0.1"
"""Who asks, where the test does not say."""


def _request(instance: object, attribute: Attribute[str], value: str) -> None:
    method, blank, target = value.partition(" ")
    if not (method and blank and target) or " " in target or not value.isprintable():
        raise BadValue(f"test '{shorten(value, 60)}': METHOD TARGET is wanted, as \"GET /index.html\"")


def _headers(instance: object, attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    for line in value:
        name, colon, _ = line.partition(":")
        if not name or not colon or not line.isprintable():
            raise BadValue(f"test: header '{shorten(line, 60)}': \"NAME: VALUE\" is wanted")


def _client(instance: object, attribute: Attribute[str], value: str) -> None:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise BadValue(f"test: client '{shorten(value, 60)}': an IP address is wanted") from None


@frozen
class Expectation:
    """request: "METHOD TARGET". headers: lines "NAME: VALUE". client: its IP address. servers: one of them must be who
    serves; none: then `outcome` says what must come of it, REDIRECT or NOBODY."""

    request: str = field(validator=_request)
    headers: tuple[str, ...] = field(default=(), validator=_headers)
    client: str = field(default=CLIENT, validator=_client)
    servers: tuple[Address, ...] = ()
    outcome: str = ""

    def __attrs_post_init__(self) -> None:
        if bool(self.servers) == bool(self.outcome) or self.outcome not in ("", *OUTCOMES):
            raise BadValue(f"test '{shorten(self.request, 60)}': after -> stand servers, redirect or nobody")

    @property
    def wanted(self) -> str:
        """What stands behind the arrow."""
        return self.outcome or " ".join(map(str, self.servers))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(name, value) of the header lines."""
        return [(name, value.strip(" \t")) for name, _, value in (line.partition(":") for line in self.headers)]
