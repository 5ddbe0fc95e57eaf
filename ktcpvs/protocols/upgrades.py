"""Upgrade: which protocols a client may ask a server to switch to (RFC 9110, section 7.8)."""

from __future__ import annotations

import re

ANY, WEBSOCKET, OFF = MODES = ("any", "websocket", "off")
"""The values of the option `upgrade` of a service."""

_PROTOCOL = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++)(?:/[!#$%&'*+\-.^_`|~0-9A-Za-z]++)?+")

_NEVER = frozenset((b"h2c", b"h2", b"h3", b"http", b"tls"))
"""Names of protocols that are never asked for: other versions of HTTP would carry requests past the service's rules,
and TLS would hide them."""


def listed(values: list[bytes]) -> list[bytes]:
    """The elements of fields whose values are lists, as they are spelt, without empty ones."""
    elements = [one.strip(b" \t") for value in values for one in value.split(b",")]
    return [one for one in elements if one]


def protocols(values: list[bytes]) -> tuple[bytes, ...]:
    """The protocols that a request's fields named Upgrade list, without those that are never passed on."""
    found = [(one, _PROTOCOL.fullmatch(one)) for one in listed(values)]
    return tuple(one for one, match in found if match is not None and match[1].lower() not in _NEVER)


def allowed(asked: tuple[bytes, ...], mode: str, is_plain_get: bool) -> tuple[bytes, ...]:
    """Those of the protocols `asked` for that a service passes on. mode: its option `upgrade`. is_plain_get: the
    request is a GET without a body, as a WebSocket's must be (RFC 6455, section 4.1)."""
    if mode == ANY:
        return asked
    if mode == WEBSOCKET and is_plain_get:
        return tuple(one for one in asked if one.lower() == b"websocket")
    return ()


def accepted(answered: list[bytes], asked: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The protocols that a response with status 101 switches to; empty where it may not.

    answered: what its Upgrade lists; every one of them must have been asked for. Where it lists none and one protocol
    was asked for, that one is meant: not all servers send the field.
    """
    if not answered:
        return asked if len(asked) == 1 else ()
    names = {one.lower() for one in asked}
    return tuple(answered) if all(one.lower() in names for one in answered) else ()
