"""Waiting until a server has drained, and saying who is left."""

from __future__ import annotations

import os
import sys
from typing import Any

from twisted.internet.task import deferLater

from ktcpvs.control.client import Switch
from ktcpvs.model.address import Inet, parse_address
from ktcpvs.system.names import service_port

LOOK = 0.5
"""Seconds between two looks."""

SAY = 10.0
"""Seconds between two lines where nobody sees them being rewritten."""

RESTS = ("waiting for a request",)
"""States of client connections that use no server now."""


async def whole_address(switch: Switch, ident: str, text: str) -> str:
    """A server's address as the daemon writes it, with the service's port where its own was left out."""
    address = parse_address(text, service_port)
    if isinstance(address, Inet) and address.port is None:
        (service,) = (await switch.table(ident))["services"]
        listen = parse_address(service["listen"])
        if isinstance(listen, Inet):
            return str(address.with_port(listen.port))
    return str(address)


async def wait_until_drained(reactor: Any, switch: Switch, ident: str, address: str) -> None:
    """Done when no connection of the service uses that server any more."""
    said, last = "", 0.0
    rewrites = sys.stdout is not None and sys.stdout.isatty()
    while True:
        left = await _left(switch, ident, address)
        text = in_words([connection["age"] for connection in left])
        now = reactor.seconds()
        if text != said and (rewrites or not left or now - last >= SAY):
            _say(f"\r\x1b[K{text}" if rewrites else f"{text}\n")
            said, last = text, now
        if not left:
            _say("\n" if rewrites else "")
            return
        await deferLater(reactor, LOOK)


async def _left(switch: Switch, ident: str, address: str) -> list[dict[str, Any]]:
    found = await switch.connections(ident)
    return [one for one in found if address in (one["server"], one["name"]) and one["state"] not in RESTS]


def in_words(ages: list[float]) -> str:
    """ "12 connections, oldest 4 min"; ages: seconds."""
    if not ages:
        return "drained"
    count = "1 connection" if len(ages) == 1 else f"{len(ages)} connections"
    return f"{count}, oldest {_duration(max(ages))}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{round(seconds)} s"
    return f"{round(seconds / 60)} min" if seconds < 7200 else f"{round(seconds / 3600)} h"


def _say(text: str) -> None:
    if sys.stdout is not None and text:
        os.write(sys.stdout.fileno(), text.encode())
