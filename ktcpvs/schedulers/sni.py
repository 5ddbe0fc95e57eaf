"""sni: passes TLS through to a server that it chooses by the server name in the ClientHello.

Rules name hosts: `host a.example *.b.example`. The first rule that has the name wins, in the order of the rules; the
default rule `.*` gets the other names, and clients that send none. Within a rule the scheduler `balance` chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence

from zope.interface import implementer

from ktcpvs.errors import BadValue, shorten
from ktcpvs.interfaces import (
    CLIENT_HELLO,
    USES_BALANCE,
    USES_RULES,
    Choosing,
    Considered,
    Destination,
    IExplains,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
    IWatches,
    Request,
    ServiceView,
)
from ktcpvs.model.scheduling import BoundRule
from ktcpvs.schedulers.binding import BindsInSteps
from ktcpvs.schedulers.content import BOUND_PER_STEP, all_servers

WILDCARD = "*."
"""The beginning of a host that stands for one label or more before the rest."""


@implementer(IScheduler, IExplains, IWatches)
class BoundHosts:
    """The rules of one service. rules: in the order in which they are tried. within: the schedulers within them."""

    def __init__(self, rules: Sequence[BoundRule], within: Sequence[IScheduler]) -> None:
        self._rules = tuple(rules)
        self.within = {rule.pattern: scheduler for rule, scheduler in zip(rules, within, strict=True)}
        self._in_order = list(within)
        self._places: dict[str, int] = {}  # host, or wildcard with its "*" -> the first rule that has it
        self._default: int | None = None
        for place, rule in enumerate(rules):
            if rule.is_default and self._default is None:
                self._default = place
            for host in rule.rule.hosts if rule.rule is not None else ():
                self._places.setdefault(host, place)

    def _place(self, name: str | None) -> int | None:
        """Return the place of the rule for that server name; None: no rule has it."""
        if name is None:
            return self._default
        found = [self._places[name]] if name in self._places else []
        rest = name
        while (dot := rest.find(".")) >= 0:
            rest = rest[dot + 1 :]
            place = self._places.get(WILDCARD + rest)
            if place is not None:
                found.append(place)
        return min(found, default=self._default)

    def choose(self, request: Request) -> Choosing:
        place = self._place(request.server_name)
        return None if place is None else self._in_order[place].choose(request)

    def watched(self) -> Iterable[tuple[Destination, Callable[[Destination], object]]]:
        """Return what the schedulers within the rules watch."""
        return (pair for scheduler in self._in_order if IWatches.providedBy(scheduler) for pair in scheduler.watched())

    def explain(self, request: Request) -> Considered:
        """Return the rules that are tried, and the servers of the one that has the name."""
        name = request.server_name
        shown = f"the server name is {name}" if name is not None else "the client sends no server name"
        place = self._place(name)
        before = self._rules if place is None else self._rules[:place]
        tried = tuple((rule.number, rule.pattern, "does not have the name") for rule in before)
        if place is None:
            return Considered(tried, (shown, "no rule matches"))
        taken = self._rules[place]
        why = "default rule, tried last" if taken.is_default else "has the name"
        return Considered((*tried, (taken.number, taken.pattern, why)), (shown,), taken.destinations)


@implementer(ISchedulerFactory, IUsesOptions)
class SNI(BindsInSteps):
    """Per connection: the server name in the TLS ClientHello, by rules; TLS passes through untouched."""

    name = "sni"
    unit = CLIENT_HELLO
    uses = frozenset((USES_RULES, USES_BALANCE))

    def binding(self, service: ServiceView, previous: IScheduler | None) -> Generator[None, None, BoundHosts]:
        config = service.config
        for listener in config.listen:
            if listener.is_tls:
                raise BadValue(
                    f"service {service.ident}: listen = {listener}: scheduler sni passes TLS through; leave out tls"
                )
        for rule in service.rules:
            if not rule.is_default and (rule.rule is None or not rule.rule.hosts):
                raise BadValue(
                    f"service {service.ident}: rule '{shorten(rule.pattern, 60)}': scheduler sni knows the server name "
                    "alone (example: rule = host www.example.org use server ...)"
                )
        if service.balance is None:
            raise ValueError(f"service {service.ident} has no balance scheduler")
        rules = service.rules or (all_servers(service),)
        before: BoundHosts | None = previous if isinstance(previous, BoundHosts) else None
        known = before.within if before is not None else {}
        within: list[IScheduler] = []
        for number, rule in enumerate(rules, 1):
            why = f"rule {rule.number} '{shorten(rule.pattern, 60)}', " if service.rules else "no rules, "
            within.append(service.balance.bind(service.of_rule(rule, why), known.get(rule.pattern)))
            if number % BOUND_PER_STEP == 0:
                yield
        return BoundHosts(rules, within)
