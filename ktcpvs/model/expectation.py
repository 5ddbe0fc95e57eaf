"""Tests in a configuration: a request, and the server that must serve it, or the response that it must get.

test "GET /images/x" ["NAME: VALUE" ...] [from ADDRESS] [port N]
     -> SERVER [SERVER ...] | redirect [URL] | respond STATUS | nobody
"""

from __future__ import annotations

import ipaddress
from typing import Any

from attrs import Attribute, field, frozen

from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.address import Address
from ktcpvs.model.assumed_request import LOCAL_CLIENT, AssumedRequest
from ktcpvs.model.language.lexer import quoted, word
from ktcpvs.model.options import in_range

REDIRECT, RESPOND, NOBODY = OUTCOMES = ("redirect", "respond", "nobody")

CHANGED_IN_FILES = (
    "a test is changed in the configuration file (where there is none: 'tcpvsadm --save > FILE', edit FILE, "
    "'tcpvsadm -f FILE')"
)
"""The way to change a test, for people: no command does it."""


def _request(instance: object, attribute: Attribute[str], value: str) -> None:
    method, blank, target = value.partition(" ")
    if not (method and blank and target) or " " in target or not value.isprintable():
        raise BadValue(f"test '{shorten(value, 60)}': expected METHOD TARGET (example: \"GET /index.html\")")


def _headers(instance: object, attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    for line in value:
        name, colon, _ = line.partition(":")
        if not name or not colon or not line.isprintable():
            raise BadValue(f"test: header '{shorten(line, 60)}': expected \"NAME: VALUE\"")


def _location(instance: object, attribute: Attribute[str], value: str) -> None:
    if not value.isprintable():
        raise BadValue(f"test: redirect '{shorten(value, 60)}': a control character")


def _client(instance: object, attribute: Attribute[str], value: str) -> None:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise BadValue(f"test: client '{shorten(value, 60)}': expected an IP address") from None


@frozen
class Expectation:
    """A test. request: "METHOD TARGET". headers: lines "NAME: VALUE". client: its IP address. port: to which it
    connects; None: the first of the service. servers: one of them must serve the request; empty: the outcome must be
    `outcome`, one of OUTCOMES. location: the URL to which REDIRECT leads; "": the redirect address of the service gets
    the request. status: of RESPOND."""

    request: str = field(validator=_request)
    headers: tuple[str, ...] = field(default=(), validator=_headers)
    client: str = field(default=LOCAL_CLIENT, validator=_client)
    servers: tuple[Address, ...] = ()
    outcome: str = ""
    port: int | None = field(default=None, validator=in_range(1, 65535))
    location: str = field(default="", validator=_location)
    status: int | None = field(default=None, validator=in_range(200, 599))

    def __attrs_post_init__(self) -> None:
        if bool(self.servers) == bool(self.outcome) or self.outcome not in ("", *OUTCOMES):
            form = "expected servers, redirect, respond or nobody after ->"
            raise BadValue(f"test '{shorten(self.request, 60)}': {form}")
        if (self.outcome == RESPOND) != (self.status is not None):
            raise BadValue(f"test '{shorten(self.request, 60)}': expected a status (example: -> respond 403)")
        if self.location and self.outcome != REDIRECT:
            raise BadValue(f"test '{shorten(self.request, 60)}': only redirect has a URL")

    @property
    def expected(self) -> str:
        """The part of the test after the arrow, as the configuration language writes it."""
        if self.outcome == RESPOND:
            return f"{RESPOND} {self.status}"
        if self.outcome:
            return f"{self.outcome} {quoted(self.location)}" if self.location else self.outcome
        return " ".join([word(str(server)) for server in self.servers])

    @property
    def assumed(self) -> AssumedRequest:
        """The request of the test."""
        method, _, target = self.request.partition(" ")
        lines = [line.partition(":") for line in self.headers]
        headers = [(name, value.strip(" \t")) for name, _, value in lines]
        return AssumedRequest(method, target, headers, self.client, self.port)
