"""The compiled functions and methods of schedulers return what those in Python do, and survive servers of any kind."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination, SharedDestination
from ktcpvs.model.scheduling import Choice, Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.model.weighed_destination import WeighedDestination
from ktcpvs.schedulers import chash, maglev, p2c, peak_ewma, sh
from ktcpvs.schedulers.chash import BoundCHash, CHash
from ktcpvs.schedulers.drawing import new_state
from ktcpvs.schedulers.hashing import (
    MAX_REMEMBERED_HASHES,
    hash_client,
    pack_seeds,
    plain_hash_client,
    plain_pick,
    plain_pick_bounded,
)
from ktcpvs.schedulers.keys import number_of_client
from ktcpvs.schedulers.least import LEAST_IN_PYTHON, ONLY_IN_PYTHON, LeastLoad, OnlyOne
from ktcpvs.schedulers.maglev import BoundMaglev, Maglev, MaglevTable
from ktcpvs.schedulers.p2c import P2C, BoundP2C
from ktcpvs.schedulers.peak_ewma import BoundPeakEWMA, PeakEWMA
from ktcpvs.schedulers.rendezvous import Rendezvous
from ktcpvs.schedulers.sed import NQ, SED
from ktcpvs.schedulers.sh import SH, BoundSH
from ktcpvs.schedulers.wlc import LC, WLC

compiled = pytest.importorskip("ktcpvs.schedulers._hashing")
balance = pytest.importorskip("ktcpvs.schedulers._balance")

NUMBERS = st.integers(0, 2**64 - 1)

IN_PYTHON: dict[type, Callable[..., Any]] = {
    LeastLoad: LEAST_IN_PYTHON,
    OnlyOne: ONLY_IN_PYTHON,
    BoundP2C: p2c.CHOOSE_IN_PYTHON,
    BoundPeakEWMA: peak_ewma.CHOOSE_IN_PYTHON,
    BoundCHash: chash.CHOOSE_IN_PYTHON,
    BoundMaglev: maglev.CHOOSE_IN_PYTHON,
    BoundSH: sh.CHOOSE_IN_PYTHON,
}
"""The methods `choose` that have a compiled form."""


def shared(address: Inet, weight: int, counts: list[int]) -> SharedDestination:
    """A server that several processes use. counts: the connections of each."""
    row = memoryview(bytearray(4 * len(counts))).cast("i")
    for place, count in enumerate(counts):
        row[place] = count
    return SharedDestination(address, weight, 0, row, 0)


@st.composite
def destinations(draw: st.DrawFn) -> list[Destination]:
    """Servers as the switch has them, of one process and of several, some as a rule weighs them."""
    found: list[Destination] = []
    for number in range(draw(st.integers(0, 9))):
        address, weight, active = Inet(f"10.0.0.{number}", 80), draw(st.integers(0, 5)), draw(st.integers(0, 40))
        kind = draw(st.integers(0, 7))
        one = shared(address, weight, [active, kind]) if kind < 2 else Destination(address, weight)
        one.active = active
        if kind % 2:
            one.weight = one.weight / 2
        if kind % 4 < 2:
            one = WeighedDestination(one, draw(st.integers(0, 5)))
        found.append(one)
    return found


def choices_of(servers: list[Destination], reason: str = "") -> tuple[Choice, ...]:
    return tuple([Choice(one, reason) for one in servers])


def tried_of(data: st.DataObject, servers: list[Destination]) -> set[Destination]:
    """Some of the servers, as selection excludes them: those of the switch, not those of a rule."""
    tried = data.draw(st.sets(st.sampled_from(servers))) if servers else set()
    return {one.real if isinstance(one, WeighedDestination) else one for one in tried}


@examples(200)
@given(NUMBERS, destinations(), st.sampled_from([1, 1.1, 1.25, 2.0, 1000.0]), st.data())
def test_keys_have_the_same_servers(
    number: int, servers: list[Destination], factor: float, data: st.DataObject
) -> None:
    tried = tried_of(data, servers)
    choices, others, seeds = choices_of(servers), choices_of(servers, "other"), pack_seeds(servers)
    assert compiled.pick(number, seeds, choices, tried) is plain_pick(number, seeds, choices, tried)
    found = compiled.pick_bounded(number, seeds, choices, tried, others, factor)
    assert found is plain_pick_bounded(number, seeds, choices, tried, others, factor)


def test_shares_are_rounded_alike() -> None:
    """Sums of weights that are no whole numbers depend on their order."""
    servers = [Destination(Inet(f"10.0.0.{number}", 80), 1) for number in range(3)]
    for server, weight, active in zip(servers, (0.2, 0.1, 0.7), (3, 6, 5), strict=True):
        server.weight, server.active = weight, active
    choices, others, seeds = choices_of(servers), choices_of(servers, "other"), pack_seeds(servers)
    for number in range(300):
        found = compiled.pick_bounded(number, seeds, choices, set(), others, 1.0)
        assert found is plain_pick_bounded(number, seeds, choices, set(), others, 1.0)


def test_the_compiled_methods_are_in_use() -> None:
    assert [kind for kind, method in IN_PYTHON.items() if kind.choose is method] == []  # type: ignore[attr-defined]


def bound_pair(factory: Callable[[], Any], servers: list[Destination]) -> Iterator[tuple[Any, Callable[..., Any]]]:
    """(scheduler, its `choose`) of both forms. They share the servers."""
    view = ServiceView(VirtualService("s"), tuple(servers))
    compiled_one, plain = factory().bind(view, None), factory().bind(view, None)
    yield compiled_one, type(compiled_one).choose
    yield plain, IN_PYTHON[type(plain)]


BY_HASH = {"chash": CHash, "maglev": lambda: MAGLEV, "sh": SH}
MAGLEV = Maglev()

CLIENTS = st.sampled_from([f"10.0.0.{number}" for number in range(20)]) | st.text(max_size=150)


class Keyed:
    """A key of a template: the path of a request."""

    text, needs_requests = "{path}", True

    def value(self, request: Request) -> bytes:
        return request.path or b""


@examples(150)
@given(st.sampled_from(sorted(BY_HASH)), destinations(), st.booleans(), st.lists(CLIENTS, max_size=12), st.data())
def test_keys_have_the_same_servers_in_schedulers(
    name: str, servers: list[Destination], is_keyed: bool, clients: list[str], data: st.DataObject
) -> None:
    options = {"table_size": 251, **({"key": Keyed()} if is_keyed else {})}
    view = ServiceView(VirtualService("s", scheduler="phttp"), tuple(servers), options=options)
    scheduler = BY_HASH[name]().bind(view, None)
    for one in servers:
        if data.draw(st.booleans()):  # it may have less weight than in the table, or more
            real = getattr(one, "real", one)
            real.weight = real.weight * data.draw(st.sampled_from([0, 0.5, 2]))
    for client in clients:
        path = data.draw(st.sampled_from([None, b"/", b"/a"]))
        request = Request(client, path=path, tried=tried_of(data, servers))
        assert scheduler.choose(request) is IN_PYTHON[type(scheduler)](scheduler, request)


@examples(200)
@given(CLIENTS)
def test_clients_have_the_same_hashes(client: str) -> None:
    for one in (client, client.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")):
        assert hash_client(one) == plain_hash_client(client)


def test_few_hashes_of_clients_are_remembered() -> None:
    clients = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(3 * MAX_REMEMBERED_HASHES)]

    def references() -> list[int]:
        return [sys.getrefcount(client) for client in clients]

    bare = references()
    assert [hash_client(client) for client in clients] == [plain_hash_client(client) for client in clients]
    kept = [now - before for now, before in zip(references(), bare, strict=True)]
    assert set(kept) == {0, 1}
    assert sum(kept) <= MAX_REMEMBERED_HASHES
    assert kept[-1] == 1
    assert [hash_client(client) for client in clients] == [plain_hash_client(client) for client in clients]


def test_another_table_of_hashes_while_a_client_is_hashed() -> None:
    """It takes the place of the one before, whose clients are given up."""
    client, other = [f"10.0.1.{number}" for number in range(2)]
    before = [sys.getrefcount(one) for one in (client, other)]

    def replace_the_table(client: str) -> int:
        compiled.configure_clients(len, 4)
        return 5

    try:
        assert compiled.configure_clients(replace_the_table, 4)(client) == 5
        assert (hash_client(client), hash_client(other)) == (5, len(other))
    finally:
        compiled.configure_clients(plain_hash_client, MAX_REMEMBERED_HASHES)
    assert [sys.getrefcount(one) for one in (client, other)] == before
    assert hash_client(client) == plain_hash_client(client)


@pytest.mark.parametrize("count", [-1, 0, 3, 2**62])
def test_a_table_of_hashes_has_a_size(count: int) -> None:
    with pytest.raises((ValueError, MemoryError)):
        compiled.configure_clients(plain_hash_client, count)


def test_long_addresses_and_subclasses_are_not_remembered() -> None:
    class Name(str):
        __slots__ = ()

    for client in ("x" * 129, Name("10.0.0.1")):
        before = sys.getrefcount(client)
        assert hash_client(client) == plain_hash_client(client)
        assert sys.getrefcount(client) == before


BY_LOAD = {"wlc": WLC, "lc": LC, "sed": SED, "nq": NQ}


@examples(100)
@given(st.sampled_from(sorted(BY_LOAD)), destinations(), st.data())
def test_the_server_with_the_least_load_is_the_same(name: str, servers: list[Destination], data: st.DataObject) -> None:
    (one, choose), (other, choose_in_python) = bound_pair(BY_LOAD[name], servers)
    for _ in range(data.draw(st.integers(1, 6))):
        request = Request(tried=tried_of(data, servers))
        choice, expected = choose(one, request), choose_in_python(other, request)
        assert getattr(choice, "destination", None) is getattr(expected, "destination", None)
        assert getattr(one, "place", 0) == getattr(other, "place", 0)
        if choice is not None:
            (getattr(choice.destination, "real", choice.destination)).take()


@examples(100)
@given(st.integers(0, 1000), destinations(), st.data())
def test_the_less_loaded_of_the_same_two(seed: int, servers: list[Destination], data: st.DataObject) -> None:
    request = Request(tried=tried_of(data, servers))
    draws = [random.Random(seed), random.Random(seed)]
    left = iter(draws)
    (one, choose), (other, choose_in_python) = bound_pair(lambda: P2C(next(left)), servers)
    for _ in range(4):
        choice, expected = choose(one, request), choose_in_python(other, request)
        assert getattr(choice, "destination", None) is getattr(expected, "destination", None)
    assert one._state == other._state


TIMES = st.floats(0, 100)


class SeenPeakEWMA(BoundPeakEWMA):
    """Notes how often the usual latency is asked for."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: list[float] = []

    def usual_latency(self) -> float:
        self.seen.append(super().usual_latency())
        return self.seen[-1]


@examples(100)
@given(
    destinations(),
    st.lists(st.tuples(st.integers(0, 8), TIMES, TIMES, st.booleans()), max_size=12),
    st.integers(0, 1000),
    st.floats(0, 3600),
    st.data(),
)
def test_the_same_server_is_expected_to_respond_sooner(
    servers: list[Destination],
    past: list[tuple[int, float, float, bool]],
    seed: int,
    failure_cost: float,
    data: st.DataObject,
) -> None:
    moment = 0.0
    reals = [one.real if isinstance(one, WeighedDestination) else one for one in servers]
    for server in reals:
        server.clock = lambda: moment
    for number, later, seconds, has_failed in past:
        moment += later
        for server in reals[number : number + 1]:
            server.latency.record(seconds, moment)
            if server.error_rate >= 0 and server.measured_errors is not None:
                server.measured_errors.record(has_failed, moment)
    view = ServiceView(VirtualService("s"), tuple(servers))
    one, other = [SeenPeakEWMA(view, random.Random(seed), failure_cost) for _ in range(2)]
    request = Request(tried=tried_of(data, servers))
    for _ in range(4):
        choice, expected = one.choose(request), peak_ewma.CHOOSE_IN_PYTHON(other, request)
        assert getattr(choice, "destination", None) is getattr(expected, "destination", None)
        moment += 1.0
    assert one.seen == other.seen


def test_the_first_reading_begins_to_measure() -> None:
    servers = [Destination(Inet(f"10.0.0.{number}", 80), 1) for number in range(2)]
    view = ServiceView(VirtualService("s"), tuple(servers))
    assert PeakEWMA().bind(view, None).choose(Request()) is not None
    assert all(server.measured_latency is not None and server.measured_errors is not None for server in servers)


# Odd objects.


class Odd:
    """A server or a choice of a plugin. Each reading of an attribute calls a function, which may raise or remove what
    else is in use."""

    def __init__(self, read: Callable[[str], Any]) -> None:
        self._read = read

    def __getattr__(self, name: str) -> Any:
        return self._read(name)


def odd_values() -> Iterator[Any]:
    yield from (None, "text", b"", object(), -1, 0, float("nan"), float("inf"), 10**400, True, (), [], {})


def load_of(destination: Any) -> Any:
    """A load that the compiled form does not know."""
    return destination.active / destination.weight


def rendezvous_of(choices: Any) -> Rendezvous:
    found = Rendezvous.__new__(Rendezvous)
    found._choices, found._seeds = choices, bytes(8 * len(choices))
    return found


def scheduler_of(kind: type, choices: Any, seed: int = 0) -> Any:
    """A scheduler with choices of any kind. seed: of its random numbers."""
    one = kind.__new__(kind)
    entries = bytes(2 * 7)
    rendezvous = rendezvous_of(choices)
    values = {
        "_choices": choices, "_choice": choices[0] if choices else None, "_load": load_of,
        "_state": new_state(random.Random(seed)),
        "_destination": choices[0] if choices else None, "_failure_cost": 30.0, "place": 0, "_median": 1.0,
        "_uses_left": 1000, "_destinations": (), "_key": None, "_number": number_of_client, "_load_factor": 1.25,
        "_others": rendezvous if kind is BoundMaglev else choices, "_seeds": bytes(8 * len(choices)),
        "_servers": rendezvous if kind is BoundSH else tuple([(choice, 1, 0) for choice in choices]),
        "_table": MaglevTable(entries), "_entries": memoryview(entries).cast("H"), "_size": 7,
    }  # fmt: skip
    for name in kind.__slots__:  # type: ignore[attr-defined]
        setattr(one, name, values[name])
    return one


def calls(choices: Any, server: Any) -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:
    seeds = bytes(8 * 3)
    found: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (compiled.pick, (1, seeds, choices, set())),
        (compiled.pick, (1, seeds, choices, {server})),
        (compiled.pick_bounded, (1, seeds, choices, set(), choices, 1.25)),
    ]
    for kind in IN_PYTHON:
        for tried in (set(), {server}):
            found.append((kind.choose, (scheduler_of(kind, choices), Request(tried=tried))))  # type: ignore[attr-defined]
    known = scheduler_of(LeastLoad, choices)
    known._load = WLC().bind(ServiceView(VirtualService("s"), ()), None)._load
    found.append((LeastLoad.choose, (known, Request())))
    return found


def survive(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        function(*arguments)
    except (TypeError, ValueError, AttributeError, OverflowError, ZeroDivisionError, LookupError):
        gc.collect(0)


class OddServer:
    """A choice, its server and its measurements in one, with one attribute of any type."""

    active = weight = last = 1

    def __init__(self, name: str, value: Any) -> None:
        self.destination = self.latency = self.measured_latency = self.measured_errors = self
        setattr(self, name, value)

    def at(self, now: float) -> float:
        return 1.0

    def clock(self) -> float:
        return 1.0


NAMES = (
    "active", "at", "clock", "destination", "last", "latency", "measured_errors", "measured_latency", "weight",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", range(len(list(odd_values()))))
def test_attributes_of_any_type(name: str, number: int) -> None:
    value = list(odd_values())[number]
    server = OddServer(name, value)
    for function, arguments in calls((server, server, server), server):
        survive(function, arguments)
        for place in range(len(arguments)):
            survive(function, (*arguments[:place], value, *arguments[place + 1 :]))
        survive(function, arguments[:-1])


def test_servers_of_any_class() -> None:
    server = OddServer("weight", 1)
    results = [function(*arguments) for function, arguments in calls((server, server, server), server)]
    assert results == [server, None, server, *[server, None] * len(IN_PYTHON), server]
    server.measured_errors, server.error_rate = None, 1  # type: ignore[attr-defined]
    scheduler = scheduler_of(BoundPeakEWMA, (server, server))
    assert scheduler.choose(Request()) is peak_ewma.CHOOSE_IN_PYTHON(scheduler, Request()) is server


@pytest.mark.parametrize("kind", IN_PYTHON, ids=lambda kind: kind.__name__)
def test_attributes_of_schedulers_of_any_type(kind: Any) -> None:
    servers = [Destination(Inet(f"10.0.0.{number}", 80), 1) for number in range(3)]
    for name in kind.__slots__:
        for value in odd_values():
            scheduler = scheduler_of(kind, choices_of(servers))
            setattr(scheduler, name, value)
            survive(kind.choose, (scheduler, Request()))
        delattr(scheduler, name)
        survive(kind.choose, (scheduler, Request()))
    for argument in odd_values():
        survive(kind.choose, (scheduler_of(kind, choices_of(servers)), argument))
        with pytest.raises(TypeError):
            kind.choose(argument, Request())


SLOTS = [
    *[(0, name) for name in ("active", "clock", "measured_errors", "measured_latency", "share", "weight")],
    *[(1, name) for name in ("clock", "measured_errors", "measured_latency", "share", "weight", "row")],
    *[(number, name) for number in (2, 3) for name in ("_own", "real")],
]
"""(number of a server, one of its attributes)."""


@pytest.mark.parametrize(("number", "name"), SLOTS)
def test_slots_of_servers_with_anything(number: int, name: str) -> None:
    servers: list[Any] = [Destination(Inet("10.0.0.1", 80), 1), shared(Inet("10.0.0.2", 80), 1, [1, 2])]
    servers += [WeighedDestination(one, 2) for one in servers]
    choices = choices_of(servers)
    released = memoryview(bytearray(4)).cast("i")
    released.release()
    for value in (*odd_values(), released, memoryview(b"abc"), memoryview(bytearray(8)).cast("d")):
        setattr(servers[number], name, value)
        for kind in IN_PYTHON:
            for seed in range(3):
                survive(kind.choose, (scheduler_of(kind, choices, seed), Request()))  # type: ignore[attr-defined]
    if name != "real":  # without which no attribute is found
        delattr(servers[number], name)
        for kind in IN_PYTHON:
            survive(kind.choose, (scheduler_of(kind, choices), Request()))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["_peak", "_stamp", "last"])
def test_slots_of_measurements_without_a_value(name: str) -> None:
    servers = [Destination(Inet(f"10.0.0.{number}", 80), 1) for number in range(2)]
    for server in servers:
        server.latency.record(1.0, 1.0)
        delattr(server.latency, name)
    with pytest.raises(AttributeError):
        scheduler_of(BoundPeakEWMA, choices_of(servers)).choose(Request())


def test_what_a_server_does_while_it_is_read() -> None:
    """It empties what holds it."""
    held: list[Any] = []

    def read(name: str) -> Any:
        held.clear()
        gc.collect(0)
        if name == "clock":
            return lambda: 1.0
        return Odd(read) if name in ("destination", "latency", "measured_latency", "measured_errors") else 1.0

    for number in range(len(calls((None,), Odd(read)))):
        held.extend(Odd(read) for _ in range(3))
        function, arguments = calls(tuple(held), Odd(read))[number]
        held.append(arguments)
        survive(function, arguments)


@pytest.mark.parametrize("state", [bytearray(7), bytearray(9), bytearray(), bytes(8), None], ids=repr)
@pytest.mark.parametrize("kind", [BoundP2C, BoundPeakEWMA], ids=lambda kind: kind.__name__)
def test_states_that_are_not_of_random_numbers(kind: Any, state: Any) -> None:
    scheduler = scheduler_of(kind, choices_of([Destination(Inet(f"10.0.0.{number}", 80), 1) for number in range(3)]))
    scheduler._state = state
    with pytest.raises(TypeError):
        scheduler.choose(Request())


@pytest.mark.parametrize("kind", [BoundP2C, BoundPeakEWMA], ids=lambda kind: kind.__name__)
def test_a_server_that_changes_the_state_of_random_numbers(kind: Any) -> None:
    def read(name: str) -> Any:
        scheduler._state.clear()
        return server if name == "destination" else 0

    server = Odd(read)
    scheduler = scheduler_of(kind, (server, server, server))
    with pytest.raises(TypeError):
        scheduler.choose(Request())


def test_a_comparison_that_changes_the_view_of_a_rule() -> None:
    view = WeighedDestination(Destination(Inet("10.0.0.1", 80), 1), 1)
    number = hash(view)

    class Tried:
        def __hash__(self) -> int:
            return number

        def __eq__(self, other: object) -> Any:
            del other
            view.real = Destination(Inet("10.0.0.2", 80), 1)
            return NotImplemented

    choices = choices_of([view])
    assert compiled.pick(1, bytes(8), choices, {Tried()}) is choices[0]


def test_an_exception_of_a_server_is_passed_on() -> None:
    def read(name: str) -> Any:
        raise LookupError(name)

    server = Odd(read)
    for function, arguments in calls((server, server, server), server):
        with pytest.raises(LookupError):
            function(*arguments)


@pytest.mark.parametrize("number", range(len(list(odd_values())) + 4))
def test_tables_and_servers_of_maglev_of_any_kind(number: int) -> None:
    value = [*odd_values(), b"x", b"\xff\xff" * 7, bytearray(14), "x" * 14][number]
    servers = [Destination(Inet(f"10.0.0.{number}", 80), 1) for number in range(3)]
    choices = choices_of(servers)
    table = MaglevTable(value)
    for name, one in (
        ("_table", table), ("_servers", [value] * 3), ("_servers", (value,) * 3), ("_servers", ((value,) * 3,) * 3),
        ("_servers", ((choices[0], value, value),)), ("_servers", ((value, 1, 0),)), ("_number", lambda request: value),
    ):  # fmt: skip
        scheduler = scheduler_of(BoundMaglev, choices)
        setattr(scheduler, name, one)
        survive(BoundMaglev.choose, (scheduler, Request()))
    del table.entries
    scheduler = scheduler_of(BoundMaglev, choices)
    scheduler._table = table
    assert scheduler.choose(Request()) is choices[0]  # by the entries that Python reads


@pytest.mark.parametrize("number", range(len(list(odd_values()))))
def test_parts_of_schedulers_by_hash_of_any_kind(number: int) -> None:
    value = list(odd_values())[number]
    choices = choices_of([Destination(Inet(f"10.0.0.{number}", 80), 1) for number in range(3)])
    for name in ("_choices", "_seeds"):
        scheduler = scheduler_of(BoundSH, choices)
        setattr(scheduler._servers, name, value)
        with pytest.raises(TypeError):
            scheduler.choose(Request())
        delattr(scheduler._servers, name)
        with pytest.raises(TypeError):
            scheduler.choose(Request())
    request = Request()
    request.client = value
    for kind in (BoundSH, BoundCHash, BoundMaglev):
        survive(kind.choose, (scheduler_of(kind, choices), request))
        scheduler = scheduler_of(kind, choices)
        if kind is not BoundSH:
            scheduler._number = lambda request: value
            survive(kind.choose, (scheduler, Request()))
    del request.client
    for kind in (BoundSH, BoundCHash, BoundMaglev):
        with pytest.raises(AttributeError):
            scheduler_of(kind, choices).choose(request)


def test_a_key_that_removes_what_its_scheduler_holds() -> None:
    def number(request: Request) -> int:
        for name in ("_choices", "_others", "_seeds", "_servers", "_table", "_number"):
            if name in type(scheduler).__slots__:
                setattr(scheduler, name, None)
        gc.collect(0)
        return 5

    for kind in (BoundCHash, BoundMaglev):
        scheduler = scheduler_of(kind, choices_of([Destination(Inet("10.0.0.1", 80), 1)]))
        scheduler._number = number
        survive(kind.choose, (scheduler, Request()))


FACTORIES = [*BY_LOAD.values(), P2C, PeakEWMA, CHash, Maglev, SH]


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_nothing_is_kept_of_a_request(factory: Any, count: int) -> None:
    servers: list[Any] = [Destination(Inet(f"10.0.0.{number}", 80), 1) for number in range(count)]
    servers[0] = WeighedDestination(shared(Inet("10.0.1.1", 80), 1, [1, 2]), 3)
    scheduler = factory().bind(ServiceView(VirtualService("s"), tuple(servers)), None)
    requests = [Request(), Request(tried=set(servers[:1])), Request(tried=set(servers))]
    watched: list[Any] = [*servers, *requests, servers[0].real, servers[0].real.row, *[one.tried for one in requests]]

    def ask(times: int) -> list[int]:
        for _ in range(times):
            for request in requests:
                scheduler.choose(request)
        return [sys.getrefcount(one) for one in watched]

    before = ask(20)
    assert ask(500) == before
