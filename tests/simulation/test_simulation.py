"""Simulations: the switch's own selection decides, so what it does for traffic happens here too."""

from __future__ import annotations

from itertools import islice
from math import sqrt
from typing import Any

import pytest
from attrs import evolve
from zope.interface import implementer

from ktcpvs.errors import NoSuchScheduler, Refusal
from ktcpvs.interfaces import CONNECTION, Choice, ILearns, IScheduler, ISchedulerFactory
from ktcpvs.model.settings import Settings
from ktcpvs.schedulers.p2c import P2C
from ktcpvs.simulation.arrivals import Arrival, poisson, steady, until
from ktcpvs.simulation.behaviour import Outcome, constant, failing, flapping, lognormal, refusing, slow
from ktcpvs.simulation.durations import Durations
from ktcpvs.simulation.moves import Moves
from ktcpvs.simulation.simulation import FakeServer, Simulation, with_weight, without_server

USUAL = lognormal(0.02)


def test_turns_follow_the_weights() -> None:
    report = Simulation("wrr", [FakeServer(weight=3), FakeServer(weight=1)], rate=100).run(40)
    assert report.share(0) == pytest.approx(0.75, abs=0.001)
    assert report.errors == 0
    assert sum(server.requests for server in report.servers) == report.requests
    assert str(report.requests) in str(report)


def test_the_same_seed_gives_the_same_report() -> None:
    servers = [FakeServer(USUAL), FakeServer(slow(USUAL, 3))]
    one, other = (str(Simulation("wlc", servers, rate=100, seed=5).run(20)) for _ in range(2))
    assert one == other
    assert one != str(Simulation("wlc", servers, rate=100, seed=6).run(20))


def test_least_connections_give_a_slow_server_less() -> None:
    report = Simulation("wlc", [FakeServer(USUAL), FakeServer(slow(USUAL, 10))], rate=100).run(60)
    assert report.share(1) < 0.2
    assert report.servers[1].durations.p50 == pytest.approx(0.2, rel=0.1)


def test_a_request_that_is_refused_goes_to_another_server() -> None:
    report = Simulation("rr", [FakeServer(USUAL), FakeServer(refusing())], rate=50).run(20)
    assert report.errors == 0
    assert report.share(0) == 1.0
    assert report.retries == report.servers[1].failures > 0


def test_without_a_server_that_accepts_all_requests_fail() -> None:
    report = Simulation("phttp", [FakeServer(refusing()), FakeServer(refusing())], rate=50).run(5)
    assert report.errors == report.requests > 0
    assert report.moves.keys == 0


def test_ejection_ends_what_a_server_that_fails_fast_draws_to_itself() -> None:
    servers = [FakeServer(USUAL), FakeServer(USUAL), FakeServer(failing())]
    drawn = Simulation("phttp", servers, rate=200, options={"eject": 0}).run(30)
    ejected = Simulation("phttp", servers, rate=200, options={"eject": 5}).run(30)
    assert drawn.share(2) > 0.5
    assert ejected.share(2) < 0.02


def test_retry_on_sends_a_status_to_another_server() -> None:
    servers = [FakeServer(USUAL), FakeServer(failing(status=503))]
    options = {"retry_on": "connect reset 503", "eject": 0}
    report = Simulation("phttp", servers, rate=20, options=options, settings=Settings(retry_budget=100)).run(20)
    assert report.retries > 0
    assert report.errors == 0


def test_requests_wait_for_room_and_get_it() -> None:
    report = Simulation("wlc", [FakeServer(constant(0.1), maxconn=1)], arrivals=steady(20)).run(1)
    assert report.queued == report.requests - 1
    assert report.errors == 0
    assert report.durations.longest == pytest.approx(20 * 0.1 - 19 * 0.05, abs=0.01)
    assert report.servers[0].peak == 1


def test_the_queue_times_out_as_the_setting_says() -> None:
    settings = Settings(queue_timeout=2)
    report = Simulation("phttp", [FakeServer(constant(30), maxconn=1)], arrivals=steady(1), settings=settings).run(5)
    assert report.errors == report.requests - 1
    assert report.waits.longest == pytest.approx(2.5, abs=1)


def test_a_capacity_lets_requests_wait_inside_of_a_server() -> None:
    report = Simulation("wlc", [FakeServer(constant(0.1), capacity=1)], arrivals=steady(20)).run(1)
    assert report.queued == 0
    assert report.servers[0].peak > 5
    assert report.durations.longest == pytest.approx(20 * 0.1 - 19 * 0.05, abs=0.01)


def test_a_flapping_server_is_used_while_it_is_up() -> None:
    report = Simulation(
        "rr", [FakeServer(USUAL), FakeServer(flapping(USUAL, 5, 5))], rate=100, options={"eject": 0}
    ).run(40)
    assert report.share(1) == pytest.approx(0.25, abs=0.03)


def test_a_cookie_keeps_clients_at_their_servers() -> None:
    servers = [FakeServer(USUAL) for _ in range(4)]
    report = Simulation("chttp", servers, rate=200, clients=50).run(20)
    assert report.moves.moves < 10  # of clients whose first requests came at once
    assert Simulation("phttp", servers, rate=200, clients=50).run(20).moves.moves > 100


def test_a_change_of_the_configuration_takes_effect_at_its_time() -> None:
    servers = [FakeServer(USUAL), FakeServer(USUAL), FakeServer(USUAL)]
    report = Simulation("rr", servers, arrivals=steady(100), changes=[(5.005, without_server(2))]).run(10)
    assert len(report.servers) == 2
    assert report.share(0) == pytest.approx((1 / 3 + 1 / 2) / 2, abs=0.01)
    drained = Simulation("rr", servers, arrivals=steady(100), changes=[(0.0, with_weight(0, 0))]).run(10)
    assert drained.share(0) == 0


def test_a_hash_moves_only_the_clients_of_a_server_that_goes() -> None:
    servers = [FakeServer() for _ in range(5)]
    report = Simulation("sh", servers, rate=300, clients=300, changes=[(10, without_server(0))]).run(20)
    assert 0.1 < report.moves.moved_keys / report.moves.keys < 0.3


@implementer(IScheduler, ILearns)
class Learner:
    def __init__(self, destinations: Any, outcomes: list[Any]) -> None:
        self._destinations = destinations
        self._outcomes = outcomes

    def choose(self, request: Any) -> Choice | None:
        usable = [one for one in self._destinations if one not in request.tried]
        usable.sort(key=lambda one: one.latency.ewma)
        return Choice(usable[0], "the fastest") if usable else None

    def completed(self, outcome: Any) -> None:
        self._outcomes.append(outcome)


@implementer(ISchedulerFactory)
class Fastest:
    """Per connection: the fastest."""

    name = "fastest"
    unit = CONNECTION

    def __init__(self) -> None:
        self.outcomes: list[Any] = []

    def bind(self, service: Any, previous: Any) -> Learner:
        return Learner(service.destinations, self.outcomes)


def test_a_scheduler_measures_and_learns_in_virtual_time() -> None:
    factory = Fastest()
    servers = [FakeServer(constant(0.5)), FakeServer(constant(0.01)), FakeServer(refusing())]
    report = Simulation(factory, servers, rate=10, options={"eject": 0}).run(60)
    assert report.share(1) > 0.8
    reasons = {outcome.reason for outcome in factory.outcomes}
    assert reasons == {"ok", "refused"}
    assert {round(outcome.total, 6) for outcome in factory.outcomes if outcome.reason == "ok"} == {0.01, 0.5}
    assert report.faults == ()


@implementer(ISchedulerFactory)
class Raising:
    """Per connection: raises."""

    name = "raising"
    unit = CONNECTION

    def bind(self, service: Any, previous: Any) -> Any:
        @implementer(IScheduler)
        class Bound:
            def choose(self, request: Any) -> Any:
                raise ValueError("no such luck")

        return Bound()


def test_the_report_names_the_faults_of_a_scheduler_and_the_fallback_serves() -> None:
    report = Simulation(Raising(), [FakeServer()], rate=10).run(5)
    assert report.errors == 0
    assert len(report.faults) == 1
    assert "no such luck" in report.faults[0]


def test_a_scheduler_that_is_unknown_or_cannot_be_bound_is_refused() -> None:
    with pytest.raises(NoSuchScheduler, match="did you mean 'wlc'"):
        Simulation("wcl", [FakeServer()]).run(1)
    with pytest.raises(Refusal, match="depth"):
        Simulation("wlc depth 3", [FakeServer()]).run(1)


def test_a_factory_in_place_of_a_name() -> None:
    assert Simulation(P2C(), [FakeServer(), FakeServer()], rate=50).run(5).scheduler == "p2c"


def test_arrivals_of_a_process_are_as_many_as_its_rate_says() -> None:
    came = list(until(poisson(50), 100))
    assert abs(len(came) - 5000) < 5 * sqrt(5000)
    assert [arrival.at for arrival in came] == sorted(arrival.at for arrival in came)
    assert [arrival.at for arrival in islice(steady(4), 3)] == [0.25, 0.5, 0.75]


def test_an_odd_target_and_a_client_without_an_address() -> None:
    arrivals = [Arrival(0.1, "", b"CONNECT", b"a b", b""), Arrival(0.2, "::1", target=b"http://h/x")]
    report = Simulation("phttp", [FakeServer()], arrivals=arrivals).run(1)
    assert (report.requests, report.errors) == (2, 0)


def test_durations_know_their_quantiles_within_two_percent() -> None:
    durations = Durations()
    assert durations.p50 is None
    for number in range(1, 10_001):
        durations.add(number / 1000)
    assert durations.p50 == pytest.approx(5.0, rel=0.02)
    assert durations.p99 == pytest.approx(9.9, rel=0.02)
    assert durations.quantile(1) == pytest.approx(10, rel=0.02)
    assert durations.longest == 10
    durations.add(0)
    both = Durations()
    both.include(durations)
    both.include(durations)
    assert (both.count, both.p50) == (2 * durations.count, durations.p50)


def test_moves_forget_the_first_client_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktcpvs.simulation.moves.MAX_KEYS", 2)
    moves = Moves()
    for key, server in (("a", 1), ("b", 1), ("a", 2), ("c", 1), ("a", 1), ("c", 1)):
        moves.add(key, server)
    assert (moves.moves, moves.repeats, moves.keys, moves.moved_keys) == (1, 2, 4, 1)


def test_an_outcome_of_a_behaviour_that_is_slowed() -> None:
    assert evolve(slow(constant(0.1), 3)(0, None)).seconds == pytest.approx(0.3)  # type: ignore[arg-type]
    assert Outcome(1.0).status == 200
