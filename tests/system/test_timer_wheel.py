"""The timer wheel: never early, at most a tick late, and no call can stop it."""

from __future__ import annotations

from twisted.internet.task import Clock

from ktcpvs.system.timer_wheel import TimerWheel


class Turning:
    def __init__(self) -> None:
        self.clock = Clock()
        self.failures = 0
        self.wheel = TimerWheel(self.clock, self.failed)
        self.wheel.start()
        self.calls: list[object] = []

    def failed(self) -> None:
        self.failures += 1

    def at(self, seconds: float) -> None:
        self.wheel.after(seconds, lambda: self.calls.append(seconds))


def test_never_early_and_at_most_a_tick_late() -> None:
    turning = Turning()
    turning.clock.advance(0.9)  # timers are set between ticks
    for seconds in (0, 0.5, 1, 2.5, 7):
        turning.at(seconds)
    due: dict[object, float] = {}
    for _ in range(100):
        turning.clock.advance(0.1)
        for seconds in turning.calls:
            due.setdefault(seconds, turning.clock.seconds() - 0.9)
    assert sorted(due) == [0, 0.5, 1, 2.5, 7]
    for seconds, when in due.items():
        assert seconds <= when + 1e-9 <= seconds + 2.01, (seconds, when)


def test_a_cancelled_timer_is_not_called() -> None:
    turning = Turning()
    timer = turning.wheel.after(1, lambda: turning.calls.append("no"))
    timer.cancel()
    timer.cancel()
    turning.clock.pump([1] * 5)
    assert turning.calls == []


def test_a_call_that_raises_stops_nothing() -> None:
    turning = Turning()
    turning.wheel.after(1, lambda: [][0])
    turning.at(1)
    turning.clock.pump([1] * 5)
    assert turning.calls == [1]
    assert turning.failures == 1


def test_a_late_turn_catches_up() -> None:
    turning = Turning()
    turning.at(3)
    turning.clock.pump([1.9] * 3)
    assert turning.calls == [3]
    assert turning.wheel.now == 5


def test_what_repeats_goes_on_until_it_says_no() -> None:
    turning = Turning()

    def call() -> bool:
        turning.calls.append(turning.wheel.now)
        if len(turning.calls) == 2:
            raise RuntimeError("broken")
        return len(turning.calls) < 4

    turning.wheel.repeat(3, call)
    turning.clock.pump([1] * 40)
    assert turning.calls == [4, 8, 12, 16]
    assert turning.failures == 1


def test_a_failure_that_cannot_be_told_stops_nothing() -> None:
    clock = Clock()
    wheel = TimerWheel(clock, lambda: [][0])
    wheel.start()
    calls: list[int] = []
    wheel.after(1, lambda: [][0])
    wheel.after(2, lambda: calls.append(wheel.now))
    clock.pump([1] * 5)
    assert calls == [3]
    wheel.stop()
    assert not clock.getDelayedCalls()


def test_the_time_of_a_stall_does_not_count() -> None:
    turning = Turning()
    turning.at(5)
    turning.clock.advance(60)
    assert turning.calls == []
    assert turning.wheel.now == 2
    turning.clock.pump([1] * 4)
    assert turning.calls == [5]
