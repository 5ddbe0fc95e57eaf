"""peak-ewma: slow and failing servers get less, newcomers count as the median, weights are respected."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush

import pytest

from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.recent import ErrorRate, Latency
from ktcpvs.model.scheduling import Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.schedulers.peak_ewma import BoundPeakEWMA, PeakEWMA, expected_cost


class World:
    """Servers that respond in a time that a test says, and a clock.

    seconds: number of a server -> how long its responses take to begin. failing: the numbers of those that fail at
    once. streams: for how long a response goes on after its first byte.
    """

    def __init__(self, *weights: int, seed: int = 5) -> None:
        self.now = 100.0
        self.servers = [Destination(Inet(f"10.0.0.{number}", 80), weight) for number, weight in enumerate(weights)]
        for server in self.servers:
            server.clock = lambda: self.now
        view = ServiceView(VirtualService("s"), tuple(self.servers))
        self.scheduler = PeakEWMA(random.Random(seed)).bind(view, None)
        self.seconds = dict.fromkeys(range(len(weights)), 0.01)
        self.failing: set[int] = set()
        self.streams = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, moment: float, call: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._events, (moment, self._count, call))

    def run(self, seconds: float, rate: float) -> Counter[int]:
        """Let requests come at a rate; return how many each server got."""
        until, begin = self.now + seconds, self.now
        counted: Counter[int] = Counter()
        for number in range(int(seconds * rate)):
            self.at(begin + number / rate, lambda: self._request(counted))
        while self._events and self._events[0][0] <= until:
            self.now, _, call = heappop(self._events)
            call()
        return counted

    def _request(self, counted: Counter[int]) -> None:
        choice = self.scheduler.choose(Request())
        assert choice is not None
        server, began = choice.destination, self.now
        number = self.servers.index(server)
        counted[number] += 1
        lease = server.lease()
        if number in self.failing:
            measured(server)[1].record(True, self.now)
            lease.end()
            return

        def first_byte() -> None:
            latency, errors = measured(server)
            latency.record(self.now - began, self.now)
            errors.record(False, self.now)
            self.at(self.now + self.streams, lease.end)

        self.at(self.now + self.seconds[number], first_byte)


def measured(server: Destination) -> tuple[Latency, ErrorRate]:
    """What the switch writes, once a scheduler has read it."""
    assert server.measured_latency is not None
    assert server.measured_errors is not None
    return server.measured_latency, server.measured_errors


def test_a_slow_server_gets_less_at_once_and_its_share_again_later() -> None:
    world = World(1, 1, 1)
    before = world.run(5, 200)
    assert all(250 < before[number] < 420 for number in range(3))
    world.seconds[0] = 0.5
    world.run(0.5, 200)
    slow = world.run(5, 200)
    assert slow[0] < 20
    world.seconds[0] = 0.01
    world.run(60, 200)
    again = world.run(5, 200)
    assert all(250 < again[number] < 420 for number in range(3))


def test_a_slow_server_is_tried_again() -> None:
    world = World(1, 1)
    world.seconds[0] = 1.0
    counted = world.run(120, 20)
    assert 1 < counted[0] < 240


def test_a_slow_server_is_not_flooded_after_a_pause() -> None:
    """Its latency has decayed to nothing: the requests that come before its first response do not all go there."""
    world = World(1, 1)
    world.seconds[0] = 1.0
    world.run(5, 200)
    world.now += 1000
    counted = world.run(0.9, 200)
    assert 1 <= counted[0] < 40


def test_a_server_that_fails_at_once_is_not_the_fastest() -> None:
    world = World(1, 1, 1)
    world.run(2, 200)
    world.failing = {1}
    world.run(0.5, 200)
    assert world.run(10, 200)[1] < 20
    world.failing = set()
    world.run(90, 200)
    assert world.run(5, 200)[1] > 200


def test_with_equal_latencies_requests_follow_the_weights() -> None:
    """With two servers both are compared each time; the load is what differs."""
    world = World(1, 4)
    world.streams = 1.0
    counted = world.run(60, 50)
    assert 3 < counted[1] / counted[0] < 5


def test_a_long_stream_does_not_make_a_server_slow() -> None:
    world = World(1, 1)
    world.streams = 30.0
    world.run(1, 10)
    world.run(40, 0.1)
    assert all(measured(server)[0].last == pytest.approx(0.01) for server in world.servers)


def cost(world: World, number: int) -> float:
    return expected_cost(world.servers[number], world.now, 30.0, world.scheduler.usual_latency)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (1,) * 40])
def test_a_newcomer_counts_as_the_median_of_the_others(weights: tuple[int, ...]) -> None:
    world = World(*weights)
    known = range(1, len(weights))
    for number in known:
        world.servers[number].latency.record(number / 1000, world.now)
    median = (known[0] + known[-1]) / 2 / 1000
    assert cost(world, 0) == pytest.approx(median)
    world.servers[0].latency.record(0.5, world.now)
    assert cost(world, 0) == pytest.approx(0.5)


def test_while_none_has_responded_loads_decide() -> None:
    world = World(1, 2)
    chosen: list[int] = []
    for _ in range(9):
        choice = world.scheduler.choose(Request())
        assert choice is not None
        choice.destination.active += 1
        chosen.append(world.servers.index(choice.destination))
    assert Counter(chosen) == {0: 3, 1: 6}


def test_after_a_long_time_without_requests_loads_decide() -> None:
    world = World(1, 1)
    for server, seconds in zip(world.servers, (0.001, 1.0), strict=True):
        server.latency.record(seconds, world.now)
    world.now += 100_000
    world.servers[0].active = 1
    choice = world.scheduler.choose(Request())
    assert choice is not None
    assert choice.destination is world.servers[1]


def test_failures_cost_what_the_option_says() -> None:
    world = World(1, 1)
    slow, failing = world.servers
    slow.latency.record(0.95, world.now)
    failing.latency.record(0.01, world.now)
    assert cost(world, 1) == pytest.approx(0.01)
    measured(failing)[1].record(False, world.now)
    measured(failing)[1].record(True, world.now)
    assert cost(world, 1) == pytest.approx(0.01 + 30.0 / 2)
    for failure_cost, expected in ((2.0, slow), (1.8, failing)):
        view = ServiceView(VirtualService("s"), tuple(world.servers), options={"failure_cost": failure_cost})
        choice = PeakEWMA().bind(view, None).choose(Request())
        assert choice is not None
        assert choice.destination is expected


def test_the_explanation_says_what_is_known_and_measures_nothing() -> None:
    world = World(1, 1, 1)
    bound: BoundPeakEWMA = world.scheduler
    assert bound.explain(Request()).notes[0] == "10.0.0.0:80 has not been measured in this process"
    assert world.servers[0].measured_latency is None
    world.scheduler.choose(Request())
    for server in world.servers:
        assert server.latency is not None
    world.servers[1].latency.record(0.0125, world.now)
    assert world.servers[1].error_rate == 0
    measured(world.servers[1])[1].record(True, world.now)
    notes = bound.explain(Request()).notes
    assert notes[0] == "10.0.0.0:80 has not responded yet, 0 active"
    assert notes[1] == "10.0.0.1:80 begins its responses in 12.5 ms, 100% failed, 0 active"


def test_the_compared_servers_are_drawn_evenly() -> None:
    world = World(*[1] * 5)
    counted: Counter[int] = Counter()
    for _ in range(4000):
        choice = world.scheduler.choose(Request())
        assert choice is not None
        counted[world.servers.index(choice.destination)] += 1
    assert all(650 < counted[number] < 950 for number in range(5))
