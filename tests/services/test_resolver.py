"""When names are looked up, and what is made of the answers: time is a Clock, answers are said one by one."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger, formatEvent

from ktcpvs.errors import BadValue
from ktcpvs.model.expansion import Resolution
from ktcpvs.model.settings import Settings
from ktcpvs.runtime.context import Context
from ktcpvs.services.resolver import AT_ONCE, FAILED_MOST, Resolver
from ktcpvs.system.log import EventLog
from ktcpvs.system.lookup import Found, NotFound

ONE, TWO, THREE = "10.0.0.1", "10.0.0.2", "10.0.0.3"


class Asked(Resolver):
    """A resolver of one world. asks: (second, host) of each question. means: every name there was, and what it
    means. lines: the log."""

    def __init__(self, **settings: int) -> None:
        self.clock = Clock()
        self.asks: list[tuple[float, str]] = []
        self.means: list[tuple[str, tuple[str, ...]]] = []
        self.lines: list[str] = []
        self.open: list[Deferred[Found]] = []
        self.refusal: Exception | None = None
        log = EventLog(logger=Logger(observer=lambda event: self.lines.append(formatEvent(event))))
        context = Context(self.clock, log)
        context.settings = Settings(**settings)
        super().__init__(context, self._resolved)

    def look_up(self, host: str) -> Deferred[Found]:
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
        """To the oldest question."""
        self.open.pop(0).callback(Found(addresses, ttl))

    def finds_nothing(self, why: str = "the name does not exist") -> None:
        self.open.pop(0).errback(NotFound(why))

    def next_ask(self) -> float:
        """The second of the next question."""
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


def test_it_is_asked_again_when_the_time_to_live_ends() -> None:
    asked = one_name()
    asked.says(ONE, TWO)
    assert asked.means == [("a.example", (ONE, TWO))]
    assert asked.lines == [f"a.example is {ONE}, {TWO}; before: not known"]
    assert asked.next_ask() == 20


def test_but_neither_too_often_nor_too_rarely() -> None:
    asked = one_name(resolve_least=7, resolve_most=100)
    asked.says(ONE, ttl=0)
    assert asked.next_ask() == 7
    asked.says(ONE, ttl=86400)
    assert asked.next_ask() == 107


def test_other_settings_hold_at_once() -> None:
    asked = one_name()
    asked.says(ONE, TWO, ttl=3600)
    asked.context.settings = Settings(resolve_addresses=1)
    asked.follow({"a.example"}, {"a.example": (ONE, TWO)})
    assert asked.next_ask() == 0
    asked.says(ONE, TWO, ttl=3600)
    assert asked.means[1:] == [("a.example", (ONE,))]
    asked.follow({"a.example"}, {"a.example": (ONE,)})
    assert asked.next_ask() == 3600


def test_the_same_answer_changes_nothing_in_whatever_order() -> None:
    asked = one_name()
    asked.says(ONE, TWO)
    asked.next_ask()
    asked.says(TWO, ONE)
    assert len(asked.means) == 1
    asked.next_ask()
    asked.says(TWO, THREE)
    assert asked.means[1:] == [("a.example", (TWO, THREE))]


def test_what_is_not_found_keeps_what_it_had_and_is_asked_less_and_less_often() -> None:
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
    assert asked.lines[2:] == ["a.example is found again, and means what it did"]
    assert asked.means == [("a.example", (ONE,))]
    assert asked.next_ask() == seconds[-1] + 20


def test_a_long_pause_between_questions_is_one_after_a_failure_too() -> None:
    asked = one_name(resolve_least=600)
    asked.finds_nothing()
    assert asked.next_ask() == 600
    asked.finds_nothing()
    assert asked.next_ask() == 1200


def test_what_was_known_from_before_is_no_change() -> None:
    asked = one_name(known={"a.example": (ONE,)})
    asked.says(ONE)
    assert asked.means == []
    assert asked.lines == []


def test_too_many_addresses_are_cut_but_not_those_that_serve_already() -> None:
    asked = one_name(resolve_addresses=2)
    asked.says(TWO, THREE)
    asked.next_ask()
    asked.says(ONE, TWO, THREE)
    assert asked.means == [("a.example", (TWO, THREE))]
    asked.next_ask()
    asked.says(ONE, THREE, "10.0.0.4")
    assert asked.means[1:] == [("a.example", (ONE, THREE))]
    assert asked.lines[-1] == "a.example has 3 addresses, of which 2 serve"


def test_a_family_that_cannot_be_looked_up_keeps_what_it_had() -> None:
    asked = one_name({"a.example": (ONE, "::1")}, resolve_ipv6=2)
    for _ in range(2):
        asked.open.pop(0).callback(Found((ONE,), 20, "its IPv6 addresses: no name server has answered", 6, True))
        asked.next_ask()
    assert asked.means == []
    said = "its IPv6 addresses: no name server has answered; those that it had stay"
    assert asked.lines == [f"a.example is found by one address family alone; {said}"]
    asked.says(ONE)
    assert asked.means == [("a.example", (ONE,))]


def test_a_change_that_is_refused_is_tried_again() -> None:
    asked = one_name()
    asked.refusal = BadValue("no room")
    asked.says(ONE)
    assert asked.lines == ["a.example is not found: no room; each connection to it asks the system anew"]
    asked.refusal = None
    asked.next_ask()
    asked.says(ONE)
    assert asked.means == [("a.example", (ONE,))]


def test_a_bug_does_not_end_it() -> None:
    asked = one_name()
    asked.open.pop(0).errback(ZeroDivisionError())
    assert "a.example cannot be looked up" in asked.lines[0]
    assert asked.next_ask() == FAILED_MOST


def test_a_name_that_is_not_wanted_any_more_is_not_asked_for() -> None:
    asked = one_name()
    asked.follow(set(), {})
    assert asked.clock.getDelayedCalls() == []
    asked = one_name()
    asked.says(ONE)
    asked.stop()
    assert asked.clock.getDelayedCalls() == []


def test_names_take_turns() -> None:
    asked = Asked()
    asked.follow({f"n{number}.example" for number in range(3 * AT_ONCE)}, {})
    asked.passes(0)
    assert len(asked.asks) == AT_ONCE
    for _ in range(3 * AT_ONCE):
        asked.says(ONE, ttl=3600)
    assert len({host for _, host in asked.asks}) == 3 * AT_ONCE
    before: Any = asked.asks[:]
    asked.follow({"n1.example"}, {})
    assert asked.next_ask() == 3600
    assert asked.asks[len(before) :] == [(3600, "n1.example")]
