"""The times of look-ups, and the effects of their results: tests advance the clock and answer each look-up."""

from __future__ import annotations

from typing import Any

from memory import log_into
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from ktcpvs.director.resolver import MAX_CONCURRENT_LOOKUPS, MAX_RETRY_DELAY, Resolver
from ktcpvs.errors import BadValue
from ktcpvs.model.expansion import Resolution
from ktcpvs.model.settings import Settings
from ktcpvs.model.srv import read_target
from ktcpvs.runtime.context import Context
from ktcpvs.system.lookup import Found, NotFound
from ktcpvs.system.srv_lookup import FoundTargets, Record

ONE, TWO, THREE = "10.0.0.1", "10.0.0.2", "10.0.0.3"


class Asked(Resolver):
    """A resolver whose look-ups the test answers. asks: (second, host) of each look-up. means: (host, addresses) of
    each change. lines: the log."""

    def __init__(self, **settings: int) -> None:
        self.clock = Clock()
        self.asks: list[tuple[float, str]] = []
        self.means: list[tuple[str, tuple[str, ...]]] = []
        self.lines: list[str] = []
        self.open: list[Deferred[Any]] = []
        self.refusal: Exception | None = None
        log = log_into(self.lines)
        super().__init__(Context(self.clock, log, settings=Settings(**settings)), self._resolved)

    def look_up(self, host: str) -> Deferred[Any]:
        self.asks.append((self.clock.seconds(), host))
        self.open.append(Deferred())
        return self.open[-1]

    def _resolved(self, resolution: Resolution) -> Deferred[None]:
        if self.refusal is not None:
            return fail(self.refusal)
        self.means += resolution.items()
        return succeed(None)

    def passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def says(self, *addresses: str, ttl: int = 20) -> None:
        """Answer the oldest look-up that has no answer yet."""
        self.open.pop(0).callback(Found(addresses, ttl))

    def finds_nothing(self, why: str = "the name does not exist") -> None:
        self.open.pop(0).errback(NotFound(why))

    def next_ask(self) -> float:
        """Advance the clock to the next look-up; returns its second."""
        before = len(self.asks)
        for call in sorted(self.clock.getDelayedCalls(), key=lambda call: call.getTime()):
            self.clock.advance(max(call.getTime() - self.clock.seconds(), 0))
            if len(self.asks) > before:
                break
        return self.asks[before][0]


NOTHING: Resolution = {}


def one_name(known: Resolution = NOTHING, **settings: int) -> Asked:
    asked = Asked(**settings)
    asked.follow({"a.example"}, known)
    asked.passes(0)
    return asked


def test_a_name_is_looked_up_again_when_its_time_to_live_is_over() -> None:
    asked = one_name()
    asked.says(ONE, TWO)
    assert asked.means == [("a.example", (ONE, TWO))]
    assert asked.lines == [f"a.example is {ONE}, {TWO}; before: not known"]
    assert asked.next_ask() == 20


def test_the_settings_limit_the_interval() -> None:
    asked = one_name(resolve_least=7, resolve_most=100)
    asked.says(ONE, ttl=0)
    assert asked.next_ask() == 7
    asked.says(ONE, ttl=86400)
    assert asked.next_ask() == 107


def test_changed_settings_hold_at_once() -> None:
    asked = one_name()
    asked.says(ONE, TWO, ttl=3600)
    asked.context.apply_settings(Settings(resolve_addresses=1))
    asked.follow({"a.example"}, {"a.example": (ONE, TWO)})
    assert asked.next_ask() == 0
    asked.says(ONE, TWO, ttl=3600)
    assert asked.means[1:] == [("a.example", (ONE,))]
    asked.follow({"a.example"}, {"a.example": (ONE,)})
    assert asked.next_ask() == 3600


def test_the_same_addresses_in_another_order_change_nothing() -> None:
    asked = one_name()
    asked.says(ONE, TWO)
    asked.next_ask()
    asked.says(TWO, ONE)
    assert len(asked.means) == 1
    asked.next_ask()
    asked.says(TWO, THREE)
    assert asked.means[1:] == [("a.example", (TWO, THREE))]


def test_a_name_that_is_not_found_keeps_its_addresses_and_is_retried_ever_more_rarely() -> None:
    asked = one_name(resolve_least=5)
    asked.says(ONE, ttl=5)
    asked.next_ask()
    seconds = []
    for _ in range(6):
        asked.finds_nothing()
        seconds.append(asked.next_ask())
    assert [after - before for before, after in zip([5, *seconds], seconds, strict=False)] == [5, 10, 20, 40, 60, 60]
    assert asked.means == [("a.example", (ONE,))]
    assert asked.lines[1:] == [f"a.example is not found: the name does not exist; it stays {ONE}"]
    asked.says(ONE)
    assert asked.lines[2:] == ["a.example is found again, with the same addresses as before"]
    assert asked.means == [("a.example", (ONE,))]
    assert asked.next_ask() == seconds[-1] + 20


def test_a_name_without_addresses_is_unresolved_until_it_is_found() -> None:
    asked = one_name()
    assert asked.unresolved()["a.example"].reason == ""
    asked.finds_nothing()
    assert asked.unresolved()["a.example"].reason == "the name does not exist"
    asked.next_ask()
    asked.says(ONE)
    assert asked.unresolved() == {}
    asked.next_ask()
    asked.finds_nothing()  # it keeps its address
    assert asked.unresolved() == {}
    assert one_name({"a.example": (ONE,)}).unresolved() == {}


def test_retries_are_never_more_frequent_than_resolve_least() -> None:
    asked = one_name(resolve_least=600)
    asked.finds_nothing()
    assert asked.next_ask() == 600
    asked.finds_nothing()
    assert asked.next_ask() == 1200


def test_addresses_known_from_before_are_no_change() -> None:
    asked = one_name(known={"a.example": (ONE,)})
    asked.says(ONE)
    assert asked.means == []
    assert asked.lines == []


def test_too_many_addresses_are_cut_and_those_that_serve_stay() -> None:
    asked = one_name(resolve_addresses=2)
    asked.says(TWO, THREE)
    asked.next_ask()
    asked.says(ONE, TWO, THREE)
    assert asked.means == [("a.example", (TWO, THREE))]
    asked.next_ask()
    asked.says(ONE, THREE, "10.0.0.4")
    assert asked.means[1:] == [("a.example", (ONE, THREE))]
    assert asked.lines[-1] == "a.example has 3 addresses; 2 of them serve"


def test_a_family_that_cannot_be_looked_up_keeps_its_addresses() -> None:
    asked = one_name({"a.example": (ONE, "::1")}, resolve_ipv6=2)
    for _ in range(2):
        asked.open.pop(0).callback(Found((ONE,), 20, "its IPv6 addresses: no name server has answered", 6, True))
        asked.next_ask()
    assert asked.means == []
    reason = "its IPv6 addresses: no name server has answered; it keeps its previous addresses"
    assert asked.lines == [f"a.example is found for one address family only: {reason}"]
    asked.says(ONE)
    assert asked.means == [("a.example", (ONE,))]


def test_a_refused_change_is_tried_again() -> None:
    asked = one_name()
    asked.refusal = BadValue("no room")
    asked.says(ONE)
    assert asked.lines == ["a.example is not found: no room; each connection to it asks the system's resolver"]
    asked.refusal = None
    asked.next_ask()
    asked.says(ONE)
    assert asked.means == [("a.example", (ONE,))]


def test_an_internal_error_does_not_end_the_look_ups() -> None:
    asked = one_name()
    asked.open.pop(0).errback(ZeroDivisionError())
    assert "a.example cannot be looked up" in asked.lines[0]
    assert asked.next_ask() == MAX_RETRY_DELAY


def test_a_name_that_has_left_the_table_is_not_looked_up() -> None:
    asked = one_name()
    asked.follow(set(), {})
    assert asked.clock.getDelayedCalls() == []
    asked = one_name()
    asked.says(ONE)
    asked.stop()
    assert asked.clock.getDelayedCalls() == []


def test_the_number_of_concurrent_look_ups_is_limited() -> None:
    asked = Asked()
    asked.follow({f"n{number}.example" for number in range(3 * MAX_CONCURRENT_LOOKUPS)}, {})
    asked.passes(0)
    assert len(asked.asks) == MAX_CONCURRENT_LOOKUPS
    for _ in range(3 * MAX_CONCURRENT_LOOKUPS):
        asked.says(ONE, ttl=3600)
    assert len({host for _, host in asked.asks}) == 3 * MAX_CONCURRENT_LOOKUPS
    before: Any = asked.asks[:]
    asked.follow({"n1.example"}, {})
    assert asked.next_ask() == 3600
    assert asked.asks[len(before) :] == [(3600, "n1.example")]


SRV = "srv:_http._tcp.a.example"


def one_srv_name(known: Resolution = NOTHING, **settings: int) -> Asked:
    asked = Asked(**settings)
    asked.follow({SRV}, known)
    asked.passes(0)
    return asked


def targets(*texts: str, missing: tuple[Record, ...] = (), failed: str = "") -> FoundTargets:
    return FoundTargets(tuple(map(read_target, texts)), 20, failed, missing)


def test_targets_of_srv_records_are_followed_with_their_weights() -> None:
    asked = one_srv_name()
    one, two = f"{ONE}:80 0 5 one.example", f"{TWO}:81 1 5 two.example"
    asked.open.pop(0).callback(targets(one, two))
    assert asked.means == [(SRV, (one, two))]
    assert asked.lines == [
        f"{SRV} is {ONE}:80 (priority 0, weight 5), {TWO}:81 (priority 1, weight 5); before: not known"
    ]
    assert asked.next_ask() == 20
    heavier = f"{ONE}:80 0 9 one.example"
    asked.open.pop(0).callback(targets(heavier, two))
    assert asked.means[1:] == [(SRV, (heavier, two))]


def test_srv_records_that_are_not_found_keep_their_targets() -> None:
    asked = one_srv_name()
    asked.finds_nothing()
    assert asked.lines == [f"{SRV} is not found: the name does not exist; no server of it is used until it is"]
    asked.next_ask()
    asked.open.pop(0).callback(targets(f"{ONE}:80 0 5 one.example"))
    asked.next_ask()
    asked.finds_nothing()
    assert asked.means == [(SRV, (f"{ONE}:80 0 5 one.example",))]


def test_a_target_that_is_not_found_keeps_its_addresses_with_the_weight_of_its_record() -> None:
    known = f"{ONE}:80 0 5 one.example", f"{TWO}:80 0 5 two.example", f"{THREE}:80 0 5 gone.example"
    asked = one_srv_name({SRV: known})
    missing = Record(0, 7, "two.example", 80), Record(0, 7, "new.example", 80)
    failed = "two.example: no name server has answered"
    asked.open.pop(0).callback(targets(known[0], missing=missing, failed=failed))
    assert asked.means == [(SRV, (known[0], f"{TWO}:80 0 7 two.example"))]
    assert asked.lines[0] == f"{SRV} is found without some of its targets: {failed}; they keep their addresses"


def test_too_many_targets_are_cut_the_first_priority_stays() -> None:
    asked = one_srv_name({SRV: (f"{THREE}:80 0 5", f"{TWO}:80 1 5")}, resolve_addresses=2)
    asked.open.pop(0).callback(targets(f"{ONE}:80 0 5", f"{THREE}:80 0 6", f"{TWO}:80 1 5"))
    assert asked.means == [(SRV, (f"{ONE}:80 0 5", f"{THREE}:80 0 6"))]
    asked.next_ask()
    asked.open.pop(0).callback(targets("10.0.0.0:80 0 5", f"{ONE}:80 0 5", f"{THREE}:80 0 6"))
    assert len(asked.means) == 1
