"""The contract between the switch and its schedulers: what a scheduler sees, what it returns, and its interfaces.

A scheduler decides and never acts: it sees what the switch knows, returns a server and a reason, and touches no socket,
no clock and no counter. Authors of schedulers import these names from L{ktcpvs.interfaces}.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from attrs import Factory, define, field, frozen
from zope.interface import Attribute, Interface

from ktcpvs.model import why as words
from ktcpvs.model.actions import Action
from ktcpvs.model.address import Address
from ktcpvs.model.conditions import Condition, conditions_of
from ktcpvs.model.destination import Destination
from ktcpvs.model.modifiers import NONE as NO_MODIFIERS
from ktcpvs.model.modifiers import Modifiers
from ktcpvs.model.named_values import NamedValues
from ktcpvs.model.outcome import Outcome
from ktcpvs.model.request_templates import TLSNames
from ktcpvs.model.request_values import arguments, cookies, headers, host_of, normalized_path
from ktcpvs.model.rule import Rule
from ktcpvs.model.scheduler_options import NO_OPTIONS, read_options
from ktcpvs.model.service import VirtualService
from ktcpvs.model.weighed_destination import WeighedDestination

CONNECTION = "CONNECTION"
"""Choose once for each connection, before anything has been read from it."""

FIRST_REQUEST = "FIRST_REQUEST"
"""Choose once for each connection, when the head of the first HTTP request has come; the rest of the connection is
relayed unchanged."""

EACH_REQUEST = "EACH_REQUEST"
"""Choose for every HTTP request; each is sent to its own server."""

CLIENT_HELLO = "CLIENT_HELLO"
"""Choose once for each connection, when its TLS ClientHello has come; all of the connection is relayed unchanged."""

UNITS = (CONNECTION, CLIENT_HELLO, FIRST_REQUEST, EACH_REQUEST)

USES_RULES, USES_MATCH, USES_BALANCE, USES_WEIGHT, USES_COOKIE = "rules", "match", "balance", "weight", "cookie"
USES_MAXCONN, USES_EACH_SERVER = "maxconn", "each server"
"""The parts of a service's configuration that a scheduler may use, see L{IUsesOptions}."""

MAX_BODY_PREFIX = 1 << 20
"""The most bytes of a body that a scheduler may ask for."""

VIEWED_PER_STEP = 1000
"""The rules of a service that are bound to their servers in one step, which takes some 3 ms."""

NONE: frozenset[Destination] = frozenset()
"""No destinations."""


# What a scheduler sees and returns.


class ClientSide(Protocol):
    """The part of a client's connection that schedulers see."""

    @property
    def local_address(self) -> Any:
        """The address that the client has connected to, as getsockname() returns it."""

    @property
    def tls(self) -> TLSNames | None:
        """None for a client that does not speak TLS with the switch."""


@define(eq=False)
class Request:
    """The request, or the connection, for which a scheduler chooses a server.

    client: the client's address as text, without its port; "" for a client on a unix socket.
    method, target, path: of the HTTP request, raw bytes; None for schedulers that choose per connection. `target` is
    the request target as the client sent it, `path` the path and query in it: rules match against `path`.
    lines: the request's header lines as they came, each with its line end.
    tried: the destinations that are not up, and those that have already failed for this request; a scheduler must not
    change this set. failed: those that have already failed.
    body_prefix: the first bytes of its body, without the framing of a chunked one, for a scheduler whose plugin asks
    for them with an attribute of that name; b"": it has no body, or they are not asked for.
    is_repeated: a scheduler has been asked about this request before, and its choice cannot serve it.
    server_name, protocols: of the ClientHello, for schedulers with the unit CLIENT_HELLO: the name in lower case, None
    if the client sends none, and the protocols of ALPN that it offers. connection: of the client; None in tests.
    completed: of the scheduler that has chosen last, where the service's scheduler lets others choose and some of them
    learn: see L{by_chooser}. None: that one does not learn. Schedulers do not read it.

    The properties are read from these when they are asked for, each time again.
    """

    client: str = ""
    method: bytes | None = None
    target: bytes | None = None
    path: bytes | None = None
    lines: bytes = b""
    tried: set[Destination] = Factory(set)
    failed: frozenset[Destination] = NONE
    server_name: str | None = None
    protocols: tuple[bytes, ...] = ()
    connection: ClientSide | None = None
    body_prefix: bytes = b""
    is_repeated: bool = False
    completed: Callable[[Outcome], object] | None = field(default=None, repr=False)

    @property
    def host(self) -> bytes | None:
        """The host that is asked for, in lower case, without its port and a final dot; None: there is none, or there
        are several."""
        return host_of(self.target or b"/", self.lines)

    @property
    def normalized_path(self) -> bytes:
        """The path as servers read it: without its query, decoded, without `.`, `..` and repeated slashes."""
        return normalized_path(self.path or b"")

    @property
    def arguments(self) -> tuple[tuple[bytes, bytes], ...]:
        """(name, value) of all arguments in the query, decoded."""
        return tuple(arguments(self.path or b""))

    @property
    def query(self) -> NamedValues:
        """The arguments in the query, decoded, by name: as in `request.query["user"]`."""
        return NamedValues(partial(arguments, self.path or b""))

    @property
    def cookies(self) -> NamedValues:
        """The cookies by name: as in `request.cookies.get("session")`. A cookie without `=` has the empty name."""
        return NamedValues(partial(cookies, self.lines))

    @property
    def port(self) -> int | None:
        """The port that the client has connected to; None for a unix socket."""
        address = self.local_address
        return address[1] if isinstance(address, tuple) else None

    @property
    def is_tls(self) -> bool:
        """Whether the client speaks TLS with the switch."""
        return self.tls is not None

    @property
    def sni(self) -> str | None:
        """The server name of TLS in lower case: of a connection that passes through, or of one that ends here."""
        if self.server_name is not None or self.connection is None or self.connection.tls is None:
            return self.server_name
        name = self.connection.tls.sni
        return None if name is None else name.lower().removesuffix(".")

    @property
    def headers(self) -> NamedValues:
        """The header fields by name, which has no case: as in `request.headers["x-user"]`. In iteration, names are in
        lower case."""
        return NamedValues(partial(headers, self.lines), ignores_case=True)

    @property
    def local_address(self) -> tuple[str, int] | str | None:
        """The address that the client has connected to, as (host, port); the path of a unix socket. None in tests."""
        address = self.connection.local_address if self.connection is not None else None
        return address[:2] if isinstance(address, tuple) else address

    @property
    def tls(self) -> TLSNames | None:
        """The facts of the client's TLS with the switch: the name that it has called, the version, its certificate.
        None: it does not speak TLS with the switch."""
        return self.connection.tls if self.connection is not None else None


@frozen(eq=False)
class Choice:
    """The server that a scheduler chooses, and the reason, for the log and for people.

    waits: if the destination has reached its maxconn, the client waits for it, and no other one is chosen instead.
    For schedulers that choose per request: lines, the request's header lines that the server gets, None: as they came;
    answer_lines: header lines, each with its line end, that the response gets besides its own.
    why: the reason for programs, in words of `model/why.py`; L{ServiceView.why_of} makes it.
    completed: is called with the outcome, in place of the `completed` of the service's scheduler: one that lets other
    schedulers choose names theirs. None: the service's scheduler has chosen.
    """

    destination: Destination
    reason: str
    waits: bool = False
    lines: bytes | None = None
    answer_lines: bytes = b""
    why: str = words.BALANCE
    completed: Callable[[Outcome], object] | None = field(default=None, repr=False, kw_only=True)


@frozen(eq=False)
class ModifiedChoice(Choice):
    """The choice of a rule with modifiers, for schedulers that choose per request.

    rule: its label. groups: the texts of the groups of its pattern, from the first on, where its templates need them.
    """

    modifiers: Modifiers = NO_MODIFIERS
    rule: str = ""
    groups: tuple[bytes, ...] = ()


@frozen(eq=False)
class OwnResponse:
    """A rule's decision that the switch responds itself, and the reason, for the log and for people.

    rule: its label. groups: the texts of the groups of its pattern, from the first on, where its templates need them.
    modifiers: those of the rule, for the response. why: as of L{Choice}.
    """

    action: Action
    rule: str
    reason: str
    groups: tuple[bytes, ...] = ()
    modifiers: Modifiers = NO_MODIFIERS
    why: str = words.RESPOND


Choosing = Choice | OwnResponse | None | Awaitable[Choice | OwnResponse | None]
"""The result of `choose`. Awaitable: a coroutine or a Deferred."""


@frozen(eq=False)
class Considered:
    """The rules and servers that a scheduler considered for one request, for people to read.

    rules: (number, name or conditions, why it was taken or not) of each rule that was tried, in their order. notes:
    other facts that mattered, a line each. destinations: those among which it chose.
    """

    rules: tuple[tuple[int, str, str], ...] = ()
    notes: tuple[str, ...] = ()
    destinations: tuple[Destination, ...] = ()


@frozen(eq=False)
class BoundRule:
    """A rule whose servers are destinations. number: its place in the list, from 1. pattern: its pattern, or the text
    of its conditions. destinations: none where the rule has an action. rule: as configured; None in tests of rules
    alone."""

    number: int
    pattern: str
    is_default: bool
    match: int | None
    destinations: tuple[Destination, ...]
    rule: Rule | None = None

    @property
    def key(self) -> str:
        """The rule is known by it among the rules of its service."""
        return self.rule.key if self.rule is not None else self.pattern

    @property
    def is_pattern(self) -> bool:
        """Whether its only condition is one pattern."""
        return self.rule.is_pattern if self.rule is not None else True

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All that a request must meet."""
        return self.rule.conditions if self.rule is not None else conditions_of(self.pattern)

    @property
    def label(self) -> str:
        """Its name, or else its conditions, for people."""
        return self.rule.label if self.rule is not None else self.pattern

    @property
    def action(self) -> Action | None:
        """The action in place of a server; None: a server is chosen."""
        return self.rule.action if self.rule is not None else None

    @property
    def has_weights(self) -> bool:
        """Whether a server has a weight of its own in it."""
        return self.rule is not None and bool(self.rule.weights)

    @property
    def weighed_destinations(self) -> tuple[Destination, ...]:
        """Its servers with their weights in this rule."""
        if self.rule is None or not self.has_weights:
            return self.destinations
        pairs = zip(self.destinations, self.rule.weights, strict=True)
        return tuple([one if weight is None else WeighedDestination(one, weight) for one, weight in pairs])

    @property
    def modifiers(self) -> Modifiers:
        """The changes to its requests and their responses."""
        return self.rule.modifiers if self.rule is not None else NO_MODIFIERS


@frozen(eq=False)
class ServiceView:
    """A service as a scheduler sees it when it is bound.

    config: the service as configured. destinations: its servers, in their order. rules: its rules, in the order in
    which they are tried (default rules last). balance: the scheduler that chooses among the servers of one rule; None
    in tests without rules. rule_balances: those that
    rules name for themselves, by their text there. why: the beginning of
    the reasons of all choices. key: a secret of this switch, or of all switches that share its cookie_key; it must
    never be shown. trial: the bound scheduler will be asked and thrown away while `previous` stays in use: it must
    share nothing with `previous` that changes. options: name -> value of the options that the scheduler being bound
    declares (`scheduler_options`). rule: the number of the rule whose view it is; 0: of none.
    """

    config: VirtualService
    destinations: tuple[Destination, ...]
    rules: tuple[BoundRule, ...] = ()
    balance: ISchedulerFactory | None = None
    why: str = ""
    key: bytes = field(default=b"", repr=False)
    trial: bool = False
    rule_balances: Mapping[str, ISchedulerFactory] = Factory(dict)
    options: Mapping[str, Any] = NO_OPTIONS
    rule: int = 0

    @property
    def ident(self) -> str:
        return self.config.ident

    def why_of(self, *why: str) -> str:
        """Return the text for `Choice.why`: these words of `model/why.py`, behind the rule."""
        return words.of_rule(self.rule, *why)

    @classmethod
    def of(
        cls,
        config: VirtualService,
        known: dict[Address, Destination],
        balance: ISchedulerFactory | None = None,
        key: bytes = b"",
        before: ServiceView | None = None,
        trial: bool = False,
        rule_balances: Mapping[str, ISchedulerFactory] | None = None,
        options: Mapping[str, Any] = NO_OPTIONS,
    ) -> ServiceView:
        """Make the view of `config`. See `building`."""
        steps = cls.building(config, known, balance, key, before, trial, rule_balances, options)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                view: ServiceView = end.value
                return view

    @classmethod
    def building(
        cls,
        config: VirtualService,
        known: dict[Address, Destination],
        balance: ISchedulerFactory | None = None,
        key: bytes = b"",
        before: ServiceView | None = None,
        trial: bool = False,
        rule_balances: Mapping[str, ISchedulerFactory] | None = None,
        options: Mapping[str, Any] = NO_OPTIONS,
    ) -> Generator[None, None, ServiceView]:
        """Make the view of `config`, with destinations from `known`, which has one for every server. Yields after each
        VIEWED_PER_STEP rules.

        before: an earlier view of the same service; rules that have not changed since are taken from it.
        """
        destinations = tuple([known[server.address] for server in config.servers])
        same: dict[int, BoundRule] = {}
        if before is not None and set(before.destinations).issubset(destinations):
            same = {id(bound.rule): bound for bound in before.rules}  # `before` keeps these rules alive
        rules: list[BoundRule] = []
        last: list[BoundRule] = []
        for number, rule in enumerate(config.rules, 1):
            bound = same.get(id(rule))
            if bound is None or bound.number != number:
                servers = tuple([known[address] for address in rule.servers])
                bound = BoundRule(number, rule.pattern, rule.is_default, rule.match, servers, rule)
            (last if bound.is_default else rules).append(bound)
            if number % VIEWED_PER_STEP == 0 and number < len(config.rules):
                yield
        return cls(config, destinations, (*rules, *last), balance, "", key, trial, rule_balances or {}, options)

    def of_rule(self, rule: BoundRule, why: str) -> ServiceView:
        """Make the view of one rule, which has no servers but its own, with their weights in this rule and its own
        balance scheduler with its options."""
        balance = self.balance_of(rule)
        options = read_options(balance, rule.modifiers.balance or self.config.balance)
        servers, number = rule.weighed_destinations, rule.number
        return ServiceView(self.config, servers, (), balance, why, self.key, options=options, rule=number)

    def balance_of(self, rule: BoundRule) -> ISchedulerFactory | None:
        """Return the scheduler that chooses among the servers of a rule."""
        name = rule.modifiers.balance
        return self.balance if name is None else self.rule_balances[name]


# Interfaces of schedulers.


class IScheduler(Interface):
    """A scheduler that is bound to one virtual service as it is configured now."""

    def choose(request: Request) -> Choosing:
        """Choose the server for `request`.

        Destinations in `request.tried` are not up, or have already failed for this request, and must not be chosen.

        Returns a L{Choice}, or None if no server can serve: the switch then uses the service's redirect address, or
        refuses the client.

        It may also return a Deferred that fires with one of these, or be a coroutine. Then the client waits, at most
        for the setting choose_timeout. After that, or if it fails, the service's `fallback` scheduler chooses.
        """


class ISchedulerFactory(Interface):
    """A scheduler plugin: an object that also provides L{twisted.plugin.IPlugin}, in a `twisted/plugins` folder."""

    name: str = Attribute("The word after `scheduler =` and `tcpvsadm -s`.")

    unit: str = Attribute("When to choose: CONNECTION, CLIENT_HELLO, FIRST_REQUEST or EACH_REQUEST.")

    def bind(service: ServiceView, previous: IScheduler | None) -> IScheduler:
        """Return the scheduler for `service`.

        The switch calls this when the service starts, and again after every edit of the service. previous: the
        scheduler that is being replaced, if this same factory made it, to take over what it remembers; else None.
        Raise L{ktcpvs.errors.Refusal} if this scheduler cannot serve the service: the edit is refused with its text.
        """


class IBindsInSteps(Interface):
    """A scheduler plugin whose `bind` may take long. Optional, besides L{ISchedulerFactory}."""

    def binding(service: ServiceView, previous: IScheduler | None) -> Generator[None, None, IScheduler]:
        """Do what `bind` does, as a generator that returns the scheduler.

        It yields after a few milliseconds of work, and the switch serves clients before it resumes the generator. For a
        service that is bound quickly it yields nothing. L{ktcpvs.schedulers.binding.BindsInSteps} makes `bind` from it.
        """


class IWatches(Interface):
    """A bound scheduler that keeps its servers in an order. Optional, besides L{IScheduler}."""

    def watched() -> Iterable[tuple[Destination, Callable[[Destination], object]]]:
        """Return (destination, function) pairs: the switch calls `function(destination)` whenever the number of
        connections of that destination changes. It asks once, when the scheduler comes into use."""


class ILearns(Interface):
    """A bound scheduler that learns from the outcomes of its choices. Optional, besides L{IScheduler}."""

    def completed(outcome: Outcome) -> object:
        """Take the outcome of one choice of this scheduler.

        The switch calls it once for each server that the scheduler has chosen for a request or a connection: when the
        response has been passed on as a whole, when the server has failed, or when the client has left. That is after
        the request has left `active` of the destination. It runs in the reactor's thread, between the response and the
        next request, so it must be short and must not block. What it raises is logged, and nothing else happens.
        """


def by_chooser(outcome: Outcome) -> None:
    """The `completed` of a bound scheduler that lets others choose: the switch calls L{Request.completed} in its place,
    which that scheduler sets for each choice. Itself, it does nothing."""


def completed_of(scheduler: Any) -> Callable[[Outcome], object] | None:
    """Return the `completed` of a bound scheduler that learns; None: it does not."""
    found: Any = getattr(scheduler, "completed", None) if ILearns.providedBy(scheduler) else None
    return found if callable(found) else None


class IReadsBodies(Interface):
    """A scheduler plugin that sees the beginning of bodies. Optional, besides L{ISchedulerFactory}: the attribute alone
    is enough. Its `unit` must be EACH_REQUEST."""

    body_prefix: int = Attribute(
        """1 to MAX_BODY_PREFIX: a request is held until so many bytes of its body have come, or its end, at most for
        the setting body_prefix_timeout. Then `Request.body_prefix` has them, and the whole body goes on to the server.
        """
    )


class IExplains(Interface):
    """A bound scheduler that can explain its choices. Optional, besides L{IScheduler}."""

    def explain(request: Request) -> Considered:
        """Return what `choose` would consider for `request`, in its order. This must change nothing: the next call of
        `choose` returns the same as without it."""


class ICountsRules(Interface):
    """A bound scheduler that counts the requests that each rule has taken. Optional, besides L{IScheduler}."""

    def rule_requests() -> Mapping[str, int]:
        """Return label of a rule -> requests, or connections where the scheduler chooses for these."""


class IUsesOptions(Interface):
    """A scheduler plugin that says which parts of a service's configuration it uses. Optional, besides
    L{ISchedulerFactory}.

    The switch warns administrators who configure something that the scheduler ignores. About a plugin that does not
    provide this interface it warns of rules alone.
    """

    uses: frozenset[str] = Attribute(
        """A set of USES_RULES: the service's rules; USES_MATCH: the rules' match numbers; USES_BALANCE: the scheduler
        `balance`; USES_WEIGHT: the servers' weights beyond 0 or not 0; USES_COOKIE: it sets a cookie;
        USES_MAXCONN: without maxconn, the servers after the first get nothing; USES_EACH_SERVER: each choice looks at
        all servers, so that it takes longer the more there are."""
    )
