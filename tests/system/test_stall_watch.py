"""A process that serves nobody: told once, with the place where it is."""

from __future__ import annotations

import threading

from ktcpvs.system.stall_watch import StallWatch, where_is


def test_a_stall_is_told_once_and_the_next_one_again() -> None:
    beats = [1]
    limits = [2.0]
    told: list[float] = []
    watch = StallWatch(lambda: beats[0], lambda: limits[0], lambda seconds, where: told.append(seconds))

    def look(times: int) -> None:
        for _ in range(times):
            watch.look(0.5)

    look(4)
    assert told == []
    look(8)
    assert told == [2.0]
    beats[0] += 1
    look(4)
    assert told == [2.0]
    look(1)
    assert told == [2.0, 2.0]
    beats[0] += 1
    limits[0] = 0.0
    look(9)
    assert told == [2.0, 2.0]


def test_the_place_is_that_of_the_thread_which_made_it() -> None:
    found: list[str] = []
    watch = StallWatch(lambda: 1, lambda: 0.1, lambda seconds, where: found.append(where))

    def loops_for_ever() -> None:
        watch.start()
        while not found:
            pass

    loops_for_ever()
    watch.stop()
    assert found[0].startswith(f"{__file__}:")
    assert " in loops_for_ever, called by " in found[0]
    assert where_is(-1) == "unknown"
    assert threading.current_thread() is threading.main_thread()
