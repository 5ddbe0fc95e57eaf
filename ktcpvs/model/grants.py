"""The state machine of one direction of a connection that the kernel relays, and the sizes of its grants.

The kernel redirects as many bytes as it was granted and passes all others to this process, which reads them, writes
them on, and makes the next grant. Bytes that take different ways must not overtake each other, and a FIN must not
overtake bytes: the states ensure that. This module knows no sockets: `ktcpvs.relay.kernel` reports the events and acts
on the new states.

    state = TABLE[state][event]        # KeyError: a bug, the event is not possible in this state
"""

from __future__ import annotations

# States.
READING = "reading"  # this process reads the source
HOLDING = "holding"  # the bytes read wait until all bytes redirected before are in the target's send queue
BLOCKED = "blocked"  # the target accepts no more of the bytes read
READY = "ready"  # all bytes read are written; the kernel takes over when the other direction is ready too
GRANTED = "granted"  # the kernel redirects; this process reads nothing
WAITING = "waiting"  # bytes that were passed, or that came before the end, cannot be read yet
ENDING = "ending"  # all bytes are read; the end waits until all redirected bytes are in the target's send queue
ENDED = "ended"  # the end has been passed on
GONE = "gone"  # the source or the target is closed, or the target is broken: nothing is relayed any more

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
    # A report of the kernel may be read late, when it is out of date.
    state: {HALF: state, PASSED: READING if state == GRANTED else state, LOST: GONE, **moves}
    for state, moves in _MOVES.items()
}

PACKET_COST = 2 << 10
"""The charge for a packet besides its bytes: the kernel's descriptors, and the unused rest of its memory. Loopback
needs 1.2 KiB; network drivers that give each packet half a page need 2 KiB."""

FIRST_WINDOW = 4 << 20
MIN_WINDOW = 256 << 10
"""The charge of the first grant, and the smallest for a slow direction. The setting relay_window limits both."""


def charge(size: int) -> int:
    """Return the charge for that many bytes in packets of 1 KiB or more."""
    return 3 * size


def first_window(most: int) -> int:
    """Return the charge of the first grant of a direction. most: the setting relay_window, in bytes."""
    return min(FIRST_WINDOW, most)


def next_window(window: int, behind: int, most: int) -> int:
    """Return the next grant of a direction that has used half of `window`; 0: none now.

    behind: the bytes that the target's TCP could not send yet. A target that keeps up gets twice as much, so that the
    kernel seldom has to report. The bytes for a target that does not keep up come through this process, which stops
    reading when the target is full.
    """
    return 0 if behind > window // 4 else min(2 * window, most)


def less_window(window: int, most: int) -> int:
    """Return the next grant, as a charge, of a direction that has used up `window`: its target does not keep up."""
    return min(max(window // 4, MIN_WINDOW), most)


def passed_limit(most: int, receive_buffer: int) -> int:
    """Return the charge of passed packets that may wait to be read; a connection with more is reset.

    most: the setting relay_window, in bytes. receive_buffer: the largest of a socket, in bytes. The kernel charges
    waiting packets to the source's receive buffer, so TCP slows the sender down long before, unless memory is short.
    """
    return first_window(most) + charge(receive_buffer)
