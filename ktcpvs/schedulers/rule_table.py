"""A table of rules with conditions: it finds the first rule whose conditions all hold, at a cost that hardly grows.

Each kind of condition has an index (`rule_index`), in which the keys of a request (`rule_keys`) find the rules that
they satisfy. The lowest bit of the intersection is the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator, Sequence

from ktcpvs.model import conditions as kinds
from ktcpvs.model.conditions import KINDS, NAMED, SHARE_UNIT, Condition
from ktcpvs.model.scheduling import CLIENT_HELLO, BoundRule, Request
from ktcpvs.schedulers.rule_index import Index, Keys, TargetPatterns, layer_of
from ktcpvs.schedulers.rule_keys import Clients, NamedValues, Paths, host_keys, shown

INDEXED_PER_STEP = 500
"""The most rules that are indexed in one step of a binding."""

MAX_CACHED_REQUESTS = 2048
"""The most requests whose rule is cached."""

MAX_CACHED_REQUEST_BYTES = 1024
"""The longest request whose rule is cached: the bytes of its target and of its header lines, or of its host where no
condition sees header lines; without its target where no condition sees that."""

UNKNOWN = -1


class RuleTable:
    """The rules of one service, in the order in which they are tried."""

    __slots__ = (
        "_cache", "_clients", "_default", "_everything", "_extras", "_keys", "_layers", "_named", "_paths", "_rules",
        "_sees_host", "_sees_lines", "_sees_target", "_steps", "_unit", "target_patterns",
    )  # fmt: skip

    def __init__(self, rules: Sequence[BoundRule], unit: str, ipv6_bits: int) -> None:
        """unit: of the scheduler. ipv6_bits: the leading bits of an IPv6 address that identify a client."""
        self._rules = tuple(rules)
        self._unit = unit
        self._default = next((place for place, rule in enumerate(rules) if rule.is_default), None)
        self._everything = (1 << (len(rules) if self._default is None else self._default)) - 1
        self._cache: dict[Hashable, int | None] = {}
        self._paths = Paths()
        self._clients = Clients(ipv6_bits)
        self._named = {kind: NamedValues(kind) for kind in NAMED}
        self._layers: dict[str, list[Index]] = {}
        self._steps: tuple[tuple[str, Callable[[Request], list[Hashable]], tuple[Index, ...]], ...] = ()
        self._extras: tuple[Callable[[Request], Hashable], ...] = ()
        self._sees_lines = self._sees_host = self._sees_target = False
        self.target_patterns = TargetPatterns()
        named = self._named
        self._keys: dict[str, Callable[[Request], list[Hashable]]] = {
            kinds.HOST: _server_name_keys if unit == CLIENT_HELLO else _host_keys,
            kinds.PATH: self._paths.keys,
            kinds.METHOD: _method_keys,
            kinds.PORT: _port_keys,
            kinds.TLS: _tls_keys,
            kinds.SNI: _server_name_keys,
            kinds.FROM: self._clients.network_keys,
            kinds.SHARE: self._clients.share_keys,
            **{kind: named[kind].keys for kind in (kinds.HEADER, kinds.COOKIE, kinds.QUERY)},
        }

    def indexing(self, previous: RuleTable | None) -> Generator[None, None, None]:
        """Fill the indexes, in steps. previous: the table that this one replaces. Raises BadPattern if patterns need
        too much memory."""
        keys_of: dict[str, Callable[[Condition], Keys]] = {
            kinds.PATH: self._paths.keys_of,
            kinds.METHOD: lambda condition: [value.encode() for value in condition.values],
            kinds.PORT: lambda condition: [int(value) for value in condition.values],
            kinds.TLS: lambda condition: [True],
            kinds.FROM: self._clients.networks_of,
            kinds.SHARE: self._clients.shares_of,
            **{kind: values.keys_of for kind, values in self._named.items()},
        }
        for place, rule in enumerate(self._rules[: self._default]):
            if place % INDEXED_PER_STEP == INDEXED_PER_STEP - 1:
                yield
            positive: dict[str, int] = {}
            for condition in rule.conditions:
                kind = condition.kind
                layer = 0
                if not condition.is_negated:
                    layer = positive.get(kind, 0)
                    positive[kind] = layer + 1
                if kind == kinds.PATTERN:
                    self._sees_target = True
                    self.target_patterns.add(place, layer, condition)
                else:
                    keys = keys_of[kind](condition) if kind in keys_of else condition.values
                    layer_of(self._layers.setdefault(kind, []), layer).add(place, keys, condition.is_negated)
        for layers in self._layers.values():
            for index in layers:
                index.complete(self._everything)
        if len(self._rules) > INDEXED_PER_STEP:
            yield
        yield from self._compiling(previous)
        self._steps = tuple(
            (kind, self._keys[kind], tuple(self._layers[kind])) for kind in _ORDER if kind in self._layers
        )
        # Browsers send many different fields; where no condition sees them, the cache serves all browsers.
        self._sees_lines = kinds.HEADER in self._layers or kinds.COOKIE in self._layers
        self._sees_host = kinds.HOST in self._layers and self._unit != CLIENT_HELLO
        # Header lines tell the host only beside a target, which may be absolute.
        self._sees_target = self._sees_target or self._sees_lines or not self._layers.keys().isdisjoint(_OF_TARGETS)
        self._extras = tuple(extra for kind, extra in _EXTRAS.items() if kind in self._layers)

    def _compiling(self, previous: RuleTable | None) -> Generator[None, None, None]:
        patterns = self.target_patterns
        patterns.complete(self._everything)
        yield from patterns.patterns.compile(previous.target_patterns.patterns if previous is not None else None)
        if len(self._rules) > INDEXED_PER_STEP:
            yield
        for kind, values in self._named.items():
            yield from values.compile(previous.named(kind) if previous is not None else None)

    def named(self, kind: str) -> NamedValues:
        """Return the conditions of one kind that have names."""
        return self._named[kind]

    def place(self, request: Request) -> int | None:
        """Return the place of the first rule whose conditions hold, or None."""
        target = (request.target or b"") if self._sees_target else b""
        lines = request.lines if self._sees_lines else (request.host or b"") if self._sees_host else b""
        key: Hashable = (request.method, target, lines)
        if self._extras:
            key = (key, *[extra(request) for extra in self._extras])
        place = self._cache.get(key, UNKNOWN)
        if place != UNKNOWN:
            return place
        place = self._search(request)
        if len(target) + len(lines) <= MAX_CACHED_REQUEST_BYTES:
            if len(self._cache) >= MAX_CACHED_REQUESTS:
                self._cache.clear()
            self._cache[key] = place
        return place

    def _search(self, request: Request) -> int | None:
        left = self._everything
        for _, read, layers in self._steps:
            if not left & layers[0].concerned:  # each rule with such a condition has one in the first layer
                continue
            keys = read(request)
            for index in layers:
                left &= index.holding(keys)
            if not left:
                return self._default
        place = self.target_patterns.first(left, request.path or b"")
        return self._default if place is None else place

    # For people.

    def tried(self, place: int | None, request: Request) -> tuple[tuple[int, str, str], ...]:
        """Return (number, label, why it was taken or not) of each rule up to the one at `place`, in their order.

        place: None if no rule matches.
        """
        held = [
            (kind, index.holding(keys))
            for kind, keys, layers in ((kind, read(request), layers) for kind, read, layers in self._steps)
            for index in layers
        ]
        held += [(kinds.PATTERN, bits) for bits in self.target_patterns.holding(request.path or b"")]
        passed_over = self._rules if place is None else self._rules[:place]
        found = [(rule.number, rule.label, _failure(number, rule, held)) for number, rule in enumerate(passed_over)]
        if place is not None:
            taken = self._rules[place]
            why = "default rule, tried last" if taken.is_default else "matches"
            found.append((taken.number, taken.label, why))
        return tuple(found)

    def notes(self, request: Request) -> tuple[str, ...]:
        """Return the values of `request` that the rules compare, in words."""
        seen: dict[str, None] = {}
        for kind in _ORDER:
            if kind in self._layers:
                seen.update(dict.fromkeys(self._seen(kind, request)))
        return tuple(seen)

    def _seen(self, kind: str, request: Request) -> Iterator[str]:
        if kind == kinds.SNI or (kind == kinds.HOST and self._unit == CLIENT_HELLO):
            name = request.sni
            yield f"the server name is {name}" if name is not None else "the client sends no server name"
        elif kind == kinds.HOST:
            host = request.host
            yield f"the host is {shown(host)}" if host is not None else "the request has no host"
        elif kind == kinds.PATH:
            yield f"path conditions see {shown(request.normalized_path)}"
        elif kind == kinds.PORT:
            yield (
                f"the client has connected to port {request.port}"
                if request.port
                else "the client's socket has no port"
            )
        elif kind == kinds.TLS:
            yield "the client speaks TLS" if request.is_tls else "the client does not speak TLS"
        elif kind == kinds.SHARE:
            yield f"the client is at {self._clients.bucket(request) / SHARE_UNIT:g}% of all clients"
        elif kind in NAMED:
            yield from self._named[kind].seen(kind, request)


def _failure(place: int, rule: BoundRule, held: Sequence[tuple[str, int]]) -> str:
    """Return which condition of the rule at `place` fails, in words. held: kind -> the rules that it leaves."""
    if rule.is_pattern or rule.is_default:
        return "does not match"
    failing = next((kind for kind, bits in held if not bits >> place & 1), None)
    return "does not match: " + " ".join(str(one) for one in rule.conditions if one.kind == failing)


def compile_table(
    rules: Sequence[BoundRule], unit: str, ipv6_bits: int, previous: RuleTable | None = None
) -> Generator[None, None, RuleTable]:
    """Make a table, as a generator that returns it and yields after a few milliseconds of work.

    unit, ipv6_bits: see RuleTable. previous: the table that it replaces, whose automata are taken over where their
    patterns are the same. Raises BadPattern if the rules need too much memory.
    """
    table = RuleTable(rules, unit, ipv6_bits)
    yield from table.indexing(previous)
    return table


def _host_keys(request: Request) -> list[Hashable]:
    host = request.host
    return host_keys(host.decode("latin-1") if host is not None else None)


def _server_name_keys(request: Request) -> list[Hashable]:
    return host_keys(request.sni)


def _method_keys(request: Request) -> list[Hashable]:
    return [request.method]


def _port_keys(request: Request) -> list[Hashable]:
    return [request.port]


def _tls_keys(request: Request) -> list[Hashable]:
    return [True] if request.is_tls else []


_ORDER = (kinds.HOST, *(kind for kind in KINDS if kind != kinds.HOST))
"""The order in which the kinds are looked at; patterns of targets come after all of them."""

_OF_TARGETS = (kinds.PATH, kinds.QUERY)
"""The kinds besides patterns that see the target."""

_EXTRAS: dict[str, Callable[[Request], Hashable]] = {
    kinds.HOST: lambda request: request.server_name,
    kinds.FROM: lambda request: request.client,
    kinds.SHARE: lambda request: request.client,
    kinds.PORT: lambda request: request.port,
    kinds.TLS: lambda request: request.is_tls,
    kinds.SNI: lambda request: request.sni,
}
"""The parts of a request's cache key besides its method, target and header lines, where a rule has that condition."""
