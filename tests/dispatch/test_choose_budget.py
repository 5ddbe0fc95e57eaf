"""The time budget of schedulers that are plugins."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from ktcpvs.dispatch.choose_budget import ChooseBudget, is_plugin
from ktcpvs.interfaces import Choice, Destination, Request
from ktcpvs.model.address import parse_address
from ktcpvs.model.settings import Settings
from ktcpvs.schedulers.wlc import WLC

SETTINGS = evolve(Settings(), choose_budget=5, choose_overruns=3, choose_rest=30)
ONE, OTHER = (Destination(parse_address(f"10.0.0.{n}:80")) for n in (1, 2))


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, form: str, **values: Any) -> None:
        self.lines.append(form.format(**values))

    fault = warn


class Slow:
    """A scheduler that takes `seconds` for each choice, by a clock that stands still otherwise."""

    def __init__(self) -> None:
        self.log = Log()
        self.now, self.seconds, self.calls = 100.0, 0.0, 0
        self.budget = ChooseBudget(self, "web", lambda: self.now)  # type: ignore[arg-type]

    def choose(self, request: Request) -> Choice:
        self.calls += 1
        self.now += self.seconds
        return Choice(ONE, "by the plugin")


class Fallback:
    def choose(self, request: Request) -> Choice:
        return Choice(OTHER, "by wlc")


def reasons(scheduler: Any, count: int) -> list[str]:
    return [scheduler.choose(Request()).reason for _ in range(count)]


INSTEAD = "fallback wlc, since the scheduler was too slow: by wlc"


def test_a_scheduler_within_its_budget_is_asked_each_time() -> None:
    slow = Slow()
    slow.seconds = 0.005
    assert set(reasons(slow.budget.around(slow, Fallback, "wlc", SETTINGS), 20)) == {"by the plugin"}
    assert slow.budget.overruns == 0
    assert slow.log.lines == []


def test_after_overruns_in_a_row_the_fallback_chooses_for_a_while() -> None:
    slow = Slow()
    slow.seconds = 0.02
    scheduler = slow.budget.around(slow, Fallback, "wlc", SETTINGS)
    assert reasons(scheduler, 5) == ["by the plugin"] * 3 + [INSTEAD] * 2
    assert (slow.budget.overruns, slow.calls) == (3, 3)
    assert slow.log.lines[0] == "scheduler of service web took 20.0 ms to choose; its choose_budget is 5 ms"
    assert slow.log.lines[-1].endswith("was too slow 3 times in a row: the fallback chooses for 30 s")
    slow.now += 30
    assert reasons(scheduler, 2) == ["by the plugin", INSTEAD], "one overrun more, and it rests again"
    slow.now, slow.seconds = slow.now + 30, 0
    assert set(reasons(scheduler, 20)) == {"by the plugin"}
    slow.seconds = 0.02
    assert reasons(scheduler, 4) == ["by the plugin"] * 3 + [INSTEAD], "a choice in time begins anew"


def test_overruns_that_are_not_in_a_row_are_only_counted() -> None:
    slow = Slow()
    scheduler = slow.budget.around(slow, Fallback, "wlc", SETTINGS)
    for seconds in (0.02, 0.02, 0) * 5:
        slow.seconds = seconds
        assert reasons(scheduler, 1) == ["by the plugin"]
    assert slow.budget.overruns == 10


def test_without_a_fallback_overruns_are_only_counted() -> None:
    slow = Slow()
    slow.seconds = 0.02
    assert set(reasons(slow.budget.around(slow, None, "none", SETTINGS), 20)) == {"by the plugin"}
    assert slow.budget.overruns == 20


def test_another_binding_begins_without_overruns() -> None:
    slow = Slow()
    slow.seconds = 0.02
    reasons(slow.budget.around(slow, Fallback, "wlc", SETTINGS), 3)
    slow.budget.reset()
    assert reasons(slow.budget.around(slow, Fallback, "wlc", SETTINGS), 1) == ["by the plugin"]


def test_built_in_schedulers_have_no_budget() -> None:
    assert [is_plugin(WLC()), is_plugin(Slow()), is_plugin(None)] == [False, True, False]
