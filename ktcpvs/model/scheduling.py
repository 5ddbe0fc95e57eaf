"""What a scheduler is asked and what it answers."""

from __future__ import annotations

from typing import Any

from attrs import Factory, define, field, frozen

from ktcpvs.model.address import Address
from ktcpvs.model.destination import Destination
from ktcpvs.model.service import Rule, VirtualService

NONE: frozenset[Destination] = frozenset()
"""No destinations."""


@define(eq=False)
class Request:
    """What is known when a scheduler is asked.

    client: the client's address as text, without its port; "" for a unix socket's client.
    method, target, path: of the HTTP request, raw bytes; None for schedulers that are asked per connection.
    `target` is the request target as it was sent, `path` the path and query in it: what rules are matched against.
    lines: the request's header lines as they came, each with its line end.
    tried: the destinations that are not up, and those that have already failed for this request. Not to be changed.
    failed: only the latter.
    """

    client: str = ""
    method: bytes | None = None
    target: bytes | None = None
    path: bytes | None = None
    lines: bytes = b""
    tried: set[Destination] = Factory(set)
    failed: frozenset[Destination] = NONE

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """(name in lower case, value) of all header lines, raw bytes, in the order in which they came."""
        pairs = (line.split(b":", 1) for line in self.lines.split(b"\r\n") if line)
        return tuple((name.lower(), value.strip(b" \t")) for name, value in pairs)


@frozen(eq=False)
class Choice:
    """Who shall serve, and why, in words for the log and for people.

    waits: when the destination has all the connections that its maxconn allows, the client waits for it, and no other
    is asked for. For schedulers that decide per request: lines, the request's header lines as the server shall see
    them, None: as they came; answer_lines: header lines, each with its line end, that the answer gets besides its own.
    """

    destination: Destination
    reason: str
    waits: bool = False
    lines: bytes | None = None
    answer_lines: bytes = b""


@frozen(eq=False)
class Considered:
    """What a scheduler looked at for one request, for people to read.

    rules: (number, pattern, why it was taken or not) of each rule that was tried, in their order. notes: what else
    counted, a line each. destinations: those among which it chose.
    """

    rules: tuple[tuple[int, str, str], ...] = ()
    notes: tuple[str, ...] = ()
    destinations: tuple[Destination, ...] = ()


@frozen(eq=False)
class BoundRule:
    """A rule whose servers are destinations. number: its place in the list, from 1. rule: as configured; None in tests
    of rules alone."""

    number: int
    pattern: str
    is_default: bool
    match: int | None
    destinations: tuple[Destination, ...]
    rule: Rule | None = None


@frozen(eq=False)
class ServiceView:
    """A service as a scheduler sees it when it is bound.

    config: the service as configured. destinations: its servers, in their order.
    rules: its rules, in the order in which they are tried (default rules last). balance: the L{ISchedulerFactory} that
    chooses among the servers of one rule. why: stands in front of the reasons of what is bound to this view. key: a
    secret of this switch, or of all that share its cookie_key; never to be shown. trial: what is bound will be asked
    once and thrown away, while `previous` goes on: it shares nothing with it that changes.
    """

    config: VirtualService
    destinations: tuple[Destination, ...]
    rules: tuple[BoundRule, ...] = ()
    balance: Any = None
    why: str = ""
    key: bytes = field(default=b"", repr=False)
    trial: bool = False

    @property
    def ident(self) -> str:
        return self.config.ident

    @classmethod
    def of(
        cls,
        config: VirtualService,
        known: dict[Address, Destination],
        balance: Any = None,
        key: bytes = b"",
        before: ServiceView | None = None,
        trial: bool = False,
    ) -> ServiceView:
        """The view of `config`, with destinations from `known`, which holds one for every server.

        before: a view of the same service; what has not changed since is taken from it.
        """
        destinations = tuple([known[server.address] for server in config.servers])
        same: dict[int, BoundRule] = {}
        if before is not None and set(before.destinations).issubset(destinations):
            same = {id(bound.rule): bound for bound in before.rules}  # the rules live as long as the view before
        rules: list[BoundRule] = []
        last: list[BoundRule] = []
        for number, rule in enumerate(config.rules, 1):
            bound = same.get(id(rule))
            if bound is None or bound.number != number:
                servers = tuple([known[address] for address in rule.servers])
                bound = BoundRule(number, rule.pattern, rule.is_default, rule.match, servers, rule)
            (last if bound.is_default else rules).append(bound)
        return cls(config, destinations, (*rules, *last), balance, "", key, trial)

    def of_rule(self, rule: BoundRule, why: str) -> ServiceView:
        """The view of one rule: its servers are all there is."""
        return ServiceView(self.config, rule.destinations, (), self.balance, why, self.key)
