"""One direction of a connection that the kernel relays, as a table: who carries the bytes now, and what comes before what.

The kernel redirects what it was granted, and passes everything else to this process, which reads it, writes it on, and
grants anew. Bytes of two ways must not overtake each other, nor an end the bytes before it: that is what the states are
for. This file knows nothing of sockets; `transport.relay.kernel` tells what happened and does what the new state asks
for.

    state = TABLE[state][event]        # KeyError: that cannot happen in this state
"""

from __future__ import annotations

# States.
READING = "reading"  # this process reads what the kernel has passed to it
HOLDING = "holding"  # what it read waits until all that was redirected before stands in the target's queue
BLOCKED = "blocked"  # the target takes no more of what was read
GRANTED = "granted"  # the kernel redirects; nothing is read
EARLY = "end too early"  # the source has ended, and some of what was passed cannot be read yet
ENDING = "ending"  # all was read; the end waits until all that was redirected stands in the target's queue
ENDED = "ended"  # the end has been carried on
GONE = "gone"  # the source or the target is closed, or the target is broken: nothing is carried any more

# Events.
DATA = "bytes read"
ALL = "all that was passed is read and written"
VOID = "grant void before it was made"
HALF = "half of the grant used"
PASSED = "packet passed"
PEER_ENDED = "the source has ended"
END = "end read"
END_EARLY = "end read before all that was passed"
AGAIN = "time to read again"
WRITTEN = "all written"
FULL = "target full"
SETTLED = "all redirected is in the target's queue"
LOST = "source or target lost"

_TOLD = (HALF, PASSED)
"""What the kernel tells may be read late, when it holds no more."""

_MOVES: dict[str, dict[str, str]] = {
    READING: {DATA: HOLDING, ALL: GRANTED, END: ENDING, END_EARLY: EARLY},
    HOLDING: {WRITTEN: READING, FULL: BLOCKED},
    BLOCKED: {WRITTEN: READING, FULL: BLOCKED},
    GRANTED: {HALF: GRANTED, PASSED: READING, PEER_ENDED: READING, VOID: READING},
    EARLY: {AGAIN: READING},
    ENDING: {SETTLED: ENDED},
    ENDED: {},
    GONE: {},
}

TABLE: dict[str, dict[str, str]] = {
    state: {**dict.fromkeys(_TOLD, state), LOST: GONE, **moves} for state, moves in _MOVES.items()
}


def first_window(most: int) -> int:
    """How many bytes are granted to a direction of which nothing is known yet; `most`: the setting relay_window."""
    return min(1 << 20, most)


def next_window(window: int, behind: int, most: int) -> int:
    """The next grant, in bytes, to a direction that has used half of `window`; 0: none now.

    behind: bytes that were redirected and are not yet in the target's queue. Whoever keeps up gets twice as much, at most
    `most`, so that the kernel seldom has to tell; for whoever does not, the rest comes through this process, which
    stops reading when the target is full.
    """
    if behind > window // 4:
        return 0
    return min(2 * window, most)
