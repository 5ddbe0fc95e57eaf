"""The life of one client connection, as a table: everything that changes its state is listed here.

This file knows nothing of sockets. `transport.connection` tells what happened and does what the new state asks
for; the documents draw their picture from TABLE.

    state = TABLE[state][event]        # KeyError: that cannot happen in this state
"""

from __future__ import annotations

# States.
READING_HEAD = "reading head"  # wait for the first request's head (FIRST_REQUEST schedulers only)
CHOOSING = "choosing"  # the scheduler is asked, and perhaps waits for something itself
QUEUED = "queued"  # all servers that may serve have as many connections as they may have
CONNECTING = "connecting"  # the chosen server is called; nothing is read from the client
RELAYING = "relaying"  # bytes go both ways
REFUSING = "refusing"  # the client gets its error answer; what it sends is thrown away
CLOSED = "closed"

# Events.
HEAD = "head complete"
BAD_HEAD = "bad head"
SLOW_HEAD = "head timeout"
CHOSEN = "chosen"
FULL = "servers full"
ROOM = "room at a server"
NO_SERVER = "no server"
CONNECTED = "connected"
CONNECT_FAILED = "connect failed"
FINISHED = "both directions ended"
RESET = "reset"
IDLE = "read timeout"
CLIENT_GONE = "client gone"
DRAINED = "drain timeout"

OPENING = {"CONNECTION": CHOOSING, "FIRST_REQUEST": READING_HEAD}
"""The first state, by the scheduler's unit."""

_END = {CLIENT_GONE: CLOSED, DRAINED: CLOSED}

TABLE: dict[str, dict[str, str]] = {
    READING_HEAD: {HEAD: CHOOSING, BAD_HEAD: REFUSING, SLOW_HEAD: REFUSING, **_END},
    CHOOSING: {CHOSEN: CONNECTING, FULL: QUEUED, NO_SERVER: REFUSING, **_END},
    QUEUED: {ROOM: CHOOSING, NO_SERVER: REFUSING, **_END},
    CONNECTING: {CONNECTED: RELAYING, CONNECT_FAILED: CHOOSING, **_END},
    RELAYING: {FINISHED: CLOSED, RESET: CLOSED, IDLE: CLOSED, **_END},
    REFUSING: {FINISHED: CLOSED, **_END},
    CLOSED: {},
}
