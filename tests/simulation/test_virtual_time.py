"""Virtual time: calls in their order, the ticks of a timer wheel, and long pauses."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from zope.interface.verify import verifyObject

from ktcpvs.simulation.virtual_time import MAX_IDLE_TICKS, VirtualTime
from ktcpvs.system.timer_wheel import TimerWheel


def test_calls_come_in_the_order_of_their_times() -> None:
    time, seen = VirtualTime(), []
    verifyObject(IReactorTime, time)
    for delay in (3.0, 1.0, 2.0, 1.0):
        time.callLater(delay, lambda delay: seen.append((delay, time.seconds())), delay)
    time.advance(2.5)
    assert seen == [(1.0, 1.0), (1.0, 1.0), (2.0, 2.0)]
    assert time.seconds() == 2.5
    time.finish(10)
    assert seen[-1] == (3.0, 3.0)
    assert time.is_idle


def test_a_call_may_be_cancelled_and_moved() -> None:
    time, seen = VirtualTime(), []
    cancelled, moved = time.callLater(1, seen.append, "cancelled"), time.callLater(1, seen.append, "moved")
    cancelled.cancel()
    moved.delay(4)
    assert (cancelled.active(), moved.active(), moved.getTime()) == (False, True, 5.0)
    time.advance(4.9)
    assert seen == []
    moved.reset(2)
    time.advance(20)
    assert seen == ["moved"]


def test_a_call_may_plan_another_one_at_once() -> None:
    time, seen = VirtualTime(), []

    def again(number: int) -> None:
        seen.append((number, time.now))
        if number:
            time.callLater(0.5, again, number - 1)

    again(3)
    time.advance(10)
    assert seen == [(3, 0.0), (2, 0.5), (1, 1.0), (0, 1.5)]


def test_the_wheel_ticks_once_a_second_between_calls() -> None:
    time, seen = VirtualTime(), []
    wheel = TimerWheel(time, lambda: None)
    time.drive(wheel)
    wheel.after(1, lambda: seen.append(("timer", time.now)))
    time.callLater(1.5, lambda: seen.append(("call", time.now)))
    time.advance(3)
    assert seen == [("call", 1.5), ("timer", 2.0)]
    assert wheel.now == 3


def test_a_pause_of_a_year_does_not_tick_all_its_seconds() -> None:
    time = VirtualTime()
    wheel = TimerWheel(time, lambda: None)
    time.drive(wheel)
    time.advance(365 * 86400.0)
    assert MAX_IDLE_TICKS <= wheel.now <= MAX_IDLE_TICKS + 1
    assert time.now == 365 * 86400.0
