"""The state machine of a client connection whose scheduler chooses for each request.

This module knows no sockets: `ktcpvs.http` reports the events and acts on the new states.
"""

from __future__ import annotations

# States.
IDLE = "waiting for a request"
CHOOSING = "choosing"  # the scheduler chooses a server, perhaps asynchronously
QUEUED = "queued"  # all usable servers have reached their maxconn
CONNECTING = "connecting"  # connecting to the chosen server
WAITING = "waiting for the answer"  # the request has been sent, no byte of the response has come
ANSWERING = "answering"  # the response goes to the client; the request's body may still come
SWITCHED = "relaying"  # after status 101: bytes pass in both directions
REFUSING = "refusing"  # the client has its last response; its bytes are discarded
CLOSED = "closed"

# Events.
REQUEST = "request complete"
BAD_REQUEST = "bad request"
SLOW_REQUEST = "head timeout"
CHOSEN = "chosen"
FULL = "servers full"
ROOM = "room at a server"
REUSED = "chosen, a kept connection"
SENT = "request on a kept connection"  # chosen and sent in one step, with nothing to wait for
WHOLE = "whole answer"
CONNECTED = "connected"
CONNECT_FAILED = "connect failed"
AGAIN = "kept connection died"
SILENT = "server silent"
RETRIED = "answer to be retried"
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
    WAITING: {ANSWER: ANSWERING, WHOLE: IDLE, AGAIN: CHOOSING, SILENT: CHOOSING, RETRIED: CHOOSING}
    | {UPGRADED: SWITCHED, BAD_REQUEST: REFUSING}
    | _REFUSE
    | _END,
    ANSWERING: {ANSWERED: IDLE, LAST: REFUSING, FINISHED: CLOSED, RESET: CLOSED, BAD_REQUEST: CLOSED} | _END,
    SWITCHED: {FINISHED: CLOSED, RESET: CLOSED} | _END,
    REFUSING: {FINISHED: CLOSED} | _END,
    CLOSED: {},
}
