"""One direction of a connection that the kernel relays, as a table: who carries the bytes, and what comes before what.

The kernel redirects what it was granted, and passes everything else to this process, which reads it, writes it on, and
grants anew. Bytes of two ways must not overtake each other, nor an end the bytes before it: that is what the states are
for. This file knows nothing of sockets; `transport.relay.kernel` tells what happened and does what the new state asks
for.

    state = TABLE[state][event]        # KeyError: that cannot happen in this state
"""

from __future__ import annotations

# States.
READING = "reading"  # this process reads what comes
HOLDING = "holding"  # what it read waits until all that was redirected before stands in the target's queue
BLOCKED = "blocked"  # the target takes no more of what was read
READY = "ready"  # all that was read is written, and the kernel may take over when the other direction is ready too
GRANTED = "granted"  # the kernel redirects; nothing is read
WAITING = "waiting"  # what was passed, or what came before the end, cannot be read yet
ENDING = "ending"  # all was read; the end waits until all that was redirected stands in the target's queue
ENDED = "ended"  # the end has been carried on
GONE = "gone"  # the source or the target is closed, or the target is broken: nothing is carried any more

# Events.
DATA = "bytes read"
NOTHING = "nothing to read"
NOT_YET = "passed bytes cannot be read yet"
END = "end read"
WRITTEN = "all written"
FULL = "target full"
SETTLED = "redirected bytes are in the target's queue"
EMPTIED = "source read empty"
BYTES_CAME = "bytes came"
JOINED = "kernel takes over"
ALL_PASSED = "all that was passed is written"
VOID = "grant void before it was made"
HALF = "half of the grant used"
PASSED = "packet passed"
PEER_ENDED = "source has ended"
AGAIN = "time to try again"
LOST = "source or target lost"

_MOVES: dict[str, dict[str, str]] = {
    READING: {
        DATA: HOLDING,
        NOTHING: READING,
        NOT_YET: WAITING,
        END: ENDING,
        EMPTIED: READY,
        ALL_PASSED: GRANTED,
    },
    HOLDING: {WRITTEN: READING, FULL: BLOCKED},
    BLOCKED: {WRITTEN: READING, FULL: BLOCKED},
    READY: {BYTES_CAME: READING, JOINED: GRANTED},
    GRANTED: {PEER_ENDED: READING, VOID: READING},
    WAITING: {AGAIN: READING},
    ENDING: {SETTLED: ENDED},
    ENDED: {},
    GONE: {},
}

TABLE: dict[str, dict[str, str]] = {
    # What the kernel tells may be read late, when it holds no more.
    state: {HALF: state, PASSED: READING if state == GRANTED else state, LOST: GONE, **moves}
    for state, moves in _MOVES.items()
}

PACKET_COST = 2 << 10
"""What a packet is charged besides its bytes: the kernel's descriptors of it, and the rest of the memory it lies in.
Loopback needs 1.2 KiB; network drivers that give each packet half a page need 2 KiB."""

FIRST_WINDOW = 4 << 20
LEAST_WINDOW = 256 << 10
"""The charge that is granted at first, and to who has proved slow. The setting relay_window limits both."""


def charge(size: int) -> int:
    """The charge of that many bytes in packets of 1 KiB or more."""
    return 3 * size


def first_window(most: int) -> int:
    """The charge that is granted to a direction of which nothing is known yet; `most`: the setting, in bytes."""
    return min(FIRST_WINDOW, most)


def next_window(window: int, behind: int, most: int) -> int:
    """The next grant to a direction that has used half of `window`; 0: none now.

    behind: the bytes that the target's TCP could not send yet. Whoever keeps up gets twice as much, so that the kernel
    seldom has to tell. For whoever does not, the rest comes through this process, which does not read on when the
    target is full.
    """
    return 0 if behind > window // 4 else min(2 * window, most)


def less_window(window: int, most: int) -> int:
    """The next grant, as a charge, to a direction that has used up `window`: it does not keep up."""
    return min(max(window // 4, LEAST_WINDOW), most)


def passed_limit(most: int, receive_buffer: int) -> int:
    """The charge of passed packets that may wait for this process to read them; beyond it the connection is reset.

    most: the setting, in bytes. receive_buffer: the largest that a socket may have, in bytes. The kernel charges what
    waits to the source's receive buffer, so TCP holds the sender back long before, unless memory is short.
    """
    return first_window(most) + charge(receive_buffer)
