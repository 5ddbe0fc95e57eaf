"""Upgrade: the protocols to which a client may ask a server to switch (RFC 9110, section 7.8)."""

from __future__ import annotations

import re

from ktcpvs.protocols.http1.grammar import TOKEN, split_list

ANY, WEBSOCKET, OFF = MODES = ("any", "websocket", "off")
"""The values of the option `upgrade` of a service."""

_PROTOCOL = re.compile(rb"(%b)(?:/%b)?+" % (TOKEN, TOKEN))

_NEVER_REQUESTED = frozenset((b"h2c", b"h2", b"h3", b"http", b"tls"))
"""Names of protocols that are never forwarded: other versions of HTTP would carry requests past the service's
rules, and TLS would hide them."""


def requested(values: list[bytes]) -> tuple[bytes, ...]:
    """The protocols that the Upgrade fields of a message list, without those that are never forwarded."""
    found = [(element, _PROTOCOL.fullmatch(element)) for element in split_list(values)]
    return tuple(element for element, match in found if match is not None and match[1].lower() not in _NEVER_REQUESTED)


def allowed(protocols: tuple[bytes, ...], mode: str, is_plain_get: bool) -> tuple[bytes, ...]:
    """Those of the requested protocols that a service passes on.

    mode: its option `upgrade`. is_plain_get: the request is a GET without a body, as a WebSocket's must be (RFC 6455,
    section 4.1).
    """
    if mode == ANY:
        return protocols
    if mode == WEBSOCKET and is_plain_get:
        return tuple(protocol for protocol in protocols if protocol.lower() == b"websocket")
    return ()


def accepted(switched: list[bytes], requested: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The protocols to which a response with status 101 switches; empty if it may not.

    switched: the elements of its Upgrade, each of which must have been requested. If there are none and one protocol
    was requested, the response means that one: not all servers send the field.
    """
    if not switched:
        return requested if len(requested) == 1 else ()
    names = {protocol.lower() for protocol in requested}
    return tuple(switched) if all(protocol.lower() in names for protocol in switched) else ()
