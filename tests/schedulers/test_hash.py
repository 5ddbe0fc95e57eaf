"""hhttp, sh and rendezvous hashing: a server that leaves moves only its own keys, and weights are respected."""

from __future__ import annotations

from collections import Counter

import pytest

from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.scheduling import Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.schedulers.http import HHTTP, HTTP
from ktcpvs.schedulers.rendezvous import Rendezvous
from ktcpvs.schedulers.sh import SH
from ktcpvs.schedulers.wlc import WLC

KEYS = [b"/users/%d/" % number for number in range(10000)]


def servers(*weights: int) -> tuple[Destination, ...]:
    return tuple(Destination(Inet(f"10.0.{n}.1", 80), weight) for n, weight in enumerate(weights, 1))


def where(destinations: tuple[Destination, ...]) -> dict[bytes, Destination]:
    """Return key -> its server."""
    hashed = Rendezvous(ServiceView(VirtualService("s"), destinations), "x")
    return {key: hashed.pick(key, Request()).destination for key in KEYS}  # type: ignore[union-attr]


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_a_server_that_leaves_moves_only_its_own_keys(count: int) -> None:
    destinations = servers(*[1] * count)
    before = where(destinations)
    for leaving in destinations:
        after = where(tuple(d for d in destinations if d is not leaving))
        moved = [key for key in KEYS if before[key] is not after[key]]
        assert all(before[key] is leaving for key in moved)
        assert abs(len(moved) / len(KEYS) - 1 / count) < 0.02


def test_quiescing_is_like_leaving_and_comes_back() -> None:
    destinations = servers(1, 1, 1)
    before = where(destinations)
    destinations[1].weight = 0
    without = where(destinations)
    assert destinations[1] not in without.values()
    assert all(before[key] in (without[key], destinations[1]) for key in KEYS)
    destinations[1].weight = 1
    assert where(destinations) == before


@pytest.mark.parametrize("weights", [(1, 1), (1, 2, 7), (5, 5, 1, 9), (100, 300)])
def test_weights_are_respected(weights: tuple[int, ...]) -> None:
    destinations = servers(*weights)
    served = Counter(where(destinations).values())
    for destination in destinations:
        assert abs(served[destination] / len(KEYS) - destination.weight / sum(weights)) < 0.02


def test_more_weight_only_brings_keys() -> None:
    destinations = servers(1, 1, 1)
    before = where(destinations)
    destinations[0].weight = 2
    after = where(destinations)
    assert all(after[key] in (before[key], destinations[0]) for key in KEYS)


def test_a_server_that_does_not_answer_has_always_the_same_stand_in() -> None:
    destinations = servers(1, 1, 1)
    hashed = Rendezvous(ServiceView(VirtualService("s"), destinations), "x")
    for key in KEYS[:200]:
        first = hashed.pick(key, Request())
        assert first is not None
        second = hashed.pick(key, Request(tried={first.destination}))
        assert second is not None
        assert second.destination is not first.destination
        without = Rendezvous(
            ServiceView(VirtualService("s"), tuple(d for d in destinations if d is not first.destination)), "x"
        )
        assert without.pick(key, Request()).destination is second.destination  # type: ignore[union-attr]


def view(pattern: str, match: int | None, count: int = 4) -> ServiceView:
    real = tuple(RealServer(Inet(f"10.0.{n}.1", 80)) for n in range(count))
    config = VirtualService("s", servers=real, rules=(Rule(pattern, tuple(s.address for s in real), match),))
    return ServiceView.of(config, {s.address: Destination(s.address) for s in real}, WLC())


def test_hhttp_hashes_the_text_of_the_group() -> None:
    scheduler = HHTTP().bind(view("/users/([^/]+)/(.*)", 1), None)
    seen = set()
    for user in range(50):
        chosen = {
            scheduler.choose(Request(path=b"/users/%d/%s" % (user, rest))).destination  # type: ignore[union-attr]
            for rest in (b"", b"a", b"long/path?q=1")
        }
        assert len(chosen) == 1
        seen |= chosen
    assert len(seen) == 4


def test_match_0_is_all_that_matched() -> None:
    scheduler = HHTTP().bind(view("^/[a-z]+", 0), None)
    choices = [scheduler.choose(Request(path=path)) for path in (b"/abc", b"/abc/1", b"/abc/2?x")]
    assert len({choice.destination for choice in choices if choice}) == 1
    assert choices[0] is not None
    assert choices[0].reason == "rule 1 '^/[a-z]+', by the hash of group 0 among 4"


def test_a_group_that_took_no_part_is_the_empty_text() -> None:
    scheduler = HHTTP().bind(view("/a(x)?", 1), None)
    chosen = {scheduler.choose(Request(path=b"/a%d" % n)).destination for n in range(20)}  # type: ignore[union-attr]
    assert len(chosen) == 1


@pytest.mark.parametrize(("scheduler", "match"), [(HHTTP(), None), (HTTP(), 1)])
def test_without_match_and_with_http_the_balance_chooses(scheduler: HTTP, match: int | None) -> None:
    bound = scheduler.bind(view("/users/([^/]+)/.*", match), None)
    chosen = {bound.choose(Request(path=b"/users/1/")).destination for _ in range(4)}  # type: ignore[union-attr]
    assert len(chosen) == 4


def test_sh_keeps_a_client_where_it_is() -> None:
    scheduler = SH().bind(ServiceView(VirtualService("s"), servers(1, 1, 1)), None)
    first = [scheduler.choose(Request(f"192.0.2.{n}")) for n in range(100)]
    again = [scheduler.choose(Request(f"192.0.2.{n}")) for n in range(100)]
    assert first == again
    assert len({choice.destination for choice in first if choice}) == 3
