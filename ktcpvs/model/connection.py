"""The state machine of a client connection whose scheduler chooses once per connection.

This module knows no sockets: `ktcpvs.tcp.connection` reports the events and acts on the new states. The documents draw
their diagram from TABLE.

    state = TABLE[state][event]        # KeyError: a bug, the event is not possible in this state
"""

from __future__ import annotations

# States.
READING_HEAD = "reading head"  # the first request's head, or the ClientHello, is not complete
CHOOSING = "choosing"  # the scheduler chooses a server, perhaps asynchronously
QUEUED = "queued"  # all usable servers have reached their maxconn
CONNECTING = "connecting"  # connecting to the chosen server; nothing is read from the client
RELAYING = "relaying"  # bytes pass in both directions
REFUSING = "refusing"  # the client gets its error response; its bytes are discarded
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

OPENING = {"CONNECTION": CHOOSING, "CLIENT_HELLO": READING_HEAD, "FIRST_REQUEST": READING_HEAD}
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
