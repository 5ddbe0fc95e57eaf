"""The life of a client connection that is switched request by request, as a table.

This file knows nothing of sockets. `transport.exchange` tells what happened and does what the new state asks for.
"""

from __future__ import annotations

# States.
IDLE = "waiting for a request"
CHOOSING = "choosing"  # the scheduler is asked, and perhaps waits for something itself
QUEUED = "queued"  # all servers that may serve have as many requests as they may have
CONNECTING = "connecting"  # the chosen server is called
WAITING = "waiting for the answer"  # the request is on its way, nothing has come back
ANSWERING = "answering"  # the answer goes to the client; the request's body may still come
SWITCHED = "relaying"  # after 101: bytes go both ways
REFUSING = "refusing"  # the client has its last answer; what it sends is thrown away
CLOSED = "closed"

# Events.
REQUEST = "request complete"
BAD_REQUEST = "bad request"
SLOW_REQUEST = "head timeout"
CHOSEN = "chosen"
FULL = "servers full"
ROOM = "room at a server"
REUSED = "chosen, a kept connection"
SENT = "request on a kept connection"  # all at once, with nothing to wait for
WHOLE = "whole answer"
CONNECTED = "connected"
CONNECT_FAILED = "connect failed"
AGAIN = "kept connection died"
SILENT = "server silent"
ANSWER = "answer begun"
ANSWERED = "answered"
REFUSED = "answered by the switch"
UPGRADED = "upgraded"
LAST = "last answer"
FINISHED = "finished"
RESET = "reset"
IDLE_TIMEOUT = "keep-alive timeout"
READ_TIMEOUT = "read timeout"
CLIENT_GONE = "client gone"
DRAINED = "drain timeout"

_END = {CLIENT_GONE: CLOSED, READ_TIMEOUT: CLOSED, DRAINED: CLOSED}
_REFUSE = {REFUSED: IDLE, LAST: REFUSING}

TABLE: dict[str, dict[str, str]] = {
    IDLE: {REQUEST: CHOOSING, SENT: WAITING, BAD_REQUEST: REFUSING, SLOW_REQUEST: REFUSING}
    | {IDLE_TIMEOUT: CLOSED, FINISHED: CLOSED}
    | _END,
    CHOOSING: {CHOSEN: CONNECTING, REUSED: WAITING, FULL: QUEUED} | _REFUSE | _END,
    QUEUED: {ROOM: CHOOSING} | _REFUSE | _END,
    CONNECTING: {CONNECTED: WAITING, CONNECT_FAILED: CHOOSING} | _REFUSE | _END,
    WAITING: {ANSWER: ANSWERING, WHOLE: IDLE, AGAIN: CHOOSING, SILENT: CHOOSING}
    | {UPGRADED: SWITCHED, BAD_REQUEST: REFUSING}
    | _REFUSE
    | _END,
    ANSWERING: {ANSWERED: IDLE, LAST: REFUSING, FINISHED: CLOSED, RESET: CLOSED, BAD_REQUEST: CLOSED} | _END,
    SWITCHED: {FINISHED: CLOSED, RESET: CLOSED} | _END,
    REFUSING: {FINISHED: CLOSED} | _END,
    CLOSED: {},
}
