"""Rules with weights and a balance scheduler of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from attrs import evolve
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.modifiers import Modifiers
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.scheduling import Choice, Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.schedulers.http import PHTTP
from ktcpvs.schedulers.least import MAX_SCANNED_SERVERS
from ktcpvs.schedulers.wrr import WRR
from ktcpvs.system.plugins import find_schedulers

KNOWN = find_schedulers().known
BALANCES = ("lc", "p2c", "rr", "sh", "wlc", "wrr")


class Service:
    """A service with one rule for all its servers, and a second rule with other weights."""

    def __init__(self, weights: Sequence[int], in_rule: Sequence[int | None], name: str, others: str = "wlc") -> None:
        servers = tuple([RealServer(Inet(f"10.0.0.{n}", 80), weight) for n, weight in enumerate(weights, 1)])
        addresses = tuple([server.address for server in servers])
        rules = (
            Rule("^/rule", addresses, modifiers=Modifiers(balance=name), weights=in_rule),
            Rule(".*", addresses),
        )
        self.config = VirtualService("s", servers=servers, rules=rules, scheduler="phttp", balance=others)
        self.known = {server.address: Destination(server.address, server.weight) for server in servers}
        self.destinations = tuple(self.known.values())
        self.scheduler: Any = None
        self.view: ServiceView | None = None
        self.bind()

    def bind(self) -> None:
        balance = KNOWN[self.config.balance]
        self.view = ServiceView.of(self.config, self.known, balance, b"key", self.view, rule_balances=KNOWN)
        self.scheduler = PHTTP().bind(self.view, self.scheduler)

    def chosen(self, path: str = "/rule", *tried: int, client: str = "192.0.2.1") -> int:
        """Return the number of the chosen server; 0: there is none."""
        target = path.encode()
        excluded = {self.destinations[number - 1] for number in tried}
        choice = self.scheduler.choose(Request(client, b"GET", target, target, b"Host: h\r\n", excluded))
        if choice is None:
            return 0
        assert type(choice) is Choice
        assert type(choice.destination) is Destination
        return self.destinations.index(choice.destination) + 1

    def counts(self, path: str = "/rule", count: int = 100) -> dict[int, int]:
        return dict(Counter(self.chosen(path) for _ in range(count)))


def test_weights_of_a_rule_hold_in_that_rule_alone() -> None:
    service = Service([1, 1], [95, 5], "wrr", "wrr")
    assert service.counts() == {1: 95, 2: 5}
    assert service.counts("/other") == {1: 50, 2: 50}


def test_a_server_without_a_weight_in_the_rule_has_its_own() -> None:
    assert Service([3, 9], [None, 1], "wrr").counts() == {1: 75, 2: 25}


@pytest.mark.parametrize("balance", BALANCES)
def test_a_weight_of_0_keeps_clients_of_this_rule_away(balance: str) -> None:
    service = Service([1, 1], [0, 1], balance)
    assert service.counts() == {2: 100}
    assert service.chosen("/rule", 2) == 0
    assert service.chosen("/other", 2) == 1


@pytest.mark.parametrize("balance", BALANCES)
def test_a_quiesced_server_gets_no_clients_whatever_the_rule_says(balance: str) -> None:
    assert Service([0, 1], [95, 5], balance).counts() == {2: 100}


@pytest.mark.parametrize("balance", BALANCES)
def test_servers_that_were_tried_are_left_out(balance: str) -> None:
    service = Service([1, 1, 1], [9, 9, 1], balance)
    assert service.chosen("/rule", 1, 2) == 3
    assert service.chosen("/rule", 1, 2, 3) == 0


def test_wlc_counts_the_connections_of_the_real_server() -> None:
    service = Service([1, 1], [3, 1], "wlc")
    for _ in range(40):
        service.destinations[service.chosen() - 1].active += 1
    assert [one.active for one in service.destinations] == [30, 10]


def test_many_servers_are_kept_in_order_by_their_weights_in_the_rule() -> None:
    count = MAX_SCANNED_SERVERS + 1
    service = Service([1] * count, [2, *[1] * (count - 1)], "wlc")
    for destination, watcher in service.scheduler.watched():
        destination.watchers = (*destination.watchers, watcher)
    for _ in range(count + 1):
        service.destinations[service.chosen() - 1].lease()
    assert [one.active for one in service.destinations] == [2, *[1] * (count - 1)]


def test_a_slow_start_scales_the_weight_of_the_rule() -> None:
    service = Service([10, 10], [30, 30], "wrr")
    assert service.counts(count=60) == {1: 30, 2: 30}
    service.destinations[1].weight = 5  # as checks ask, or in its slow start
    service.counts(count=3)
    assert service.counts(count=60) == {1: 40, 2: 20}


@pytest.mark.parametrize("count", [2, MAX_SCANNED_SERVERS + 1])
def test_a_tiny_part_of_a_share_leaves_a_weight(count: int) -> None:
    service = Service([1000] * count, [1] * count, "wlc")
    for destination, watcher in service.scheduler.watched():
        destination.watchers = (*destination.watchers, watcher)
    for destination in service.destinations:
        destination.weight = 4  # 1 * 4 / 1000 in the rule
        destination.tell()
    for _ in range(count):
        service.destinations[service.chosen() - 1].lease()
    assert [one.active for one in service.destinations] == [1] * count


def test_a_server_that_is_quiesced_before_the_next_binding_gets_no_clients() -> None:
    count = MAX_SCANNED_SERVERS + 1
    service = Service([1] * count, [1] * count, "wlc")
    for destination, watcher in service.scheduler.watched():
        destination.watchers = (*destination.watchers, watcher)
    service.destinations[0].weight = service.destinations[0].share = 0
    service.destinations[0].tell()
    for _ in range(2 * (count - 1)):
        service.destinations[service.chosen() - 1].lease()
    assert [one.active for one in service.destinations] == [0, *[2] * (count - 1)]


def test_an_edit_of_the_weight_keeps_other_rules_as_they_are() -> None:
    service = Service([1, 1], [9, 1], "wrr")
    before = service.scheduler.within[".*"]
    rule, other = service.config.rules
    service.config = evolve(service.config, rules=(evolve(rule, weights=(1, 1)), other))
    service.bind()
    assert service.counts() == {1: 50, 2: 50}
    assert service.scheduler.within[".*"].scheduler is before.scheduler


def test_an_edit_of_the_balance_binds_another_scheduler() -> None:
    service = Service([1, 1], (), "wrr")
    rule, other = service.config.rules
    service.config = evolve(service.config, rules=(evolve(rule, modifiers=Modifiers(balance="sh")), other))
    service.bind()
    assert len(service.counts()) == 1
    service.config = evolve(service.config, rules=(evolve(rule, modifiers=None), other))
    service.bind()
    assert service.scheduler.within["^/rule"].balance is KNOWN["wlc"]


def test_a_match_hashes_by_the_weights_of_the_rule() -> None:
    service = Service([1, 1], [0, 1], "wlc")
    rule, other = service.config.rules
    service.config = evolve(service.config, rules=(evolve(rule, pattern="^/rule/(.*)", match=1, modifiers=None), other))
    service.bind()
    assert {service.chosen(f"/rule/{number}") for number in range(50)} == {2}


def test_an_explanation_shows_the_weights_of_the_rule() -> None:
    service = Service([1, 1], [95, 5], "wrr")
    considered = service.scheduler.explain(Request("", b"GET", b"/rule", b"/rule"))
    assert [one.weight for one in considered.destinations] == [95, 5]
    assert considered.destinations == service.destinations


@examples(100)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=5),
    st.data(),
    st.sampled_from(BALANCES),
)
def test_a_rule_chooses_as_a_service_with_its_weights(weights: list[int], data: st.DataObject, balance: str) -> None:
    """What a rule with weights chooses among servers of the weight 1, a service whose servers have these weights
    chooses too; p2c draws at random, so it is only asked whether it finds one."""
    tries = [data.draw(st.sets(st.integers(1, len(weights)))) for _ in range(6)]
    loads = [data.draw(st.lists(st.integers(0, 4), min_size=len(weights), max_size=len(weights))) for _ in tries]
    one, other = Service([1] * len(weights), weights, balance), Service(weights, (), balance)
    for tried, load in zip(tries, loads, strict=True):
        for service in (one, other):
            for destination, active in zip(service.destinations, load, strict=True):
                destination.active = active
        client = f"192.0.2.{sum(load)}"
        found, expected = one.chosen("/rule", *tried, client=client), other.chosen("/rule", *tried, client=client)
        assert bool(found) is bool(expected) if balance == "p2c" else found == expected


# wrr follows weights that change.


def turns(scheduler: Any, count: int) -> Counter[str]:
    return Counter(scheduler.choose(Request()).destination.address.host[-1] for _ in range(count))


def bound(*weights: int) -> tuple[Any, tuple[Destination, ...]]:
    servers = tuple([Destination(Inet(f"10.0.0.{n}", 80), weight) for n, weight in enumerate(weights, 1)])
    return WRR().bind(ServiceView(VirtualService("s"), servers), None), servers


def test_wrr_follows_weights_that_change() -> None:
    scheduler, servers = bound(1, 1, 1)
    servers[0].weight = 8.0
    turns(scheduler, 30)
    assert turns(scheduler, 100) == {"1": 80, "2": 10, "3": 10}
    servers[0].weight = 0.5
    turns(scheduler, 30)
    assert turns(scheduler, 100) == {"1": 20, "2": 40, "3": 40}


def test_wrr_gives_the_turns_of_tried_servers_to_all_others() -> None:
    scheduler, servers = bound(4, 4, 2)
    seen: Counter[str] = Counter()
    for _ in range(60):
        choice = scheduler.choose(Request(tried={servers[0]}))
        seen[choice.destination.address.host[-1]] += 1
    assert seen == {"2": 40, "3": 20}
