"""chttp: phttp with sessions: a cookie keeps a client at the server that served it first.

The cookie KTCPVS_SID names servers by a keyed hash of their addresses, so there is no table to lose or to share: every
switch with the same key reads it. What is forged, stale or another switch's is simply no cookie. A client that meets
several rules has one name for each of them in its cookie, since their servers may differ.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator
from typing import Any

from zope.interface import implementer

from ktcpvs.interfaces import (
    EACH_REQUEST,
    USES_BALANCE,
    USES_COOKIE,
    USES_MATCH,
    USES_RULES,
    IBindsInSteps,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
)
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Choice, Considered, Request, ServiceView
from ktcpvs.schedulers.content import NO_RULE, BoundRules

COOKIE = "KTCPVS_SID"
NAMES_MAX = 8
"""The most servers that one cookie names: those of the rules that the client met last."""

_FIELD = re.compile(rb"(?im)^cookie:[^\n]*+\n")
_PAIR = re.compile(rb"(?:^|;)[ \t]*+%b=([^;]*+)" % COOKIE.encode())
_WHOLE_PAIR = re.compile(rb"(?:^|;)[ \t]*+%b=[^;]*+" % COOKIE.encode())


def name_of(destination: Destination, key: bytes) -> bytes:
    """What a cookie calls `destination`: 32 hexadecimal digits that nobody without the key can guess."""
    return hashlib.blake2b(str(destination.address).encode(), key=key, digest_size=16).hexdigest().encode()


@implementer(IScheduler)
class BoundCHTTP(BoundRules):
    """The rules of one service, and the names of its servers."""

    def __init__(self, service: ServiceView, previous: IScheduler | None) -> None:
        super().__init__(service, previous, hashing=True)

    def steps(self, service: ServiceView, previous: Any, hashing: bool) -> Generator[None, None, None]:
        yield from super().steps(service, previous, hashing)
        key = hashlib.blake2b(service.key).digest()
        self._names = {destination: name_of(destination, key) for destination in service.destinations}
        self._named = {name: destination for destination, name in self._names.items()}
        self._servers = [frozenset(rule.destinations) for rule in self.rules]
        secure = "; Secure" if service.config.cookie_secure == "on" else ""
        self._set_cookie = f"Set-Cookie: {COOKIE}=%b; Path=/; HttpOnly; SameSite=Lax{secure}\r\n".encode()
        self._kept = [
            f"{'no rules' if rule.number == NO_RULE else f'rule {rule.number}'}, by the client's cookie"
            for rule in self.rules
        ]

    def choose(self, request: Request) -> Any:
        place = self.place(request)
        if place is None:
            return None
        fields, lines = _cookies(request.lines)
        names = self._read(fields) if fields else []
        servers = self._servers[place]
        tried = request.tried
        for destination in names:  # weight 0 keeps its sessions
            if destination in servers and destination not in tried:
                return Choice(destination, self._kept[place], True, lines)
        others = [self._names[destination] for destination in names if destination not in servers]
        choice = self.choose_within(place, request)
        if choice is None or isinstance(choice, Choice):
            return self._begun(choice, others, lines)
        return self._begun_later(choice, others, lines)

    def _begun(self, choice: Choice | None, others: list[bytes], lines: bytes | None) -> Choice | None:
        """A session at the server chosen. others: what the cookie already says of other rules."""
        if choice is None:
            return None
        cookie = self._set_cookie % b".".join([*others, self._names[choice.destination]][-NAMES_MAX:])
        return Choice(choice.destination, f"{choice.reason}, a new session", choice.waits, lines, cookie)

    async def _begun_later(self, choice: Any, others: list[bytes], lines: bytes | None) -> Choice | None:
        return self._begun(await choice, others, lines)

    def _read(self, fields: list[bytes]) -> list[Destination]:
        """The servers that the request's cookies name, in their order; what names none is passed over."""
        texts = (text for field in fields for text in _PAIR.findall(field))
        names = (name for text in texts for name in text.strip(b' \t"').split(b".", NAMES_MAX)[:NAMES_MAX])
        return list(dict.fromkeys(self._named[name] for name in names if name in self._named))

    def explain(self, request: Request) -> Considered:
        """As the rules explain it, and what the cookie said."""
        considered = super().explain(request)
        fields, _ = _cookies(request.lines)
        names = self._read(fields)
        if names:
            said = f"cookie {COOKIE} names {', '.join(str(destination.address) for destination in names)}"
        else:
            said = f"cookie {COOKIE} names no server of this service" if fields else f"no cookie {COOKIE}"
        return Considered(considered.rules, (*considered.notes, said), considered.destinations)


def _cookies(lines: bytes) -> tuple[list[bytes], bytes | None]:
    """The values of the Cookie lines that hold our cookie, and the header lines without it; None: as they are."""
    if COOKIE.encode() not in lines:
        return [], None
    fields: list[bytes] = []

    def cleaned(line: re.Match[bytes]) -> bytes:
        value = line[0][7:].strip()
        if not _PAIR.search(value):
            return line[0]
        fields.append(value)
        left = _WHOLE_PAIR.sub(b"", value).strip(b"; \t")
        return line[0][:7] + b" " + left + b"\r\n" if left else b""

    without = _FIELD.sub(cleaned, lines)
    return fields, without if fields else None


@implementer(ISchedulerFactory, IBindsInSteps, IUsesOptions)
class CHTTP:
    """Per request, sticky: like phttp, and a cookie keeps a client at its server."""

    name = "chttp"
    unit = EACH_REQUEST
    uses = frozenset((USES_RULES, USES_MATCH, USES_BALANCE, USES_COOKIE))

    def bind(self, service: ServiceView, previous: IScheduler | None) -> BoundCHTTP:
        return BoundCHTTP(service, previous)

    def binding(self, service: ServiceView, previous: IScheduler | None) -> Generator[None, None, BoundRules]:
        return BoundCHTTP.in_steps(service, previous, hashing=True)
