"""The compiled functions of schedulers return what those in Python do, and survive servers of any kind."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Choice
from ktcpvs.model.weighed_destination import WeighedDestination
from ktcpvs.schedulers.drawing import plain_draw_two
from ktcpvs.schedulers.hashing import pack_seeds, plain_pick, plain_pick_bounded
from ktcpvs.schedulers.peak_ewma import plain_expected_cost

compiled = pytest.importorskip("ktcpvs.schedulers._compiled")

NUMBERS = st.integers(0, 2**64 - 1)


@st.composite
def destinations(draw: st.DrawFn) -> list[Destination]:
    """Servers as the switch has them, some as a rule weighs them."""
    found = []
    for number in range(draw(st.integers(0, 9))):
        one = Destination(Inet(f"10.0.0.{number}", 80), draw(st.integers(0, 5)))
        one.active = draw(st.integers(0, 40))
        if draw(st.booleans()):
            one.weight = one.weight / 2
        if draw(st.integers(0, 3)) == 0:
            one = WeighedDestination(one, draw(st.integers(0, 5)))
        found.append(one)
    return found


def choices_of(servers: list[Destination], reason: str = "") -> tuple[Choice, ...]:
    return tuple([Choice(one, reason) for one in servers])


@settings(deadline=None, max_examples=200)
@given(NUMBERS, destinations(), st.sampled_from([1, 1.1, 1.25, 2.0, 1000.0]), st.data())
def test_keys_have_the_same_servers(
    number: int, servers: list[Destination], factor: float, data: st.DataObject
) -> None:
    tried = data.draw(st.sets(st.sampled_from(servers))) if servers else set()
    choices, others, seeds = choices_of(servers), choices_of(servers, "other"), pack_seeds(servers)
    assert compiled.pick(number, seeds, choices, tried) is plain_pick(number, seeds, choices, tried)
    found = compiled.pick_bounded(number, seeds, choices, tried, others, factor)
    assert found is plain_pick_bounded(number, seeds, choices, tried, others, factor)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 1000), destinations(), st.data())
def test_the_same_two_are_drawn(seed: int, servers: list[Destination], data: st.DataObject) -> None:
    tried = data.draw(st.sets(st.sampled_from(servers))) if servers else set()
    choices, one, other = choices_of(servers), random.Random(seed), random.Random(seed)
    assert compiled.draw_two(choices, tried, one.random) == plain_draw_two(choices, tried, other.random)
    assert one.random() == other.random()


TIMES = st.floats(0, 100)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(TIMES, TIMES, st.booleans()), max_size=4), TIMES, st.integers(0, 9), st.integers(1, 5),
    st.floats(0, 3600), st.booleans(),
)  # fmt: skip
def test_servers_cost_the_same(
    past: list[tuple[float, float, bool]], now: float, active: int, weight: int, failure_cost: float, is_weighed: bool
) -> None:
    server = Destination(Inet("10.0.0.1", 80), weight)
    server.active = active
    moment = 0.0
    for later, seconds, has_failed in past:
        moment += later
        server.latency.record(seconds, moment)
        if server.error_rate >= 0 and server.measured_errors is not None:
            server.measured_errors.record(has_failed, moment)
    seen: list[tuple[float, float, float]] = []

    def uncertain(seconds: float, last: float, active: float) -> float:
        seen.append((seconds, last, active))
        return 0.25

    one = WeighedDestination(server, 2 * weight) if is_weighed else server
    arguments = one, moment + now, failure_cost, uncertain
    assert compiled.expected_cost(*arguments) == plain_expected_cost(*arguments)
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]


def test_the_first_reading_begins_to_measure() -> None:
    server = Destination(Inet("10.0.0.1", 80), 1)
    assert compiled.expected_cost(server, 0.0, 30.0, lambda *_: 2.0) == 2.0
    assert server.measured_latency is not None
    assert server.measured_errors is not None


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


def calls(choices: Any, server: Any) -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:
    seeds = bytes(8 * 3)
    return [
        (compiled.pick, (1, seeds, choices, set())),
        (compiled.pick, (1, seeds, choices, {server})),
        (compiled.pick_bounded, (1, seeds, choices, set(), choices, 1.25)),
        (compiled.draw_two, (choices, set(), lambda: 0.3)),
        (compiled.expected_cost, (server, 1.0, 30.0, lambda *_: 1.0)),
    ]


def survive(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        function(*arguments)
    except (TypeError, ValueError, AttributeError, OverflowError, ZeroDivisionError, IndexError):
        gc.collect(0)


class OddServer:
    """A choice, its server and its measurements in one, with one attribute of any type."""

    active = weight = last = 1

    def __init__(self, name: str, value: Any) -> None:
        self.destination = self.latency = self.measured_latency = self.measured_errors = self
        setattr(self, name, value)

    def at(self, now: float) -> float:
        return 1.0


NAMES = ("active", "at", "destination", "last", "latency", "measured_errors", "measured_latency", "weight")


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
    assert results == [server, None, server, (server, server), 31.0 * 2]
    server.measured_errors, server.error_rate = None, 1  # type: ignore[attr-defined]
    arguments = server, 1.0, 30.0, lambda *_: 1.0
    assert compiled.expected_cost(*arguments) == plain_expected_cost(*arguments) == 31.0 * 2


def test_slots_without_a_value() -> None:
    for name in ("_peak", "_stamp", "last"):
        server = Destination(Inet("10.0.0.1", 80), 1)
        server.latency.record(1.0, 1.0)
        delattr(server.latency, name)
        with pytest.raises((TypeError, SystemError)):
            compiled.expected_cost(server, 1.0, 30.0, lambda *_: 1.0)


def test_what_a_server_does_while_it_is_read() -> None:
    """It empties what holds it."""
    held: list[Any] = []

    def read(name: str) -> Any:
        held.clear()
        gc.collect(0)
        return Odd(read) if name in ("destination", "latency", "measured_latency", "measured_errors") else 1.0

    for number in range(5):
        held.extend(Odd(read) for _ in range(3))
        function, arguments = calls(tuple(held), Odd(read))[number]
        survive(function, arguments)


@pytest.mark.parametrize("drawn", [1.0, -0.1, float("nan"), float("inf"), None, "1"], ids=str)
def test_numbers_that_are_not_random(drawn: Any) -> None:
    servers = [Destination(Inet(f"10.0.0.{number}", 80), 1) for number in range(3)]
    with pytest.raises((IndexError, TypeError)):
        compiled.draw_two(choices_of(servers), set(), lambda: drawn)


def test_an_exception_of_a_server_is_passed_on() -> None:
    def read(name: str) -> Any:
        raise LookupError(name)

    server = Odd(read)
    for function, arguments in calls((server, server, server), server):
        with pytest.raises(LookupError):
            function(*arguments)
