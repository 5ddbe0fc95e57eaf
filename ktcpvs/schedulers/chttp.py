"""chttp: phttp with sessions: a cookie keeps a client at the server that served it first.

The cookie (KTCPVS_SID, or `cookie_name`) names servers by a keyed hash of their addresses, so there is no table to lose
or to share: every switch with the same key can read it. A cookie that is forged, stale or another switch's is ignored.
The cookie of a client whose requests match several rules has one name for each rule, since their servers may differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable

from zope.interface import implementer

from ktcpvs.interfaces import (
    EACH_REQUEST,
    USES_BALANCE,
    USES_COOKIE,
    USES_MATCH,
    USES_RULES,
    Choice,
    Choosing,
    Considered,
    Destination,
    IScheduler,
    Request,
)
from ktcpvs.model.scheduling import OwnResponse
from ktcpvs.model.service import VirtualService
from ktcpvs.model.why import NEW_SESSION, SESSION, joined, of_rule
from ktcpvs.protocols.http1.cookies import take_cookie, take_single_cookie
from ktcpvs.schedulers.content import NO_RULE, BoundRules, LearningRules, RuleParts, RuleScheduler

MAX_COOKIE_NAMES = 8
"""The most servers that one cookie names: those of the rules that the client's requests matched last."""

_SAME_SITE = {"lax": "Lax", "strict": "Strict", "none": "None"}
"""Values of the option `cookie_samesite`, and of the attribute."""


def name_of(destination: Destination, key: bytes) -> bytes:
    """Return the name of `destination` in cookies: 32 hexadecimal digits, which cannot be guessed without the key."""
    return hashlib.blake2b(str(destination.address).encode(), key=key, digest_size=16).hexdigest().encode()


def _set_cookie(config: VirtualService, is_tls: bool) -> bytes:
    """Return the field that begins a session, with %b for the cookie's value. is_tls: the client speaks TLS with the
    switch."""
    attributes = ["Path=/"]
    if config.cookie_domain is not None:
        attributes.append(f"Domain={config.cookie_domain}")
    if config.cookie_max_age:
        attributes.append(f"Max-Age={config.cookie_max_age}")
    attributes.append("HttpOnly")
    if config.cookie_samesite in _SAME_SITE:
        attributes.append(f"SameSite={_SAME_SITE[config.cookie_samesite]}")
    if is_tls or config.cookie_secure == "on":
        attributes.append("Secure")
    return f"Set-Cookie: {config.cookie_name}=%b; {'; '.join(attributes)}\r\n".encode()


@implementer(IScheduler)
class BoundCHTTP(BoundRules):
    """The rules of one service, and the names of its servers."""

    def __init__(self, parts: RuleParts) -> None:
        super().__init__(parts)
        service, rules = parts.service, parts.rules
        key = hashlib.blake2b(service.key).digest()
        self._names = {destination: name_of(destination, key) for destination in service.destinations}
        self._named = {name: destination for destination, name in self._names.items()}
        self._servers = [frozenset(rule.destinations) for rule in rules]
        self._cookie = service.config.cookie_name
        self._name = self._cookie.encode()
        plain, secure = _set_cookie(service.config, False), _set_cookie(service.config, True)
        self._set_cookie = {False: plain, True: secure}  # by whether the client speaks TLS with the switch
        self._kept = [
            f"{'no rules' if rule.number == NO_RULE else f'rule {rule.number}'}, by the client's cookie"
            for rule in rules
        ]
        self._kept_why = [of_rule(rule.number, SESSION) for rule in rules]

    def choose(self, request: Request) -> Choosing:
        place = self.rule_set.place(request)
        if place is None:
            return None
        self.count(place, request)
        if place in self.modifiers:
            return self.modifiers[place].added_to(self._choose_at(place, request), request)
        return self._choose_at(place, request)

    def _choose_at(self, place: int, request: Request) -> Choosing:
        """Choose for a request that matches the rule at `place`."""
        single = take_single_cookie(request.lines, self._name)
        if single is not None and single[0] is not None:  # as nearly always, without a list
            only = self._named.get(single[0])
            if only is not None and only in self._servers[place] and only not in request.tried:
                return Choice(only, self._kept[place], True, single[1], b"", self._kept_why[place])
        values, left = take_cookie(request.lines, self._name)
        lines = left if values else None
        names = self._read(values) if values else []
        servers = self._servers[place]
        tried = request.tried
        for destination in names:  # a server of weight 0 keeps its sessions, and so does one that stands by
            is_standby = destination.is_standby and destination not in request.failed
            if destination in servers and (destination not in tried or is_standby):
                return Choice(destination, self._kept[place], True, lines, b"", self._kept_why[place])
        others = [self._names[destination] for destination in names if destination not in servers]
        choice = self.choose_within(place, request)
        if isinstance(choice, OwnResponse):
            return choice
        if choice is None or isinstance(choice, Choice):
            return self._begun(choice, others, lines, request.is_tls)
        return self._begun_later(choice, others, lines, request.is_tls)

    def _begun(self, choice: Choice | None, others: list[bytes], lines: bytes | None, is_tls: bool) -> Choice | None:
        """Begin a session at the chosen server. others: the cookie's names for other rules."""
        if choice is None:
            return None
        cookie = self._set_cookie[is_tls] % b".".join([*others, self._names[choice.destination]][-MAX_COOKIE_NAMES:])
        why, reason = joined(choice.why, NEW_SESSION), f"{choice.reason}, a new session"
        waits, completed = choice.waits, choice.completed
        return Choice(choice.destination, reason, waits, lines, cookie, why, completed=completed)

    async def _begun_later(
        self, awaited: Awaitable[Choice | OwnResponse | None], others: list[bytes], lines: bytes | None, is_tls: bool
    ) -> Choice | OwnResponse | None:
        choice = await awaited
        return choice if isinstance(choice, OwnResponse) else self._begun(choice, others, lines, is_tls)

    def _read(self, values: list[bytes]) -> list[Destination]:
        """Return the servers that values of the cookie name, in their order; unknown names are ignored."""
        only = self._named.get(values[0]) if len(values) == 1 else None
        if only is not None:  # nearly always
            return [only]
        names = (
            name for value in values for name in value.strip(b' \t"').split(b".", MAX_COOKIE_NAMES)[:MAX_COOKIE_NAMES]
        )
        return list(dict.fromkeys(self._named[name] for name in names if name in self._named))

    def explain(self, request: Request) -> Considered:
        """Add what the cookie says to what the rules explain."""
        considered = super().explain(request)
        values, _ = take_cookie(request.lines, self._name)
        names = self._read(values)
        if names:
            said = f"cookie {self._cookie} names {', '.join(str(destination.address) for destination in names)}"
        else:
            said = f"cookie {self._cookie} names no server of this service" if values else f"no cookie {self._cookie}"
        return Considered(considered.rules, (*considered.notes, said), considered.destinations)


class LearningCHTTP(BoundCHTTP, LearningRules):
    """The rules of one service, some of which have schedulers that learn."""

    def choose(self, request: Request) -> Choosing:
        request.completed = None  # until one of these schedulers chooses: the cookie may name a server
        return BoundCHTTP.choose(self, request)


class CHTTP(RuleScheduler):
    """Per request, sticky: like phttp, and a cookie keeps a client at its server."""

    name = "chttp"
    unit = EACH_REQUEST
    uses = frozenset((USES_RULES, USES_MATCH, USES_BALANCE, USES_COOKIE))
    bound = BoundCHTTP
    learning = LearningCHTTP
